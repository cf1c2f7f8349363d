"""Post-conditions of an edit, checked on every result: the patcher trusts itself as little as its input."""

from __future__ import annotations

from operator import attrgetter

from bundler.elf import format as f
from bundler.elf.edits import Edits, stated, want
from bundler.elf.format import ElfError, ReadAt
from bundler.elf.image import overlay
from bundler.elf.plan import Plan
from bundler.elf.read import ElfFile, parse_elf
from bundler.elf.refuse import check_segments


def check_plan(read: ReadAt, before: ElfFile, edits: Edits, plan: Plan) -> ElfFile:
    """What the file says after the plan; raises ElfError, with the file untouched, if it is not as wanted."""
    after = parse_elf(overlay(read, plan.writes), plan.size)
    problem = _problem(before, after, edits, plan)
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
    expected = before.version_needs
    if renamed := edits.replace_needed:
        expected = tuple(
            need._replace(file=renamed.get(need.file, need.file)) if need.file in before.needed else need
            for need in expected
        )
    if after.version_needs != expected:
        return "the edit would change the symbol versions that the file needs"
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
    "version_definitions",
    "build_id",
    "kernel",
    "isa_needed",
    "dlopen_notes",
    "has_relr",
    "has_debug_tag",
    "text_relocations",
)
_unchanged = attrgetter(*_UNCHANGED)
