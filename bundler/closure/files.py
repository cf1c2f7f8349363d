"""A file tree as the loader sees it: look-ups in directories, and the facts of ELF files, each read once."""

from __future__ import annotations

from typing import NamedTuple

from bundler.elf.read import ElfError, ElfFile, is_elf, read_elf
from bundler.errors import InputError
from bundler.tree import MAX_LINKS, Entry, FileTree, Kind, join, resolve


class Found(NamedTuple):
    """What a look-up gave: ``path`` in the tree with links followed, or the errno name of a failure."""

    path: str
    entry: Entry | None
    hops: tuple[str, ...] = ()
    """Symbolic links on the way, as paths in the tree."""
    error: str | None = None

    @property
    def identity(self) -> str:
        """The same for two names of one file, as device and inode number are."""
        return self.path if self.entry is None or self.entry.hardlink is None else self.entry.hardlink


class _Directory(NamedTuple):
    path: str
    names: frozenset[str]
    hops: tuple[str, ...]


class Files:
    """A read-only view with memory; the tree must not change while it is in use."""

    def __init__(self, tree: FileTree) -> None:
        self.tree = tree
        self._directories: dict[str, _Directory | None] = {}
        self._followed: dict[str, Found] = {}
        self._found: dict[tuple[str, str], Found | None] = {}
        self._facts: dict[str, ElfFile | ElfError | None] = {}
        self.has_hwcaps = False
        """Whether a directory that was looked into holds libraries for certain processors only."""

    def find(self, directory: str, name: str) -> Found | None:
        """``name`` in the absolute ``directory``, links followed; None where there is no such name."""
        key = (directory, name)
        try:
            return self._found[key]
        except KeyError:
            found = self._found[key] = self._find(directory, name)
            return found

    def has_directory(self, directory: str) -> bool:
        return self._directory(directory) is not None

    def names(self, directory: str) -> frozenset[str]:
        """Names in the absolute ``directory``; empty where it does not exist."""
        found = self._directory(directory)
        return found.names if found is not None else frozenset()

    def follow(self, path: str) -> Found:
        """Where the absolute ``path`` leads."""
        known = self._followed.get(path)
        if known is None:
            led = resolve(self.tree, path)
            known = self._followed[path] = Found(led.path, led.entry, led.hops, led.error)
        return known

    def facts(self, path: str) -> ElfFile | ElfError | None:
        """Facts of the file at a ``path`` in the tree; an error if it is damaged, None if it is not ELF."""
        try:
            return self._facts[path]
        except KeyError:
            facts = self._facts[path] = self._read(path)
            return facts

    def _read(self, path: str) -> ElfFile | ElfError | None:
        try:
            with self.tree.open(path) as stream:
                if not is_elf(stream.read(4)):
                    return None
                return read_elf(stream)
        except ElfError as error:
            return error
        except InputError:
            return None

    def _find(self, directory: str, name: str) -> Found | None:
        where = self._directory(directory)
        if where is None or name not in where.names:
            return None
        path = join(where.path, name)
        hops = where.hops
        entry = self.tree.get(path)
        # Most links lead to a neighbour, which needs no walk from the root.
        while (
            entry is not None
            and entry.kind is Kind.SYMLINK
            and _is_neighbour(entry)
            and len(hops) < MAX_LINKS
        ):
            hops = (*hops, path)
            path = join(where.path, entry.target or "")
            entry = self.tree.get(path)
            if entry is None:
                return Found(path, None, hops, "ENOENT")
        if entry is None:
            return None
        if entry.kind is Kind.SYMLINK:
            led = resolve(self.tree, path)
            return Found(led.path, led.entry, hops + led.hops, led.error)
        return Found(path, entry, hops)

    def _directory(self, directory: str) -> _Directory | None:
        try:
            return self._directories[directory]
        except KeyError:
            found = resolve(self.tree, directory)
            known = None
            if found.entry is not None and found.entry.kind is Kind.DIRECTORY and found.error is None:
                known = _Directory(found.path, frozenset(self.tree.names(found.path)), found.hops)
                self.has_hwcaps |= "glibc-hwcaps" in known.names
            self._directories[directory] = known
            return known


def _is_neighbour(link: Entry) -> bool:
    """Whether a link leads to a name in its own directory."""
    return bool(link.target) and "/" not in (link.target or "/") and link.target not in (".", "..")
