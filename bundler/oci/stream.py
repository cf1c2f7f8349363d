"""Seekable streams over parts of files, and layers as such streams, decompressed and checked.

Nothing here trusts what it reads: a layer's digest is checked before its first byte is used, and what
comes out of a decompressor is bounded.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, BinaryIO, Protocol

from bundler.digest import Digest
from bundler.errors import InputError
from bundler.oci.image import PIECE, Layer


@dataclass(frozen=True, slots=True)
class Limits:
    """What an image may ask of its reader; sizes in bytes."""

    layers: int = 512
    entries: int = 4_000_000
    json: int = 4 << 20
    """Of a manifest, index or configuration: what registries take, too."""
    extended: int = 1 << 20
    """Of one tar entry's extended header."""
    unpacked: int = 64 << 30
    """Of one layer."""
    ratio: int = 200
    """Of a compressed layer: how much larger it may become, above the first gigabyte."""

    def unpacked_of(self, compressed: int) -> int:
        return min(self.unpacked, max(1 << 30, compressed * self.ratio))


LIMITS = Limits()


class Seekable(io.RawIOBase):
    """The position in a stream of ``length`` bytes; ``readinto`` is for those that derive from it."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        self._at = max(0, base + offset)
        return self._at


class _Range(Seekable):
    """A part of an open file.  Reads have their own position, so that many ranges share one descriptor."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        super().__init__(length)
        self._file = file
        self._start = start

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._length - self._at)]
        count = os.preadv(self._file.fileno(), [view], self._start + self._at) if view else 0
        self._at += count
        return count


def open_range(file: IO[bytes], start: int, length: int, buffer: int = 4096) -> BinaryIO:
    """``length`` bytes of ``file`` from ``start`` as a stream; the file stays open while it is used."""
    return io.BufferedReader(_Range(file, start, length), buffer)


