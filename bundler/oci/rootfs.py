"""A root file system on disk as a file tree, and what of any root file system goes into an image.

Works without privileges, inside a build stage too: what cannot be read there (capabilities that a COPY
lost) comes from a side file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from bundler.errors import InputError
from bundler.oci.layer import relink
from bundler.tree import DirectoryTree, Entry, FileTree, Kind, entry_of, join, shown, sort_key

Attributes = Mapping[str, tuple[tuple[str, bytes], ...]]
"""Extended attributes by path, sorted by name."""

_CACHE_TAG = b"Signature: 8a477f597d28d172789f06886806bc55"
"""First line of CACHEDIR.TAG (bford.info/cachedir)."""
_EMPTIED = frozenset({"tmp", "var/tmp"})


class RootTree:
    """A directory with owners, times and hard links; other file systems mounted in it look empty."""

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root)
        self._plain = DirectoryTree(root)
        self._device = os.lstat(root).st_dev
        self._links: dict[tuple[int, int], list[str]] = {}
        self._entries: dict[str, Entry] = {"": entry_of(root, "", keep_owner=True, keep_mtime=True)}
        self._children: dict[str, list[str]] = {}
        self._scan("")
        for group in self._links.values():
            first, *others = sorted(group, key=sort_key)
            for path in others:
                self._entries[path] = replace(self._entries[path], hardlink=first)

    def _scan(self, directory: str) -> None:
        pending = [directory]
        while pending:
            above = pending.pop()
            names = sorted(os.listdir(f"{self._root}/{above}"), key=os.fsencode)
            self._children[above] = names
            for name in names:
                path = join(above, name)
                file = f"{self._root}/{path}"
                entry = self._entries[path] = entry_of(file, path, keep_owner=True, keep_mtime=True)
                status = os.lstat(file)
                if entry.kind is Kind.DIRECTORY and status.st_dev == self._device:
                    pending.append(path)
                elif entry.kind is Kind.FILE and status.st_nlink > 1:
                    self._links.setdefault((status.st_dev, status.st_ino), []).append(path)

    def get(self, path: str) -> Entry | None:
        return self._entries.get(path)

    def names(self, path: str) -> Sequence[str]:
        return self._children.get(path, ())

    def walk(self) -> Iterator[Entry]:
        yield from (self._entries[path] for path in sorted(self._entries, key=sort_key) if path)

    def open(self, path: str) -> BinaryIO:
        return self._plain.open(path)


def content(tree: FileTree, attributes: Attributes | None = None) -> tuple[Entry, ...]:
    """The entries of a root file system that belong into an image, with attributes from a side file.

    Left out: what is in /tmp and /var/tmp, in directories with a CACHEDIR.TAG, and whatever has an
    attribute ``user.<name>.skip``.  Raises InputError where /boot holds something: a kernel has no place
    in a container, and is the sign of the wrong directory.
    """
    if tree.names("boot"):
        raise InputError(
            "is not empty", where="/boot", why="a kernel has no place in an image", hint="name another root"
        )
    kept: list[Entry] = []
    pending = [""]
    while pending:
        directory = pending.pop()
        names = tree.names(directory)
        if directory in _EMPTIED:
            names = ()
        elif "CACHEDIR.TAG" in names and _is_cache(tree, join(directory, "CACHEDIR.TAG")):
            names = ("CACHEDIR.TAG",)
        for name in names:
            path = join(directory, name)
            entry = tree.get(path)
            if entry is None:
                continue
            if any(key.startswith("user.") and key.endswith(".skip") for key, _ in entry.xattrs):
                continue
            if entry.kind is Kind.SOCKET:
                raise InputError(
                    "a socket cannot be packed", where="/" + shown(path), hint="stop what made it"
                )
            if attributes is not None and path in attributes:
                merged = {**dict(entry.xattrs), **dict(attributes[path])}
                entry = replace(entry, xattrs=tuple(sorted(merged.items())))
            kept.append(entry)
            if entry.kind is Kind.DIRECTORY:
                pending.append(path)
    return tuple(relink(kept))


def _is_cache(tree: FileTree, path: str) -> bool:
    entry = tree.get(path)
    if entry is None or entry.kind is not Kind.FILE:
        return False
    with tree.open(path) as stream:
        return stream.read(len(_CACHE_TAG)) == _CACHE_TAG


def parse_attributes(text: str, *, where: str) -> dict[str, tuple[tuple[str, bytes], ...]]:
    """What ``getfattr --dump --encoding=hex --match=- -R`` prints; raises InputError with the line."""
    found: dict[str, dict[str, bytes]] = {}
    current: dict[str, bytes] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("# file: "):
            path = _unescape(line.removeprefix("# file: ")).strip("/")
            current = found.setdefault(path, {})
        elif line.strip() and not line.startswith("#"):
            name, equals, value = line.partition("=0x")
            try:
                if current is None or not equals:
                    raise ValueError("no 'NAME=0x…' below a '# file:' line")
                current[name] = bytes.fromhex(value)
            except ValueError as error:
                hint = "made by: getfattr --dump --encoding=hex --match=- --recursive ."
                raise InputError(
                    "is no line of getfattr's", where=f"{where}:{number}", why=str(error), hint=hint
                ) from error
    return {path: tuple(sorted(values.items())) for path, values in found.items()}


def _unescape(text: str) -> str:
    """getfattr writes odd bytes of names as ``\\ooo``."""
    raw = bytearray()
    data = os.fsencode(text)
    at = 0
    while at < len(data):
        if data[at : at + 1] == b"\\" and data[at + 1 : at + 4].isdigit():
            raw.append(int(data[at + 1 : at + 4], 8) & 255)
            at += 4
        else:
            raw.append(data[at])
            at += 1
    return os.fsdecode(bytes(raw))
