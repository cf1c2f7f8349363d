"""Where pieces that outgrew their place go: into slack, or behind the end of the file.

The program header table stays where it is (``strip`` breaks files in which it moved), so a new loaded
segment takes the header of a note that is there twice, or a header more in the room of what can move.
"""

from __future__ import annotations

from enum import IntEnum

from bundler.elf import format as f
from bundler.elf.format import ElfError, Segment
from bundler.elf.image import Image, Piece
from bundler.elf.pieces import as_it_is, movable


class Tier(IntEnum):
    """How deep an edit goes into a file."""

    NOTHING = 0
    """Already right: not written."""
    SLOT = 1
    """In the places of what was there."""
    SLACK = 2
    """In unused bytes behind a loaded segment: the file keeps its size."""
    APPENDED = 3
    """Behind the end, with a program header that was there."""
    EVICTED = 4
    """Behind the end, with one program header more; what stood in its way moved too."""
    MOVED_HEADERS = 5
    """Behind the end, the program headers included: works, but ``strip`` breaks such a file."""


MAX_GROWTH = 64 << 20
"""Bytes that an edit may add to a file: more is no edit, but a file that claims nonsense."""


def place(image: Image, pieces: list[Piece], *, dynamic: Piece | None, overlay: bool) -> Tier:
    """Find room for the pieces, in their order, and for the dynamic section; raises ElfError."""
    everything = pieces if dynamic is None else [dynamic, *pieces]
    if pieces and _into_slack(image, pieces, write=False):
        pieces = []
    left = pieces if dynamic is None else [dynamic, *pieces]
    writable = dynamic is not None and bool((image.segment(f.PT_DYNAMIC) or _NO_SEGMENT).flags & f.PF_W)
    if not left or _into_slack(image, left, write=writable):
        if image.size > image.facts.size:
            return Tier.APPENDED
        return Tier.SLOT if image.segments == list(image.facts.segments) else Tier.SLACK
    payload = image.facts.size - (end := _end_of_content(image))
    if payload > 0 and not overlay and not (payload < 4096 and image.is_zero(end, payload)):
        raise ElfError(
            "cannot grow",
            why=f"{payload} bytes lie behind the ELF file, which may look for them at its end",
            hint="allow it where the payload is found by other means",
        )
    sacrificed = _spare_header(image)
    if sacrificed is not None:
        del image.segments[sacrificed]
        _append(image, left, writable=writable)
        return Tier.APPENDED
    evicted = _evict(image, everything)
    if evicted is not None:
        _append(image, [*left, *evicted], writable=writable)
        image.header = image.header._replace(phnum=len(image.segments))
        return Tier.EVICTED
    if _into_slack(image, left, write=True):
        return Tier.SLACK if image.size == image.facts.size else Tier.APPENDED
    _append_with_headers(image, left, writable=writable)
    return Tier.MOVED_HEADERS


def _into_slack(image: Image, pieces: list[Piece], *, write: bool) -> bool:
    """Put the pieces behind a loaded segment that has room, a read-only one before code."""
    loads = [index for index in image.loads() if bool(image.segments[index].flags & f.PF_W) == write]
    loads.sort(key=lambda index: (image.ends_file(index), image.segments[index].flags & f.PF_X))
    for index in loads:
        segment = image.segments[index]
        start = segment.offset + segment.filesz
        offsets, end = _lay_out(pieces, start, segment.vaddr - segment.offset)
        room = MAX_GROWTH if image.ends_file(index) else image.slack(index)
        if end - start <= room and image.is_zero(start, end - start):
            image.grow(index, end - start)
            _place_all(image, pieces, offsets)
            return True
    return False


def fits_slack(image: Image, length: int) -> bool:
    """Whether bytes that are only read fit behind a loaded segment, in the file as it is."""
    for index in image.loads():
        segment = image.segments[index]
        end = segment.offset + segment.filesz
        if not segment.flags & f.PF_W and image.slack(index) >= length and image.is_zero(end, length):
            return True
    return False


def _append(image: Image, pieces: list[Piece], *, writable: bool) -> None:
    """Put the pieces behind the end of the file, in a loaded segment of their own."""
    page = _page(image)
    pieces = [piece._replace(room=piece.room + piece.padding) for piece in pieces]
    offset = _round_up(image.size, 16)
    address = _round_up(_memory_end(image), page) + offset % page
    offsets, end = _lay_out(pieces, offset, address - offset)
    _add_load(image, offset, address, end - offset, page, writable)
    _place_all(image, pieces, offsets)


