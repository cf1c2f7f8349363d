"""Archives of others unpacked into a directory, so that nothing can leave it.

tar (plain, gzip, bzip2, xz, zstd), zip and deb, told apart by content.  Modes become 0755 or 0644, owners
and special bits are not kept, times are, since make compares them.  What is refused is named: paths that
climb, links that lead out (also through other links), devices, and more than the limits allow.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, BinaryIO

from bundler.errors import InputError
from bundler.oci.header import BLOCK
from bundler.oci.stream import Limits, decompress, open_range
from bundler.oci.tar import members
from bundler.recipe import Source
from bundler.tree import Kind
from bundler.tree_writer import TreeWriter

LIMITS = Limits(entries=2_000_000, unpacked=32 << 30)

_CHUNK = 1 << 20
_ENDLESS = 1 << 62
"""Length of a stream whose end is not known."""

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"!<arch>\n": "deb",
}
_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".txz", ".tar.zst", ".zip")
_XZ_MEMORY = 1 << 30
"""Bytes of memory that a decompressor may ask for; ``xz -9`` needs 65 MiB."""


def place(source: Source, file: Path, root: Path, *, limits: Limits = LIMITS) -> None:
    """Put a fetched source where the recipe says below ``root``; raises as :func:`unpack` does.

    A directory (a git source) is copied, modes and times as archives have them.
    """
    writer = TreeWriter(root, str(file), below=source.directory)
    if file.is_dir():
        writer.copy(file)
    elif source.unpack == "none":
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            writer.file(source.file_name, stream, size, executable=False, mtime=None)
    elif source.unpack == "nested":
        _unpack_nested(file, writer, source, limits)
    else:
        _unpack(file, writer, source.strip, limits)
    writer.finish()


def unpack(archive: Path, destination: Path, *, strip: int = 0, limits: Limits = LIMITS) -> None:
    """Unpack an archive over what is in ``destination``; the first ``strip`` parts of paths are dropped.

    Raises InputError for what is no archive, damaged or hostile, and EnvironmentLacks where the disk is
    full; what was written until then stays.
    """
    writer = TreeWriter(destination, str(archive))
    _unpack(archive, writer, strip, limits)
    writer.finish()


def unpack_deb(archive: Path, destination: Path, *, limits: Limits = LIMITS) -> None:
    """Unpack the data of a Debian binary package (deb(5)), over what is in ``destination``.

    That is meant to become a root file system, so links may be absolute.  Raises as :func:`unpack` does.
    """
    writer = TreeWriter(destination, str(archive), is_root=True)
    with archive.open("rb") as file:
        _deb(file, writer, 0, limits)
    writer.finish()


def _unpack(archive: Path, writer: TreeWriter, strip: int, limits: Limits) -> None:
    try:
        with archive.open("rb") as file:
            kind = _kind(file)
            if kind == "zip":
                _zip(file, writer, strip, limits)
            elif kind == "deb":
                writer.is_root = True
                _deb(file, writer, strip, limits)
            elif kind is None:
                hint = 'unpack = "none" in the recipe keeps the file as it is'
                raise InputError("is no archive that we know", where=str(archive), hint=hint)
            else:
                _tar(file, os.fstat(file.fileno()).st_size, kind, writer, strip, limits)
    except FileNotFoundError as error:
        raise InputError("there is no such archive", where=str(archive)) from error


def _unpack_nested(file: Path, writer: TreeWriter, source: Source, limits: Limits) -> None:
    """Unpack the one archive of the name that is wanted in an archive; ``strip`` is about the inner one."""
    with tempfile.TemporaryDirectory(prefix=".nested-", dir=writer.root) as scratch:
        unpack(file, Path(scratch), limits=limits)
        found = sorted(
            item
            for item in Path(scratch).rglob("*")
            if item.name.endswith(_SUFFIXES) and fnmatchcase(item.name, source.member)
            if item.is_file() and not item.is_symlink()
        )
        if len(found) != 1:
            names = ", ".join(item.name for item in found) or "none"
            what = "one archive" if source.member == "*" else f"one archive {source.member!r}"
            raise InputError(f"does not hold {what}", where=str(file), why=f"it holds {names}")
        _unpack(found[0], writer, source.strip, limits)


def _kind(file: BinaryIO) -> str | None:
    """What an archive is, from its first bytes: ``tar`` where it is not compressed."""
    head = file.read(512)
    file.seek(0)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    return "tar" if head[257:262] == b"ustar" or _is_old_tar(head) else None


def _is_old_tar(head: bytes) -> bool:
    """The header's checksum holds: tars from before POSIX have no magic."""
    text = head[148:156].strip(b" \0")
    return text.isdigit() and sum(head) - sum(head[148:156]) + 8 * 32 == int(text, 8 if text < b"8" else 10)


