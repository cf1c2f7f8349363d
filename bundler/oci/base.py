"""A base image as a file tree out of its inventory: layers are opened only for what that does not hold."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import BinaryIO, cast

from bundler.errors import InputError
from bundler.oci.glimpse import GlimpseStream
from bundler.oci.image import Image
from bundler.oci.inventory import Inventory
from bundler.oci.merged import ImageTree
from bundler.tree import Entry, Kind, walk


class BaseTree:
    """A :class:`bundler.tree.FileTree` over an image whose inventory is known; use it in ``with``."""

    def __init__(self, image: Image, known: Inventory) -> None:
        self._image = image
        self._known = known
        self._names: dict[str, list[str]] = {}
        for path in known:
            above, _, name = path.rpartition("/")
            self._names.setdefault(above, []).append(name)
        self._layers: ImageTree | None = None

    def __enter__(self) -> BaseTree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._layers is not None:
            self._layers.close()

    def get(self, path: str) -> Entry | None:
        if not path:
            return Entry("", Kind.DIRECTORY)
        owned = self._known.get(path)
        return owned.entry if owned else None

    def names(self, path: str) -> Sequence[str]:
        return sorted(self._names.get(path, ()), key=os.fsencode)

    def walk(self) -> Iterator[Entry]:
        return walk(self)

    def open(self, path: str) -> BinaryIO:
        owned = self._known.get(path)
        if owned is None or owned.entry.kind is not Kind.FILE:
            raise InputError("is not a regular file" if owned else "no such file", where="/" + path)
        if owned.entry.hardlink is not None:
            return self.open(owned.entry.hardlink)
        if not owned.glimpse:
            return self._open(path)
        return cast(BinaryIO, GlimpseStream(owned.glimpse, owned.entry.size, lambda: self._open(path)))

    def _open(self, path: str) -> BinaryIO:
        if self._layers is None:
            self._layers = ImageTree(self._image)
        return self._layers.open(path)
