"""The tables of one file while an edit of it is planned: nothing here writes to disk.

An :class:`Image` starts as the file says and is changed piece by piece; :meth:`Image.writes` is then the
difference, as bytes and where they go.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, insort
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from bundler.elf import format as f
from bundler.elf.format import ElfError, ReadAt, Segment
from bundler.elf.read import ElfFile
from bundler.elf.sections import Sections
from bundler.elf.tables import file_offset, read_header


class Write(NamedTuple):
    """Bytes that replace what is at ``offset``, or extend the file."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


class Piece(NamedTuple):
    """A part of the file that moves as a whole.

    ``offset``, ``address`` and ``size`` say where it is now.  ``data`` is what it will be, followed by
    zeros up to ``room`` bytes; None for the dynamic section, which is known only when all else has its
    place.
    """

    offset: int
    address: int
    size: int
    data: bytes | None
    room: int
    align: int = 1
    wipe: bool = True
    """Whether the old place is zeroed."""
    padding: int = 0
    """Room for a later edit, taken where it makes the file no more than that longer."""

    @property
    def end(self) -> int:
        return self.offset + self.size


def overlay(read: ReadAt, writes: Sequence[Write]) -> ReadAt:
    """The file as it is after ``writes``."""

    def read_after(offset: int, size: int) -> bytes:
        end = offset + size
        touching = [(at, new) for at, new in writes if at < end and offset < at + len(new)]
        if not touching:
            return read(offset, size)
        data = bytearray(read(offset, size))
        for at, new in touching:
            start, stop = max(at, offset), min(at + len(new), end)
            if len(data) < stop - offset:
                data.extend(bytes(stop - offset - len(data)))
            data[start - offset : stop - offset] = new[start - at : stop - at]
        return bytes(data)

    return read_after


def merged(writes: Sequence[Write]) -> tuple[Write, ...]:
    """The same without overlaps, in file order; of those given, later ones lie over earlier ones."""
    spans: list[tuple[int, int, Write | None]] = []
    for write in sorted(writes, key=itemgetter(0)):
        offset, data = write
        end = offset + len(data)
        if spans and offset < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(spans[-1][1], end), None)
        else:
            spans.append((offset, end, write))
    flat = overlay(_nothing, writes)
    return tuple([write or Write(start, flat(start, end - start)) for start, end, write in spans])


def _nothing(offset: int, size: int) -> bytes:
    return b""


