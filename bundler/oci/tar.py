"""Tar archives read by our own strict reader: entries, and where their contents lie.

Takes what the engines write: ustar, PAX records, GNU's long names and base-256 numbers.  What has no place
in a layer (sparse files, climbing paths) is refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from bundler.errors import InputError
from bundler.oci.header import BLOCK, XATTR_RECORD, padding
from bundler.oci.stream import LIMITS, Limits
from bundler.tree import Entry, Kind

_ZEROS = bytes(BLOCK)
_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.FILE,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}


@dataclass(frozen=True, slots=True)
class Member:
    """One entry, and the offset in bytes of its content in the stream."""

    entry: Entry
    offset: int


class Forward(Protocol):
    """What a tar is read from; it is never asked to go back."""

    def seek(self, offset: int, /) -> int: ...

    def read(self, size: int, /) -> bytes: ...


def members(stream: Forward, length: int, *, where: str, limits: Limits = LIMITS) -> Iterator[Member]:
    """The entries of a tar of at most ``length`` bytes, which is read forwards only.

    Paths are plain, the root is ``""``.  Raises InputError for what is damaged, cut short, or hostile.
    """
    reader = _Reader(stream, length, where, limits)
    for count, member in enumerate(reader):
        if count >= limits.entries:
            raise InputError(f"has more than {limits.entries} entries", where=where)
        yield member


class _Reader:
    def __init__(self, stream: Forward, length: int, where: str, limits: Limits) -> None:
        self._stream = stream
        self._length = length
        self._where = where
        self._limits = limits
        self._at = 0
        self._common: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Member]:
        records: dict[bytes, bytes] = {}
        while (block := self._block()) is not None:
            kind = block[156:157]
            size = self._number(block[124:136])
            if kind in (b"x", b"g"):
                found = self._records(self._content(size))
                if kind == b"g":
                    self._common.update(found)
                else:
                    records.update(found)
            elif kind in (b"L", b"K"):
                text = self._content(size).rstrip(b"\0")
                records[b"path" if kind == b"L" else b"linkpath"] = text
            else:
                yield self._member(block, {**self._common, **records})
                records = {}
        if records:
            raise self._damaged("an extended header stands at the end")

    def _block(self) -> bytes | None:
        """The next header, or None at the end, which two blocks of zeros or the end of the file mark."""
        self._stream.seek(self._at)
        block = self._stream.read(BLOCK)
        if not block or block == _ZEROS:
            return None
        if len(block) < BLOCK:
            raise self._damaged("it is cut short in a header")
        self._at += BLOCK
        total = sum(block) - sum(block[148:156]) + 8 * 32
        if self._number(block[148:156]) != total:
            raise self._damaged("a header's checksum is wrong")
        return block

    def _content(self, size: int) -> bytes:
        if not 0 <= size <= self._limits.extended:
            raise self._damaged(f"an extended header of {size} bytes")
        data = self._stream.read(size)
        if len(data) < size:
            raise self._damaged("it is cut short in an extended header")
        self._at += size + padding(size)
        return data

    def _member(self, block: bytes, records: dict[bytes, bytes]) -> Member:
        if any(key.startswith(b"GNU.sparse") for key in records):
            raise self._damaged("it holds a sparse file, which has no place in a layer")
        kind = _KINDS.get(block[156:157])
        if kind is None:
            raise self._damaged(f"an entry of the unknown type {block[156:157]!r}")
        name = records.get(b"path") or self._name(block)
        if kind is Kind.FILE and name.endswith(b"/"):
            kind = Kind.DIRECTORY
        path = self._path(name)
        link = records.get(b"linkpath") or block[157:257].partition(b"\0")[0]
        is_link = block[156:157] == b"1"
        size = self._decimal(records, b"size", block[124:136]) if kind is Kind.FILE and not is_link else 0
        offset = self._at
        if offset + size > self._length:
            raise self._damaged(f"it is cut short in /{path}")
        self._at += size + padding(size)
        entry = Entry(
            path=path,
            kind=kind,
            mode=0o777 if kind is Kind.SYMLINK else self._number(block[100:108]) & 0o7777,
            size=size,
            target=os.fsdecode(link) if kind is Kind.SYMLINK else None,
            hardlink=self._path(link) if is_link else None,
            uid=self._decimal(records, b"uid", block[108:116]),
            gid=self._decimal(records, b"gid", block[116:124]),
            mtime=self._decimal(records, b"mtime", block[136:148]),
            xattrs=tuple(
                sorted(
                    (os.fsdecode(key.removeprefix(XATTR_RECORD)), value)
                    for key, value in records.items()
                    if key.startswith(XATTR_RECORD)
                )
            ),
            device=(
                (self._number(block[329:337]), self._number(block[337:345]))
                if kind in (Kind.CHARACTER, Kind.BLOCK)
                else None
            ),
        )
        if kind is Kind.SYMLINK and (not entry.target or "\0" in entry.target):
            raise self._damaged(f"the symbolic link /{path} has no target")
        return Member(entry, offset)

    def _name(self, block: bytes) -> bytes:
        name = block[:100].partition(b"\0")[0]
        prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
        return prefix + b"/" + name if prefix else name

    def _path(self, name: bytes) -> str:
        """A member's name as a plain path: ``./x``, ``/x`` and ``x/`` are all ``x`` to every engine."""
        parts = [part for part in os.fsdecode(name).split("/") if part not in ("", ".")]
        path = "/".join(parts)
        if ".." in parts or "\0" in path:
            raise self._damaged(f"the path {os.fsdecode(name)!r} leads out of it")
        if len(path) > 4096 or len(parts) > 256:
            raise self._damaged(f"a path of {len(path)} bytes")
        return path

    def _records(self, data: bytes) -> dict[bytes, bytes]:
        """PAX records, ``LENGTH KEY=VALUE\\n``."""
        found: dict[bytes, bytes] = {}
        at = 0
        while at < len(data):
            head, space, _ = data[at : at + 24].partition(b" ")
            if not space or not head.isdigit():
                raise self._damaged("an extended header has no length")
            length = int(head)
            record = data[at + len(head) + 1 : at + length]
            key, equals, value = record.partition(b"=")
            if length <= len(head) + 2 or not equals or not value.endswith(b"\n") or at + length > len(data):
                raise self._damaged("an extended header is no KEY=VALUE")
            found[key] = value[:-1]
            at += length
        return found

    def _decimal(self, records: dict[bytes, bytes], key: bytes, field: bytes) -> int:
        """A number from a PAX record (whole seconds of a time that has fractions), else from its field."""
        if key in records:
            whole = records[key].partition(b".")[0]
            if not whole.removeprefix(b"-").isdigit() or len(whole) > 19:
                raise self._damaged(f"the {os.fsdecode(key)} {records[key][:40]!r} is no number")
            value = int(whole)
        else:
            value = self._number(field)
        if value < 0 and key != b"mtime":
            raise self._damaged(f"a negative {os.fsdecode(key)}")
        return value

    def _number(self, field: bytes) -> int:
        """Octal text, or GNU's base 256 where the first bit is set (the second one is the sign)."""
        if field[0] & 0x80:
            bits = 8 * len(field) - 1
            value = int.from_bytes(field, "big") & ((1 << bits) - 1)
            if field[0] & 0x40:
                value -= 1 << bits
            if abs(value) >= 1 << 63:
                raise self._damaged("a number is out of range")
            return value
        text = field.strip(b" \0")
        if text.strip(b"01234567"):
            raise self._damaged(f"{text!r} is no octal number")
        return int(text or b"0", 8)

    def _damaged(self, why: str) -> InputError:
        return InputError("is no sound tar archive", where=self._where, why=f"{why} (at byte {self._at})")
