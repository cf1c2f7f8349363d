"""Symbols: what an object binds to others, and what it offers (deep mode, the equivalent of ``ldd -r``).

Only symbols that relocations name are looked at: they are what the loader looks up.  A symbol is bound as
glibc binds it (``elf/dl-lookup.c``, ``check_match``): one with a version to a definition of that version, or
to one without any; one without a version to the first version that an object defines, or to its default.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from bundler.closure.files import Files
from bundler.closure.loaded import Closure
from bundler.closure.report import Violation, finding
from bundler.elf.format import (
    DT_GNU_HASH,
    DT_HASH,
    DT_STRSZ,
    DT_STRTAB,
    DT_SYMTAB,
    DT_VERSYM,
    LAYOUTS,
    Layout,
)
from bundler.elf.read import ElfError, ElfFile
from bundler.elf.tables import file_offset
from bundler.elf.versions import HIDDEN, INDEX
from bundler.errors import InputError

DT_RELA, DT_RELASZ, DT_REL, DT_RELSZ, DT_PLTRELSZ, DT_PLTREL, DT_JMPREL = 7, 8, 17, 18, 2, 20, 23
STB_LOCAL, STB_WEAK = 0, 2
MAX_TABLE = 64 << 20
"""Bytes of one table that are read at most."""
MAX_BUCKETS, MAX_CHAIN = 1 << 20, 1 << 16
"""Of a hash table: the largest libraries have some ten thousand buckets, and chains of a few."""
_SHOWN = 5
_FIRST_VERSION = 2
"""The number of the first version that a file defines, behind its base's."""


class Reference(NamedTuple):
    """A symbol that an object must find, in itself or others."""

    name: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class Symbols:
    """What an object defines for whom, and what it must find."""

    versioned: frozenset[Reference]
    """Definitions with a version, for references with the same one."""
    unversioned: frozenset[str]
    """Names that are defined without a version, for references with any."""
    bare: frozenset[str]
    """Names that references without a version are bound to."""
    undefined: frozenset[Reference]


_NO_SYMBOLS = Symbols(frozenset(), frozenset(), frozenset(), frozenset())


def read_symbols(stream: BinaryIO, facts: ElfFile) -> Symbols:
    """The dynamic symbols of the file; raises ElfError where its tables contradict each other."""
    return _Reader(stream, facts).read()


