"""What a dynamic loader looks at in an ELF file, as frozen facts in ELF's words.

Only the parts that are needed are read: headers, the dynamic section, its strings, versions and notes.
Every offset, size and count that a file claims is checked, so that a hostile file costs bounded time and
memory and gives an :class:`ElfError` at worst.  The dynamic section is found as the loader finds it, by
address; a file whose offsets and addresses disagree is refused.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple

from bundler.elf import format as f
from bundler.elf.format import ByteOrder, ElfError, Layout, ReadAt, Segment, is_elf
from bundler.elf.notes import MAX_NOTES, DlopenNote, Notes, collect
from bundler.elf.tables import (
    MAX_STRING,
    file_offset,
    no_strings,
    part,
    read_dynamic,
    read_header,
    read_segments,
    string_table,
    strings,
)
from bundler.elf.versions import Version, VersionNeed, read_definitions, read_needs

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "DlopenNote",
    "ElfError",
    "ElfFile",
    "Segment",
    "Version",
    "VersionNeed",
    "file_offset",
    "is_elf",
    "parse_elf",
]

_HEAD = 4096
"""Bytes read at first: the headers, and of most files the interpreter and the notes too."""


class ElfFile(NamedTuple):
    """The facts of one file.  Strings that are not UTF-8 are kept through ``surrogateescape``."""

    elf_class: Literal[32, 64]
    byte_order: ByteOrder
    machine: int
    """``e_machine``, a number of the ELF registry (62: x86-64, 183: AArch64)."""
    osabi: int
    type: int
    """``e_type``: 1 REL, 2 EXEC, 3 DYN, 4 CORE."""
    header_flags: int
    entry: int
    size: int
    """Bytes of the file."""
    segments: tuple[Segment, ...]
    interpreter: str | None = None
    is_dynamic: bool = False
    dynamic: tuple[tuple[int, int], ...] = ()
    """Tags and values in file order, up to and without the first DT_NULL."""
    spare_tags: int = 0
    """Entries behind the DT_NULL that ends the list, in which more tags find room; -1: not even a DT_NULL."""
    needed: tuple[str, ...] = ()
    soname: str | None = None
    rpath: str | None = None
    """DT_RPATH as it stands; the loader ignores it where there is a DT_RUNPATH too."""
    runpath: str | None = None
    flags: int = 0
    """DT_FLAGS."""
    flags_1: int = 0
    """DT_FLAGS_1."""
    auxiliary: tuple[str, ...] = ()
    filter: tuple[str, ...] = ()
    audit: str | None = None
    depaudit: str | None = None
    version_needs: tuple[VersionNeed, ...] = ()
    version_definitions: tuple[Version, ...] = ()
    build_id: bytes | None = None
    kernel: tuple[int, int, int] | None = None
    """The oldest kernel that the file runs on (NT_GNU_ABI_TAG)."""
    isa_needed: int = 0
    """x86: bit 0 baseline, bits 1 to 3 x86-64-v2 to v4 (GNU_PROPERTY_X86_ISA_1_NEEDED)."""
    dlopen_notes: tuple[DlopenNote, ...] = ()
    has_relr: bool = False
    has_debug_tag: bool = False
    """DT_DEBUG, which linkers put into executables only."""
    text_relocations: bool = False
    bind_now: bool = False

    @property
    def nodeflib(self) -> bool:
        """Whether the loader refuses default directories and its cache for what the file needs."""
        return bool(self.flags_1 & f.DF_1_NODEFLIB)

    @property
    def pie(self) -> bool:
        """A position-independent executable, dynamic or static."""
        return self.type == f.ET_DYN and bool(
            self.flags_1 & f.DF_1_PIE or (self.interpreter and self.has_debug_tag and self.soname is None)
        )

    @property
    def is_executable(self) -> bool:
        """Made to be run.  False for a library, even one that has an interpreter, as libc.so.6."""
        return self.type == f.ET_EXEC or self.pie

    @property
    def is_library(self) -> bool:
        """A shared object that other files load."""
        return self.type == f.ET_DYN and self.is_dynamic and not self.pie

    @property
    def is_static(self) -> bool:
        """An executable that no loader touches, whether its place is fixed or not (static-pie)."""
        return self.is_executable and self.interpreter is None and not self.needed

    @property
    def exec_stack(self) -> bool:
        """Whether the file asks for an executable stack.

        Without PT_GNU_STACK that is the architecture's default: yes on 32-bit and x86-64, no on AArch64.
        """
        for segment in self.segments:
            if segment.type == f.PT_GNU_STACK:
                return bool(segment.flags & f.PF_X)
        return self.type in (f.ET_EXEC, f.ET_DYN) and self.machine != f.EM_AARCH64

    @property
    def relro(self) -> Literal["none", "partial", "full"]:
        """How much is read-only after relocation: full means that the GOT is, too."""
        if not any(segment.type == f.PT_GNU_RELRO for segment in self.segments):
            return "none"
        return "full" if self.bind_now else "partial"

    def same_abi(self, other: ElfFile) -> bool:
        """Whether the loader would take both into one process: class, byte order and machine."""
        return (self.elf_class, self.byte_order, self.machine) == (
            other.elf_class,
            other.byte_order,
            other.machine,
        )


def read_elf(stream: BinaryIO) -> ElfFile:
    """Facts of the seekable ``stream``; raises ElfError.  Its position afterwards is not defined."""
    if type(stream) is io.BufferedReader and type(stream.raw) is io.FileIO:
        descriptor = stream.fileno()
        return parse_elf(reader(descriptor), os.fstat(descriptor).st_size)

    def read(offset: int, size: int) -> bytes:
        stream.seek(offset)
        return stream.read(size)

    return parse_elf(read, stream.seek(0, io.SEEK_END))


def read_file(path: str | Path) -> ElfFile:
    """Facts of a file; raises ElfError, with the path, for what is no regular, sound ELF file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise ElfError("cannot be read", where=os.fspath(path), why=str(error)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ElfError("is not a regular file")
        return parse_elf(reader(descriptor), status.st_size)
    except ElfError as error:
        error.where = error.where or os.fspath(path)
        raise
    except OSError as error:
        raise ElfError("cannot be read", where=os.fspath(path), why=error.strerror) from error
    finally:
        os.close(descriptor)


def reader(descriptor: int) -> ReadAt:
    """Reads of an open file."""
    pread = os.pread

    def read(offset: int, size: int) -> bytes:
        return pread(descriptor, size, offset)

    return read


def parse_elf(read: ReadAt, size: int, *, versions: bool = True) -> ElfFile:
    """Facts of the file of ``size`` bytes that ``read`` reads; raises ElfError.

    Without ``versions`` those of symbols are left out.
    """
    head = read(0, _HEAD)
    layout, header = read_header(head)
    segments = read_segments(read, head, layout, header, size)

    dynamic: Segment | None = None
    interpreter: str | None = None
    notes = Notes()
    noted: set[tuple[int, int]] = set()
    note_bytes = 0
    for segment in segments:
        kind = segment.type
        if kind == f.PT_DYNAMIC:
            if dynamic is not None:
                raise ElfError("there are two PT_DYNAMIC segments")
            dynamic = segment
        elif kind == f.PT_INTERP:
            if interpreter is not None:
                raise ElfError("there are two PT_INTERP segments")
            interpreter = _interpreter(read, head, segment, size)
        elif kind == f.PT_NOTE or kind == f.PT_GNU_PROPERTY:
            place = (segment.offset, segment.filesz)
            if place[1] and place not in noted:
                noted.add(place)
                note_bytes += place[1]
                if note_bytes > MAX_NOTES:
                    raise ElfError("has more notes than anything has to say")
                collect(notes, part(read, head, *place), layout, segment.align, header.machine)

    facts: dict[str, Any] = {}
    if dynamic is not None and dynamic.filesz and header.type in (f.ET_EXEC, f.ET_DYN):
        # Detached debug information keeps the program headers, but not the content.
        facts = _dynamic_facts(read, layout, segments, dynamic, size, versions=versions)
    return ElfFile(
        elf_class=64 if layout.bits == 64 else 32,
        byte_order=layout.byte_order,
        machine=header.machine,
        osabi=head[7],
        type=header.type,
        header_flags=header.flags,
        entry=header.entry,
        size=size,
        segments=segments,
        interpreter=interpreter,
        build_id=notes.build_id,
        kernel=notes.kernel,
        isa_needed=notes.isa_needed,
        dlopen_notes=notes.dlopen,
        **facts,
    )


def _interpreter(read: ReadAt, head: bytes, segment: Segment, size: int) -> str | None:
    if segment.filesz == 0:
        return None
    if segment.filesz > MAX_STRING or segment.offset + segment.filesz > size:
        raise ElfError("the interpreter's name lies outside the file")
    name, end, _ = part(read, head, segment.offset, segment.filesz).partition(b"\0")
    if not end:
        raise ElfError("the interpreter's name has no end")
    return name.decode("utf-8", "surrogateescape")


def _dynamic_facts(
    read: ReadAt,
    layout: Layout,
    segments: tuple[Segment, ...],
    dynamic: Segment,
    size: int,
    *,
    versions: bool,
) -> dict[str, Any]:
    """The fields of :class:`ElfFile` that the dynamic section gives."""
    for segment in segments:
        if segment.type == f.PT_LOAD and segment.offset + segment.filesz > size:
            raise ElfError("is truncated: a loaded segment ends beyond the end of the file")
    entries, spare = read_dynamic(read, layout, segments, dynamic)
    # The loader keeps the last one of a tag that is there twice.
    last = dict(entries)
    get = last.get

    string = _strings(read, segments, last)

    def named(tag: int) -> str | None:
        return string(last[tag]) if tag in last else None

    def all_named(tag: int) -> tuple[str, ...]:
        if tag not in last:
            return ()
        return tuple([string(value) for this, value in entries if this == tag])

    flags, flags_1 = get(f.DT_FLAGS, 0), get(f.DT_FLAGS_1, 0)
    needs, definitions = _versions(read, layout, segments, last, string) if versions else ((), ())
    return {
        "is_dynamic": True,
        "dynamic": entries,
        "spare_tags": spare,
        "needed": all_named(f.DT_NEEDED),
        "soname": named(f.DT_SONAME),
        "rpath": named(f.DT_RPATH),
        "runpath": named(f.DT_RUNPATH),
        "flags": flags,
        "flags_1": flags_1,
        "auxiliary": all_named(f.DT_AUXILIARY),
        "filter": all_named(f.DT_FILTER),
        "audit": named(f.DT_AUDIT),
        "depaudit": named(f.DT_DEPAUDIT),
        "version_needs": needs,
        "version_definitions": definitions,
        "has_relr": bool(get(f.DT_RELRSZ, 0)),
        "has_debug_tag": f.DT_DEBUG in last or f.DT_MIPS_RLD_MAP_REL in last,
        "text_relocations": f.DT_TEXTREL in last or bool(flags & f.DF_TEXTREL),
        "bind_now": f.DT_BIND_NOW in last or bool(flags & f.DF_BIND_NOW or flags_1 & f.DF_1_NOW),
    }


def read_versions(read: ReadAt, facts: ElfFile) -> tuple[tuple[VersionNeed, ...], tuple[Version, ...]]:
    """The needs and definitions of symbol versions that ``facts`` were read without; raises ElfError."""
    layout = f.LAYOUTS[read(4, 2)]
    last = dict(facts.dynamic)
    return _versions(read, layout, facts.segments, last, _strings(read, facts.segments, last))


def _strings(read: ReadAt, segments: tuple[Segment, ...], values: dict[int, int]) -> Callable[[int], str]:
    return strings(read, *string_table(segments, values)) if f.DT_STRTAB in values else no_strings


def _versions(
    read: ReadAt,
    layout: Layout,
    segments: tuple[Segment, ...],
    values: dict[int, int],
    string: Callable[[int], str],
) -> tuple[tuple[VersionNeed, ...], tuple[Version, ...]]:
    needs: tuple[VersionNeed, ...] = ()
    definitions: tuple[Version, ...] = ()
    if f.DT_VERNEED in values and values.get(f.DT_VERNEEDNUM, 1):
        offset, room = file_offset(segments, values[f.DT_VERNEED])
        needs = read_needs(read, offset, room, layout.mark, string)
    if f.DT_VERDEF in values and values.get(f.DT_VERDEFNUM, 1):
        offset, room = file_offset(segments, values[f.DT_VERDEF])
        definitions = read_definitions(read, offset, room, layout.mark, string)
    return needs, definitions
