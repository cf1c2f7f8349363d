"""The file system that the layers of an image make together, seen without unpacking it.

Names are merged as overlay file systems do it: a later layer's file replaces what lies at its path, its
directories join those below, whiteouts delete (image-layer.md, "Whiteouts").
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import BinaryIO

from bundler.digest import Digest
from bundler.errors import InputError
from bundler.oci.image import Image
from bundler.oci.layer import WHITEOUT
from bundler.oci.stream import LIMITS, LayerStream, Limits, Once, open_layer, read_layer
from bundler.oci.tar import Member, members
from bundler.tree import Entry, Kind, parents, sort_key, walk

_OPAQUE = WHITEOUT + WHITEOUT + ".opq"
_AUFS = WHITEOUT + WHITEOUT


@dataclass(slots=True)
class _Node:
    entry: Entry
    layer: int
    offset: int = 0
    children: dict[str, _Node] = field(default_factory=dict)


class Merged:
    """The names of all layers of an image, and what they are."""

    def __init__(self) -> None:
        self._root = _Node(Entry("", Kind.DIRECTORY), -1)
        self._linked: set[tuple[int, int]] = set()
        self.whiteouts: list[str] = []
        """Paths that layers of the image delete from those below; a directory's content ends in a slash."""

    def get(self, path: str) -> Entry | None:
        node = self._find(path)
        return node.entry if node else None

    def names(self, path: str) -> Sequence[str]:
        node = self._find(path)
        return sorted(node.children, key=os.fsencode) if node else ()

    def walk(self) -> Iterator[Entry]:
        return walk(self)

    def layer_of(self, path: str) -> int:
        """Number of the layer, from 0 upwards, that the entry at ``path`` comes from; -1 for the root."""
        node = self._find(path)
        if node is None:
            raise InputError("no such file", where="/" + path)
        return node.layer

    def _find(self, path: str) -> _Node | None:
        node: _Node | None = self._root
        for part in path.split("/") if path else ():
            if node is None:
                return None
            node = node.children.get(part)
        return node

    def _apply(self, number: int, found: Iterator[Member], where: str) -> None:
        added, removed = _sort(found, where)
        self.whiteouts += removed
        for path in removed:
            self._remove(path)
        for path, member in added.items():
            entry, offset = member.entry, member.offset
            if entry.hardlink is not None:
                first = self._find(entry.hardlink)
                if first is None or first.entry.kind is Kind.DIRECTORY:
                    why = f"the file /{entry.hardlink} does not come before it"
                    raise InputError(f"the hard link /{path} leads nowhere", where=where, why=why)
                if first.entry.kind is Kind.FILE:
                    self._linked.add((first.layer, first.offset))
                self._put(replace(first.entry, path=path), first.layer, first.offset)
            else:
                self._put(entry, number, offset)

    def _name_links(self) -> None:
        """Say which files are one: the first name in byte order is the file, whichever the tar had first."""
        if not self._linked:
            return
        first_names: dict[tuple[int, int], str] = {}
        for path in sorted((entry.path for entry in self.walk()), key=sort_key):
            node = self._find(path)
            if node and node.entry.kind is Kind.FILE and (node.layer, node.offset) in self._linked:
                first = first_names.setdefault((node.layer, node.offset), path)
                node.entry = replace(node.entry, hardlink=first if first != path else None)

    def _put(self, entry: Entry, layer: int, offset: int) -> None:
        above = self._root
        for parent in parents(entry.path):
            name = parent.rpartition("/")[2]
            child = above.children.get(name)
            if child is None or child.entry.kind is not Kind.DIRECTORY:
                child = above.children[name] = _Node(Entry(parent, Kind.DIRECTORY), layer)
            above = child
        if not entry.path:
            self._root.entry = entry
            return
        name = entry.path.rpartition("/")[2]
        former = above.children.get(name)
        node = _Node(entry, layer, offset)
        if former is not None and former.entry.kind is entry.kind is Kind.DIRECTORY:
            node.children = former.children
        above.children[name] = node

    def _remove(self, path: str) -> None:
        """Delete what lies at ``path``, or in the directory if the path ends in a slash."""
        directory, _, name = path.rpartition("/")
        node = self._find(directory)
        if node is None:
            return
        if name:
            node.children.pop(name, None)
        else:
            node.children.clear()