class SymbolChecker:
    """Finds undefined symbols of programs; each file's symbols are read once."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._symbols: dict[str, Symbols] = {}
        self._reported: set[str] = set()

    def check(self, closure: Closure) -> Iterator[Violation]:
        """A finding for each object of the program whose symbols are defined by none; once for a file."""
        found = [self._of(item.path, item.elf) for item in closure.objects]
        versioned = frozenset().union(*(symbols.versioned for symbols in found))
        unversioned = frozenset().union(*(symbols.unversioned for symbols in found))
        bare = frozenset().union(*(symbols.bare for symbols in found))
        for index, item in enumerate(closure.objects):
            missing = sorted(
                str(wanted)
                for wanted in found[index].undefined - versioned
                if wanted.name not in (unversioned if wanted.version else bare)
            )
            if missing and item.path not in self._reported:
                self._reported.add(item.path)
                more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
                message = f"nothing defines {', '.join(missing[:_SHOWN])}{more}"
                yield finding("symbol-missing", "/" + item.path, message, closure.chain(index))

    def loads_by_name(self, path: str, facts: ElfFile) -> bool:
        """Whether a file calls dlopen."""
        return any(wanted.name in ("dlopen", "dlmopen") for wanted in self._of(path, facts).undefined)

    def _of(self, path: str, facts: ElfFile) -> Symbols:
        if path not in self._symbols:
            try:
                with self._files.tree.open(path) as stream:
                    self._symbols[path] = read_symbols(stream, facts)
            except InputError:
                # What is wrong with the file is another rule's finding.
                self._symbols[path] = _NO_SYMBOLS
        return self._symbols[path]


class _Reader:
    def __init__(self, stream: BinaryIO, facts: ElfFile) -> None:
        self._stream = stream
        self._facts = facts
        self._tags = dict(facts.dynamic)
        ident = bytes((facts.elf_class // 32, 1 if facts.byte_order == "little" else 2))
        self._layout: Layout = LAYOUTS[ident]
        self._symbol = struct.Struct(self._layout.mark + ("IBBHQQ" if facts.elf_class == 64 else "IIIBBH"))

    def read(self) -> Symbols:
        if DT_SYMTAB not in self._tags or DT_STRTAB not in self._tags:
            return _NO_SYMBOLS
        strings = self._at(DT_STRTAB, self._tags.get(DT_STRSZ, 0))
        wanted = set(self._relocated())
        count = max(self._count(), max(wanted, default=0) + 1)
        table = self._at(DT_SYMTAB, count * self._symbol.size)
        owners, names = self._versions(count)
        versioned, unversioned, bare, undefined = set(), set(), set(), set()
        for index, fields in enumerate(self._symbol.iter_unpack(table)):
            if self._facts.elf_class == 64:
                name, info, _, section, _, _ = fields
            else:
                name, _, _, info, _, section = fields
            binding = info >> 4
            if binding == STB_LOCAL or not name:
                continue
            owner = owners[index] if owners else 0
            version = names.get(owner & INDEX)
            if not section:
                if index in wanted and binding != STB_WEAK:
                    undefined.add(Reference(_string(strings, name), version))
                continue
            text = _string(strings, name)
            if version is not None:
                versioned.add(Reference(text, version))
            elif not owner & HIDDEN:
                unversioned.add(text)
            if owner & INDEX <= _FIRST_VERSION or not owner & HIDDEN:
                bare.add(text)
        return Symbols(frozenset(versioned), frozenset(unversioned), frozenset(bare), frozenset(undefined))

    def _versions(self, count: int) -> tuple[tuple[int, ...], dict[int, str]]:
        """Per symbol the number of its version, or nothing, and the versions by number."""
        if DT_VERSYM not in self._tags:
            return (), {}
        facts = self._facts
        needed = [version for need in facts.version_needs for version in need.versions]
        names = {v.number: v.name for v in (*needed, *facts.version_definitions) if not v.base}
        return struct.unpack(f"{self._layout.mark}{count}H", self._at(DT_VERSYM, 2 * count)), names

    def _relocated(self) -> Iterator[int]:
        """Indices of the symbols that relocations name."""
        rela = self._tags.get(DT_PLTREL, DT_RELA) == DT_RELA
        for start, size, added in (
            (DT_RELA, DT_RELASZ, True),
            (DT_REL, DT_RELSZ, False),
            (DT_JMPREL, DT_PLTRELSZ, rela),
        ):
            if start not in self._tags or not self._tags.get(size):
                continue
            wide = self._facts.elf_class == 64
            word = "Q" if wide else "I"
            entry = struct.Struct(self._layout.mark + word * (3 if added else 2))
            data = self._at(start, self._tags[size])
            for fields in entry.iter_unpack(data[: len(data) // entry.size * entry.size]):
                index = fields[1] >> (32 if wide else 8)
                if index:
                    yield index

    def _count(self) -> int:
        """Number of symbols, as far as a hash table tells: DT_HASH all, DT_GNU_HASH those defined."""
        if DT_HASH in self._tags:
            return self._words(self._at(DT_HASH, 8))[1]
        if DT_GNU_HASH not in self._tags:
            return 0
        buckets, first, bloom, _ = self._words(self._at(DT_GNU_HASH, 16))
        skip = 16 + bloom * self._facts.elf_class // 8
        if buckets > MAX_BUCKETS:
            raise ElfError(f"claims {buckets} hash buckets")
        last = max(self._words(self._at(DT_GNU_HASH, 4 * buckets, skip)), default=0)
        if last < first:
            return first
        # The chain of the last bucket ends where the lowest bit is set.
        chain = skip + 4 * (buckets + last - first)
        _, room = file_offset(self._facts.segments, self._tags[DT_GNU_HASH])
        hashes = self._words(self._at(DT_GNU_HASH, max(0, min(room - chain, 4 * MAX_CHAIN)) // 4 * 4, chain))
        return next((last + number for number, value in enumerate(hashes, 1) if value & 1), last)

    def _words(self, data: bytes) -> tuple[int, ...]:
        return struct.unpack(f"{self._layout.mark}{len(data) // 4}I", data)

    def _at(self, tag: int, size: int, skip: int = 0) -> bytes:
        offset, room = file_offset(self._facts.segments, self._tags[tag])
        if size < 0 or size > MAX_TABLE or skip + size > room:
            raise ElfError("a table of the dynamic section ends beyond its segment")
        self._stream.seek(offset + skip)
        data = self._stream.read(size)
        if len(data) != size:
            raise ElfError("ends inside a table of its dynamic section")
        return data


def _string(strings: bytes, at: int) -> str:
    end = strings.find(b"\0", at)
    if end < 0:
        raise ElfError("the name of a symbol lies beyond the dynamic string table")
    return os.fsdecode(strings[at:end])
