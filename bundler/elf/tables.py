"""The tables of an ELF file, read and bounded: headers, segments, the dynamic section, its strings."""

from __future__ import annotations

import struct

from bundler.elf import format as f
from bundler.elf.format import ElfError, Header, Layout, ReadAt, Segment, is_elf

MAX_STRING = 1 << 16
_MAX_STRINGS = 4 << 20
"""Bytes of all strings that are read of one file: a hostile one may name its longest string often."""
_SMALL_TABLE = 1 << 16
"""A string table up to this size is read at once; of a larger one only the strings that are asked for."""


def read_header(head: bytes) -> tuple[Layout, Header]:
    """Layout and header of a file that begins with ``head``; raises ElfError."""
    if not is_elf(head):
        raise ElfError("is not an ELF file")
    layout = f.LAYOUTS.get(head[4:6])
    if layout is None:
        raise ElfError("has neither a known ELF class nor a known byte order")
    if len(head) < f.HEADER_OFFSET + layout.header.size:
        raise ElfError("ends inside its ELF header")
    return layout, Header._make(layout.header.unpack_from(head, f.HEADER_OFFSET))


def read_segments(
    read: ReadAt, head: bytes, layout: Layout, header: Header, size: int
) -> tuple[Segment, ...]:
    """The program headers; raises ElfError for a table or a loaded segment that is not in the file."""
    if not header.phnum:
        return ()
    if header.phnum > f.MAX_SEGMENTS:
        raise ElfError(f"claims {header.phnum} program headers")
    if header.phentsize != layout.segment.size:
        raise ElfError(f"has program headers of {header.phentsize} bytes, not {layout.segment.size}")
    length = header.phnum * layout.segment.size
    table = part(read, head, header.phoff, length) if header.phoff + length <= size else b""
    if len(table) != length:
        raise ElfError("ends inside its program headers")
    return layout.unpack_segments(table)


def file_offset(segments: tuple[Segment, ...], address: int) -> tuple[int, int]:
    """Where in the file an address lies, and how many bytes from there are mapped; raises ElfError."""
    for segment in segments:
        if segment.type == f.PT_LOAD and 0 <= address - segment.vaddr < segment.filesz:
            inside = address - segment.vaddr
            return segment.offset + inside, segment.filesz - inside
    raise ElfError(f"the address {address:#x} lies in no loaded part of the file")


def part(read: ReadAt, head: bytes, offset: int, length: int) -> bytes:
    """Bytes of the file, from its head where that holds them."""
    if offset + length <= len(head):
        return head[offset : offset + length]
    return read(offset, length) if offset < _MAX_OFFSET else b""


class Strings:
    """The dynamic string table, of which a large one is read piece by piece."""

    def __init__(self, read: ReadAt, offset: int, size: int) -> None:
        self._read, self._offset, self._size = read, offset, size
        self._budget = _MAX_STRINGS
        self._table = read(offset, size) if size <= _SMALL_TABLE else None

    def __call__(self, at: int) -> str:
        """The string at ``at``, as text; raises ElfError."""
        return self._raw(at).decode("utf-8", "surrogateescape")

    def _raw(self, at: int) -> bytes:
        if at >= self._size:
            raise ElfError("a string lies beyond the dynamic string table")
        if self._table is not None:
            end = self._table.find(b"\0", at)
            data = self._table[at:end]
        else:
            room = self._size - at
            data = self._read(self._offset + at, min(room, 256))
            end = data.find(b"\0")
            if end < 0 and room > 256:
                data = self._read(self._offset + at, min(room, MAX_STRING))
                end = data.find(b"\0")
            data = data[:end]
        if end < 0:
            raise ElfError("a string of the dynamic string table has no end")
        self._budget -= len(data)
        if self._budget < 0:
            raise ElfError("the strings that the dynamic section names are too long altogether")
        return data


def read_dynamic(
    read: ReadAt, layout: Layout, segments: tuple[Segment, ...], dynamic: Segment
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Tags and values up to the DT_NULL, and the number of spare entries behind it; raises ElfError."""
    if dynamic.filesz > f.MAX_DYNAMIC:
        raise ElfError("the dynamic section is too large")
    offset, room = file_offset(segments, dynamic.vaddr)
    if offset != dynamic.offset or dynamic.filesz > room:
        raise ElfError("the dynamic section's offset and address name different parts of the file")
    count = dynamic.filesz // layout.dynamic.size
    data = read(offset, count * layout.dynamic.size)
    if len(data) != count * layout.dynamic.size:
        raise ElfError("ends inside its dynamic section")
    numbers = struct.unpack(f"{layout.mark}{2 * count}{'Q' if layout.bits == 64 else 'I'}", data)
    tags = numbers[::2]
    try:
        end = tags.index(f.DT_NULL)
    except ValueError:
        if not _is_zero_in_memory(read, segments, dynamic.vaddr + len(data), layout.bits // 8):
            raise ElfError("the dynamic section has no end (DT_NULL)") from None
        return tags, numbers[1::2], -1
    return tags[:end], numbers[1 : 2 * end : 2], _spare(numbers[2 * end + 2 :])


def _is_zero_in_memory(read: ReadAt, segments: tuple[Segment, ...], address: int, size: int) -> bool:
    """Whether a loaded segment has zeros at an address, from the file or as it has none there.

    ``ld --spare-dynamic-tags=0`` writes no DT_NULL: the loader reads on, and ends at what follows.
    """
    for segment in segments:
        inside = address - segment.vaddr
        if segment.type == f.PT_LOAD and inside >= 0 and inside + size <= segment.memsz:
            return not read(segment.offset + inside, max(0, min(size, segment.filesz - inside))).strip(b"\0")
    return False


def _spare(rest: tuple[int, ...]) -> int:
    """How many entries behind the end are free; anything but zeros there is somebody's."""
    return len(rest) // 2 if not any(rest) else 0


def no_strings(at: int) -> str:
    raise ElfError("the dynamic section has no string table (DT_STRTAB)")


_MAX_OFFSET = 1 << 62
"""Beyond this no file has bytes, and the system call takes no number."""
