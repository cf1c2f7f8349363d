"""Files that are not edited, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from bundler.elf import format as f
from bundler.elf.edits import Edits
from bundler.elf.format import ElfError, ReadAt, Segment
from bundler.elf.read import ElfFile
from bundler.elf.tables import file_offset

MAX_ALIGN = 16 << 20
_OSABI_SYSV, _OSABI_GNU = 0, 3
_ONCE = frozenset(
    {
        f.DT_STRTAB,
        f.DT_STRSZ,
        f.DT_SYMTAB,
        f.DT_SONAME,
        f.DT_RPATH,
        f.DT_RUNPATH,
        f.DT_FLAGS_1,
        f.DT_VERNEED,
        f.DT_VERDEF,
        f.DT_GNU_HASH,
        f.DT_HASH,
    }
)


def refuse(read: ReadAt, facts: ElfFile, edits: Edits) -> None:
    """Raise ElfError for a file that must not be edited, or not in this way."""
    if facts.type not in (f.ET_EXEC, f.ET_DYN):
        kind = {f.ET_REL: "an object file", f.ET_CORE: "a core dump"}.get(facts.type, "of an unknown type")
        raise ElfError("cannot be edited", why=f"it is {kind}, neither an executable nor a library")
    if not facts.is_dynamic:
        raise ElfError(
            "cannot be edited",
            why="it has no dynamic section: it is statically linked, or detached debug information",
        )
    if facts.is_static:
        raise ElfError("cannot be edited", why="it is a static-pie executable, which no loader touches")
    if facts.osabi not in (_OSABI_SYSV, _OSABI_GNU):
        raise ElfError("cannot be edited", why=f"it is for another system (OSABI {facts.osabi})")
    if not facts.segments or b"UPX!" in read(0, 1024):
        raise ElfError("cannot be edited", why="it is packed by UPX", hint="unpack it with upx -d")
    check_segments(facts.segments)
    _check_overlaps(facts)
    once = [tag for tag, _ in facts.dynamic if tag in _ONCE]
    if len(set(once)) != len(once):
        twice = next(tag for tag in once if once.count(tag) > 1)
        raise ElfError(
            "cannot be edited", why=f"the dynamic tag {twice:#x} is there {once.count(twice)} times"
        )
    if facts.rpath is not None and facts.runpath is not None and not edits.changes_path:
        raise ElfError(
            "has both DT_RPATH and DT_RUNPATH",
            why="the loader ignores the first then",
            hint="say which is wanted by setting one",
        )
    if is_loader(facts) and edits.changes_dynamic:
        raise ElfError(
            "is a program interpreter",
            why="it stops at start-up where it has a path or a needed library (glibc: elf_get_dynamic_info)",
        )
    if is_core(facts) and not edits.core:
        raise ElfError(
            "is a C library or a program interpreter",
            why="these are edited only where that is asked for",
            hint="ask with core=True (bundle elf patch --core)",
        )


def _check_overlaps(facts: ElfFile) -> None:
    """Parts that are edited must not lie in one another: no linker makes that, and no edit is safe there."""
    values = dict(facts.dynamic)
    strings, _ = file_offset(facts.segments, values.get(f.DT_STRTAB, 0))
    parts = [
        (segment.offset, segment.offset + segment.filesz)
        for segment in facts.segments
        if segment.type in (f.PT_INTERP, f.PT_DYNAMIC, f.PT_PHDR)
    ]
    notes = {
        (segment.offset, segment.offset + segment.filesz)
        for segment in facts.segments
        if segment.type in (f.PT_NOTE, f.PT_GNU_PROPERTY)
    }
    parts += notes
    parts.append((strings, strings + values.get(f.DT_STRSZ, 0)))
    for tag in (f.DT_SYMTAB, f.DT_HASH, f.DT_GNU_HASH, f.DT_VERSYM, f.DT_VERNEED, f.DT_VERDEF):
        if tag in values:
            at, _ = file_offset(facts.segments, values[tag])
            parts.append((at, at + 1))
    parts.sort()
    for before, after in pairwise(parts):
        if after[0] < before[1] and not (before in notes and after in notes):
            raise ElfError(
                "cannot be edited", why="parts of it that have nothing in common overlap in the file"
            )


def is_loader(facts: ElfFile) -> bool:
    """Whether the file is a program interpreter, by its soname and for want of one of its own."""
    name = facts.soname or ""
    return facts.interpreter is None and name.startswith(("ld-linux", "ld-musl-", "ld.so", "ld64.so"))


def is_core(facts: ElfFile) -> bool:
    """Whether the file is a C library or a program interpreter."""
    name = facts.soname or ""
    return (
        is_loader(facts) or name in ("libc.so", "libc.so.6", "libc.so.6.1") or name.startswith("libc.musl-")
    )


def check_segments(segments: Sequence[Segment]) -> None:
    """Raise ElfError for segments that a loader refuses, maps over one another, or would not find."""
    end = -1
    for segment in segments:
        if segment.type != f.PT_LOAD:
            continue
        align = segment.align or 1
        if align & (align - 1) or align > MAX_ALIGN:
            raise ElfError("has a loaded segment of a strange alignment", why=f"{align:#x} bytes")
        if (segment.vaddr - segment.offset) % align:
            raise ElfError("has a loaded segment whose offset and address do not fit its alignment")
        if segment.filesz > segment.memsz:
            raise ElfError("has a loaded segment that is longer in the file than in memory")
        if segment.vaddr < end:
            raise ElfError("has loaded segments that are not in order, or overlap")
        end = segment.vaddr + segment.memsz
    if end < 0:
        raise ElfError("has no loaded segment")
    loads = [segment for segment in segments if segment.type == f.PT_LOAD]
    for segment in segments:
        if segment.type in _FOUND_IN_MEMORY and segment.filesz and not _is_loaded(segment, loads):
            raise ElfError(f"has a segment of type {segment.type:#x} in no loaded segment")


def _is_loaded(segment: Segment, loads: Sequence[Segment]) -> bool:
    for load in loads:
        if (
            load.offset <= segment.offset
            and segment.offset + segment.filesz <= load.offset + load.filesz
            and segment.vaddr - load.vaddr == segment.offset - load.offset
        ):
            return True
    return False


_FOUND_IN_MEMORY = frozenset({f.PT_INTERP, f.PT_DYNAMIC, f.PT_PHDR})
