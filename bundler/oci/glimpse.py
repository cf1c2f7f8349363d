"""The bytes of a file that loading looks at, kept so that an image need not be read for them again.

Of an ELF file those are headers and tables, a few of its pages; of a loader and its cache all.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from typing import Any, BinaryIO

from bundler.elf.read import ElfError, is_elf, parse_elf
from bundler.oci.stream import Seekable

Glimpse = tuple[tuple[int, bytes], ...]
"""Bytes at offsets, in order and apart from each other."""

_LOADER = re.compile(r"(?:.*/)?ld-[^/]*\.so\.\d+\Z|(?:.*/)?ld\.so\.cache\Z|etc/ld-musl-[^/]*\.path\Z")
_WHOLE = 16 << 20
"""Bytes that are kept of a loader or a cache at most."""


def glimpse_of(stream: BinaryIO, path: str) -> Glimpse:
    """What loading reads of the seekable content of the file at ``path``; nothing of what it never opens."""
    if _LOADER.match(path):
        stream.seek(0)
        return ((0, stream.read(_WHOLE)),)
    stream.seek(0)
    if not is_elf(stream.read(4)):
        return ()
    seen: dict[int, bytes] = {}

    def read(offset: int, size: int) -> bytes:
        stream.seek(offset)
        data = stream.read(size)
        if len(data) > len(seen.get(offset, b"")):
            seen[offset] = data
        return data

    # What is damaged is found damaged again in the same bytes.
    with contextlib.suppress(ElfError):
        parse_elf(read, stream.seek(0, os.SEEK_END))
    return _merged(seen)


def _merged(seen: dict[int, bytes]) -> Glimpse:
    merged: list[tuple[int, bytearray]] = []
    for offset, data in sorted(seen.items()):
        if merged and offset <= merged[-1][0] + len(merged[-1][1]):
            start, before = merged[-1]
            before[offset - start :] = data + before[offset - start + len(data) :]
        else:
            merged.append((offset, bytearray(data)))
    return tuple((offset, bytes(data)) for offset, data in merged)


class GlimpseStream(Seekable):
    """A file of ``size`` bytes of which some are at hand; for others ``whole`` opens it."""

    def __init__(self, glimpse: Glimpse, size: int, whole: Callable[[], BinaryIO]) -> None:
        super().__init__(size)
        self._glimpse = glimpse
        self._whole = whole

    def readinto(self, buffer: Any) -> int:
        data = self._read(min(len(buffer), max(0, self._length - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read(self, count: int) -> bytes:
        for offset, data in self._glimpse:
            start = self._at - offset
            if start >= 0 and start + count <= len(data):
                return data[start : start + count]
        with self._whole() as stream:
            stream.seek(self._at)
            return stream.read(count)