class ImageTree(Merged):
    """A :class:`bundler.tree.FileTree` over all layers of an image; close it, or use it in ``with``.

    Uncompressed layers are read in place; each layer's digest is checked first.  Raises InputError for
    a layer that is damaged, cut short, or hostile.
    """

    def __init__(self, image: Image, *, limits: Limits = LIMITS) -> None:
        super().__init__()
        self._image = image
        self._streams: list[LayerStream] = []
        try:
            for number, layer in enumerate(image.layers):
                stream = open_layer(layer, limits)
                self._streams.append(stream)
                with stream.open() as tar:
                    where = f"layer {layer.diff_id}"
                    self._apply(number, members(tar, stream.length, where=where, limits=limits), where)
            self._name_links()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ImageTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for stream in self._streams:
            stream.close()

    def open(self, path: str) -> BinaryIO:
        node = self._find(path)
        if node is None or node.entry.kind is not Kind.FILE:
            raise InputError("is not a regular file" if node else "no such file", where="/" + path)
        return self._streams[node.layer].open(node.offset, node.entry.size)

    def place_of(self, path: str) -> tuple[Digest, int]:
        """Diff ID of the layer that holds the content of the file at ``path``, and the offset in its tar.

        Two files with one place have one content, whichever images they are seen in.
        """
        node = self._find(path)
        if node is None or node.layer < 0:
            raise InputError("no such file", where="/" + path)
        return self._image.layers[node.layer].diff_id, node.offset


class Listing(Merged):
    """The names of an image with the digest of each file, from one reading that keeps nothing else.

    Raises InputError as :class:`ImageTree` does.
    """

    def __init__(self, image: Image, *, limits: Limits = LIMITS) -> None:
        super().__init__()
        for number, layer in enumerate(image.layers):
            where = f"layer {layer.diff_id}"
            with read_layer(layer, limits) as (tar, most):
                found = members(tar, most, where=where, limits=limits)
                self._apply(number, _digested(tar, found, where), where)
        self._name_links()


def _digested(tar: Once, found: Iterator[Member], where: str) -> Iterator[Member]:
    for member in found:
        entry = member.entry
        if entry.kind is Kind.FILE and entry.hardlink is None:
            tar.seek(member.offset)
            member = replace(member, entry=replace(entry, digest=tar.digest(entry.size)))
            if tar.at < member.offset + entry.size:
                raise InputError(
                    "is no sound tar archive", where=where, why=f"it is cut short in /{entry.path}"
                )
        yield member


def _sort(found: Iterator[Member], where: str) -> tuple[dict[str, Member], list[str]]:
    """A layer's own entries, and the paths that it deletes from those below it.

    An entry below a symbolic link or a file of the same layer would be written through it by engines that
    do not look: refused.  Of an entry that is there twice the last counts, as for every engine.
    """
    added: dict[str, Member] = {}
    removed: list[str] = []
    others: set[str] = set()
    for member in found:
        path = member.entry.path
        directory, _, name = path.rpartition("/")
        if name == _OPAQUE:
            removed.append(f"{directory}/")
        elif name.startswith(_AUFS):
            continue
        elif name.startswith(WHITEOUT):
            victim = name.removeprefix(WHITEOUT)
            if victim in ("", ".", ".."):
                raise InputError(f"the whiteout /{path} deletes nothing", where=where)
            removed.append(f"{directory}/{victim}" if directory else victim)
        else:
            if not path and member.entry.kind is not Kind.DIRECTORY:
                raise InputError(f"its root is a {member.entry.kind}", where=where)
            added.pop(path, None)
            added[path] = member
            others.discard(path)
            if member.entry.kind is not Kind.DIRECTORY:
                others.add(path)
    if others:
        for path in added:
            for parent in parents(path):
                if parent in others:
                    why = f"/{parent} is a {added[parent].entry.kind} of the same layer"
                    raise InputError(
                        f"the entry /{path} lies below what is no directory", where=where, why=why
                    )
    return added, removed
