"""The patcher on made files: every edit, every tier, every layout; pyelftools is the judge."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from elf_forge import Forged, Told, forge, tell
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.elf import format as f
from bundler.elf.check import check_plan
from bundler.elf.edits import Edits
from bundler.elf.image import Write, overlay
from bundler.elf.patch import patch_file
from bundler.elf.place import Tier
from bundler.elf.plan import plan_edits
from bundler.elf.read import ElfError, parse_elf, read_elf
from bundler.elf.tables import file_offset

LAYOUTS = [(64, "little"), (32, "little"), (64, "big"), (32, "big")]
LOADER = "/.deps/rt/1/lib/ld-linux-x86-64.so.2"
RPATH = "/.deps/rt/1/lib:/.deps/shell/1/lib"


def patch(data: bytes, edits: Edits) -> tuple[bytes, Tier]:
    """Edit in memory, with all that the product checks; a second run must be a no-op."""

    def read(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    facts = parse_elf(read, len(data))
    plan = plan_edits(read, facts, edits)
    if plan.writes:
        check_plan(read, facts, edits, plan)
    result = overlay(read, plan.writes)(0, plan.size)
    assert len(result) == plan.size
    again = parse_elf(lambda offset, size: result[offset : offset + size], len(result))
    assert plan_edits(lambda offset, size: result[offset : offset + size], again, edits).writes == ()
    return result, plan.tier


def same_but(before: Told, after: Told, **changed: object) -> None:
    assert after == replace(before, **changed)


EDITS: dict[str, tuple[Edits, dict[str, object]]] = {
    "interpreter longer": (Edits(interpreter=LOADER), {"interpreter": LOADER}),
    "interpreter equal": (Edits(interpreter="/lib/ld.so.9"), {"interpreter": "/lib/ld.so.9"}),
    "interpreter shorter": (Edits(interpreter="/ld"), {"interpreter": "/ld"}),
    "rpath new": (Edits(rpath=RPATH), {"rpath": RPATH}),
    "runpath new": (Edits(runpath=RPATH), {"runpath": RPATH}),
    "nodeflib": (Edits(no_default_lib=True), {"flags_1": 0x08000800}),
    "flags": (Edits(set_flags_1=1, clear_flags_1=0x08000000), {"flags_1": 1}),
    "soname new": (Edits(soname="libnew.so.1"), {"soname": "libnew.so.1"}),
    "needed added": (
        Edits(add_needed=("libx.so", "liby.so")),
        {"needed": ["libx.so", "liby.so", "libc.so.6", "libm.so.6"]},
    ),
    "needed removed": (Edits(remove_needed=("libm.so.6",)), {"needed": ["libc.so.6"]}),
    "needed replaced": (
        Edits(replace_needed={"libc.so.6": "/.deps/rt/1/lib/libc.so.6"}),
        {
            "needed": ["/.deps/rt/1/lib/libc.so.6", "libm.so.6"],
            "versions": [("/.deps/rt/1/lib/libc.so.6", ["GLIBC_2.2.5"])],
        },
    ),
    "needed replaced by a shorter one": (
        Edits(replace_needed={"libc.so.6": "c.so"}),
        {"needed": ["c.so", "libm.so.6"], "versions": [("c.so", ["GLIBC_2.2.5"])]},
    ),
    "all at once": (
        Edits(
            interpreter=LOADER,
            rpath=RPATH,
            no_default_lib=True,
            soname="s",
            replace_needed={
                "libc.so.6": "/.deps/rt/1/lib/libc.so.6",
                "libm.so.6": "/.deps/rt/1/lib/libm.so.6",
            },
        ),
        {
            "interpreter": LOADER,
            "rpath": RPATH,
            "flags_1": 0x08000800,
            "soname": "s",
            "needed": ["/.deps/rt/1/lib/libc.so.6", "/.deps/rt/1/lib/libm.so.6"],
            "versions": [("/.deps/rt/1/lib/libc.so.6", ["GLIBC_2.2.5"])],
        },
    ),
}
LONG_NAMES = tuple(f"symbol_{number}_" + "x" * 150 for number in range(60))
"""A string table that fits into no slack: then the versions behind it move."""
SHAPES = {
    "slack": {},
    "tight": {"tight": True},
    "tight, no property note": {"tight": True, "property_note": False},
    "tight, no notes": {"tight": True, "property_note": False, "build_id": None},
    "tight, no sections": {"tight": True, "sections": False, "property_note": False},
    "no sections, no gnu hash": {"tight": True, "sections": False, "gnu_hash": False, "property_note": False},
    "no spare tags": {"spare": 0},
    "no spare tags, tight": {"spare": 0, "tight": True, "property_note": False},
    "bss": {"bss": 0x123456, "tight": True},
    "fixed address": {"type": 2, "tight": True},
    "long names": {"symbols": LONG_NAMES},
    "long names, tight": {"symbols": LONG_NAMES, "tight": True, "property_note": False},
}


@pytest.mark.parametrize(("edit", "shape", "layout"), list(product(EDITS, SHAPES, LAYOUTS)))
def test_edits(edit: str, shape: str, layout: tuple[int, str]) -> None:
    edits, changed = EDITS[edit]
    data = forge(Forged(*layout, needed=("libc.so.6", "libm.so.6"), **SHAPES[shape]))
    result, _ = patch(data, edits)
    if not SHAPES[shape].get("sections", True):
        # pyelftools finds versions by their section; ours are checked by the product itself.
        changed = {name: value for name, value in changed.items() if name != "versions"}
    same_but(tell(data), tell(result), **changed)


PATHS = ["/a", "/abc:/def", "/abc:/def:/ghi-longer-than-before"]


@pytest.mark.parametrize(
    ("old", "tag", "new", "new_tag"),
    list(product([*PATHS, None], ["rpath", "runpath"], [*PATHS, ""], ["rpath", "runpath"])),
)
def test_paths(old: str | None, tag: str, new: str, new_tag: str) -> None:
    data = forge(Forged(**{tag: old}))
    result, _ = patch(data, Edits(**{new_tag: new}))
    told = tell(result)
    assert getattr(told, new_tag) == (new or None)
    assert getattr(told, "runpath" if new_tag == "rpath" else "rpath") is None


def test_both_paths_are_a_question() -> None:
    data = forge(Forged(rpath="/a", runpath="/b"))
    with pytest.raises(ElfError, match="both DT_RPATH and DT_RUNPATH"):
        patch(data, Edits(add_rpath=("/c",)))
    assert tell(patch(data, Edits(remove_rpath=True))[0]).runpath is None
    told = tell(patch(data, Edits(rpath="/z"))[0])
    assert (told.rpath, told.runpath) == ("/z", None)


@pytest.mark.parametrize("tag", ["rpath", "runpath"])
def test_added_and_kept_directories(tag: str) -> None:
    data = forge(Forged(**{tag: "/a:/b"}))
    assert getattr(tell(patch(data, Edits(add_rpath=("/b", "/c")))[0]), tag) == "/a:/b:/c"
    assert getattr(tell(patch(data, Edits(keep_rpath=("/b",)))[0]), tag) == "/b"
    assert getattr(tell(patch(data, Edits(keep_rpath=()))[0]), tag) is None


TIERS = [
    (Forged(), Edits(), Tier.NOTHING),
    (Forged(rpath=RPATH), Edits(rpath=RPATH), Tier.NOTHING),
    (Forged(interpreter=None), Edits(interpreter=LOADER), Tier.NOTHING),
    (Forged(), Edits(interpreter="/lib/l"), Tier.SLOT),
    (Forged(rpath=RPATH), Edits(rpath="/x"), Tier.SLOT),
    (Forged(rpath=RPATH), Edits(runpath=RPATH), Tier.SLOT),
    (Forged(), Edits(no_default_lib=True), Tier.SLOT),
    (Forged(flags_1=None), Edits(no_default_lib=True), Tier.SLOT),
    (Forged(), Edits(interpreter=LOADER, rpath=RPATH), Tier.SLACK),
    (Forged(tight=True), Edits(interpreter=LOADER), Tier.APPENDED),
    (Forged(tight=True, property_note=False), Edits(rpath=RPATH), Tier.EVICTED),
    (Forged(spare=0), Edits(rpath=RPATH), Tier.APPENDED),
    (Forged(symbols=LONG_NAMES), Edits(rpath=RPATH), Tier.SLACK),
    (Forged(spare=0, property_note=False), Edits(rpath=RPATH), Tier.EVICTED),
]


@pytest.mark.parametrize(("spec", "edits", "tier"), TIERS)
def test_tiers(spec: Forged, edits: Edits, tier: Tier) -> None:
    data = forge(spec)
    result, reached = patch(data, edits)
    assert reached == tier
    assert (len(result) == len(data)) == (tier <= Tier.SLACK)
    # Whatever happens, the program headers stay at their place: strip needs them there.
    assert result[32:40] == data[32:40]


HARM: dict[str, tuple[Edits, int, bytes, str]] = {
    "rpath": (Edits(rpath=RPATH), f.DT_STRTAB, b"/.deps/rt", "not what was asked for"),
    "name of a needed version": (Edits(rpath=RPATH), f.DT_STRTAB, b"GLIBC_2.2.5", "symbol versions"),
    "the same, of a renamed library": (
        Edits(replace_needed={"libc.so.6": "/x"}),
        f.DT_STRTAB,
        b"GLIBC_2.2.5",
        "symbol versions",
    ),
    "version needs": (Edits(rpath=RPATH), f.DT_VERNEED, b"", "symbol versions"),
    "version needs, not of the edit": (Edits(no_default_lib=True), f.DT_VERNEED, b"", "symbol versions"),
}


@pytest.mark.parametrize("shape", ["slack", "tight", "long names"])
@pytest.mark.parametrize("harm", HARM)
def test_a_plan_that_does_harm_is_refused(harm: str, shape: str) -> None:
    """Post-conditions see what a fault of the planner would do."""
    edits, tag, text, why = HARM[harm]
    data = forge(Forged(needed=("libc.so.6", "libm.so.6"), **SHAPES[shape]))

    def read(offset: int, size: int) -> bytes:
        return data[offset : offset + size]

    facts = parse_elf(read, len(data))
    plan = plan_edits(read, facts, edits)
    result = overlay(read, plan.writes)(0, plan.size)
    after = parse_elf(overlay(read, plan.writes), plan.size)
    at, _ = file_offset(after.segments, dict(after.dynamic)[tag])
    # The second byte of the text or, of a record, its number of entries or the name's place.
    at = result.index(text, at) + 1 if text else at + 4
    harmed = plan._replace(writes=(*plan.writes, Write(at, bytes([result[at] ^ 1]))))
    with pytest.raises(ElfError, match="cannot be edited soundly") as caught:
        check_plan(read, facts, edits, harmed)
    assert why in (caught.value.why or "")


def test_shared_strings_stay() -> None:
    """The rpath is the tail of a symbol, and a symbol the tail of the rpath."""
    data = forge(Forged(symbols=("get/a/lib", "exit"), rpath="/a/lib"))
    assert tell(patch(data, Edits(rpath="/b"))[0]).symbols == ["", "get/a/lib", "exit"]
    data = forge(Forged(symbols=("exit",), rpath="/some/exit"))
    table = forge(Forged(symbols=("xx/some/exit", "exit"), rpath="/some/exit"))
    assert tell(patch(data, Edits(remove_rpath=True))[0]).symbols == ["", "exit"]
    assert tell(patch(table, Edits(rpath="/q"))[0]).symbols == ["", "xx/some/exit", "exit"]


@pytest.mark.parametrize("shape", SHAPES)
def test_abandoned_strings_are_zeroed(shape: str) -> None:
    data = forge(Forged(rpath="/home/builder/secret", **SHAPES[shape]))
    result, _ = patch(data, Edits(rpath=RPATH, interpreter=LOADER))
    assert b"secret" not in result and b"/lib/ld.so.1" not in result
    kept, _ = patch(data, Edits(rpath=RPATH, keep_strings=True))
    assert b"secret" in kept


@pytest.mark.parametrize("shape", SHAPES)
def test_a_hundred_edits_grow_little(shape: str) -> None:
    data = forge(Forged(**SHAPES[shape]))
    size = len(data)
    for number in range(100):
        path = f"/round/{number:03}" + "/x" * (number % 5)
        data, _ = patch(data, Edits(rpath=path, interpreter=f"/ld/{number % 7}" + "y" * (number % 3)))
        told = tell(data)
        assert told.rpath == path
    assert len(data) < size + 0x2000 + (0x124000 if "bss" in shape else 0)


def test_room_is_left_for_the_next_edit() -> None:
    data = forge(Forged(tight=True, spare=0))
    first, tier = patch(data, Edits(rpath=RPATH))
    assert tier is Tier.APPENDED
    second, tier = patch(first, Edits(rpath=RPATH + ":/.deps/libs/1/lib", soname="more.so"))
    assert (tier, len(second)) == (Tier.SLOT, len(first))


def test_mips_debug_map_counts_from_its_own_place() -> None:
    """DT_MIPS_RLD_MAP_REL is relative to the tag's address, which moves when tags come before it."""
    tag = 0x70000035
    data = forge(Forged(machine=8, extra_tags=((tag, 0x100),)))
    before, after = (read_elf(io.BytesIO(d)) for d in (data, patch(data, Edits(add_needed=("x.so",)))[0]))

    def target(facts) -> int:
        dynamic = next(s for s in facts.segments if s.type == 2)
        index = [t for t, _ in facts.dynamic].index(tag)
        return dynamic.vaddr + index * 16 + facts.dynamic[index][1]

    assert target(before) == target(after)
    assert before.dynamic != after.dynamic


