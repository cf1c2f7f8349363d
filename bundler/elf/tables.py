"""The tables of an ELF file, read and bounded: headers, segments, the dynamic section, its strings."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import NoReturn

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


def strings(read: ReadAt, offset: int, size: int) -> Callable[[int], str]:
    """Strings of the dynamic string table by where they begin in it: text, or an ElfError."""
    if size > _SMALL_TABLE:
        return _large_table(read, offset, size)
    table = read(offset, size)
    find = table.find
    budget = _MAX_STRINGS

    def string(at: int) -> str:
        nonlocal budget
        end = find(b"\0", at)
        if end < 0:
            raise _no_string(at, size)
        budget -= end - at
        if budget < 0:
            raise ElfError(_TOO_LONG)
        return table[at:end].decode("utf-8", "surrogateescape")

    return string


def _large_table(read: ReadAt, offset: int, size: int) -> Callable[[int], str]:
    """The same for a large table, of which only what is asked for is read."""
    budget = _MAX_STRINGS

    def string(at: int) -> str:
        nonlocal budget
        room = max(0, size - at)
        data = read(offset + at, min(room, 256)) if room else b""
        end = data.find(b"\0")
        if end < 0 and room > 256:
            data = read(offset + at, min(room, MAX_STRING))
            end = data.find(b"\0")
        if end < 0:
            raise _no_string(at, size)
        budget -= end
        if budget < 0:
            raise ElfError(_TOO_LONG)
        return data[:end].decode("utf-8", "surrogateescape")

    return string


def _no_string(at: int, size: int) -> ElfError:
    if at >= size:
        return ElfError("a string lies beyond the dynamic string table")
    return ElfError("a string of the dynamic string table has no end")


_TOO_LONG = "the strings that the dynamic section names are too long altogether"


def read_dynamic(
    read: ReadAt, layout: Layout, segments: tuple[Segment, ...], dynamic: Segment
) -> tuple[tuple[tuple[int, int], ...], int]:
    """Tags with values up to the DT_NULL, and the number of spare entries behind it; raises ElfError."""
    if dynamic.filesz > f.MAX_DYNAMIC:
        raise ElfError("the dynamic section is too large")
    offset, room = file_offset(segments, dynamic.vaddr)
    if offset != dynamic.offset or dynamic.filesz > room:
        raise ElfError("the dynamic section's offset and address name different parts of the file")
    count = dynamic.filesz // layout.dynamic.size
    data = read(offset, count * layout.dynamic.size)
    if len(data) != count * layout.dynamic.size:
        raise ElfError("ends inside its dynamic section")
    numbers = struct.unpack(f"{layout.mark}{2 * count}{layout.word_code}", data)
    tags = numbers[::2]
    try:
        end = tags.index(f.DT_NULL)
    except ValueError:
        if not _is_zero_in_memory(read, segments, dynamic.vaddr + len(data), layout.bits // 8):
            raise ElfError("the dynamic section has no end (DT_NULL)") from None
        return tuple(zip(tags, numbers[1::2], strict=True)), -1
    entries = tuple(zip(tags[:end], numbers[1 : 2 * end : 2], strict=True))
    return entries, _spare(numbers[2 * end + 2 :])


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


def string_table(segments: tuple[Segment, ...], values: Mapping[int, int]) -> tuple[int, int]:
    """Offset and size of the dynamic string table, by the values of dynamic tags; raises ElfError."""
    if f.DT_STRTAB not in values:
        no_strings(0)
    offset, room = file_offset(segments, values[f.DT_STRTAB])
    size = values.get(f.DT_STRSZ, 0)
    if size > room:
        raise ElfError("the dynamic string table ends beyond its segment")
    return offset, size


def no_strings(at: int) -> NoReturn:
    raise ElfError("the dynamic section has no string table (DT_STRTAB)")


_MAX_OFFSET = 1 << 62
"""Beyond this no file has bytes, and the system call takes no number."""
