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
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from bundler.elf import format as f
from bundler.elf.format import ByteOrder, ElfError, Header, Layout, ReadAt, Segment, is_elf
from bundler.elf.notes import MAX_NOTES, DlopenNote, Notes, collect
from bundler.elf.versions import Version, VersionNeed, read_definitions, read_needs

__all__ = ["DlopenNote", "ElfError", "ElfFile", "Segment", "Version", "VersionNeed", "is_elf", "parse_elf"]

_HEAD = 4096
"""Bytes read at first: the headers, and of most files the interpreter and the notes too."""
_MAX_STRING = 1 << 16
_MAX_STRINGS = 4 << 20
"""Bytes of all strings that are read of one file: a hostile one may name its longest string often."""
_SMALL_TABLE = 1 << 16
"""A string table up to this size is read at once; of a larger one only the strings that are asked for."""


@dataclass(frozen=True, slots=True)
class ElfFile:
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
    dynamic: tuple[tuple[int, int], ...] = field(default=(), repr=False)
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


def parse_elf(read: ReadAt, size: int) -> ElfFile:
    """Facts of the file of ``size`` bytes that ``read`` reads; raises ElfError."""
    head = read(0, _HEAD)
    layout, header = read_header(head)
    segments = read_segments(read, head, layout, header, size)

    dynamic: Segment | None = None
    interpreter: str | None = None
    notes = Notes()
    noted: set[tuple[int, int]] = set()
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
        elif (
            kind in (f.PT_NOTE, f.PT_GNU_PROPERTY)
            and segment.filesz
            and (segment.offset, segment.filesz) not in noted
        ):
            noted.add((segment.offset, segment.filesz))
            if sum(length for _, length in noted) > MAX_NOTES:
                raise ElfError("has more notes than anything has to say")
            data = _part(read, head, segment.offset, segment.filesz)
            collect(notes, data, layout, segment.align, header.machine)

    facts: dict[str, Any] = {}
    if dynamic is not None and dynamic.filesz and header.type in (f.ET_EXEC, f.ET_DYN):
        # Detached debug information keeps the program headers, but not the content.
        facts = _dynamic_facts(read, layout, segments, dynamic, size)
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


def read_header(head: bytes) -> tuple[Layout, Header]:
    """Layout and header of a file that begins with ``head``; raises ElfError."""
    if not is_elf(head):
        raise ElfError("is not an ELF file")
    layout = f.LAYOUTS.get(head[4:6])
    if layout is None:
        raise ElfError("has neither a known ELF class nor a known byte order")
    if len(head) < f.HEADER_OFFSET + layout.header.size:
        raise ElfError("ends inside its ELF header")
    return layout, Header._make(layout.header.unpack_from(head, f.HEADER_OFFSET))


def read_segments(
    read: ReadAt, head: bytes, layout: Layout, header: Header, size: int
) -> tuple[Segment, ...]:
    """The program headers; raises ElfError for a table or a loaded segment that is not in the file."""
    if not header.phnum:
        return ()
    if header.phnum > f.MAX_SEGMENTS:
        raise ElfError(f"claims {header.phnum} program headers")
    if header.phentsize != layout.segment.size:
        raise ElfError(f"has program headers of {header.phentsize} bytes, not {layout.segment.size}")
    length = header.phnum * layout.segment.size
    table = _part(read, head, header.phoff, length) if header.phoff + length <= size else b""
    if len(table) != length:
        raise ElfError("ends inside its program headers")
    return layout.unpack_segments(table)


def file_offset(segments: tuple[Segment, ...], address: int) -> tuple[int, int]:
    """Where in the file an address lies, and how many bytes from there are mapped; raises ElfError."""
    for segment in segments:
        if segment.type == f.PT_LOAD and 0 <= address - segment.vaddr < segment.filesz:
            inside = address - segment.vaddr
            return segment.offset + inside, segment.filesz - inside
    raise ElfError(f"the address {address:#x} lies in no loaded part of the file")


def _part(read: ReadAt, head: bytes, offset: int, length: int) -> bytes:
    """Bytes of the file, from its head where that holds them."""
    if offset + length <= len(head):
        return head[offset : offset + length]
    return read(offset, length) if offset < _MAX_OFFSET else b""


def _interpreter(read: ReadAt, head: bytes, segment: Segment, size: int) -> str | None:
    if segment.filesz == 0:
        return None
    if segment.filesz > _MAX_STRING or segment.offset + segment.filesz > size:
        raise ElfError("the interpreter's name lies outside the file")
    name, end, _ = _part(read, head, segment.offset, segment.filesz).partition(b"\0")
    if not end:
        raise ElfError("the interpreter's name has no end")
    return name.decode("utf-8", "surrogateescape")


