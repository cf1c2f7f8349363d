"""Structured fuzzing of the reader, the patcher and the verifier.

    python tests/elf/fuzz.py --cases 1000000 --seed 1 --save out/fuzz

A case is a made file with fields of its headers, program headers, sections, dynamic entries, notes and
versions set to what hurts, and then edited.  Whatever it claims, nothing may come but facts, a sound
patch or one of our errors, in bounded time, memory and size.  A case that fails is one line of JSON: kept
in ``found.jsonl``, it is tried by every run of the tests.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "unit")]

from elf_forge import Forged, forge  # noqa: E402

from bundler.closure.report import Scope  # noqa: E402
from bundler.closure.verify import verify  # noqa: E402
from bundler.elf import format as f  # noqa: E402
from bundler.elf.check import check_plan  # noqa: E402
from bundler.elf.edits import Edits  # noqa: E402
from bundler.elf.format import ElfError  # noqa: E402
from bundler.elf.image import overlay  # noqa: E402
from bundler.elf.place import MAX_GROWTH  # noqa: E402
from bundler.elf.plan import plan_edits  # noqa: E402
from bundler.elf.read import parse_elf  # noqa: E402
from bundler.elf.tables import read_header  # noqa: E402
from bundler.errors import InputError  # noqa: E402
from bundler.target import ARCHITECTURES  # noqa: E402
from bundler.tree import Entry, Kind  # noqa: E402

SECONDS = 2.0
"""What one case may take at most, on a machine that has other things to do."""
GROWTH = MAX_GROWTH + (1 << 20)
FOUND = HERE / "found.jsonl"
VERIFY_EVERY = 16

LAYOUTS: Sequence[tuple[Any, Any]] = ((64, "little"), (32, "little"), (64, "big"), (32, "big"))
SHAPES: dict[str, dict[str, Any]] = {
    "slack": {},
    "tight": {"tight": True},
    "bare": {"tight": True, "property_note": False, "build_id": None},
    "no sections": {"tight": True, "sections": False, "property_note": False},
    "no spare": {"spare": 0},
    "paths": {"rpath": "/old/path:/x", "soname": "libme.so", "symbols": ("a/x", "path:/x", "end")},
    "library": {"interpreter": None, "soname": "liba.so.1", "flags_1": None},
    "fixed": {"type": 2, "bss": 0x3000},
    "notes": {"kernel": (3, 2, 0), "dlopen": b'[{"soname":["libq.so"]}]'},
    "long names": {"symbols": tuple(f"symbol_{n}_" + "x" * 250 for n in range(30)), "rpath": "/old"},
    "versions": {"versions": (("libc.so.6", "A"), ("libc.so.6", "B"), ("libm.so.6", "C"))},
}
EDITS: Sequence[Edits] = (
    Edits(interpreter="/.deps/rt/1/lib/ld-linux-x86-64.so.2", rpath="/.deps/rt/1/lib", no_default_lib=True),
    Edits(runpath="/a", soname="s", add_needed=("x.so",)),
    Edits(remove_rpath=True, replace_needed={"libc.so.6": "/.deps/rt/1/lib/libc.so.6"}),
    Edits(rpath="/long" * 300, keep_strings=True, overlay=True),
    Edits(interpreter="/l", add_rpath=("/b",)),
)


@dataclass(frozen=True)
class Case:
    """A made file, what is written over it, where it is cut, and which edit it is given."""

    layout: int
    shape: str
    patches: tuple[tuple[int, str], ...]
    cut: int | None
    edit: int

    def data(self) -> bytes:
        data = bytearray(base(self.layout, self.shape))
        for at, value in self.patches:
            raw = bytes.fromhex(value)
            data[at : at + len(raw)] = raw
        return bytes(data[: self.cut])

    def to_json(self) -> str:
        return json.dumps([self.layout, self.shape, self.patches, self.cut, self.edit])


def case_from_json(line: str) -> Case:
    layout, shape, patches, cut, edit = json.loads(line)
    return Case(layout, shape, tuple((at, value) for at, value in patches), cut, edit)


@cache
def base(layout: int, shape: str) -> bytes:
    return forge(Forged(*LAYOUTS[layout], needed=("libc.so.6", "libm.so.6"), **SHAPES[shape]))


@cache
def fields(layout: int, shape: str) -> tuple[tuple[int, int], ...]:
    """Where the numbers are that a file claims: offset and size in bytes."""
    data = base(layout, shape)
    records, header = read_header(data)
    word = records.bits // 8
    found = [(at, 1) for at in range(4, 16)]
    found += [(16, 2), (18, 2), (20, 4)] + [(24 + word * index, word) for index in range(3)]
    found += [(24 + 3 * word + 4 + 2 * index, 2) for index in range(6)]
    found += _table(header.phoff, header.phnum, records.segment.size, word)
    found += _table(header.shoff, header.shnum, records.section.size, word)
    for segment in records.unpack_segments(
        data[header.phoff : header.phoff + header.phnum * records.segment.size]
    ):
        if segment.type == f.PT_DYNAMIC:
            # The dynamic section counts thrice: most of what is read hangs on it.
            found += 3 * [(at, word) for at in range(segment.offset, segment.offset + segment.filesz, word)]
        if segment.type == f.PT_NOTE:
            found += [(at, 4) for at in range(segment.offset, segment.offset + segment.filesz, 4)]
    table = data[header.shoff : header.shoff + header.shnum * records.section.size]
    for _, kind, _, _, offset, size, *_ in records.section.iter_unpack(table):
        if kind in (f.SHT_HASH, f.SHT_GNU_HASH, 0x6FFFFFFE, f.SHT_DYNSYM):
            found += [(at, 4) for at in range(offset, offset + size, 4)]
    return tuple(found)


def _table(offset: int, count: int, size: int, word: int) -> list[tuple[int, int]]:
    return [(offset + at, 4 if at % size < 8 else word) for at in range(0, count * size, word)]


def make(random_numbers: random.Random) -> Case:
    """A case with one to six fields changed."""
    layout, shape = random_numbers.randrange(4), random_numbers.choice(list(SHAPES))
    data = base(layout, shape)
    order = LAYOUTS[layout][1]
    places = fields(layout, shape)
    patches = []
    for _ in range(random_numbers.choice((1, 1, 1, 2, 2, 3, 6))):
        at, size = random_numbers.choice(places)
        if random_numbers.random() < 0.1:
            at, size = random_numbers.randrange(len(data)), 1
        other, other_size = random_numbers.choice(places)
        value = random_numbers.choice(
            (
                0,
                1,
                random_numbers.randrange(64),
                random_numbers.randrange(len(data) + 64),
                len(data) + random_numbers.randrange(-8, 9),
                1 << random_numbers.randrange(64),
                (1 << random_numbers.randrange(1, 65)) - 1 - random_numbers.randrange(16),
                int.from_bytes(data[at : at + size], order) + random_numbers.randrange(-64, 65),
                int.from_bytes(data[other : other + other_size], order),
                random_numbers.choice(sorted(TAGS)),
                random_numbers.getrandbits(64),
            )
        )
        patches.append((at, (value % (1 << 8 * size)).to_bytes(size, order).hex()))
    cut = random_numbers.randrange(len(data)) if random_numbers.random() < 0.05 else None
    return Case(layout, shape, tuple(patches), cut, random_numbers.randrange(len(EDITS)))


TAGS = {*f.STRING_TAGS, f.DT_STRTAB, f.DT_STRSZ, f.DT_SYMTAB, f.DT_HASH, f.DT_GNU_HASH, f.DT_VERNEED} | {
    f.DT_VERDEF,
    f.DT_FLAGS_1,
    f.PT_LOAD,
    f.PT_DYNAMIC,
    f.PT_INTERP,
    f.PT_NOTE,
    f.PT_PHDR,
    f.PT_GNU_PROPERTY,
}


def attempt(case: Case, *, with_verifier: bool) -> str:
    """Read, edit and verify; how it went. Anything but our errors goes through, as does a broken bound."""
    data = case.data()

    def read(offset: int, size: int) -> bytes:
        assert 0 <= size <= 1 << 27, f"{size} bytes are read at once"
        return data[offset : offset + size]

    outcome = "refused"
    with suppress(ElfError):
        parse_elf(read, len(data))
    try:
        # As the patcher does it: versions that do not matter are not read at first.
        facts = parse_elf(read, len(data), versions=EDITS[case.edit].needs_versions)
        outcome = "read"
        plan = plan_edits(read, facts, EDITS[case.edit])
        assert plan.size <= len(data) + GROWTH, f"grows to {plan.size} bytes"
        assert sum(len(write.data) for write in plan.writes) <= 2 * GROWTH
        if plan.writes:
            check_plan(read, facts, EDITS[case.edit], plan)
            after = overlay(read, plan.writes)
            again = parse_elf(after, plan.size)
            assert plan_edits(after, again, EDITS[case.edit]).writes == (), "a second run writes"
        outcome = f"patched {plan.tier.name.lower()}"
    except ElfError as error:
        if "the patcher is at fault" in (error.hint or ""):
            outcome = f"caught by a post-condition: {error.why}"
    if with_verifier:
        tree = _Tree({".deps/x/1/bin/program": data, ".deps/x/1/lib/libc.so.6": base(0, "library")})
        try:
            verify(tree, SCOPE)
        except InputError:
            outcome += ", not verified"
    return outcome


class _Tree:
    """A file tree of a few files in memory."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def get(self, path: str) -> Entry | None:
        if path in self._files:
            return Entry(path, Kind.FILE, size=len(self._files[path]))
        return Entry(path, Kind.DIRECTORY) if self.names(path) else None

    def names(self, path: str) -> list[str]:
        above = f"{path}/" if path else ""
        return sorted({file[len(above) :].split("/")[0] for file in self._files if file.startswith(above)})

    def open(self, path: str) -> BinaryIO:
        return io.BytesIO(self._files[path])