class Image:
    """Headers, sections and dynamic entries of one file, to be changed."""

    def __init__(self, read: ReadAt, facts: ElfFile) -> None:
        self.read = read
        self.facts = facts
        self.size = facts.size
        self.layout, self.header = read_header(read(0, 64))
        self.segments = list(facts.segments)
        self.entries: list[tuple[int, int]] = list(facts.dynamic)
        self.values = dict(facts.dynamic)
        """What the file has by dynamic tag, of those that are there once."""
        self.written: list[Write] = []
        self.read_now = overlay(read, self.written)
        self._original_header = self.header
        self.sections = self._read_sections()
        self._extents = self._occupied_ranges()
        self._slack: dict[tuple[int, int], int] = {}
        dynamic = self.segment(f.PT_DYNAMIC)
        if dynamic is None:
            raise ElfError("has no dynamic section")
        self.dynamic_at = (dynamic.offset, dynamic.vaddr)
        self.strings_grew = False
        """Whether the string table became longer in its place, and so is no piece that can move."""
        self._got_at = -1
        self.slots = len(facts.dynamic) + 1 + facts.spare_tags

    # What is there.

    def segment(self, kind: int) -> Segment | None:
        return next((segment for segment in self.segments if segment.type == kind), None)

    def loads(self) -> list[int]:
        """Indices of the loaded segments."""
        return [index for index, segment in enumerate(self.segments) if segment.type == f.PT_LOAD]

    def occupied(self, start: int, end: int, *, but: tuple[int, int] | None = None) -> bool:
        """Whether a section (other than one exactly at ``but``) or a header table lies in a range."""
        for at, stop, _ in self._extents:
            if at >= end:
                return False
            if start < stop and (at, stop) != but:
                return True
        return False

    def slack(self, index: int) -> int:
        """Bytes by which a loaded segment can grow inside the file, not yet known to be zero."""
        segment = self.segments[index]
        if segment.filesz != segment.memsz:
            return 0
        end, address = segment.offset + segment.filesz, segment.vaddr + segment.memsz
        # The same is asked for again and again; what takes of the room moves the end.
        known = self._slack.get((end, self.size))
        if known is not None:
            return known
        limit = self.size - end
        for kind, _, offset, vaddr, _, filesz, _, align in self.segments:
            if kind == f.PT_LOAD and vaddr >= address:
                page = max(align, segment.align, 1)
                limit = min(limit, vaddr - vaddr % page - address)
            if filesz and offset + filesz > end:
                limit = min(limit, offset - end)
        behind = next((at for at, stop, _ in self._extents if stop > end), self.size)
        limit = max(0, min(limit, behind - end))
        self._slack[end, self.size] = limit
        return limit

    def ends_file(self, index: int) -> bool:
        """Whether a loaded segment is the last one, in the file and in memory, and so can grow.

        patchelf leaves a zero behind it.
        """
        segment = self.segments[index]
        end = segment.offset + segment.filesz
        return (
            segment.filesz == segment.memsz
            and end <= self.size <= end + 16
            and self.is_zero(end, self.size - end)
            and not self.occupied(end, self.size)
            and all(self.segments[other].vaddr <= segment.vaddr for other in self.loads())
        )

    def is_zero(self, offset: int, length: int) -> bool:
        """Whether a range of the file holds nothing but zeros; what lies behind its end counts as such."""
        return not self.read(offset, length).strip(b"\0")

    # Changes.

    def write(self, offset: int, data: bytes) -> None:
        if data:
            self.written.append(Write(offset, data))
            self.size = max(self.size, offset + len(data))

    def place(self, piece: Piece, offset: int) -> None:
        """Give a piece its new place in the loaded segment there; all that points at it follows."""
        address = self._address(offset)
        delta, shift = offset - piece.offset, address - piece.address
        size = piece.room
        start, end = piece.offset, piece.end
        for index, (kind, flags, at, vaddr, paddr, length, _, align) in enumerate(self.segments):
            if start <= at < end and 0 < length <= end - at and kind not in _FIXED_SEGMENTS:
                new = size if length == piece.size else length
                self.segments[index] = Segment(
                    kind, flags, at + delta, vaddr + shift, paddr + shift, new, new, align
                )
        sections = self.sections
        for index in sections.inside(start, end):
            length = sections.sizes[index]
            sections.place(
                index,
                sections.addresses[index] + shift,
                sections.offsets[index] + delta,
                size if length == piece.size else length,
            )
        low, high = piece.address, piece.address + max(piece.size, 1)
        for index, (tag, value) in enumerate(self.entries):
            if low <= value < high and tag in _MOVING_TAGS:
                self.entries[index] = (tag, value + shift)
                if tag == f.DT_STRTAB:
                    self.set_entry(f.DT_STRSZ, size)
        if piece.wipe and piece.size:
            self.write(piece.offset, bytes(piece.size))
        if piece.data is None:
            self._move_dynamic(offset, address, size)
        else:
            self.write(offset, piece.data)
            self.write(offset + len(piece.data), bytes(size - len(piece.data)))

    def grow(self, index: int, length: int) -> int:
        """Make a loaded segment longer; the offset of what is new."""
        segment = self.segments[index]
        self.segments[index] = segment._replace(filesz=segment.filesz + length, memsz=segment.memsz + length)
        return segment.offset + segment.filesz

    def extend(self, end: int, length: int) -> bool:
        """Make the loaded segment that ends at ``end`` longer, if what lies behind it is free."""
        for index in self.loads():
            segment = self.segments[index]
            if segment.offset + segment.filesz == end and (
                self.ends_file(index) or (length <= self.slack(index) and self.is_zero(end, length))
            ):
                self.grow(index, length)
                return True
        return False

    def resize_section(self, offset: int, size: int, new_size: int) -> None:
        """Change the size of the section that is exactly there, if there is one."""
        for index in self.sections.inside(offset, offset + size):
            if self.sections.sizes[index] == size:
                self.sections.place(index, self.sections.addresses[index], offset, new_size)

    def set_entry(self, tag: int, value: int) -> None:
        """Change the value of a dynamic tag that is there."""
        self.entries = [(this, value if this == tag else old) for this, old in self.entries]

    def writes(self) -> tuple[Write, ...]:
        """All that differs from the file, in ranges that do not overlap, in file order."""
        self._write_dynamic()
        self.write(*self.sections.headers())
        self._write_segments()
        if self.header != self._original_header:
            self.write(f.HEADER_OFFSET, self.layout.header.pack(*self.header))
        self._check_program()
        return merged(self.written)

    def _write_segments(self) -> None:
        old, new = self.facts.segments, self.segments
        moved = self.header.phoff != self._original_header.phoff or len(new) != len(old)
        changed = [index for index, segment in enumerate(new) if moved or segment != old[index]]
        if changed:
            data = b"".join(map(self.layout.pack_segment, new[changed[0] : changed[-1] + 1]))
            self.write(self.header.phoff + changed[0] * self.layout.segment.size, data)

    def _check_program(self) -> None:
        """Refuse a plan that would write into code or data: a fault of ours, or a file that lies."""
        interpreter = next((s.offset for s in self.facts.segments if s.type == f.PT_INTERP), -1)
        program = self.sections.program(interpreter)
        if not program:
            return
        starts = [start for start, _ in program]
        for write in self.written:
            # Of the parts that begin before its end, only the last one can reach into it.
            part = bisect_left(starts, write.offset + len(write.data)) - 1
            if part >= 0 and write.offset < program[part][1] and not self._is_got(write):
                raise ElfError("cannot be edited", why="its section headers say that tables lie in its code")

    def _is_got(self, write: Write) -> bool:
        return len(write.data) == self.layout.word.size and write.offset == self._got_at

    def _read_sections(self) -> Sections:
        header, layout = self.header, self.layout
        if not header.shoff:
            return Sections(layout, header, b"")
        count = header.shnum
        if header.shentsize != layout.section.size:
            raise ElfError(f"has section headers of {header.shentsize} bytes, not {layout.section.size}")
        if not count:
            # More than fits into e_shnum: the first section header has the number as its size.
            first = self.read(header.shoff, layout.section.size) if header.shoff < self.size else b""
            if len(first) != layout.section.size:
                raise ElfError("the section headers lie outside the file")
            count = layout.section.unpack(first)[_SH_SIZE]
        length = count * layout.section.size
        if count > f.MAX_SECTIONS or header.shoff + length > self.size:
            raise ElfError("the section headers lie outside the file", why="perhaps the file is truncated")
        return Sections(layout, header, self.read(header.shoff, length))

    def _occupied_ranges(self) -> list[tuple[int, int, int]]:
        """Where sections and header tables lie in the file: start, end and a number, in order."""
        header, layout = self.header, self.layout
        extents = self.sections.extents.copy()
        for at, count, size in (
            (0, 1, header.ehsize),
            (header.phoff, header.phnum, layout.segment.size),
            (header.shoff, len(self.sections), layout.section.size),
        ):
            if count:
                insort(extents, (at, at + count * size, -1))
        return extents

    def _address(self, offset: int) -> int:
        for segment in self.segments:
            if segment.type == f.PT_LOAD and 0 <= offset - segment.offset < segment.filesz:
                return segment.vaddr + offset - segment.offset
        raise AssertionError("a piece was placed where nothing is loaded")

    def _move_dynamic(self, offset: int, address: int, room: int) -> None:
        _, old = self.dynamic_at
        self.dynamic_at = (offset, address)
        self.slots = room // self.layout.dynamic.size
        got = self.values.get(_DT_PLTGOT)
        if got is not None and self.facts.machine in (f.EM_X86_64, f.EM_386, f.EM_AARCH64):
            # The psABIs: the first entry of the GOT holds the address of the dynamic section.
            at, mapped = file_offset(self.facts.segments, got)
            word = self.layout.word
            if mapped >= word.size and self.read(at, word.size) == word.pack(old):
                self.write(at, word.pack(address))
                self._got_at = at

    def _write_dynamic(self) -> None:
        step = self.layout.dynamic.size
        offset, address = self.dynamic_at
        old_address = next(s.vaddr for s in self.facts.segments if s.type == f.PT_DYNAMIC)
        entries = self._relative_entries(address, old_address)
        if address != old_address:
            self.write(offset, self._packed(entries).ljust(self.slots * step, b"\0"))
            return
        new, old = _filled(entries, self.slots), _filled(self.facts.dynamic, self.slots)
        differing = [index for index, (this, that) in enumerate(zip(new, old, strict=True)) if this != that]
        if differing:
            first, last = differing[0], differing[-1] + 1
            self.write(offset + first * step, self._packed(new[first:last]))

    def _packed(self, entries: Sequence[tuple[int, int]]) -> bytes:
        numbers = [number for entry in entries for number in entry]
        return struct.pack(f"{self.layout.mark}{len(numbers)}{self.layout.word_code}", *numbers)

    def _relative_entries(self, address: int, old_address: int) -> list[tuple[int, int]]:
        """DT_MIPS_RLD_MAP_REL counts from its own place, which may be another one now."""
        if self.facts.machine != f.EM_MIPS:
            return self.entries
        places = {tag: index for index, (tag, _) in enumerate(self.facts.dynamic)}
        step, wrap = self.layout.dynamic.size, (1 << self.layout.bits) - 1
        entries = []
        for index, (tag, value) in enumerate(self.entries):
            if tag == f.DT_MIPS_RLD_MAP_REL and tag in places:
                value += old_address + places[tag] * step - address - index * step
            entries.append((tag, value & wrap))
        return entries


def _filled(entries: Sequence[tuple[int, int]], slots: int) -> list[tuple[int, int]]:
    """The entries and the empty ones behind them."""
    return [*entries, *[(f.DT_NULL, 0)] * (slots - len(entries))]


_SH_SIZE = 5
_DT_PLTGOT = 3
_MOVING_TAGS = frozenset(
    {f.DT_STRTAB, f.DT_SYMTAB, f.DT_HASH, f.DT_GNU_HASH, f.DT_VERSYM, f.DT_VERNEED, f.DT_VERDEF}
)
_FIXED_SEGMENTS = frozenset({f.PT_LOAD, f.PT_PHDR, f.PT_GNU_RELRO, f.PT_GNU_STACK})
"""What does not move with the pieces in it."""
