"""A layer's tar archive, written so that its bytes depend on the entries and their contents alone.

Entries go out in byte order of their paths, each once, each directory before what it holds.  Reading,
writing and hashing overlap: while one buffer is filled, a thread writes another and one hashes a third.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, Protocol

from bundler.digest import Digest
from bundler.errors import BundleError, InputError, raise_all
from bundler.oci.header import BLOCK, END, content_size, header, padding
from bundler.tree import DirectoryTree, Entry, Kind, join, parents, sort_key

FORMAT = 1
"""Raised whenever the same entries would give other bytes: part of whatever key remembers a diff ID."""

WHITEOUT = ".wh."
"""Names that begin so delete, in a layer (OCI image specification, layer.md, "Whiteouts")."""

_BUFFER = 1 << 20
_BUFFERS = 5
_Queue = SimpleQueue[tuple[bytearray, int] | None]
"""Buffers, each with the number of bytes in it; None at the end."""
_SPECIAL = frozenset({Kind.CHARACTER, Kind.BLOCK, Kind.FIFO})


class Writable(Protocol):
    """What a layer is written to."""

    def write(self, data: memoryview, /) -> object: ...


class Contents(Protocol):
    """Where the contents of entries are: any :class:`bundler.tree.FileTree`, and less."""

    def open(self, path: str, /) -> BinaryIO: ...


@dataclass(frozen=True, slots=True)
class LayerIdentity:
    """What a layer is known by: the digest of its uncompressed tar, and that tar's size in bytes."""

    diff_id: Digest
    size: int


@dataclass(frozen=True, slots=True)
class LayerSource:
    """Entries that make one layer, and the tree in which their contents lie.

    ``entries`` have their paths as in the image; ``tree`` opens them by the same paths.
    """

    name: str
    version: str
    tree: Contents = field(repr=False)
    entries: tuple[Entry, ...] = field(repr=False)
    special: bool = False
    """Devices and fifos are packed too: only for layers taken from someone else's image."""


def source_of_tree(entries: Iterable[Entry], root: Path, at: str, *, name: str, version: str) -> LayerSource:
    """The layer that shows the directory ``root``, whose entries are given, at the path ``at``."""
    inside = at.strip("/")
    placed = tuple(_place(entry, inside) for entry in entries)
    return LayerSource(name, version, DirectoryTree(root, inside), layer_entries(placed, at=inside))


def _place(entry: Entry, at: str) -> Entry:
    if not at:
        return entry
    link = None if entry.hardlink is None else join(at, entry.hardlink)
    return replace(entry, path=join(at, entry.path), hardlink=link)


def layer_entries(entries: Iterable[Entry], *, at: str = "", special: bool = False) -> tuple[Entry, ...]:
    """The entries of a layer: sorted, with every missing parent directory, 0755 and root's.

    A client that must invent a parent stamps it with the present time.  Raises InputError (all problems
    at once, each with its full path) for what a layer cannot hold.
    """
    found: dict[str, Entry] = {}
    problems: list[BundleError] = []
    for entry in entries:
        if entry.path in found:
            problems.append(InputError("two entries have this path", where="/" + entry.path))
        if why := _refusal(entry, special):
            problems.append(InputError(f"cannot be packed: {why}", where="/" + entry.path))
        found[entry.path] = entry
    directories = {""}
    for path in (*found, f"{at}/" if at else ""):
        if path.rpartition("/")[0] in directories:
            continue
        for parent in parents(path):
            above = found.get(parent)
            if above is None:
                above = found[parent] = Entry(parent, Kind.DIRECTORY)
            if above.kind is Kind.DIRECTORY:
                directories.add(parent)
            else:
                problems.append(
                    InputError(f"lies below /{parent}, which is a {above.kind}", where="/" + path)
                )
    for entry in found.values():
        if entry.hardlink is not None:
            first = found.get(entry.hardlink)
            sound = first is not None and first.kind is Kind.FILE and first.hardlink is None
            if not sound or sort_key(entry.hardlink) >= sort_key(entry.path):
                why = f"/{entry.hardlink} is not the first name of a file in the same layer"
                problems.append(
                    InputError("cannot be packed as a hard link", where="/" + entry.path, why=why)
                )
    raise_all(problems)
    return tuple(found[path] for path in sorted(found, key=sort_key))