SCOPE = Scope("/.deps/x/1", (), ARCHITECTURES["x86_64"], deep=True)


def found_cases() -> list[Case]:
    """Cases that failed once."""
    return [case_from_json(line) for line in FOUND.read_text().splitlines() if line.strip()]


def run(cases: int, seed: int, save: Path | None) -> Counter[str]:
    """Try ``cases`` cases; raises what the first one raises that fails, after its line was saved."""
    outcomes: Counter[str] = Counter()
    numbers = random.Random(seed)
    for number in range(cases):
        case = make(numbers)
        began = time.process_time()
        try:
            outcomes[attempt(case, with_verifier=number % VERIFY_EVERY == 0)] += 1
            assert time.process_time() - began < SECONDS, "takes too long"
        except Exception as error:
            if save is None:
                error.add_note(f"case: {case.to_json()}")
                raise
            with save.open("a") as stream:
                stream.write(case.to_json() + "\n")
            outcomes[f"FAILED {type(error).__name__}: {error}"[:120]] += 1
        if cases >= 100_000 and number % 100_000 == 99_999:
            print(number + 1, dict(outcomes.most_common(30)), flush=True)
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--save", type=Path, default=Path("fuzz-found.jsonl"), metavar="FILE")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    began = time.monotonic()
    outcomes = run(arguments.cases, arguments.seed, arguments.save)
    for outcome, count in outcomes.most_common():
        print(f"{count:10} {outcome}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{arguments.cases} cases in {time.monotonic() - began:.0f} s, peak memory {peak} MiB")
    return 1 if any(outcome.startswith("FAILED") for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
