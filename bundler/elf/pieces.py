"""Parts of a file that can lie anywhere in memory, since all that refers to them is known.

They are found through program headers and the dynamic section, as the loader finds them; section
headers, where there are any, only say how long they are.
"""

from __future__ import annotations

from array import array

from bundler.elf import format as f
from bundler.elf.format import ElfError
from bundler.elf.image import Image, Piece
from bundler.elf.tables import file_offset

_EM_S390, _EM_ALPHA = 22, 0x9026
MAX_SYMBOLS = 1 << 24
MAX_TABLE = 64 << 20
"""Bytes of a table that is read or moved as a whole at most."""


def movable(image: Image) -> list[Piece]:
    """Interpreter, notes, hash tables, dynamic symbols and strings, in file order, not yet read."""
    pieces = [*_notes(image)]
    for segment in image.facts.segments:
        if segment.type == f.PT_INTERP and segment.filesz:
            pieces.append(_piece(segment.offset, segment.vaddr, segment.filesz, 1))
    for tag, kind in (
        (f.DT_GNU_HASH, f.SHT_GNU_HASH),
        (f.DT_HASH, f.SHT_HASH),
        (f.DT_SYMTAB, f.SHT_DYNSYM),
        (f.DT_STRTAB, f.SHT_STRTAB),
    ):
        address = image.values.get(tag)
        if address is None or (tag == f.DT_STRTAB and image.strings_grew):
            continue
        size = _table_size(image, tag, kind, address)
        if size is not None and 0 < size <= MAX_TABLE:
            offset, room = file_offset(image.facts.segments, address)
            if size <= room:
                align = 1 if tag == f.DT_STRTAB else 8
                pieces.append(_piece(offset, address, size, align))
    return sorted(pieces, key=lambda piece: piece.offset)


def versions(image: Image) -> list[Piece]:
    """The tables of symbol versions, in file order, where section headers tell how long they are."""
    entries = image.values
    pieces = []
    for tag, kind in (
        (f.DT_VERSYM, f.SHT_GNU_VERSYM),
        (f.DT_VERNEED, f.SHT_GNU_VERNEED),
        (f.DT_VERDEF, f.SHT_GNU_VERDEF),
    ):
        size = image.sections.at(entries[tag], kind) if tag in entries else None
        if size and size <= MAX_TABLE:
            offset, room = file_offset(image.facts.segments, entries[tag])
            if size <= room:
                # Its old place is the string table's now, and not to be wiped after that was written.
                pieces.append(as_it_is(image, _piece(offset, entries[tag], size, 8))._replace(wipe=False))
    return sorted(pieces, key=lambda piece: piece.offset)


