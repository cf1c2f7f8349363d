"""What becomes of an install directory: what is dropped and stripped, the licences, one tree per output.

The build could write anything there, links that lead out of it included, so nothing here follows one.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.build_request import OutputSpec
from bundler.errors import BuildError, raise_all
from bundler.globs import matches
from bundler.recipe import Recipe
from bundler.store import normalise, remove_tree
from bundler.target import Architecture
from bundler.tree import DirectoryTree, Entry, Kind, join, resolve, sort_key, walk

DROPPED = (
    "**/*.la",
    "share/info/dir",
    "share/man/cat*/**",
    "share/man/**/cat*/**",
    "share/man/**/whatis",
    "**/perllocal.pod",
    "**/.packlist",
)
"""Globs, relative to a prefix, of what no bundle holds: caches, and what names the build."""

LICENSES = ("copying*", "licen[sc]e*", "notice*", "copyright*", "usr/share/doc/*/copyright")
"""Matched against lower-case paths in the source directory."""

_ET_REL, _ET_EXEC, _ET_DYN = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Strippable:
    """Paths relative to the install directory, by what may be taken from them."""

    programs: tuple[str, ...]
    """Executables and shared objects: all symbols but those that the loader needs."""
    objects: tuple[str, ...]
    """Archives and object files: debug information only, they are still to be linked."""


def check_place(root: Path, outputs: Sequence[OutputSpec], recipe: Recipe) -> None:
    """Raises BuildError for every path that lies in none of the prefixes, and for no files at all."""
    tops = {output.prefix.strip("/") for output in outputs}
    view = DirectoryTree(root)
    problems: list[BuildError] = []
    if root.is_symlink() or not root.is_dir():
        raise BuildError(f"{recipe.name} replaced its install directory", where=str(recipe.path))
    # What was installed unreadable is also unreadable to an ordinary user who builds it.
    normalise(root)
    pending = [""]
    while pending:
        at = pending.pop()
        for name in view.names(at):
            path = join(at, name)
            entry = view.get(path)
            if entry is not None and entry.kind is Kind.DIRECTORY:
                if path in tops:
                    continue
                if any(top.startswith(path + "/") for top in tops):
                    pending.append(path)
                    continue
            problems.append(
                BuildError(
                    f"{recipe.name} installs /{path}, which is outside its prefix",
                    where=str(recipe.path),
                    why="its prefixes are " + ", ".join(sorted("/" + top for top in tops)),
                    hint='install to "$DESTDIR$PREFIX"',
                )
            )
    raise_all(problems)


def drop(top: Path, patterns: Sequence[str], keep: Sequence[str]) -> tuple[str, ...]:
    """Remove what matches from a prefix, and directories that this leaves empty; returns what went."""
    dropped: list[str] = []
    for entry in list(walk(DirectoryTree(top))):
        path = entry.path
        if any(path.startswith(gone + "/") for gone in dropped[-1:]):
            continue
        if matches(path, patterns) and not matches(path, keep):
            file = top / path
            if entry.kind is Kind.DIRECTORY:
                remove_tree(file)
            else:
                file.unlink()
            dropped.append(path)
    for directory in sorted({os.path.dirname(path) for path in dropped}, key=len, reverse=True):
        while directory:
            try:
                (top / directory).rmdir()
            except OSError:
                break
            directory = os.path.dirname(directory)
    return tuple(dropped)


def strippable(root: Path, tops: Sequence[str], keep: Sequence[str], machine: Architecture) -> Strippable:
    """ELF files and archives for ``machine``, each hard link once, but for what ``keep`` spares."""
    seen: set[tuple[int, int]] = set()
    programs: list[str] = []
    objects: list[str] = []
    for top in tops:
        for entry in walk(DirectoryTree(root / top)):
            file = root / top / entry.path
            if entry.kind is not Kind.FILE or matches(entry.path, keep):
                continue
            status = os.lstat(file)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            kind = _kind(file, machine)
            if kind in (_ET_EXEC, _ET_DYN):
                programs.append(join(top, entry.path))
            elif kind == _ET_REL:
                objects.append(join(top, entry.path))
    return Strippable(tuple(programs), tuple(objects))


def _kind(file: Path, machine: Architecture) -> int | None:
    """The ELF type of a file; archives count as relocatable."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        head = os.read(descriptor, 20)
    finally:
        os.close(descriptor)
    if head[:8] == b"!<arch>\n":
        return _ET_REL
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    kind, found = struct.unpack("<HH" if head[5] == 1 else ">HH", head[16:20])
    return kind if found == machine.elf_machine else None


def licenses(source: Path, globs: Sequence[str]) -> dict[str, bytes]:
    """Licence files in a source directory, by the name that they get in a bundle.

    Names are a file's own; one from a directory has that directory's name before it.
    """
    if source.is_symlink():
        return {}
    tree = DirectoryTree(source)
    candidates = walk(tree) if globs else _likely(tree)
    found: dict[str, bytes] = {}
    for entry in candidates:
        path = entry.path
        if not (matches(path, globs) if globs else matches(path.lower(), LICENSES)):
            continue
        place = resolve(tree, path)
        if place.entry is None or place.entry.kind is not Kind.FILE:
            continue
        directory, _, name = path.rpartition("/")
        name = f"{os.path.basename(directory)}-{name}" if directory else name
        with tree.open(place.path) as stream:
            found.setdefault(name, stream.read())
    return found


def _likely(tree: DirectoryTree) -> Iterator[Entry]:
    """Entries at the top, and those where packages keep their copyright."""
    for name in tree.names(""):
        if (entry := tree.get(name)) is not None:
            yield entry
    yield from walk(tree, "usr/share/doc")


def add_licenses(top: Path, name: str, files: Mapping[str, bytes]) -> None:
    """Write licence files to ``share/licenses/<name>`` below a prefix; what is there stays."""
    if not files:
        return
    at = top
    for part in ("share", "licenses", name):
        at = at / part
        if at.is_symlink():
            raise BuildError(f"{name} installs a link where licences go: {at.name}")
        at.mkdir(exist_ok=True)
    for file, data in files.items():
        if not os.path.lexists(at / file):
            (at / file).write_bytes(data)


def check_outputs(root: Path, outputs: Sequence[OutputSpec], recipe: Recipe) -> None:
    """Raises BuildError for each file that no output takes, and for outputs that take nothing."""
    problems: list[BuildError] = []
    for output in outputs:
        top = root / output.prefix.strip("/")
        entries = list(walk(DirectoryTree(top)))
        full = {os.path.dirname(entry.path) for entry in entries}
        things = [e for e in entries if e.kind is not Kind.DIRECTORY or e.path not in full]
        if not things:
            problems.append(
                BuildError(
                    f"{recipe.name} installs nothing for the bundle {output.bundle!r}",
                    where=str(recipe.path),
                    why=f"there is nothing below {output.prefix}",
                )
            )
        stray = sorted((e.path for e in things if not matches(e.path, output.globs)), key=sort_key)
        problems += [
            BuildError(
                f"{recipe.name} installs {output.prefix}/{path}, which is in no output",
                where=str(recipe.path),
                hint=f"add it to files in [output.{output.bundle}], or to drop",
            )
            for path in stray
        ]
    raise_all(problems)