def _append_with_headers(image: Image, pieces: list[Piece], *, writable: bool) -> None:
    """The same, with the program headers in front.

    Kernels before 5.18 tell a program that its headers are at the first segment's address plus
    ``e_phoff``, so there addresses and offsets must differ by the same number as here.
    """
    page = _page(image)
    pieces = [piece._replace(room=piece.room + piece.padding) for piece in pieces]
    first = image.segments[image.loads()[0]]
    if image.facts.is_executable or image.facts.interpreter is not None:
        base = first.vaddr - first.offset
        offset = _round_up(max(image.size, _memory_end(image) - base), page)
    else:
        offset = _round_up(image.size, 16)
        base = _round_up(_memory_end(image), page) + offset % page - offset
    length = (len(image.segments) + 1) * image.layout.segment.size
    offsets, end = _lay_out(pieces, offset + length, base)
    if end - image.facts.size > MAX_GROWTH:
        raise ElfError(
            "cannot be edited",
            why="no room for a program header, and the file would grow by "
            f"{(end - image.facts.size) >> 20} MiB",
            hint="link it with -Wl,-z,separate-code or spare room (--spare-dynamic-tags=8)",
        )
    _add_load(image, offset, base + offset, end - offset, page, writable)
    for index, segment in enumerate(image.segments):
        if segment.type == f.PT_PHDR:
            image.segments[index] = segment._replace(
                offset=offset, vaddr=base + offset, paddr=base + offset, filesz=length, memsz=length
            )
    image.header = image.header._replace(phoff=offset, phnum=len(image.segments))
    _place_all(image, pieces, offsets)


def _add_load(image: Image, offset: int, address: int, length: int, page: int, writable: bool) -> None:
    if offset + length - image.facts.size > MAX_GROWTH:
        raise ElfError("cannot be edited", why="the parts that have to move are too large")
    if address + length >= (1 << 47 if image.layout.bits == 64 else 1 << 32):
        raise ElfError("cannot be edited", why="there is no room behind its last segment in memory")
    flags = f.PF_R | f.PF_W if writable else f.PF_R
    after = image.loads()[-1] + 1
    image.segments.insert(after, Segment(f.PT_LOAD, flags, offset, address, address, length, length, page))


def _place_all(image: Image, pieces: list[Piece], offsets: list[int]) -> None:
    for piece, offset in zip(pieces, offsets, strict=True):
        image.place(piece, offset)


def _lay_out(pieces: list[Piece], start: int, shift: int) -> tuple[list[int], int]:
    """Offsets of the pieces from ``start`` on, aligned in memory (``shift`` away), and their end."""
    offsets = []
    for piece in pieces:
        start = _round_up(start + shift, piece.align) - shift
        offsets.append(start)
        start += piece.room
    return offsets, start


def _spare_header(image: Image) -> int | None:
    """A program header to use: PT_NULL, or a PT_NOTE that says nothing beyond PT_GNU_PROPERTY."""
    properties = image.segment(f.PT_GNU_PROPERTY)
    for index, segment in enumerate(image.segments):
        if segment.type == f.PT_NULL:
            return index
        if (
            segment.type == f.PT_NOTE
            and properties is not None
            and (segment.offset, segment.filesz) == (properties.offset, properties.filesz)
        ):
            return index
    return None


def _evict(image: Image, moving: list[Piece]) -> list[Piece] | None:
    """Pieces to move so that one more program header has room behind the others; None if that fails."""
    table_end = image.header.phoff + len(image.segments) * image.layout.segment.size
    needed_end = table_end + image.layout.segment.size
    first = image.segments[image.loads()[0]]
    if not first.offset <= image.header.phoff <= needed_end <= first.offset + first.filesz:
        return None
    moving_at = {(piece.offset, piece.size): piece for piece in moving}
    evicted: list[Piece] = []
    free = table_end
    for piece in movable(image):
        if piece.end <= table_end:
            continue
        if free >= needed_end or piece.offset >= needed_end:
            break
        if piece.offset < free or not is_gap(image, free, piece.offset):
            return None
        if already := moving_at.get((piece.offset, piece.size)):
            if not already.wipe:
                return None
        else:
            evicted.append(as_it_is(image, piece))
        free = piece.end
    if free < needed_end and not is_gap(image, free, needed_end):
        return None
    for index, segment in enumerate(image.segments):
        if segment.type == f.PT_PHDR:
            length = (len(image.segments) + 1) * image.layout.segment.size
            image.segments[index] = segment._replace(filesz=length, memsz=length)
    return evicted


def is_gap(image: Image, start: int, end: int) -> bool:
    """Whether nothing lies in a range: zeros, or the Zs that patchelf leaves of what it moved."""
    return start >= end or (
        not image.occupied(start, end) and not image.read(start, end - start).strip(b"\0Z")
    )


def _page(image: Image) -> int:
    """The largest page size that the file is made for, in bytes."""
    return max(4096, *(image.segments[index].align for index in image.loads()))


def _memory_end(image: Image) -> int:
    return max(segment.vaddr + segment.memsz for segment in image.segments if segment.type == f.PT_LOAD)


def _end_of_content(image: Image) -> int:
    """Where the ELF file ends by what its headers say."""
    return max(
        image.header.shoff + len(image.sections) * image.layout.section.size,
        *(segment.offset + segment.filesz for segment in image.segments),
        *(end for _, end, _ in image.sections.extents),
        image.header.phoff + image.header.phnum * image.layout.segment.size,
    )


def _round_up(number: int, align: int) -> int:
    return -(-number // align) * align


_NO_SEGMENT = Segment(0, 0, 0, 0, 0, 0, 0, 0)