def _tar(file: IO[bytes], size: int, kind: str, writer: TreeWriter, strip: int, limits: Limits) -> None:
    pieces = _pieces(iter(lambda: file.read(_CHUNK), b""), kind, writer.where)
    stream = io.BufferedReader(_Forward(pieces, writer.where, limits.unpacked_of(size)), _CHUNK)
    found = 0
    for member in members(stream, _ENDLESS, where=writer.where, limits=limits):
        found += 1
        entry = member.entry
        path = _stripped(entry.path, strip)
        if path is None:
            continue
        if entry.hardlink is not None:
            writer.hardlink(path, _stripped(entry.hardlink, strip) or "")
        elif entry.kind is Kind.DIRECTORY:
            writer.directory(path)
        elif entry.kind is Kind.SYMLINK:
            writer.symlink(path, entry.target or "")
        elif entry.kind is Kind.FILE:
            writer.file(path, stream, entry.size, executable=bool(entry.mode & 0o111), mtime=entry.mtime)
        else:
            writer.refuse(path, f"is a {entry.kind}{' device' if entry.device else ''}")
    if not found:
        raise InputError("the archive is empty", where=writer.where)
    while stream.read(_CHUNK):
        pass  # a decompressor checks its sums at the very end
    if stream.tell() % BLOCK:
        raise InputError("is cut short", where=writer.where, why=f"it ends at byte {stream.tell()}")


def _pieces(source: Iterable[bytes], kind: str, where: str) -> Iterator[bytes]:
    if kind == "tar":
        return iter(source)
    if kind in ("gzip", "zstd"):
        return decompress(source, kind, where)
    return _slow_pieces(source, kind, where)


def _slow_pieces(source: Iterable[bytes], kind: str, where: str) -> Iterator[bytes]:
    """xz and bzip2, whose streams may follow one another with zeros between (xz file format, 2.2)."""

    def start() -> Any:
        return bz2.BZ2Decompressor() if kind == "bzip2" else lzma.LZMADecompressor(memlimit=_XZ_MEMORY)

    engine = start()
    try:
        for piece in source:
            while True:
                if engine.eof:
                    piece = piece.lstrip(b"\0")
                    if not piece:
                        break
                    engine = start()
                yield engine.decompress(piece, _CHUNK)
                piece = engine.unused_data if engine.eof else b""
                if not piece and (engine.eof or engine.needs_input):
                    break
    except (OSError, lzma.LZMAError, EOFError) as error:
        raise InputError("is damaged", where=where, why=f"{kind}: {error}") from error
    if not engine.eof:
        raise InputError("is cut short", where=where, why=f"{kind}: its data do not end")


class _Forward(io.RawIOBase):
    """Pieces as a stream that seeks forward only, and ends with an error above ``limit`` bytes."""

    def __init__(self, pieces: Iterator[bytes], where: str, limit: int) -> None:
        self._pieces = pieces
        self._where = where
        self._limit = limit
        self._rest = memoryview(b"")
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset < self._at:
            raise io.UnsupportedOperation("this stream only goes forward")
        scratch = memoryview(bytearray(_CHUNK))
        while self._at < offset and self.readinto(scratch[: min(_CHUNK, offset - self._at)]):
            pass
        return self._at

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._at += count
        if self._at > self._limit:
            raise too_large(self._where, self._limit)
        return count


