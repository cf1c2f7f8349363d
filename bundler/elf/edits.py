"""What is to be changed in an ELF file, and what the file says then: values and pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bundler.elf import format as f
from bundler.elf.format import ElfError
from bundler.elf.read import ElfFile

MAX_PATH = 4095
"""Bytes of a path at most (Linux: PATH_MAX without the NUL)."""
MAX_PATH_LIST = 1 << 15


@dataclass(frozen=True, slots=True)
class Edits:
    """Edits of one file; those left at their defaults change nothing.  Raises ElfError for contradictions.

    ``interpreter`` is set where there is one, and passed over elsewhere.  ``rpath`` sets DT_RPATH and
    removes DT_RUNPATH, ``runpath`` the other way round; an empty one removes both, as ``remove_rpath``
    does.  ``add_rpath`` appends directories that the list lacks; ``keep_rpath`` keeps no others than
    these (a shrink).  ``remove_needed`` comes first, then ``replace_needed`` (old name to new, which may
    be an absolute path; symbol versions follow), then ``add_needed``, in front as patchelf does it.
    ``no_default_lib`` sets DF_1_NODEFLIB, or clears it where False; ``set_flags_1`` and
    ``clear_flags_1`` are bits of DT_FLAGS_1.

    ``core`` lets a C library or a program interpreter be edited; ``keep_strings`` leaves the old strings
    where they were; ``overlay`` lets a file grow that has a payload behind it.
    """

    interpreter: str | None = None
    rpath: str | None = None
    runpath: str | None = None
    remove_rpath: bool = False
    add_rpath: tuple[str, ...] = ()
    keep_rpath: tuple[str, ...] | None = None
    add_needed: tuple[str, ...] = ()
    remove_needed: tuple[str, ...] = ()
    replace_needed: Mapping[str, str] = field(default_factory=dict)
    soname: str | None = None
    no_default_lib: bool | None = None
    set_flags_1: int = 0
    clear_flags_1: int = 0
    core: bool = False
    keep_strings: bool = False
    overlay: bool = False

    @property
    def changes_path(self) -> bool:
        return self.rpath is not None or self.runpath is not None or self.remove_rpath

    @property
    def changes_dynamic(self) -> bool:
        """Whether anything is to change but the interpreter and the soname."""
        return (
            self.changes_path
            or bool(self.add_rpath or self.add_needed or self.remove_needed or self.replace_needed)
            or self.no_default_lib is not None
            or bool(self.set_flags_1 or self.clear_flags_1)
        )

    @property
    def needs_versions(self) -> bool:
        """Whether the symbol versions that a file needs bear on the edit."""
        return bool(self.remove_needed or self.replace_needed)

    def __post_init__(self) -> None:
        path = self.rpath if self.rpath is not None else self.runpath
        if self.rpath is not None and self.runpath is not None:
            raise ElfError("an rpath and a runpath are to be set", why="the loader ignores the rpath then")
        if path and self.remove_rpath:
            raise ElfError("the rpath is to be set and removed")
        if both := set(self.remove_needed) & set(self.replace_needed):
            raise ElfError(f"{min(both)!r} is to be removed and replaced")
        if again := set(self.replace_needed) & set(self.replace_needed.values()):
            raise ElfError(f"{min(again)!r} is to be replaced, and to replace another")
        if again := set(self.remove_needed) & {*self.add_needed, *self.replace_needed.values()}:
            raise ElfError(f"{min(again)!r} is to be removed and added")
        if self.set_flags_1 & self.clear_flags_1 or (self.set_flags_1 | self.clear_flags_1) >> 32:
            raise ElfError("bits of DT_FLAGS_1 are to be set and cleared, or there are none such")
        if self.interpreter is not None:
            check_name("interpreter", self.interpreter)
        for name in (*self.add_needed, *self.replace_needed.values()):
            check_name("needed library", name)
        if self.soname is not None:
            check_name("soname", self.soname)
        for part in (path, *self.add_rpath):
            if part:
                check_name("rpath", part, limit=MAX_PATH_LIST)


class Wanted(NamedTuple):
    """What a file says of itself, as far as edits can change it."""

    interpreter: str | None
    rpath: str | None
    runpath: str | None
    needed: tuple[str, ...]
    soname: str | None
    flags_1: int


def stated(facts: ElfFile) -> Wanted:
    """What the file says now."""
    return Wanted(facts.interpreter, facts.rpath, facts.runpath, facts.needed, facts.soname, facts.flags_1)


def want(facts: ElfFile, edits: Edits) -> Wanted:
    """What the file says after the edits; raises ElfError for an edit that makes no sense for it."""
    interpreter = facts.interpreter
    if edits.interpreter is not None and interpreter is not None:
        interpreter = edits.interpreter
    rpath, runpath = _paths(facts, edits)
    flags_1 = (facts.flags_1 | edits.set_flags_1) & ~edits.clear_flags_1
    if edits.no_default_lib is not None:
        flags_1 = flags_1 | f.DF_1_NODEFLIB if edits.no_default_lib else flags_1 & ~f.DF_1_NODEFLIB
    return Wanted(
        interpreter=interpreter,
        rpath=rpath,
        runpath=runpath,
        needed=_needed(facts, edits),
        soname=facts.soname if edits.soname is None else edits.soname,
        flags_1=flags_1,
    )


def check_name(what: str, name: str, *, limit: int = MAX_PATH) -> None:
    """Raise ElfError for what cannot stand in a string table or is longer than a path may be."""
    if not name:
        raise ElfError(f"the {what} is empty")
    if "\0" in name or "\n" in name:
        raise ElfError(f"the {what} {name[:80]!r} holds a character that it cannot hold")
    if len(name.encode("utf-8", "surrogateescape")) > limit:
        raise ElfError(f"the {what} is longer than {limit} bytes")


def _needed(facts: ElfFile, edits: Edits) -> tuple[str, ...]:
    if not (edits.remove_needed or edits.replace_needed or edits.add_needed):
        return facts.needed
    for need in facts.version_needs:
        # glibc asserts that the file of every version need is loaded (elf/dl-version.c).
        if need.file in edits.remove_needed and need.file in facts.needed:
            raise ElfError(
                f"{need.file!r} cannot be removed",
                why=f"symbols of its version {need.versions[0].name} are needed",
                hint="replace it by another library that defines them",
            )
    kept = [edits.replace_needed.get(name, name) for name in facts.needed if name not in edits.remove_needed]
    added = [name for name in edits.add_needed if name not in kept]
    return tuple(dict.fromkeys([*added, *kept]))


def _paths(facts: ElfFile, edits: Edits) -> tuple[str | None, str | None]:
    if edits.changes_path:
        rpath, runpath = edits.rpath or None, edits.runpath or None
    else:
        rpath, runpath = facts.rpath, facts.runpath
    if not edits.add_rpath and edits.keep_rpath is None:
        return rpath, runpath
    if rpath is not None and runpath is not None:
        raise ElfError(
            "has both DT_RPATH and DT_RUNPATH",
            why="the loader ignores the first then",
            hint="say which is wanted by setting one",
        )
    directories = [part for part in (rpath or runpath or "").split(":") if part]
    directories += [part for part in edits.add_rpath if part not in directories]
    if edits.keep_rpath is not None:
        directories = [part for part in directories if part in edits.keep_rpath]
    joined = ":".join(directories) or None
    return (None, joined) if runpath is not None else (joined, None)