class Strings:
    """The dynamic string table, of which a large one is read piece by piece."""

    def __init__(self, read: ReadAt, offset: int, size: int) -> None:
        self._read, self._offset, self._size = read, offset, size
        self._budget = _MAX_STRINGS
        self._table = read(offset, size) if size <= _SMALL_TABLE else None

    def __call__(self, at: int) -> str:
        """The string at ``at``, as text; raises ElfError."""
        return self._raw(at).decode("utf-8", "surrogateescape")

    def _raw(self, at: int) -> bytes:
        if at >= self._size:
            raise ElfError("a string lies beyond the dynamic string table")
        if self._table is not None:
            end = self._table.find(b"\0", at)
            data = self._table[at:end]
        else:
            room = self._size - at
            data = self._read(self._offset + at, min(room, 256))
            end = data.find(b"\0")
            if end < 0 and room > 256:
                data = self._read(self._offset + at, min(room, _MAX_STRING))
                end = data.find(b"\0")
            data = data[:end]
        if end < 0:
            raise ElfError("a string of the dynamic string table has no end")
        self._budget -= len(data)
        if self._budget < 0:
            raise ElfError("the strings that the dynamic section names are too long altogether")
        return data


def _dynamic_facts(
    read: ReadAt, layout: Layout, segments: tuple[Segment, ...], dynamic: Segment, size: int
) -> dict[str, Any]:
    """The fields of :class:`ElfFile` that the dynamic section gives."""
    for segment in segments:
        if segment.type == f.PT_LOAD and segment.offset + segment.filesz > size:
            raise ElfError("is truncated: a loaded segment ends beyond the end of the file")
    tags, values, spare = read_dynamic(read, layout, segments, dynamic)
    # The loader keeps the last one of a tag that is there twice.
    last = dict(zip(tags, values, strict=True))
    get = last.get

    string = _NO_STRINGS
    if f.DT_STRTAB in last:
        offset, room = file_offset(segments, last[f.DT_STRTAB])
        length = get(f.DT_STRSZ, 0)
        if length > room:
            raise ElfError("the dynamic string table ends beyond its segment")
        string = Strings(read, offset, length)

    def named(tag: int) -> str | None:
        return string(last[tag]) if tag in last else None

    def all_named(tag: int) -> tuple[str, ...]:
        if tag not in last:
            return ()
        return tuple(string(value) for this, value in zip(tags, values, strict=True) if this == tag)

    flags, flags_1 = get(f.DT_FLAGS, 0), get(f.DT_FLAGS_1, 0)
    needs: tuple[VersionNeed, ...] = ()
    definitions: tuple[Version, ...] = ()
    if f.DT_VERNEED in last and get(f.DT_VERNEEDNUM, 1):
        offset, room = file_offset(segments, last[f.DT_VERNEED])
        needs = read_needs(read, offset, room, layout.mark, string)
    if f.DT_VERDEF in last and get(f.DT_VERDEFNUM, 1):
        offset, room = file_offset(segments, last[f.DT_VERDEF])
        definitions = read_definitions(read, offset, room, layout.mark, string)
    return {
        "is_dynamic": True,
        "dynamic": tuple(zip(tags, values, strict=True)),
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


def read_dynamic(
    read: ReadAt, layout: Layout, segments: tuple[Segment, ...], dynamic: Segment
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Tags and values up to the DT_NULL, and the number of spare entries behind it; raises ElfError."""
    if dynamic.filesz > f.MAX_DYNAMIC:
        raise ElfError("the dynamic section is too large")
    offset, room = file_offset(segments, dynamic.vaddr)
    if offset != dynamic.offset or dynamic.filesz > room:
        raise ElfError("the dynamic section's offset and address name different parts of the file")
    count = dynamic.filesz // layout.dynamic.size
    data = read(offset, count * layout.dynamic.size)
    if len(data) != count * layout.dynamic.size:
        raise ElfError("ends inside its dynamic section")
    numbers = struct.unpack(f"{layout.mark}{2 * count}{'Q' if layout.bits == 64 else 'I'}", data)
    tags = numbers[::2]
    try:
        end = tags.index(f.DT_NULL)
    except ValueError:
        if not _is_zero_in_memory(read, segments, dynamic.vaddr + len(data), layout.bits // 8):
            raise ElfError("the dynamic section has no end (DT_NULL)") from None
        return tags, numbers[1::2], -1
    return tags[:end], numbers[1 : 2 * end : 2], _spare(numbers[2 * end + 2 :])


def _is_zero_in_memory(read: ReadAt, segments: tuple[Segment, ...], address: int, size: int) -> bool:
    """Whether a loaded segment has zeros at an address, from the file or as it has none there.

    ``ld --spare-dynamic-tags=0`` writes no DT_NULL: the loader reads on, and ends at what follows.
    """
    for segment in segments:
        inside = address - segment.vaddr
        if segment.type == f.PT_LOAD and inside >= 0 and inside + size <= segment.memsz:
            return not read(segment.offset + inside, max(0, min(size, segment.filesz - inside))).strip(b"\0")
    return False


def _spare(rest: tuple[int, ...]) -> int:
    """How many entries behind the end are free; anything but zeros there is somebody's."""
    return len(rest) // 2 if not any(rest) else 0


def _no_strings(at: int) -> str:
    raise ElfError("the dynamic section has no string table (DT_STRTAB)")


_NO_STRINGS = _no_strings
_MAX_OFFSET = 1 << 62
"""Beyond this no file has bytes, and the system call takes no number."""