def symbol_names(image: Image) -> set[int] | None:
    """References of the dynamic symbols to the string table; None if nothing tells their number."""
    entries = image.values
    address = entries.get(f.DT_SYMTAB)
    if address is None:
        return set()
    count = symbol_count(image)
    if count is None:
        return None
    step = 24 if image.layout.bits == 64 else 16
    offset, room = file_offset(image.facts.segments, address)
    if count * step > min(room, MAX_TABLE):
        raise ElfError("the dynamic symbols reach beyond their segment")
    names = _words(image, image.read(offset, count * step))
    return set(names[:: step // 4])


def symbol_count(image: Image) -> int | None:
    """The number of dynamic symbols; None if neither a section nor a hash table tells."""
    entries = image.values
    step = 24 if image.layout.bits == 64 else 16
    size = image.sections.at(entries.get(f.DT_SYMTAB, 0), f.SHT_DYNSYM)
    if size is not None:
        return size // step
    if f.DT_HASH in entries:
        width = _hash_width(image)
        offset, room = file_offset(image.facts.segments, entries[f.DT_HASH])
        head = image.read(offset, min(room, 2 * width))
        if len(head) == 2 * width:
            return int.from_bytes(head[width:], image.layout.byte_order)
    if f.DT_GNU_HASH in entries:
        return _gnu_hash_extent(image, entries[f.DT_GNU_HASH])[1]
    return None


def _notes(image: Image) -> list[Piece]:
    """Ranges of notes, those that touch taken as one."""
    notes = sorted(
        (s.offset, s.vaddr, s.filesz, s.align)
        for s in image.facts.segments
        if s.type in (f.PT_NOTE, f.PT_GNU_PROPERTY) and s.filesz
    )
    merged: list[tuple[int, int, int, int]] = []
    for offset, address, size, align in notes:
        if merged:
            start, at, length, known = merged[-1]
            if offset < start + length and address - at == offset - start:
                end = max(start + length, offset + size)
                merged[-1] = (start, at, end - start, max(known, align))
                continue
        merged.append((offset, address, size, align))
    loaded = [image.facts.segments[index] for index in image.loads() if index < len(image.facts.segments)]
    return [
        _piece(offset, address, size, min(max(align, 4), 16))
        for offset, address, size, align in merged
        if size <= MAX_TABLE
        and any(
            load.offset <= offset
            and offset + size <= load.offset + load.filesz
            and address - load.vaddr == offset - load.offset
            for load in loaded
        )
    ]


def as_it_is(image: Image, piece: Piece) -> Piece:
    """The piece with what the file has there."""
    return piece._replace(data=image.read_now(piece.offset, piece.size))


def _piece(offset: int, address: int, size: int, align: int) -> Piece:
    return Piece(offset, address, size, b"", size, align)


def _table_size(image: Image, tag: int, kind: int, address: int) -> int | None:
    size = image.sections.at(address, kind)
    if size is not None:
        return size
    if tag == f.DT_STRTAB:
        return image.values.get(f.DT_STRSZ)
    if tag == f.DT_SYMTAB:
        count = symbol_count(image)
        return None if count is None else count * (24 if image.layout.bits == 64 else 16)
    if tag == f.DT_GNU_HASH:
        return _gnu_hash_extent(image, address)[0]
    width = _hash_width(image)
    offset, room = file_offset(image.facts.segments, address)
    head = image.read(offset, min(room, 2 * width))
    order = image.layout.byte_order
    return width * (2 + int.from_bytes(head[:width], order) + int.from_bytes(head[width:], order))


def _hash_width(image: Image) -> int:
    """DT_HASH has words of 32 bits, but for two machines."""
    return 8 if image.layout.bits == 64 and image.facts.machine in (_EM_S390, _EM_ALPHA) else 4


def _gnu_hash_extent(image: Image, address: int) -> tuple[int, int]:
    """Bytes of the table, and the number of dynamic symbols that it tells; raises ElfError.

    Source: https://flapenguin.me/elf-dt-gnu-hash and glibc's ``_dl_setup_hash``.
    """
    offset, room = file_offset(image.facts.segments, address)
    head = _words(image, image.read(offset, min(room, 16)))
    if len(head) < 4:
        raise ElfError("the hash table reaches beyond its segment")
    buckets, first, bloom, _ = head
    chains = 16 + bloom * image.layout.bits // 8 + 4 * buckets
    if chains > min(room, MAX_TABLE):
        raise ElfError("the hash table reaches beyond its segment")
    last = max(_words(image, image.read(offset + chains - 4 * buckets, 4 * buckets)), default=0)
    if last < first:
        return chains, first
    if last > MAX_SYMBOLS:
        raise ElfError("the hash table reaches beyond its segment")
    at = chains + 4 * (last - first)
    while at + 4 <= room:
        block = _words(image, image.read(offset + at, min(4096, room - at) & ~3))
        for index, value in enumerate(block):
            if value & 1:
                count = last + index + 1
                return chains + 4 * (count - first), count
        last += len(block)
        at += 4 * len(block)
        if last > MAX_SYMBOLS or not block:
            break
    raise ElfError("the hash table reaches beyond its segment")


def _words(image: Image, data: bytes) -> array[int]:
    return image.layout.numbers("I", data[: len(data) & ~3])