def too_large(where: str, limit: int) -> InputError:
    why = f"it is larger than {limit} bytes when unpacked, which no honest archive of its size is"
    return InputError("looks like a decompression bomb", where=where, why=why)


def _stripped(path: str, strip: int) -> str | None:
    """The path without its first parts, or None where nothing is left of it."""
    parts = path.split("/")[strip:]
    return "/".join(parts) or None


def _zip(file: IO[bytes], writer: TreeWriter, strip: int, limits: Limits) -> None:
    where = writer.where
    try:
        with zipfile.ZipFile(file) as archive:
            items = archive.infolist()
            if len(items) > limits.entries:
                raise InputError(f"has more than {limits.entries} entries", where=where)
            limit = limits.unpacked_of(os.fstat(file.fileno()).st_size)
            if sum(item.file_size for item in items) > limit:
                raise too_large(where, limit)
            for item in items:
                _zip_item(archive, item, writer, strip)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
        raise InputError("is no sound zip archive", where=where, why=str(error)) from error
    except (NotImplementedError, RuntimeError) as error:
        raise InputError("is a zip archive that we cannot read", where=where, why=str(error)) from error


def _zip_item(archive: zipfile.ZipFile, item: zipfile.ZipInfo, writer: TreeWriter, strip: int) -> None:
    parts = [part for part in item.filename.split("/") if part not in ("", ".")]
    if ".." in parts or item.filename.startswith("/"):
        writer.refuse(item.filename, "leads out of the archive")
    if len(item.filename) > 4096 or len(parts) > 256:
        writer.refuse(item.filename, "is longer than a path can be")
    path = _stripped("/".join(parts), strip)
    if path is None:
        return
    mode = item.external_attr >> 16 if item.create_system == 3 else 0
    if item.is_dir():
        writer.directory(path)
    elif stat.S_ISLNK(mode):
        with archive.open(item) as stream:
            writer.symlink(path, os.fsdecode(stream.read(4097)))
    elif stat.S_IFMT(mode) in (0, stat.S_IFREG):
        with archive.open(item) as stream:
            mtime = _seconds(item.date_time)
            writer.file(path, stream, item.file_size, executable=bool(mode & 0o111), mtime=mtime)
    else:
        writer.refuse(path, "is a device, a pipe or a socket")


def _seconds(date: tuple[int, int, int, int, int, int]) -> int:
    """Seconds since 1970 of a zip's date, taken as UTC: it has no time zone."""
    import calendar

    return calendar.timegm((*date, 0, 0, 0))


def _deb(file: IO[bytes], writer: TreeWriter, strip: int, limits: Limits) -> None:
    """An ar archive of ``debian-binary``, ``control.tar…`` and ``data.tar…`` (deb(5), ar(5))."""
    where = writer.where
    size = os.fstat(file.fileno()).st_size
    at = 8
    if file.read(at) != b"!<arch>\n":
        raise InputError("is no Debian package", where=where)
    while at < size:
        file.seek(at)
        header = file.read(60)
        length = header[48:58].strip()
        if len(header) < 60 or header[58:] != b"`\n" or not length.isdigit():
            raise InputError("is no sound Debian package", where=where, why=f"a bad header at byte {at}")
        if at + 60 + int(length) > size:
            raise InputError("is cut short", where=where, why=f"the member at byte {at} is incomplete")
        if header.startswith(b"data.tar"):
            with open_range(file, at + 60, int(length)) as data:
                kind = _kind(data)
                if kind is None or kind in ("zip", "deb"):
                    raise InputError("is no sound Debian package", where=where, why="its data are no tar")
                _tar(data, int(length), kind, writer, strip, limits)
            return
        at += 60 + int(length) + int(length) % 2
    raise InputError("is no sound Debian package", where=where, why="it has no data.tar")
