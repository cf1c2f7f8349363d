"""Symbol versions: what a file needs of which library, and what it defines.

Source: Linux Standard Base Core, "Symbol Versioning".  The records are the same for both classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from struct import Struct, error
from typing import NamedTuple, TypeVar

from bundler.elf.format import ElfError, ReadAt

VER_FLG_BASE, VER_FLG_WEAK = 1, 2
INDEX, HIDDEN = 0x7FFF, 0x8000
"""Parts of an entry of DT_VERSYM."""
MAX_VERSIONS = 1 << 16
_FIRST = 4096
"""Bytes read at first: few files have more."""
_ALL = 4 << 20


T = TypeVar("T")


class Version(NamedTuple):
    """A symbol version; ``hash`` is the ELF hash of ``name`` as the file states it."""

    name: str
    hash: int
    weak: bool
    base: bool = False
    """Only for definitions: the version that names the file itself."""
    number: int = 0
    """By which the symbols of the file name it (DT_VERSYM), without the bit that hides a symbol."""


class VersionNeed(NamedTuple):
    """The versions that are needed of the library with the soname ``file``."""

    file: str
    versions: tuple[Version, ...]


String = Callable[[int], str]
_version: Callable[[tuple[str, int, bool, bool, int]], Version] = partial(tuple.__new__, Version)
"""What ``Version._make`` does, in a third of its time."""


def read_needs(read: ReadAt, offset: int, room: int, mark: str, string: String) -> tuple[VersionNeed, ...]:
    """The version needs at ``offset``, of which ``room`` bytes are mapped; raises ElfError."""
    need, auxiliary = _NEEDS[mark]

    def parse(data: bytes) -> tuple[VersionNeed, ...]:
        needs = []
        at = count = 0
        unpack_need, unpack_version = need.unpack_from, auxiliary.unpack_from
        while True:
            _, _, file, first, following = unpack_need(data, at)
            versions = []
            here = at + first
            while True:
                hashed, flags, index, name, next_one = unpack_version(data, here)
                weak = flags & VER_FLG_WEAK != 0
                versions.append(_version((string(name), hashed, weak, False, index & INDEX)))
                if not next_one:
                    break
                if len(versions) > MAX_VERSIONS:
                    raise ElfError("too many version needs")
                here += next_one
            count += len(versions)
            if count > MAX_VERSIONS:
                raise ElfError("too many version needs")
            needs.append(VersionNeed(string(file), tuple(versions)))
            if not following:
                return tuple(needs)
            at += following

    return _read(parse, read, offset, room, "version needs")


def read_definitions(read: ReadAt, offset: int, room: int, mark: str, string: String) -> tuple[Version, ...]:
    """The version definitions at ``offset``, of which ``room`` bytes are mapped; raises ElfError."""
    definition, auxiliary = _DEFINITIONS[mark]

    def parse(data: bytes) -> tuple[Version, ...]:
        versions = []
        at = 0
        while True:
            _, flags, index, _, hashed, first, following = definition.unpack_from(data, at)
            # The first auxiliary record is the version's own name; the others are its predecessors.
            name, _ = auxiliary.unpack_from(data, at + first)
            weak, base = flags & VER_FLG_WEAK != 0, flags & VER_FLG_BASE != 0
            versions.append(Version(string(name), hashed, weak, base, index & INDEX))
            if not following:
                return tuple(versions)
            if len(versions) > MAX_VERSIONS:
                raise ElfError("too many version definitions")
            at += following

    return _read(parse, read, offset, room, "version definitions")


class Names(NamedTuple):
    """Which strings the version records refer to, as offsets into the dynamic string table."""

    files: tuple[tuple[int, int], ...]
    """Per need: where in the file its ``vn_file`` lies, and its value."""
    others: tuple[int, ...]


def need_names(read: ReadAt, offset: int, room: int, mark: str) -> Names:
    """References of the version needs; raises ElfError."""
    need, auxiliary = _NEEDS[mark]

    def parse(data: bytes) -> tuple[Names]:
        files, others = [], []
        at = 0
        while True:
            _, count, file, first, following = need.unpack_from(data, at)
            files.append((offset + at + 4, file))
            here = at + first
            for _ in range(count):
                _, _, _, name, next_one = auxiliary.unpack_from(data, here)
                others.append(name)
                here += next_one
                if len(others) > MAX_VERSIONS:
                    raise ElfError("too many version needs")
            if not following:
                return (Names(tuple(files), tuple(others)),)
            if len(files) > MAX_VERSIONS:
                raise ElfError("too many version needs")
            at += following

    return _read(parse, read, offset, room, "version needs")[0]


def definition_names(read: ReadAt, offset: int, room: int, mark: str) -> Names:
    """References of the version definitions, their predecessors included; raises ElfError."""
    definition, auxiliary = _DEFINITIONS[mark]

    def parse(data: bytes) -> tuple[Names]:
        others = []
        at = steps = 0
        while True:
            _, _, _, count, _, first, following = definition.unpack_from(data, at)
            here = at + first
            for _ in range(count):
                name, next_one = auxiliary.unpack_from(data, here)
                others.append(name)
                here += next_one
                if len(others) > MAX_VERSIONS:
                    raise ElfError("too many version definitions")
            steps += 1
            if not following:
                return (Names((), tuple(others)),)
            if steps > MAX_VERSIONS:
                raise ElfError("too many version definitions")
            at += following

    return _read(parse, read, offset, room, "version definitions")[0]


def _read(
    parse: Callable[[bytes], tuple[T, ...]], read: ReadAt, offset: int, room: int, what: str
) -> tuple[T, ...]:
    room = min(room, _ALL)
    try:
        return parse(read(offset, min(room, _FIRST)))
    except error:
        if room <= _FIRST:
            raise ElfError(f"the {what} reach beyond their segment") from None
    try:
        return parse(read(offset, room))
    except error:
        raise ElfError(f"the {what} reach beyond their segment") from None


_NEEDS = {mark: (Struct(mark + "HHIII"), Struct(mark + "IHHII")) for mark in "<>"}
_DEFINITIONS = {mark: (Struct(mark + "HHHHIII"), Struct(mark + "II")) for mark in "<>"}
