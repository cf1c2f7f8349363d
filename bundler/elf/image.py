"""The tables of one file while an edit of it is planned: nothing here writes to disk.

An :class:`Image` starts as the file says and is changed piece by piece; :meth:`Image.writes` is then the
difference, as bytes and where they go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bundler.elf import format as f
from bundler.elf.format import ElfError, ReadAt, Segment
from bundler.elf.read import ElfFile
from bundler.elf.sections import Sections
from bundler.elf.tables import file_offset, read_header


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes that replace what is at ``offset``, or extend the file."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Piece:
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
        touching = [w for w in writes if w.offset < end and offset < w.offset + len(w.data)]
        if not touching:
            return read(offset, size)
        data = bytearray(read(offset, size))
        for write in touching:
            start, stop = max(write.offset, offset), min(write.end, end)
            if len(data) < stop - offset:
                data.extend(bytes(stop - offset - len(data)))
            data[start - offset : stop - offset] = write.data[start - write.offset : stop - write.offset]
        return bytes(data)

    return read_after


class Image:
    """Headers, sections and dynamic entries of one file, to be changed."""

    def __init__(self, read: ReadAt, facts: ElfFile) -> None:
        self.read = read
        self.facts = facts
        self.size = facts.size
        self.layout, self.header = read_header(read(0, 64))
        self.segments = list(facts.segments)
        self.entries: list[tuple[int, int]] = list(facts.dynamic)
        self.written: list[Write] = []
        self.read_now = overlay(read, self.written)
        self._original_header = self.header
        self.sections = self._read_sections()
        self._extents = self._occupied_ranges()
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

    def tag(self, tag: int) -> int | None:
        """The value of a dynamic tag that may be there once."""
        return next((value for this, value in self.entries if this == tag), None)

    def occupied(self, start: int, end: int, *, but: tuple[int, int] | None = None) -> bool:
        """Whether a section (other than one exactly at ``but``) or a header table lies in a range."""
        return [at for at, stop in self._extents if at < end and start < stop and (at, stop) != but] != []

    def slack(self, index: int) -> int:
        """Bytes by which a loaded segment can grow inside the file, not yet known to be zero."""
        segment = self.segments[index]
        if segment.filesz != segment.memsz:
            return 0
        end, address = segment.offset + segment.filesz, segment.vaddr + segment.memsz
        limit = self.size - end
        for kind, _, offset, vaddr, _, filesz, _, align in self.segments:
            if kind == f.PT_LOAD and vaddr >= address:
                page = max(align, segment.align, 1)
                limit = min(limit, vaddr - vaddr % page - address)
            if filesz and offset + filesz > end:
                limit = min(limit, offset - end)
        for at, stop in self._extents:
            if stop > end and at - end < limit:
                limit = at - end
        return max(0, limit)

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
        for index, segment in enumerate(self.segments):
            length = segment.filesz
            if (
                start <= segment.offset
                and segment.offset + length <= end
                and length
                and segment.type not in _FIXED_SEGMENTS
            ):
                new = size if length == piece.size else length
                self.segments[index] = Segment(
                    segment.type,
                    segment.flags,
                    segment.offset + delta,
                    segment.vaddr + shift,
                    segment.paddr + shift,
                    new,
                    new,
                    segment.align,
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
            self.write(offset, piece.data.ljust(size, b"\0"))

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
        """All that differs from the file, later ones over earlier ones."""
        self._write_dynamic()
        for offset, record in self.sections.headers():
            self.write(offset, record)
        table = tuple(self.segments)
        if table != self.facts.segments or len(table) != self.header.phnum:
            self.write(self.header.phoff, b"".join(map(self.layout.pack_segment, table)))
        if self.header != self._original_header:
            self.write(f.HEADER_OFFSET, self.layout.header.pack(*self.header))
        self._check_program()
        return tuple(self.written)

    def _check_program(self) -> None:
        """Refuse a plan that would write into code or data: a fault of ours, or a file that lies."""
        interpreter = next((s.offset for s in self.facts.segments if s.type == f.PT_INTERP), -1)
        program = self.sections.program(interpreter)
        for write in self.written:
            first, last = write.offset, write.offset + len(write.data)
            for start, end in program:
                if first < end and start < last and not self._is_got(write):
                    raise ElfError(
                        "cannot be edited", why="its section headers say that tables lie in its code"
                    )

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

    def _occupied_ranges(self) -> list[tuple[int, int]]:
        """Where sections and header tables lie in the file: start and end."""
        header, layout = self.header, self.layout
        extents = self.sections.extents()
        for at, count, size in (
            (0, 1, header.ehsize),
            (header.phoff, header.phnum, layout.segment.size),
            (header.shoff, len(self.sections), layout.section.size),
        ):
            if count:
                extents.append((at, at + count * size))
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
        got = self.tag(_DT_PLTGOT)
        if got is not None and self.facts.machine in (f.EM_X86_64, f.EM_386, f.EM_AARCH64):
            # The psABIs: the first entry of the GOT holds the address of the dynamic section.
            at, mapped = file_offset(self.facts.segments, got)
            word = self.layout.word
            if mapped >= word.size and self.read(at, word.size) == word.pack(old):
                self.write(at, word.pack(address))
                self._got_at = at

    def _write_dynamic(self) -> None:
        record = self.layout.dynamic
        offset, address = self.dynamic_at
        old_address = next(s.vaddr for s in self.facts.segments if s.type == f.PT_DYNAMIC)
        entries = self._relative_entries(address, old_address)
        packed = b"".join(record.pack(tag, value) for tag, value in entries)
        packed += bytes(self.slots * record.size - len(packed))
        if address != old_address:
            self.write(offset, packed)
            return
        old = self.read(offset, len(packed))
        step = record.size
        differing = [
            at for at in range(0, len(packed), step) if packed[at : at + step] != old[at : at + step]
        ]
        if differing:
            first, last = differing[0], differing[-1] + step
            self.write(offset + first, packed[first:last])

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


_SH_SIZE = 5
_DT_PLTGOT = 3
_MOVING_TAGS = frozenset(
    {f.DT_STRTAB, f.DT_SYMTAB, f.DT_HASH, f.DT_GNU_HASH, f.DT_VERSYM, f.DT_VERNEED, f.DT_VERDEF}
)
_FIXED_SEGMENTS = frozenset({f.PT_LOAD, f.PT_PHDR, f.PT_GNU_RELRO, f.PT_GNU_STACK})
"""What does not move with the pieces in it."""