class LayerStream:
    """The uncompressed tar of a layer: a file that is open, and the range of it."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self.file = file
        self.start = start
        self.length = length

    def open(self, start: int = 0, length: int | None = None) -> BinaryIO:
        return open_range(self.file, self.start + start, self.length - start if length is None else length)

    def close(self) -> None:
        self.file.close()


def open_layer(layer: Layer, limits: Limits = LIMITS) -> LayerStream:
    """The layer's tar, whose digests were checked; one that is compressed lies in a temporary file.

    Raises InputError if the blob is not what its descriptor says, or expands beyond the limits.
    """
    file, start, length = _open_blob(layer)
    try:
        if sniff(os.pread(file.fileno(), 8, start)) is None:
            for _ in _pieces(file, start, length, layer, limits):
                pass
            return LayerStream(file, start, length)
        spool: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            for piece in _pieces(file, start, length, layer, limits):
                spool.write(piece)
            spool.flush()
        except BaseException:
            spool.close()
            raise
        file.close()
        return LayerStream(spool, 0, spool.tell())
    except BaseException:
        file.close()
        raise


class Once:
    """A layer's tar from front to end: what was passed over does not come back, and nothing is kept."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")
        self.at = 0
        """Bytes that were read or passed over."""

    def seek(self, offset: int, /) -> int:
        """Go on to ``offset``, which lies ahead, or to the end."""
        while self.at < offset and self._take(offset - self.at):
            pass
        return self.at

    def read(self, size: int, /) -> bytes:
        """The next ``size`` bytes; fewer at the end."""
        parts: list[memoryview] = []
        while size and (part := self._take(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def digest(self, size: int) -> Digest:
        """Digest of the next ``size`` bytes, or of what is left of them."""
        hashed = hashlib.sha256()
        while size and (part := self._take(size)):
            hashed.update(part)
            size -= len(part)
        return Digest("sha256:" + hashed.hexdigest())

    def _take(self, most: int) -> memoryview:
        """Between one byte and ``most``; none at the end."""
        while not self._piece and (piece := next(self._pieces, None)) is not None:
            self._piece = memoryview(piece)
        part, self._piece = self._piece[:most], self._piece[most:]
        self.at += len(part)
        return part


@contextlib.contextmanager
def read_layer(layer: Layer, limits: Limits = LIMITS) -> Iterator[tuple[Once, int]]:
    """The layer's tar, to be read once, and the most bytes that it may have; nothing is kept of it.

    Its digests are known at its end: what it said counts when the context was left without an error.
    Raises InputError as :func:`open_layer` does.
    """
    file, start, length = _open_blob(layer)
    with file:
        once = Once(_pieces(file, start, length, layer, limits))
        yield once, limits.unpacked_of(length)
        once.seek(limits.unpacked + 1)


def _open_blob(layer: Layer) -> tuple[IO[bytes], int, int]:
    """An open file, and where in it the layer's blob lies: offset and length."""
    place = layer.blob.file()
    if place is None:
        file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        layer.blob.copy_to(file)
        file.flush()
        return file, 0, file.tell()
    path, start, length = place
    try:
        return path.open("rb"), start, length
    except OSError as error:
        raise InputError("a layer cannot be read", where=str(path), why=error.strerror) from error


def sniff(head: bytes) -> str | None:
    """The compression that a blob begins with, whatever its media type says."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    return "zstd" if head.startswith(b"\x28\xb5\x2f\xfd") else None


def _pieces(file: IO[bytes], start: int, length: int, layer: Layer, limits: Limits) -> Iterator[bytes]:
    """The layer's tar, whatever its compression; raises InputError at its end if a digest is wrong."""
    label, limit = f"layer {layer.diff_id}", limits.unpacked_of(length)
    stream = open_range(file, start, length, PIECE)
    codec = sniff(os.pread(file.fileno(), 8, start))
    inner, blob = hashlib.sha256(), hashlib.sha256()
    if codec is None:
        yield from _hashed(stream, inner)
        expected = [(layer.diff_id, inner)]
    else:
        size = 0
        for piece in decompress(_hashed(stream, blob), codec, label):
            size += len(piece)
            if size > limit:
                raise InputError(
                    f"{label} expands beyond {limit} bytes", why="it looks like a decompression bomb"
                )
            inner.update(piece)
            yield piece
        expected = [(layer.descriptor.digest, blob), (layer.diff_id, inner)]
    for digest, found in expected:
        if "sha256:" + found.hexdigest() != digest:
            raise InputError(f"{label} is damaged", why=f"not {digest} but sha256:{found.hexdigest()}")


class Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def _hashed(stream: BinaryIO, into: Hash) -> Iterator[bytes]:
    while piece := stream.read(PIECE):
        into.update(piece)
        yield piece


def decompress(source: Iterable[bytes], codec: str, label: str) -> Iterator[bytes]:
    """Uncompressed pieces of at most 4 MiB; gzip's members and zstd's frames may follow one another."""
    try:
        yield from _gunzip(source) if codec == "gzip" else _unzstd(source)
    except (zlib.error, EOFError) as error:
        raise InputError(f"{label} is damaged", why=f"{codec}: {error}") from error


def _gunzip(source: Iterable[bytes]) -> Iterator[bytes]:
    engine = zlib.decompressobj(wbits=31)
    for piece in source:
        while piece:
            if engine.eof:
                engine = zlib.decompressobj(wbits=31)
            yield engine.decompress(piece, 4 * PIECE)
            piece = engine.unused_data if engine.eof else engine.unconsumed_tail
    while not engine.eof and (rest := engine.decompress(b"", 4 * PIECE)):
        yield rest
    if not engine.eof:
        raise EOFError("its data do not end")


def _unzstd(source: Iterable[bytes]) -> Iterator[bytes]:
    from backports import zstd

    engine = zstd.ZstdDecompressor()
    try:
        for piece in source:
            while piece or not (engine.eof or engine.needs_input):
                if engine.eof:
                    engine = zstd.ZstdDecompressor()
                yield engine.decompress(piece, 4 * PIECE)
                piece = engine.unused_data if engine.eof else b""
    except zstd.ZstdError as error:
        raise zlib.error(str(error)) from error
    if not engine.eof:
        raise EOFError("its data do not end")
