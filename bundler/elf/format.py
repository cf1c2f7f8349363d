"""Numbers and record layouts of ELF.

Sources: System V gABI (chapters 4 and 5), the Linux Standard Base (versions, notes), glibc's ``elf.h``.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from struct import Struct
from typing import Literal, NamedTuple

from bundler.errors import InputError

MAGIC = b"\x7fELF"

ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4

PT_NULL, PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_PHDR, PT_TLS = 0, 1, 2, 3, 4, 6, 7
PT_GNU_EH_FRAME, PT_GNU_STACK, PT_GNU_RELRO, PT_GNU_PROPERTY = 0x6474E550, 0x6474E551, 0x6474E552, 0x6474E553
PF_X, PF_W, PF_R = 1, 2, 4

SHT_PROGBITS, SHT_STRTAB, SHT_HASH, SHT_DYNAMIC, SHT_NOTE, SHT_NOBITS, SHT_DYNSYM = 1, 3, 5, 6, 7, 8, 11
SHT_SYMTAB = 2
SHT_GNU_HASH = 0x6FFFFFF6
SHT_GNU_VERDEF, SHT_GNU_VERNEED, SHT_GNU_VERSYM = 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
SHF_ALLOC = 2

DT_NULL, DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB = 0, 1, 4, 5, 6
DT_STRSZ, DT_SYMENT, DT_SONAME, DT_RPATH, DT_SYMBOLIC = 10, 11, 14, 15, 16
DT_DEBUG, DT_TEXTREL, DT_BIND_NOW, DT_RUNPATH, DT_FLAGS = 21, 22, 24, 29, 30
DT_RELRSZ, DT_RELR = 35, 36
DT_GNU_HASH = 0x6FFFFEF5
DT_CONFIG, DT_DEPAUDIT, DT_AUDIT = 0x6FFFFEFA, 0x6FFFFEFB, 0x6FFFFEFC
DT_VERSYM, DT_FLAGS_1 = 0x6FFFFFF0, 0x6FFFFFFB
DT_VERDEF, DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
DT_AUXILIARY, DT_FILTER = 0x7FFFFFFD, 0x7FFFFFFF
DT_MIPS_RLD_MAP_REL = 0x70000035

STRING_TAGS = frozenset(
    {DT_NEEDED, DT_SONAME, DT_RPATH, DT_RUNPATH, DT_CONFIG, DT_DEPAUDIT, DT_AUDIT, DT_AUXILIARY, DT_FILTER}
)
"""Dynamic tags whose value is an offset into the dynamic string table."""

DF_ORIGIN, DF_SYMBOLIC, DF_TEXTREL, DF_BIND_NOW, DF_STATIC_TLS = 1, 2, 4, 8, 16
DF_1_NOW, DF_1_NODELETE, DF_1_NOOPEN, DF_1_NODEFLIB, DF_1_PIE = 1, 8, 0x40, 0x800, 0x08000000

EM_386, EM_MIPS, EM_X86_64, EM_AARCH64 = 3, 8, 62, 183

MAX_SEGMENTS = 4096
"""More program headers than any linker writes; a hostile count costs no more than this."""
MAX_SECTIONS = 1 << 20
MAX_DYNAMIC = 1 << 18
"""Bytes of a dynamic section that are read at most."""

ByteOrder = Literal["little", "big"]

ReadAt = Callable[[int, int], bytes]
"""``read(offset, size)``: at most ``size`` bytes from ``offset``, fewer only at the end of the file."""


class ElfError(InputError):
    """A file is no sound ELF file, or none that can be edited as asked; it was left as it was."""


class Header(NamedTuple):
    """The ELF header after ``e_ident``."""

    type: int
    machine: int
    version: int
    entry: int
    phoff: int
    shoff: int
    flags: int
    ehsize: int
    phentsize: int
    phnum: int
    shentsize: int
    shnum: int
    shstrndx: int


class Segment(NamedTuple):
    """A program header; offsets, addresses and sizes in bytes."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


_segment: Callable[[tuple[int, ...]], Segment] = partial(tuple.__new__, Segment)
"""What ``Segment._make`` does, in a third of its time."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Record layouts of one class and byte order."""

    bits: int
    byte_order: ByteOrder
    mark: str
    """The prefix of ``struct`` format strings."""
    word_code: str
    """The letter of ``struct`` for an address."""
    header: Struct
    segment: Struct
    section: Struct
    dynamic: Struct
    word: Struct
    """An address-sized unsigned integer."""
    ident: bytes
    """Bytes 4 and 5 of ``e_ident``: class and data."""

    def numbers(self, code: str, data: bytes) -> array[int]:
        """What ``data`` consists of: numbers of the type that :mod:`array` calls ``code``."""
        found = array(code, data)
        if self.byte_order != sys.byteorder:
            found.byteswap()
        return found

    def unpack_segments(self, data: bytes) -> tuple[Segment, ...]:
        if self.bits == 64:
            return tuple(map(_segment, self.segment.iter_unpack(data)))
        # Elf32_Phdr has the flags behind the sizes.
        return tuple(
            Segment(kind, flags, offset, vaddr, paddr, filesz, memsz, align)
            for kind, offset, vaddr, paddr, filesz, memsz, flags, align in self.segment.iter_unpack(data)
        )

    def pack_segment(self, segment: Segment) -> bytes:
        if self.bits == 64:
            return self.segment.pack(*segment)
        kind, flags, offset, vaddr, paddr, filesz, memsz, align = segment
        return self.segment.pack(kind, offset, vaddr, paddr, filesz, memsz, flags, align)


def _layout(bits: int, order: ByteOrder) -> Layout:
    mark = "<" if order == "little" else ">"
    word = "Q" if bits == 64 else "I"
    return Layout(
        bits=bits,
        byte_order=order,
        mark=mark,
        word_code=word,
        header=Struct(f"{mark}HHI{word * 3}IHHHHHH"),
        segment=Struct(f"{mark}IIQQQQQQ" if bits == 64 else f"{mark}IIIIIIII"),
        section=Struct(f"{mark}II{word * 4}II{word * 2}"),
        dynamic=Struct(f"{mark}{word * 2}"),
        word=Struct(f"{mark}{word}"),
        ident=bytes((2 if bits == 64 else 1, 1 if order == "little" else 2)),
    )


LAYOUTS: dict[bytes, Layout] = {
    layout.ident: layout
    for layout in (_layout(64, "little"), _layout(32, "little"), _layout(64, "big"), _layout(32, "big"))
}
"""By bytes 4 and 5 of ``e_ident``."""
HEADER_OFFSET = 16


def is_elf(head: bytes) -> bool:
    """Whether a file that starts with ``head`` (4 bytes suffice) claims to be ELF."""
    return head[:4] == MAGIC
