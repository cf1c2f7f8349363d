"""What is to be changed in an ELF file, as a value: recorded first, applied once a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from bundler.elf.format import ElfError

MAX_PATH = 4095
"""Bytes of a path at most (Linux: PATH_MAX without the NUL)."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Edits:
    """Edits of one file; those left at their defaults change nothing.

    ``interpreter`` is set where there is one, and passed over in libraries.  ``rpath`` sets DT_RPATH and
    removes DT_RUNPATH, ``runpath`` the other way round; an empty one removes both, as ``remove_rpath``
    does.  ``add_rpath`` appends directories to the one that is there; ``keep_rpath`` is the list of
    directories that a shrink leaves.  ``remove_needed`` comes before ``replace_needed`` (old name to new
    one, which may be an absolute path) and that before ``add_needed`` (in front of the others, as
    patchelf does).  ``no_default_lib`` sets DF_1_NODEFLIB, or clears it when False.

    ``core`` lets a C library or a program interpreter be edited, ``keep_strings`` leaves the old strings
    where they were, ``overlay`` lets a file grow that has a payload behind it.
    """

    interpreter: str | None = None
    rpath: str | None = None
    runpath: str | None = None
    remove_rpath: bool = False
    add_rpath: tuple[str, ...] = ()
    keep_rpath: tuple[str, ...] | None = None
    add_needed: tuple[str, ...] = ()
    remove_needed: tuple[str, ...] = ()
    replace_needed: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    soname: str | None = None
    no_default_lib: bool | None = None
    core: bool = False
    keep_strings: bool = False
    overlay: bool = False

    def __post_init__(self) -> None:
        """Refuse contradictions and names that no loader takes; raises ElfError."""
        if self.rpath is not None and self.runpath is not None:
            raise ElfError(
                "both an rpath and a runpath are to be set", hint="the loader ignores the rpath then"
            )
        set_path = self.rpath if self.rpath is not None else self.runpath
        if set_path and self.remove_rpath:
            raise ElfError("the rpath is to be set and removed")
        if set_path is not None and self.keep_rpath is not None:
            raise ElfError("the rpath is to be set and shrunk")
        if self.interpreter is not None:
            check_name("interpreter", self.interpreter)
        for name in (*self.add_needed, *self.replace_needed.values()):
            check_name("needed library", name)
        if self.soname is not None:
            check_name("soname", self.soname)
        for path in (self.rpath, self.runpath, *self.add_rpath):
            if path:
                check_name("rpath", path, limit=1 << 15)
        if both := set(self.remove_needed) & set(self.replace_needed):
            raise ElfError(f"{min(both)!r} is to be removed and replaced")


def check_name(what: str, name: str, *, limit: int = MAX_PATH) -> None:
    """Raise ElfError for what cannot stand in a string table or is longer than a path may be."""
    if not name:
        raise ElfError(f"the {what} is empty")
    if "\0" in name or "\n" in name:
        raise ElfError(f"the {what} {name[:80]!r} holds a character that it cannot hold")
    if len(name.encode("utf-8", "surrogateescape")) > limit:
        raise ElfError(f"the {what} is longer than {limit} bytes")
