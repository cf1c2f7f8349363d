"""ELF: a system's files patched and read, by us and by the tools that others use.

Every tool gets fresh copies of the same files, in memory, warm, in one process where it takes many files.
``BUNDLE_BENCH_FILES`` says how many (default 2000), ``BUNDLE_CORPUS_ROOT`` of which root; the goals are meant
for a thousand files and more.  Seconds are of processor time, that of starting included, since the machine
may be busy; what starting Python and loading our code costs is stated, and a rate without it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from bundler.cli.common import CHECKOUT
from tests.bench.measure import Cost, Report, command, rounds

SUMMARY = "ELF files of this system patched and read, against patchelf, LIEF, pyelftools and readelf"
ROUNDS = 3
LOADER = "/.deps/rt/1/lib/ld-linux-x86-64.so.2"
RPATH = "/.deps/rt/1/lib:/.deps/shell/1/lib"

PATCH_OURS = """
from bundler.elf.edits import Edits
from bundler.elf.patch import patch_files
edits = Edits(interpreter=sys.argv[1], rpath=sys.argv[2], no_default_lib=True, core=True)
in_place, workers = sys.argv[3] == "in-place", int(sys.argv[4])
patch_files(((file, edits) for file in sys.argv[5:]), in_place=in_place, workers=workers)
"""
PATCH_LIEF = """
import lief
for file in sys.argv[3:]:
    binary = lief.ELF.parse(file)
    if binary.has_interpreter:
        binary.interpreter = sys.argv[1]
    for tag in (lief.ELF.DynamicEntry.TAG.RPATH, lief.ELF.DynamicEntry.TAG.RUNPATH):
        if binary.has(tag):
            binary.remove(tag)
    binary.add(lief.ELF.DynamicEntryRpath(sys.argv[2]))
    binary.write(file)
"""
READ_OURS = """
from bundler.elf.read import read_file
for file in sys.argv[1:]:
    read_file(file)
"""
READ_LIEF = """
import lief
config = lief.ELF.ParserConfig()
config.parse_relocations = config.parse_symtab_symbols = config.parse_overlay = False
for file in sys.argv[1:]:
    binary = lief.ELF.parse(file, config)
    [entry.name for entry in binary.dynamic_entries if isinstance(entry, lief.ELF.DynamicEntryLibrary)]
"""
READ_PYELFTOOLS = """
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
for file in sys.argv[1:]:
    with open(file, "rb") as stream:
        elf = ELFFile(stream)
        for segment in elf.iter_segments():
            if isinstance(segment, DynamicSegment):
                [tag.needed for tag in segment.iter_tags("DT_NEEDED")]
        for section in elf.iter_sections():
            if isinstance(section, GNUVerNeedSection):
                [(need.name, [version.name for version in all_of])
                 for need, all_of in section.iter_versions()]
