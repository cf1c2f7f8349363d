"""The decision: from what a file is and what is wanted, the bytes to write.  No effect, no clock.

An edit is planned completely before the first byte is written, in tiers (:class:`Tier`), and changes as
little as it can.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from bundler.elf import format as f
from bundler.elf.edits import Edits, Wanted, stated, want
from bundler.elf.format import ElfError, ReadAt
from bundler.elf.image import Image, Piece, Write
from bundler.elf.pieces import MAX_TABLE, symbol_names, versions
from bundler.elf.place import Tier, fits_slack, is_gap, place
from bundler.elf.read import ElfFile
from bundler.elf.refuse import refuse
from bundler.elf.strings import StringTable
from bundler.elf.symtab import follow, has_named_interpreter
from bundler.elf.tables import file_offset, string_table
from bundler.elf.versions import Names, definition_names, need_names

SPARE_TAGS = 8
"""Entries that a moved dynamic section has for later edits."""
SPARE_STRINGS = 256
"""Bytes that a string table behind the end of the file has for later edits."""

Entry = tuple[int, int | bytes]
"""A dynamic tag and its value, or the string that its value will point at."""


class Plan(NamedTuple):
    """What to write: ``writes`` in their order, later ones over earlier ones; ``size`` in bytes."""

    tier: Tier
    writes: tuple[Write, ...]
    size: int
    wanted: Wanted


def plan_edits(read: ReadAt, facts: ElfFile, edits: Edits) -> Plan:
    """Plan the edits of the file that ``facts`` were read from; raises ElfError where they are refused."""
    wanted, now = want(facts, edits), stated(facts)
    if wanted == now:
        return Plan(Tier.NOTHING, (), facts.size, wanted)
    refuse(read, facts, edits)
    image = Image(read, facts)
    pieces: list[Piece] = []
    if wanted.interpreter != now.interpreter and wanted.interpreter is not None:
        wipe = not edits.keep_strings and not has_named_interpreter(facts)
        pieces += _set_interpreter(image, wanted.interpreter, wipe=wipe)
    dynamic = None
    if _dynamic(wanted) != _dynamic(now):
        moved, dynamic = _set_dynamic(image, wanted, edits)
        pieces += moved
    tier = place(image, pieces, dynamic=dynamic, overlay=edits.overlay)
    try:
        follow(image)
        writes = image.writes()
    except (struct.error, OverflowError) as error:
        raise ElfError("cannot be edited", why="an address or a size would not fit into its field") from error
    return Plan(tier, writes, max(facts.size, *(write.end for write in writes)), wanted)


def _dynamic(wanted: Wanted) -> tuple[object, ...]:
    """All that stands in the dynamic section."""
    return (wanted.rpath, wanted.runpath, wanted.needed, wanted.soname, wanted.flags_1)


def _set_interpreter(image: Image, interpreter: str, *, wipe: bool) -> list[Piece]:
    """Write it into its slot, or give the piece that needs another place."""
    segment = image.segment(f.PT_INTERP)
    if segment is None:
        raise AssertionError("an interpreter is set where there is none")
    data = interpreter.encode("utf-8", "surrogateescape") + b"\0"
    if len(data) <= segment.filesz:
        # The slot keeps its size, for the next edit: the kernel asks for a NUL at its end and stops at
        # the first one.
        image.write(segment.offset, data.ljust(segment.filesz, b"\0"))
        return []
    return [Piece(segment.offset, segment.vaddr, segment.filesz, data, len(data), wipe=wipe)]


def _set_dynamic(image: Image, wanted: Wanted, edits: Edits) -> tuple[list[Piece], Piece | None]:
    """Change entries, strings and version needs; the pieces that need another place."""
    entries = _entries(image.facts, wanted)
    pieces: list[Piece] = []
    abandoned = _strings_of(image.facts.dynamic).difference(_strings_of(entries))
    if abandoned or bytes in [type(value) for _, value in entries]:
        pieces = _set_strings(image, entries, abandoned, edits)
    # Each string has its place now.
    image.entries = cast("list[tuple[int, int]]", entries)
    record = image.layout.dynamic.size
    if len(image.entries) < image.slots or len(image.entries) == len(image.facts.dynamic):
        return pieces, None
    segment = image.segment(f.PT_DYNAMIC)
    if segment is None:
        raise AssertionError("an image has a dynamic section")
    room = (len(image.entries) + 1 + SPARE_TAGS) * record
    align = image.layout.bits // 8
    wipe = not edits.keep_strings
    return pieces, Piece(segment.offset, segment.vaddr, segment.filesz, None, room, align, wipe)


def _set_strings(image: Image, entries: list[Entry], abandoned: set[int], edits: Edits) -> list[Piece]:
    """Find a place for each string, and put it into ``entries``; the table, if that needs another place.

    ``abandoned`` are the strings that the dynamic section pointed at and no longer does.
    """
    offset, size = string_table(image.facts.segments, image.values)
    if not 0 < size <= MAX_TABLE:
        raise ElfError("has no dynamic string table of a size that can be edited")
    table = StringTable(image.read(offset, size))
    renamed = {_raw(old): _raw(new) for old, new in edits.replace_needed.items() if old in image.facts.needed}
    if edits.keep_strings:
        abandoned = set()
    needs = _NO_NAMES
    if renamed or abandoned or table.is_padded:
        needs = _version_names(image, f.DT_VERNEED, need_names)
    files: list[tuple[int, int | bytes]] = [
        (at, renamed.get(table.text(value), value) if renamed else value) for at, value in needs.files
    ]
    if not edits.keep_strings:
        abandoned.update([value for _, value in needs.files])
        abandoned.difference_update([value for _, value in files if isinstance(value, int)])
        abandoned -= _strings_of(entries)
    if abandoned or table.is_padded:
        kept = _kept_references(image, entries, files, needs)
        if kept is not None:
            table.blank(abandoned.difference(kept), kept)
            table.open_padding(kept)
    for index, (tag, value) in enumerate(entries):
        if isinstance(value, bytes):
            entries[index] = (tag, table.place(value))
    for at, new in files:
        if isinstance(new, bytes):
            image.write(at, table.place(new).to_bytes(4, image.layout.byte_order))
    return _write_strings(image, table, entries, offset, size, wipe=not edits.keep_strings)


def _entries(facts: ElfFile, wanted: Wanted) -> list[Entry]:
    """The dynamic entries that say what is wanted; what does not change keeps its value and order."""
    values: dict[int, list[int]] = {}
    for tag, value in facts.dynamic:
        values.setdefault(tag, []).append(value)
    entries: list[Entry] = []
    needed = _needed_entries(facts, wanted, values.get(f.DT_NEEDED, []))
    path_tag, path = (
        (f.DT_RUNPATH, wanted.runpath) if wanted.runpath is not None else (f.DT_RPATH, wanted.rpath)
    )
    paths_change = (wanted.rpath, wanted.runpath) != (facts.rpath, facts.runpath)
    for entry in facts.dynamic:
        tag, value = entry
        if tag not in _EDITED:
            entries.append(entry)
        elif tag == f.DT_NEEDED:
            entries += needed
            needed = []
        elif tag in (f.DT_RPATH, f.DT_RUNPATH) and paths_change:
            if path is not None:
                same = path == (facts.rpath if tag == f.DT_RPATH else facts.runpath)
                entries.append((path_tag, value if same else _raw(path)))
                path = None
        elif tag == f.DT_SONAME and wanted.soname != facts.soname and wanted.soname is not None:
            entries.append((tag, _raw(wanted.soname)))
        elif tag == f.DT_FLAGS_1:
            entries.append((tag, wanted.flags_1))
        else:
            entries.append((tag, value))
    entries = needed + entries
    if paths_change and path is not None:
        entries.append((path_tag, _raw(path)))
    if f.DT_SONAME not in values and wanted.soname is not None:
        entries.append((f.DT_SONAME, _raw(wanted.soname)))
    if f.DT_FLAGS_1 not in values and wanted.flags_1:
        entries.append((f.DT_FLAGS_1, wanted.flags_1))
    return entries


def _needed_entries(facts: ElfFile, wanted: Wanted, values: list[int]) -> list[Entry]:
    if wanted.needed == facts.needed:
        return [(f.DT_NEEDED, value) for value in values]
    known = dict(zip(facts.needed, values, strict=True))
    return [(f.DT_NEEDED, known[name] if name in known else _raw(name)) for name in wanted.needed]


def _strings_of(entries: Sequence[Entry]) -> set[int]:
    """Strings that are in their place already, and pointed at."""
    return {value for tag, value in entries if tag in f.STRING_TAGS and isinstance(value, int)}


def _version_names(image: Image, tag: int, names: Callable[[ReadAt, int, int, str], Names]) -> Names:
    """References of the symbol versions to the string table."""
    address = image.values.get(tag)
    if address is None:
        return _NO_NAMES
    offset, room = file_offset(image.facts.segments, address)
    return names(image.read, offset, room, image.layout.mark)


def _kept_references(
    image: Image, entries: list[Entry], files: list[tuple[int, int | bytes]], needs: Names
) -> set[int] | None:
    """Every reference to the string table that stays; None if they cannot all be known."""
    symbols = symbol_names(image)
    if symbols is None or any(tag in _UNKNOWN_REFERENCES for tag, _ in image.entries):
        return None
    kept = symbols
    kept.update(_strings_of(entries))
    kept.update([value for _, value in files if isinstance(value, int)])
    definitions = _version_names(image, f.DT_VERDEF, definition_names)
    kept.update(needs.others, definitions.others)
    return kept


def _write_strings(
    image: Image, table: StringTable, entries: list[Entry], offset: int, size: int, *, wipe: bool
) -> list[Piece]:
    """Write what changed in its place, or give the table as a piece that needs another one."""
    grown = len(table)
    pieces: list[Piece] | None = [] if grown == size or image.extend(offset + size, grown - size) else None
    if pieces is None and not fits_slack(image, grown):
        pieces = _make_room(image, table, offset + size)
    if pieces is None:
        address = image.values.get(f.DT_STRTAB, 0)
        wipe = wipe and not _is_shared(image, offset, size, address)
        return [Piece(offset, address, size, table.data, grown, wipe=wipe, padding=SPARE_STRINGS)]
    for start, data in table.changes():
        image.write(offset + start, data)
    if len(table) != size:
        image.resize_section(offset, size, len(table))
        image.strings_grew = True
        entries[:] = [(t, len(table) if t == f.DT_STRSZ else v) for t, v in entries]
    return pieces


def _make_room(image: Image, table: StringTable, end: int) -> list[Piece] | None:
    """Pieces behind the table that move so that it grows in its place; None if that is no less work.

    Linkers put the symbol versions there: two bytes a symbol, where the table has thirty.
    """
    growth = table.growth
    pieces: list[Piece] = []
    free = end
    for piece in versions(image):
        if piece.offset >= end and free - end < growth:
            if piece.offset - free >= _ALIGNING or not is_gap(image, free, piece.offset):
                break
            pieces.append(piece)
            free = piece.end
    moved = sum(piece.size for piece in pieces)
    if free - end < growth or moved >= len(table):
        return None
    if len(table) <= _SMALL_TABLE and not fits_slack(image, moved):
        # The file grows anyhow: then by the table itself, which gets room for later edits there.
        return None
    table.pad(free - end)
    return pieces


_SMALL_TABLE = 4096
_ALIGNING = 16
"""Bytes that a linker leaves free between two tables at most."""


def _is_shared(image: Image, offset: int, size: int, address: int) -> bool:
    """Whether something else than the string table lies in its bytes."""
    if image.occupied(offset, offset + size, but=(offset, offset + size)):
        return True
    if any(address < value < address + size for tag, value in image.facts.dynamic if tag in _ADDRESS_TAGS):
        return True
    return any(
        segment.type not in (f.PT_LOAD, f.PT_GNU_RELRO)
        and segment.filesz
        and segment.offset < offset + size
        and offset < segment.offset + segment.filesz
        for segment in image.facts.segments
    )


def _raw(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


_NO_NAMES = Names((), ())
_EDITED = frozenset({f.DT_NEEDED, f.DT_RPATH, f.DT_RUNPATH, f.DT_SONAME, f.DT_FLAGS_1})
_UNKNOWN_REFERENCES = frozenset({0x6FFFFEF9, 0x6FFFFEF8, 0x6FFFFEF7, 0x6FFFFDF9})
"""GNU_LIBLIST, GNU_CONFLICT (prelink) and their kin refer to the string table from elsewhere."""
_ADDRESS_TAGS = frozenset(
    {f.DT_HASH, f.DT_SYMTAB, f.DT_GNU_HASH, f.DT_VERSYM, f.DT_VERNEED, f.DT_VERDEF, 7, 17, 23, f.DT_RELR}
)
