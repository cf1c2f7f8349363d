"""Post-conditions of an edit, checked on every result: the patcher trusts itself as little as its input."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from bundler.elf import format as f
from bundler.elf.edits import Edits, stated, want
from bundler.elf.format import ElfError, ReadAt
from bundler.elf.image import Write, overlay
from bundler.elf.plan import Plan
from bundler.elf.read import ElfFile, parse_elf, read_versions
from bundler.elf.refuse import check_segments
from bundler.elf.tables import file_offset, string_table


def check_plan(read: ReadAt, before: ElfFile, edits: Edits, plan: Plan) -> ElfFile:
    """What the file says after the plan; raises ElfError, with the file untouched, if it is not as wanted."""
    read_after = overlay(read, plan.writes)
    after = parse_elf(read_after, plan.size, versions=edits.needs_versions)
    problem = _problem(before, after, edits, plan)
    if problem is None and not _versions_stay(read, before, read_after, after, edits, plan.writes):
        problem = "the edit would change the symbol versions of the file"
    if problem:
        raise ElfError(
            "cannot be edited soundly",
            why=problem,
            hint="the file contradicts itself, or the patcher is at fault: please report it",
        )
    return after


def _problem(before: ElfFile, after: ElfFile, edits: Edits, plan: Plan) -> str | None:
    if stated(after) != plan.wanted:
        return "what would be read back is not what was asked for"
    if want(after, edits) != plan.wanted:
        return "a second run would change the file again"
    if _unchanged(before) != _unchanged(after):
        names = [name for name in _UNCHANGED if getattr(before, name) != getattr(after, name)]
        return f"the edit would change the {names[0].replace('_', ' ')} of the file"
    try:
        check_segments(after.segments)
    except ElfError as error:
        return f"the result {error.message}"
    places = {(s.offset, s.vaddr, s.flags): s for s in after.segments if s.type == f.PT_LOAD}
    for old in before.segments:
        if old.type == f.PT_LOAD:
            new = places.get((old.offset, old.vaddr, old.flags))
            if new is None or new.filesz < old.filesz or new.memsz < old.memsz:
                return "a loaded segment would move or shrink"
    return None


def _versions_stay(
    read: ReadAt, before: ElfFile, read_after: ReadAt, after: ElfFile, edits: Edits, writes: Sequence[Write]
) -> bool:
    """Whether the file needs and defines the symbol versions that it did, but for files that were renamed."""
    if not writes or (_same_names(read, before, read_after, after) and _untouched(before, after, writes)):
        return True
    if edits.needs_versions:
        needs, definitions = before.version_needs, before.version_definitions
    else:
        needs, definitions = read_versions(read, before)
    if renamed := edits.replace_needed:
        needs = tuple(
            need._replace(file=renamed.get(need.file, need.file)) if need.file in before.needed else need
            for need in needs
        )
    return (needs, definitions) == read_versions(read_after, after)


def _same_names(read: ReadAt, before: ElfFile, read_after: ReadAt, after: ElfFile) -> bool:
    """Whether the string table begins with what it was, so that all that refers to it reads as before."""
    old, new = dict(before.dynamic), dict(after.dynamic)
    offset, size = string_table(before.segments, old)
    new_offset, new_size = string_table(after.segments, new)
    return size <= min(new_size, _SMALL) and read(offset, size) == read_after(new_offset, size)


def _untouched(before: ElfFile, after: ElfFile, writes: Sequence[Write]) -> bool:
    """Whether the tables of versions are where they were, and nothing was written to them.

    How long they are only their content tells: their segment's end bounds them.
    """
    old, new = dict(before.dynamic), dict(after.dynamic)
    for tag in (f.DT_VERNEED, f.DT_VERDEF):
        address = old.get(tag)
        if new.get(tag) != address:
            return False
        if address is not None:
            offset, room = file_offset(before.segments, address)
            if any(at < offset + room and offset < at + len(data) for at, data in writes):
                return False
    return True


_SMALL = 1 << 16
"""Bytes of a string table that are compared as a whole at most."""
_UNCHANGED = (
    "elf_class",
    "byte_order",
    "machine",
    "osabi",
    "type",
    "header_flags",
    "entry",
    "flags",
    "auxiliary",
    "filter",
    "audit",
    "depaudit",
    "build_id",
    "kernel",
    "isa_needed",
    "dlopen_notes",
    "has_relr",
    "has_debug_tag",
    "text_relocations",
)
_unchanged = attrgetter(*_UNCHANGED)
