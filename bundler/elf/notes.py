"""Notes: build ID, ABI tag, GNU properties, and the dlopen notes of systemd's ELF_DLOPEN_METADATA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any, Literal, NamedTuple, cast

from bundler.elf.format import EM_386, EM_X86_64, ElfError, Layout

Priority = Literal["required", "recommended", "suggested"]
_PRIORITIES = ("required", "recommended", "suggested")

NT_GNU_ABI_TAG, NT_GNU_BUILD_ID, NT_GNU_PROPERTY = 1, 3, 5
NT_FDO_DLOPEN = 0x407C0C0A
X86_ISA_1_NEEDED = 0xC0008002
MAX_NOTES = 1 << 20
"""Bytes of notes that are read of one file at most; the dlopen notes of large programs have 2 KB."""


class DlopenNote(NamedTuple):
    """A library that the file loads by itself: ``sonames`` are alternatives, the first that is found wins."""

    sonames: tuple[str, ...]
    feature: str
    description: str
    priority: Priority


@dataclass(slots=True)
class Notes:
    """What the notes of one file say, collected over its note segments."""

    build_id: bytes | None = None
    kernel: tuple[int, int, int] | None = None
    """The oldest kernel that the file runs on, from NT_GNU_ABI_TAG."""
    isa_needed: int = 0
    """x86: bit 0 baseline, bits 1 to 3 x86-64-v2 to v4."""
    dlopen: tuple[DlopenNote, ...] = ()


def iterate_notes(data: bytes, mark: str, align: int) -> Iterator[tuple[bytes, int, bytes]]:
    """Owner, type and description of each note; the last one ends the list where it is cut off."""
    header = _HEADERS[mark]
    at, end = 0, len(data)
    while at + 12 <= end:
        name_size, size, kind = header.unpack_from(data, at)
        start = at + 12 + name_size
        start += -start % align
        if start + size > end:
            return
        yield data[at + 12 : at + 12 + name_size], kind, data[start : start + size]
        at = start + size
        at += -at % align


def collect(notes: Notes, data: bytes, layout: Layout, align: int, machine: int) -> None:
    """Add the notes of one segment; raises ElfError for a note of ours that cannot be read."""
    for owner, kind, description in iterate_notes(data, layout.mark, 8 if align == 8 else 4):
        if owner == b"GNU\0":
            if kind == NT_GNU_BUILD_ID:
                notes.build_id = description
            elif kind == NT_GNU_ABI_TAG and len(description) >= 16:
                system, *kernel = _ABI_TAG[layout.mark].unpack_from(description)
                if system == 0:
                    notes.kernel = (kernel[0], kernel[1], kernel[2])
            elif kind == NT_GNU_PROPERTY and machine in (EM_X86_64, EM_386):
                notes.isa_needed |= _isa_needed(description, layout)
        elif owner == b"FDO\0" and kind == NT_FDO_DLOPEN:
            notes.dlopen += parse_dlopen(description)


def parse_dlopen(description: bytes) -> tuple[DlopenNote, ...]:
    """The entries of one dlopen note: a JSON array of objects, or (older) one object.

    Source: https://uapi-group.org/specifications/specs/elf_dlopen_metadata/ .  Its section is loaded as any
    constant is, so a PT_NOTE segment holds it: one that is in section headers alone is not looked for.
    Raises ElfError.
    """
    import json

    try:
        value: Any = json.loads(description.rstrip(b"\0").decode())
    except (ValueError, RecursionError) as error:
        raise ElfError("the dlopen note is not JSON", why=str(error)) from error
    found = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict):
            raise ElfError("the dlopen note holds something else than objects")
        sonames = item.get("soname")
        if not isinstance(sonames, list) or not all(isinstance(name, str) and name for name in sonames):
            raise ElfError("the dlopen note names no libraries")
        priority = item.get("priority", "recommended")
        if priority not in _PRIORITIES:
            raise ElfError(f"the dlopen note has the unknown priority {str(priority)[:40]!r}")
        found.append(
            DlopenNote(
                tuple(sonames),
                str(item.get("feature", "")),
                str(item.get("description", "")),
                cast(Priority, priority),
            )
        )
    return tuple(found)


def _isa_needed(description: bytes, layout: Layout) -> int:
    """Property arrays are padded to the word size of the class."""
    pair = _PAIRS[layout.mark]
    align = layout.bits // 8
    at = needed = 0
    while at + 8 <= len(description):
        kind, size = pair.unpack_from(description, at)
        if kind == X86_ISA_1_NEEDED and size == 4 and at + 12 <= len(description):
            needed |= int.from_bytes(description[at + 8 : at + 12], layout.byte_order)
        at += 8 + size
        at += -at % align
    return needed


_HEADERS = {mark: Struct(mark + "III") for mark in "<>"}
_ABI_TAG = {mark: Struct(mark + "4I") for mark in "<>"}
_PAIRS = {mark: Struct(mark + "II") for mark in "<>"}