def _refusal(entry: Entry, special: bool) -> str | None:
    if entry.kind is Kind.SOCKET or (entry.kind in _SPECIAL and not special):
        return f"it is a {entry.kind}" + ("" if entry.kind in (Kind.FIFO, Kind.SOCKET) else " device")
    if entry.path.rpartition("/")[2].startswith(WHITEOUT):
        return f"names that begin with {WHITEOUT} delete files in a layer"
    if any(part in ("", ".", "..") for part in entry.path.split("/")) or "\0" in entry.path:
        return "it is not a plain relative path"
    return None


def relink(entries: Iterable[Entry]) -> list[Entry]:
    """The same files with hard links among these names alone: the first that is left becomes the file."""
    first: dict[str, str] = {}
    result = []
    for entry in sorted(entries, key=lambda item: sort_key(item.path)):
        if entry.kind is Kind.FILE:
            group = entry.hardlink or entry.path
            name = first.setdefault(group, entry.path)
            entry = replace(entry, hardlink=name if name != entry.path else None)
        result.append(entry)
    return result


def write_layer(source: LayerSource, out: Writable | None = None) -> LayerIdentity:
    """Write the layer's tar to ``out``, or only hash it.

    Raises InputError where a file is not what its entry says, as when it changed meanwhile.
    """
    pump = _Pump(out)
    try:
        for entry in source.entries:
            pump.write(header(entry))
            if content_size(entry):
                _copy_content(source.tree, entry, pump)
        pump.write(END)
    except BaseException:
        pump.abandon()
        raise
    return pump.finish()


def _copy_content(tree: Contents, entry: Entry, pump: _Pump) -> None:
    with tree.open(entry.path) as stream:
        # Straight into our buffer, past the one that the stream has.
        raw = getattr(stream, "raw", stream)
        missing = pump.copy(raw, entry.size)
        if missing or raw.read(1):
            relation = "less" if missing else "more"
            raise InputError(
                f"holds {relation} than the {entry.size} bytes that it had", where="/" + entry.path,
                why="the file changed while it was packed",
            )  # fmt: skip
    if rest := padding(entry.size):
        pump.write(bytes(rest))


class _Pump:
    """Collects bytes in a ring of buffers; threads of its own write and then hash each that is full.

    Headers and small files share a buffer, so that hashing and writing see large pieces only.
    """

    def __init__(self, out: Writable | None) -> None:
        self._hash = hashlib.sha256()
        self._error: BaseException | None = None
        self._free: _Queue = SimpleQueue()
        self._full: _Queue = SimpleQueue()
        written: _Queue = SimpleQueue() if out is not None else self._full
        self._threads = [self._start("hash", self._hash.update, written, self._free)]
        if out is not None:
            self._threads.append(self._start("write", out.write, self._full, written))
        for _ in range(_BUFFERS):
            self._free.put((bytearray(_BUFFER), 0))
        self._buffer = bytearray(_BUFFER)
        self._used = 0
        self._total = 0

    def _start(
        self, name: str, work: Callable[[memoryview], object], source: _Queue, target: _Queue
    ) -> threading.Thread:
        thread = threading.Thread(target=self._work, args=(work, source, target), name=name, daemon=True)
        thread.start()
        return thread

    def _work(self, work: Callable[[memoryview], object], source: _Queue, target: _Queue) -> None:
        """Do ``work`` on each buffer that comes, and pass it on; after an error only the latter."""
        while (item := source.get()) is not None:
            try:
                if self._error is None:
                    work(memoryview(item[0])[: item[1]])
            except BaseException as error:
                self._error = error
            target.put(item)
        target.put(None)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = min(len(view), _BUFFER - self._used)
            self._buffer[self._used : self._used + count] = view[:count]
            self._used += count
            view = view[count:]
            if self._used == _BUFFER:
                self._flush()

    def copy(self, stream: BinaryIO, size: int) -> int:
        """Take ``size`` bytes from ``stream``; returns how many it lacks."""
        while size:
            room = memoryview(self._buffer)[self._used : self._used + size]
            count = stream.readinto(room)  # type: ignore[attr-defined]
            room.release()
            if not count:
                return size
            self._used += count
            size -= count
            if self._used == _BUFFER:
                self._flush()
        return 0

    def _flush(self) -> None:
        if self._used:
            self._full.put((self._buffer, self._used))
            self._total += self._used
            item = self._free.get()
            assert item is not None
            self._buffer, self._used = item[0], 0
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        self._full.put(None)
        for thread in self._threads:
            thread.join()

    def finish(self) -> LayerIdentity:
        self._flush()
        self.abandon()
        if self._error is not None:
            raise self._error
        return LayerIdentity(Digest("sha256:" + self._hash.hexdigest()), self._total)


assert _BUFFER % BLOCK == 0
