"""Makes ELF files of any class and byte order, laid out as linkers lay them out, and compares two.

Nothing in them is run.  The comparison reads with pyelftools, so that our reader is not its own judge.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.notes import iter_notes

PAGE = 0x1000


@dataclass(frozen=True)
class Forged:
    """What goes into a file.  ``tight`` leaves no slack behind segments; ``spare`` counts free tags."""

    bits: Literal[32, 64] = 64
    order: Literal["little", "big"] = "little"
    type: int = 3
    machine: int = 62
    interpreter: str | None = "/lib/ld.so.1"
    needed: Sequence[str] = ("libc.so.6",)
    soname: str | None = None
    rpath: str | None = None
    runpath: str | None = None
    flags_1: int | None = 0x08000000
    symbols: Sequence[str] = ("puts", "exit")
    versions: Sequence[tuple[str, str]] = (("libc.so.6", "GLIBC_2.2.5"),)
    property_note: bool = True
    build_id: bytes | None = b"\x11" * 20
    kernel: tuple[int, int, int] | None = None
    dlopen: bytes | None = None
    spare: int = 4
    tight: bool = False
    sections: bool = True
    gnu_hash: bool = True
    bss: int = 0
    payload: bytes = b""
    extra_tags: Sequence[tuple[int, int]] = ()
    merge: bool = True
    """Let strings share their tails, as linkers do."""


@dataclass
class _Blob:
    name: str
    type: int
    flags: int
    data: bytes
    align: int = 8
    offset: int = 0
    address: int = 0
    link: str = ""
    entsize: int = 0
    info: int = 0


class _Strings:
    def __init__(self, merge: bool) -> None:
        self.data = bytearray(b"\0")
        self.merge = merge

    def add(self, text: str) -> int:
        raw = text.encode() + b"\0"
        found = self.data.find(raw) if self.merge else -1
        if found >= 0:
            return found
        self.data += raw
        return len(self.data) - len(raw)


def elf_hash(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high
    return value


def note(mark: str, owner: bytes, kind: int, data: bytes, align: int = 4) -> bytes:
    body = struct.pack(mark + "III", len(owner), len(data), kind) + owner + bytes(-len(owner) % 4) + data
    return body + bytes(-len(body) % align)


def forge(spec: Forged) -> bytes:
    """The bytes of the file."""
    mark = "<" if spec.order == "little" else ">"
    wide = spec.bits == 64
    word = mark + ("Q" if wide else "I")
    size = 8 if wide else 4
    strings = _Strings(spec.merge)

    # Symbols first, longest first, so that shorter strings may be their tails.
    names = [strings.add(name) for name in spec.symbols]
    symbols = b""
    for at in (0, *names):
        if wide:
            symbols += struct.pack(mark + "IBBHQQ", at, 0x12 if at else 0, 0, 0, 0, 0)
        else:
            symbols += struct.pack(mark + "IIIBBH", at, 0, 0, 0x12 if at else 0, 0, 0)
    needs = b""
    files: dict[str, list[str]] = {}
    for file, version in spec.versions:
        files.setdefault(file, []).append(version)
    for number, (file, versions) in enumerate(files.items()):
        last = number == len(files) - 1
        needs += struct.pack(
            mark + "HHIII", 1, len(versions), strings.add(file), 16, 0 if last else 16 + 16 * len(versions)
        )
        for index, version in enumerate(versions):
            following = 0 if index == len(versions) - 1 else 16
            needs += struct.pack(
                mark + "IHHII", elf_hash(version), 0, index + 2, strings.add(version), following
            )
    tags: list[tuple[int, int]] = [(1, strings.add(name)) for name in spec.needed]
    for tag, text in ((14, spec.soname), (15, spec.rpath), (29, spec.runpath)):
        if text is not None:
            tags.append((tag, strings.add(text)))

    blobs: list[_Blob] = []
    if spec.interpreter is not None:
        blobs.append(_Blob(".interp", 1, 2, spec.interpreter.encode() + b"\0", 1))
    if spec.property_note:
        pad = 8 if wide else 4
        isa = struct.pack(mark + "III", 0xC0008002, 4, 1)
        isa += bytes(-len(isa) % pad)
        blobs.append(_Blob(".note.gnu.property", 7, 2, note(mark, b"GNU\0", 5, isa, pad), pad))
    notes = b""
    if spec.build_id is not None:
        notes += note(mark, b"GNU\0", 3, spec.build_id)
    if spec.kernel is not None:
        notes += note(mark, b"GNU\0", 1, struct.pack(mark + "4I", 0, *spec.kernel))
    if spec.dlopen is not None:
        notes += note(mark, b"FDO\0", 0x407C0C0A, spec.dlopen)
    if notes:
        blobs.append(_Blob(".note.gnu.build-id", 7, 2, notes, 4))
    count = len(names) + 1
    sysv = struct.pack(mark + f"{2 + 1 + count}I", 1, count, *([0] * (1 + count)))
    if spec.gnu_hash:
        # No defined symbols: one empty bucket, all symbols before the first hashed one.
        empty = struct.pack(mark + "4I", 1, count, 1, 0) + bytes(size + 4)
        blobs.append(_Blob(".gnu.hash", 0x6FFFFFF6, 2, empty, link=".dynsym"))
    blobs.append(_Blob(".hash", 5, 2, sysv, 8, link=".dynsym", entsize=4))
    blobs.append(_Blob(".dynsym", 11, 2, symbols, 8, link=".dynstr", entsize=24 if wide else 16, info=1))
    blobs.append(_Blob(".dynstr", 3, 2, bytes(strings.data), 1))
    if needs:
        versym = struct.pack(mark + f"{count}H", 0, *[2] * len(names))
        blobs.append(_Blob(".gnu.version", 0x6FFFFFFF, 2, versym, 2, link=".dynsym", entsize=2))
        blobs.append(_Blob(".gnu.version_r", 0x6FFFFFFE, 2, needs, 8, link=".dynstr", info=len(files)))
    text = _Blob(".text", 1, 6, b"\xf4" * 64, 16)

    segment_count = 5 + (spec.interpreter is not None) + 2 * spec.property_note + bool(notes) + 1
    header_size = 64 if wide else 52
    segment_size = 56 if wide else 32
    base = 0x400000 if spec.type == 2 else 0
    at = header_size + segment_count * segment_size
    for blob in blobs:
        at += -at % blob.align
        blob.offset, blob.address = at, base + at
        at += len(blob.data)
    read_end = at

    def next_segment(end: int, address: int) -> tuple[int, int]:
        """Where the next loaded segment begins, in the file and in memory."""
        if spec.tight:
            end += -end % 16
            return end, address - address % PAGE + PAGE + end % PAGE
        return end + -end % PAGE, address + -address % PAGE

    text.offset, text.address = next_segment(at, base + at)
    at = text.offset + len(text.data)

    by_name = {blob.name: blob for blob in blobs}
    tags += [
        (5, by_name[".dynstr"].address),
        (10, len(strings.data)),
        (6, by_name[".dynsym"].address),
        (11, 24 if wide else 16),
        (4, by_name[".hash"].address),
    ]
    if spec.gnu_hash:
        tags.append((0x6FFFFEF5, by_name[".gnu.hash"].address))
    if spec.interpreter is not None:
        tags.append((21, 0))
    if needs:
        tags += [
            (0x6FFFFFF0, by_name[".gnu.version"].address),
            (0x6FFFFFFE, by_name[".gnu.version_r"].address),
            (0x6FFFFFFF, len(files)),
        ]
    if spec.flags_1 is not None:
        tags.append((0x6FFFFFFB, spec.flags_1))
    tags += spec.extra_tags
    dynamic = _Blob(
        ".dynamic",
        6,
        3,
        b"".join(struct.pack(mark + word[1] * 2, *tag) for tag in tags) + bytes(2 * size * (1 + spec.spare)),
        8,
        link=".dynstr",
        entsize=2 * size,
    )
    dynamic.offset, dynamic.address = next_segment(at, text.address + len(text.data))
    at = dynamic.offset + len(dynamic.data)

    def segment(
        kind: int, flags: int, offset: int, address: int, length: int, memory: int, align: int
    ) -> bytes:
        if wide:
            return struct.pack(
                mark + "IIQQQQQQ", kind, flags, offset, address, address, length, memory, align
            )
        return struct.pack(mark + "8I", kind, offset, address, address, length, memory, flags, align)

    def of(kind: int, blob: _Blob, flags: int = 4, align: int | None = None) -> bytes:
        length = len(blob.data)
        return segment(kind, flags, blob.offset, blob.address, length, length, align or blob.align)

    table = segment(6, 4, header_size, base + header_size, *[segment_count * segment_size] * 2, 8)
    if spec.interpreter is not None:
        table += of(3, by_name[".interp"])
    table += segment(1, 4, 0, base, read_end, read_end, PAGE)
    table += of(1, text, 5, PAGE)
    length = len(dynamic.data)
    table += segment(1, 6, dynamic.offset, dynamic.address, length, length + spec.bss, PAGE)
    table += of(2, dynamic, 6)
    if spec.property_note:
        table += of(4, by_name[".note.gnu.property"])
    if notes:
        table += of(4, by_name[".note.gnu.build-id"])
    if spec.property_note:
        table += of(0x6474E553, by_name[".note.gnu.property"])
    table += segment(0x6474E551, 6, 0, 0, 0, 0, 16)
    assert len(table) == segment_count * segment_size

    everything = [*blobs, text, dynamic]
    section_offset = section_count = 0
    tail = b""
    if spec.sections:
        names_data = b"\0" + b"\0".join(b.name.encode() for b in everything) + b"\0.shstrtab\0"
        named = _Blob(".shstrtab", 3, 0, names_data, 1, offset=at)
        order = ["", *(blob.name for blob in everything)]
        headers = bytes(64 if wide else 40)
        for blob in [*everything, named]:
            fields = (
                names_data.find(b"\0" + blob.name.encode() + b"\0") + 1,
                blob.type,
                blob.flags,
                blob.address,
                blob.offset,
                len(blob.data),
                order.index(blob.link) if blob.link else 0,
                blob.info,
                blob.align,
                blob.entsize,
            )
            headers += struct.pack(mark + ("IIQQQQIIQQ" if wide else "10I"), *fields)
        tail = names_data + bytes(-(at + len(names_data)) % 8)
        section_offset = at + len(tail)
        section_count = len(everything) + 2
        tail += headers
    data = bytearray(at)
    ident = b"\x7fELF" + bytes((2 if wide else 1, 1 if mark == "<" else 2, 1)) + bytes(9)
    data[: header_size + len(table)] = (
        ident
        + struct.pack(
            mark + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"),
            spec.type,
            spec.machine,
            1,
            text.address,
            header_size,
            section_offset,
            0,
            header_size,
            segment_size,
            segment_count,
            64 if wide else 40,
            section_count,
            section_count - 1 if section_count else 0,
        )
        + table
    )
    for blob in everything:
        data[blob.offset : blob.offset + len(blob.data)] = blob.data
    return bytes(data) + tail + spec.payload


@dataclass
class Told:
    """What pyelftools says of a file."""

    interpreter: str | None = None
    needed: list[str] = field(default_factory=list)
    rpath: str | None = None
    runpath: str | None = None
    soname: str | None = None
    flags_1: int = 0
    versions: list[tuple[str, list[str]]] = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    notes: list[tuple[str, Any]] = field(default_factory=list)
    section_names: list[str] = field(default_factory=list)
    text: bytes = b""


def tell(data: bytes) -> Told:
    """Read a file by other hands than ours."""
    elf = ELFFile(io.BytesIO(data))
    told = Told()
    for segment in elf.iter_segments():
        kind = segment["p_type"]
        if kind == "PT_INTERP":
            told.interpreter = segment.get_interp_name().split("\0")[0]
        if isinstance(segment, DynamicSegment):
            for tag in segment.iter_tags():
                match tag.entry.d_tag:
                    case "DT_NEEDED":
                        told.needed.append(tag.needed)
                    case "DT_RPATH":
                        told.rpath = tag.rpath
                    case "DT_RUNPATH":
                        told.runpath = tag.runpath
                    case "DT_SONAME":
                        told.soname = tag.soname
                    case "DT_FLAGS_1":
                        told.flags_1 = tag.entry.d_val
            told.symbols = [symbol.name for symbol in segment.iter_symbols()]
        if kind in ("PT_NOTE", "PT_GNU_PROPERTY"):
            for item in iter_notes(elf, segment["p_offset"], segment["p_filesz"]):
                if (found := (item["n_type"], item["n_descdata"])) not in told.notes:
                    told.notes.append(found)
    for section in elf.iter_sections():
        told.section_names.append(section.name)
        if section.name == ".gnu.version_r":
            told.versions = [
                (need.name, [v.name for v in all_of]) for need, all_of in section.iter_versions()
            ]
        if section.name == ".dynsym":
            assert [symbol.name for symbol in section.iter_symbols()] == told.symbols
        if section.name == ".text":
            told.text = section.data()
        if section.name == ".interp":
            assert section.data().split(b"\0")[0].decode() == told.interpreter
        if section.name == ".dynamic":
            assert [t.entry.d_tag for t in section.iter_tags()][-1] == "DT_NULL"
    told.notes.sort(key=repr)
    return told