"""


def run(report: Report) -> None:
    sys.path.insert(0, str(CHECKOUT / "tests" / "elf"))
    import corpus

    wanted = int(os.environ.get("BUNDLE_BENCH_FILES", "2000"))
    everything = [sample for sample in corpus.samples(1) if corpus.editable(sample.facts)]
    chosen = everything[:: max(1, len(everything) // wanted)]
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as scratch:
        original, fresh = Path(scratch, "original"), Path(scratch, "fresh")
        original.mkdir()
        for number, sample in enumerate(chosen):
            shutil.copy2(sample.path, original / f"{number:04}")
        programs = [f"{n:04}" for n, sample in enumerate(chosen) if sample.facts.interpreter is not None]
        size = sum(file.stat().st_size for file in original.iterdir())
        report.line(f"  {len(chosen)} files, {len(programs)} with an interpreter, {size >> 20} MiB")
        _patch(report, original, fresh, programs)
        _read(report, original)


def _patch(report: Report, original: Path, fresh: Path, programs: Sequence[str]) -> None:
    def ours(mode: str, workers: int = 1) -> Callable[[], Cost]:
        options = (LOADER, RPATH, mode, str(workers))
        return lambda: command(_python(PATCH_OURS, *options, *_copies(original, fresh)))

    def patchelf() -> Cost:
        files = _copies(original, fresh)
        tool = str(Path(sys.executable).parent / "patchelf")
        first = command([tool, "--set-interpreter", LOADER, *(str(fresh / name) for name in programs)])
        second = command([tool, "--force-rpath", "--set-rpath", RPATH, *files])
        return Cost(first.wall + second.wall, first.cpu + second.cpu, max(first.peak, second.peak))

    def lief() -> Cost:
        return command(_python(PATCH_LIEF, LOADER, RPATH, *_copies(original, fresh)))

    count = sum(1 for _ in original.iterdir())
    processors = len(os.sched_getaffinity(0))
    started, in_place, replaced, shared, shared_replaced, other = rounds(
        ROUNDS,
        lambda: command(_python(PATCH_OURS, LOADER, RPATH, "in-place", "1")),
        ours("in-place"),
        ours("replace"),
        ours("in-place", processors),
        ours("replace", processors),
        patchelf,
    )
    start = median(cost.cpu for cost in started)
    report.line(f"  starting: {start:.3f} s cpu, of every row that is ours")
    _row(report, "patch: ours, in place", in_place, count, start=start)
    _row(report, "patch: ours, copy and rename", replaced, count, in_place, start=start)
    _row(report, "patch: patchelf, all files a call", other, count, in_place)
    _row(report, "patch: LIEF", [lief()], count, in_place[:1])
    for how, alone, several in (
        ("in place", in_place, shared),
        ("copy and rename", replaced, shared_replaced),
    ):
        wall = median(cost.wall for cost in several)
        report.line(
            f"  wall time, {how}: {count / median(cost.wall for cost in alone):.0f} files/s by one process, "
            f"{count / wall:.0f} by {processors}; patchelf takes {_wall(other, several):.1f}x as long"
        )
    report.line(
        f"  goals: patchelf at least 12x in place: {_ratio(other, in_place):.1f}x; "
        f"3x with copy and rename: {_ratio(other, replaced):.1f}x"
    )
    ours("in-place")()
    before = {file.name: file.stat().st_size for file in original.iterdir()}
    after = {file.name: file.stat().st_size for file in fresh.iterdir()}
    same = sum(after[name] == size for name, size in before.items()) / count
    growth = sum(after.values()) / sum(before.values()) - 1
    report.line(
        f"  same size: {same:.1%} of the files (goal: 75 %); growth of all: {growth:.2%} (goal: 2.5 %)"
    )


def _read(report: Report, original: Path) -> None:
    files = [str(file) for file in sorted(original.iterdir())]
    started, ours, readelf, lief = rounds(
        ROUNDS,
        lambda: command(_python(READ_OURS)),
        lambda: command(_python(READ_OURS, *files)),
        # 1: a note that an older readelf does not know.
        lambda: command(["readelf", "-dlVnW", *files], statuses=(0, 1)),
        lambda: command(_python(READ_LIEF, *files)),
    )
    _row(report, "read: ours", ours, len(files), start=median(cost.cpu for cost in started))
    _row(report, "read: readelf -dlVnW", readelf, len(files), ours)
    _row(report, "read: LIEF, limited", lief, len(files), ours)
    _row(report, "read: pyelftools", [command(_python(READ_PYELFTOOLS, *files))], len(files), ours[:1])


def _copies(original: Path, fresh: Path) -> list[str]:
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(original, fresh)
    return [str(file) for file in sorted(fresh.iterdir())]


def _python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n{script}", *arguments]


def _ratio(theirs: Sequence[Cost], ours: Sequence[Cost]) -> float:
    return median(a.cpu / b.cpu for a, b in zip(theirs, ours, strict=False))


def _wall(theirs: Sequence[Cost], ours: Sequence[Cost]) -> float:
    return median(a.wall / b.wall for a, b in zip(theirs, ours, strict=False))


def _row(
    report: Report,
    name: str,
    costs: Sequence[Cost],
    files: int,
    first: Sequence[Cost] | None = None,
    *,
    start: float = 0,
) -> None:
    """Files a second of processor time, and the ratio to the first row; ``start`` is what starting takes."""
    cpu, peak = median(cost.cpu for cost in costs), max(cost.peak for cost in costs)
    shown = f", {_ratio(costs, first):.1f}x ours" if first else ""
    rate = f" ({files / (cpu - start):.0f} once started)" if start else ""
    report.line(f"  {name}: {cpu:.3f} s cpu, {files / cpu:.0f} files/s{rate}, peak {peak >> 20} MiB{shown}")