REFUSED = {
    "object file": (Forged(type=1), Edits(rpath="/a"), "object file"),
    "core dump": (Forged(type=4), Edits(rpath="/a"), "core dump"),
    "static-pie": (Forged(interpreter=None, needed=()), Edits(rpath="/a"), "static-pie"),
    "C library": (Forged(soname="libc.so.6"), Edits(rpath="/a"), "C library"),
    "loader": (
        Forged(soname="ld-linux-x86-64.so.2", interpreter=None, flags_1=None),
        Edits(rpath="/a", core=True),
        "interpreter",
    ),
    "payload": (Forged(tight=True, payload=b"PAYLOAD"), Edits(rpath="/a"), "7 bytes"),
    "versions needed": (Forged(), Edits(remove_needed=("libc.so.6",)), "GLIBC_2.2.5"),
    "rpath twice": (Forged(rpath="/a", extra_tags=((15, 1),)), Edits(rpath="/b"), "2 times"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name: str) -> None:
    spec, edits, why = REFUSED[name]
    with pytest.raises(ElfError) as caught:
        patch(forge(spec), edits)
    assert why in str(caught.value)


def test_the_c_library_when_asked() -> None:
    data = forge(Forged(soname="libc.so.6", flags_1=1))
    result, tier = patch(data, Edits(no_default_lib=True, core=True))
    assert tell(result).flags_1 == 0x801
    assert tier is Tier.SLOT and sum(a != b for a, b in zip(data, result, strict=True)) == 1


def test_a_payload_survives() -> None:
    data = forge(Forged(tight=True, payload=b"PAYLOAD"))
    assert patch(data, Edits(interpreter="/l"))[0].endswith(b"PAYLOAD")
    grown, tier = patch(data, Edits(rpath=RPATH, overlay=True))
    assert tier is Tier.APPENDED and grown[len(data) - 7 : len(data)] == b"PAYLOAD"


def other_system() -> bytes:
    data = bytearray(forge(Forged()))
    data[7] = 9
    return bytes(data)


def packed() -> bytes:
    data = bytearray(forge(Forged(sections=False)))
    data[0x300:0x304] = b"UPX!"
    return bytes(data)


@pytest.mark.parametrize(("make", "why"), [(other_system, "OSABI"), (packed, "UPX")])
def test_foreign_files_are_refused(make, why: str) -> None:
    with pytest.raises(ElfError, match="cannot be edited") as caught:
        patch(make(), Edits(rpath="/a"))
    assert why in str(caught.value)


BAD_EDITS = [
    {"rpath": "/a", "runpath": "/b"},
    {"interpreter": ""},
    {"interpreter": "/a\0b"},
    {"interpreter": "/" + "a" * 4096},
    {"remove_needed": ("a",), "replace_needed": {"a": "b"}},
    {"replace_needed": {"a": "b", "b": "c"}},
    {"remove_needed": ("a",), "add_needed": ("a",)},
    {"rpath": "/a", "remove_rpath": True},
    {"set_flags_1": 1, "clear_flags_1": 1},
    {"soname": "a\nb"},
]


@pytest.mark.parametrize("arguments", BAD_EDITS)
def test_contradictions_are_refused_at_once(arguments: dict[str, object]) -> None:
    with pytest.raises(ElfError):
        Edits(**arguments)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(forge(Forged()))
    patch_file(file, Edits(rpath="/\udcff\udcfe"))
    assert b"/\xff\xfe\0" in file.read_bytes()
    with file.open("rb") as stream:
        assert read_elf(stream).rpath == "/\udcff\udcfe"


names = st.text("abc/.", min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    shape=st.sampled_from(sorted(SHAPES)),
    old=st.none() | names,
    symbols=st.lists(names, max_size=6),
    rounds=st.lists(st.tuples(names, names, st.booleans(), names), min_size=1, max_size=4),
)
def test_any_sequence_of_edits(layout, shape, old, symbols, rounds) -> None:
    data = forge(Forged(*layout, **{"rpath": old, "symbols": symbols, **SHAPES[shape]}))
    expected = tell(data)
    for path, interpreter, runpath, soname in rounds:
        tag = "runpath" if runpath else "rpath"
        data, _ = patch(
            data, Edits(interpreter=interpreter, soname=soname, no_default_lib=True, **{tag: path})
        )
        expected = replace(
            expected,
            interpreter=interpreter,
            soname=soname,
            flags_1=0x08000800,
            rpath=None if runpath else path,
            runpath=path if runpath else None,
        )
        assert tell(data) == expected
