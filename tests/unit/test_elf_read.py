"""The reader: facts in all four layouts, judged by pyelftools, and hostile files."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path

import elf_forge
import pytest
from elf_forge import Forged, forge
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.elf.read import DlopenNote, ElfError, is_elf, parse_elf, read_elf, read_file

LAYOUTS = [(64, "little"), (32, "little"), (64, "big"), (32, "big")]


def read_bytes(data: bytes):
    return read_elf(io.BytesIO(data))


@pytest.mark.parametrize(("bits", "order"), LAYOUTS)
def test_facts(bits: int, order: str) -> None:
    spec = Forged(
        bits,
        order,
        needed=("liba.so", "/x/libb.so"),
        rpath="/a:/b",
        runpath="/c",
        soname="me",
        versions=(("liba.so", "A_1"), ("liba.so", "A_2"), ("libz.so", "Z")),
        kernel=(3, 2, 0),
        dlopen=json.dumps(
            [{"soname": ["libq.so.2", "libq.so.1"], "feature": "q", "priority": "suggested"}]
        ).encode(),
        spare=3,
    )
    facts = read_bytes(forge(spec))
    assert (facts.elf_class, facts.byte_order, facts.machine, facts.type) == (bits, order, 62, 3)
    assert facts.interpreter == "/lib/ld.so.1"
    assert facts.needed == ("liba.so", "/x/libb.so")
    assert (facts.soname, facts.rpath, facts.runpath) == ("me", "/a:/b", "/c")
    assert [(n.file, [v.name for v in n.versions]) for n in facts.version_needs] == [
        ("liba.so", ["A_1", "A_2"]),
        ("libz.so", ["Z"]),
    ]
    assert facts.version_needs[0].versions[0].hash == elf_forge.elf_hash("A_1")
    assert facts.build_id == b"\x11" * 20
    assert facts.kernel == (3, 2, 0)
    assert facts.isa_needed == 1
    assert facts.dlopen_notes == (DlopenNote(("libq.so.2", "libq.so.1"), "q", "", "suggested"),)
    assert facts.spare_tags == 3
    assert facts.pie and facts.is_executable and not facts.is_library and not facts.nodeflib
    assert not facts.is_static and facts.relro == "none" and facts.exec_stack is False


@pytest.mark.parametrize("file", ["/bin/sh", "/bin/ls", sys.executable])
def test_agrees_with_pyelftools_on_this_machine(file: str) -> None:
    data = Path(file).resolve().read_bytes()
    told, facts = elf_forge.tell(data), read_file(file)
    assert facts == read_bytes(data)
    assert facts.interpreter == told.interpreter
    assert list(facts.needed) == told.needed
    assert (facts.rpath, facts.runpath, facts.soname) == (told.rpath, told.runpath, told.soname)
    assert facts.flags_1 == told.flags_1
    assert [(n.file, [v.name for v in n.versions]) for n in facts.version_needs] == told.versions


KINDS = [
    (Forged(type=2, flags_1=None), "executable"),
    (Forged(), "pie"),
    (Forged(interpreter=None, soname="liba.so", flags_1=None), "library"),
    (Forged(soname="libc.so.6", flags_1=None), "library"),  # glibc's libc.so.6 has an interpreter
    (Forged(interpreter=None, needed=()), "static-pie"),
    (Forged(flags_1=None), "pie"),  # gcc before 2017 wrote no DF_1_PIE
]


@pytest.mark.parametrize(("spec", "kind"), KINDS)
def test_kinds(spec: Forged, kind: str) -> None:
    facts = read_bytes(forge(spec))
    assert facts.is_executable == (kind != "library")
    assert facts.is_library == (kind == "library")
    assert facts.pie == (kind in ("pie", "static-pie"))
    assert facts.is_static == (kind == "static-pie")


def test_a_string_table_that_is_read_in_parts() -> None:
    """Beyond 64 KiB only the strings that are asked for are read."""
    filler = tuple(f"symbol_number_{number:06}_" + "x" * 80 for number in range(900))
    facts = read_bytes(forge(Forged(symbols=filler, rpath="/r" * 300)))
    assert (facts.needed, facts.rpath) == (("libc.so.6",), "/r" * 300)


def broken(spec: Forged = Forged(), *patches: tuple[int, bytes], cut: int | None = None) -> bytes:
    data = bytearray(forge(spec))
    for at, value in patches:
        data[at : at + len(value)] = value
    return bytes(data[:cut])


U64 = struct.Struct("<Q").pack
HOSTILE = {
    "empty": b"",
    "text": b"#!/bin/sh\n",
    "magic alone": b"\x7fELF",
    "class 9": broken(Forged(), (4, b"\x09")),
    "cut in the header": broken(cut=40),
    "cut in the program headers": broken(cut=200),
    "cut in the middle": broken(cut=0x1020),
    "program headers far away": broken(Forged(), (32, U64(1 << 63))),
    "65535 program headers": broken(Forged(), (56, b"\xff\xff")),
    "a strange header size": broken(Forged(), (54, b"\x39\x00")),
    "two interpreters": broken(Forged(), (64, b"\x03\0\0\0")),
    "two dynamic sections": broken(Forged(), (64 + 56, b"\x02\0\0\0")),
    "an interpreter without end": broken(Forged(), (64 + 56 + 32, U64(5))),
    "an interpreter outside": broken(Forged(), (64 + 56 + 8, U64(1 << 40))),
    "a needed name far away": forge(Forged(extra_tags=((1, 1 << 60),))),
    "no end of the dynamic section": broken(Forged(spare=-1, sections=False, payload=b"\1" * 64, tight=True)),
    "a string table far away": forge(Forged(extra_tags=((5, 1 << 60),))),
    "a string table too long": forge(Forged(extra_tags=((10, 1 << 40),))),
    "versions far away": forge(Forged(extra_tags=((0x6FFFFFFE, 1 << 50),))),
    "a dlopen note of nonsense": forge(Forged(dlopen=b"{[")),
    "a dlopen note that is deep": forge(Forged(dlopen=b"[" * 100000)),
    "a dlopen note of a number": forge(Forged(dlopen=b"[1]")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str) -> None:
    with pytest.raises(ElfError):
        read_bytes(HOSTILE[name])


def test_many_long_strings_cost_no_memory() -> None:
    """65 thousand names that all point at the start of one long string would be gigabytes."""
    spec = Forged(rpath="/" * 60000, extra_tags=[(1, 40)] * 15000)
    with pytest.raises(ElfError, match="too long altogether"):
        read_bytes(forge(spec))


@pytest.mark.parametrize("kind", ["directory", "missing", "fifo"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    import os

    path = tmp_path / "x"
    if kind == "directory":
        path.mkdir()
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(ElfError) as caught:
        read_file(path)
    assert caught.value.where == str(path)


def test_detached_debug_information_has_no_dynamic_section() -> None:
    data = bytearray(forge(Forged(interpreter=None, property_note=False, build_id=None)))
    at = 64 + 56 * 4  # PT_PHDR, three PT_LOAD, PT_DYNAMIC
    assert data[at : at + 4] == b"\x02\0\0\0"
    data[at + 32 : at + 40] = bytes(8)
    assert not read_bytes(bytes(data)).is_dynamic


@settings(max_examples=400, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    edits=st.lists(st.tuples(st.integers(0, 1400), st.integers(0, 255)), min_size=1, max_size=6),
    dynamic=st.booleans(),
)
def test_any_damage_gives_facts_or_our_error(
    layout: tuple[int, str], edits: list[tuple[int, int]], dynamic: bool
) -> None:
    data = bytearray(forge(Forged(*layout)))
    for at, value in edits:
        at += 0x2000 if dynamic else 0
        if at < len(data):
            data[at] = value
    try:
        parse_elf(lambda offset, size: bytes(data[offset : offset + size]), len(data))
    except ElfError:
        assert is_elf(data) or data[:4] != b"\x7fELF"
