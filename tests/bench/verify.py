"""Verify: ELF files parsed, programs closed, a bundle judged."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from bundler.closure import Scope, verify
from bundler.closure.files import Files
from bundler.closure.loaders import Loaders
from bundler.elf.read import ElfError, ElfFile, read_file
from bundler.target import ARCHITECTURES
from bundler.tree import DirectoryTree
from tests.bench.measure import Cost, Report, call, rounds

SUMMARY = "ELF files of /usr/bin and /usr/lib: parsed, closed, judged"
LOADER = "/lib64/ld-linux-x86-64.so.2"
ROUNDS = 5
JUDGED = 150
"""Programs that ld.so itself is asked about, one process each."""


def run(report: Report) -> None:
    files = elf_files()
    programs = [path for path, facts in files if facts.interpreter == LOADER]
    paths = [path for path, _ in files]
    report.line(f"  {len(files)} files, {len(programs)} of them programs")

    ours, pyelftools, lief = rounds(
        ROUNDS,
        lambda: call(lambda: parse(paths)),
        lambda: call(lambda: walk(paths[:150])),
        lambda: call(lambda: lief_parse(paths[:150])),
    )
    per_file(report, "parsed with versions", ours, len(paths), 8000)
    report.ratio(
        "our reader, 1000 files",
        scaled(ours, len(paths)),
        "pyelftools, dynamic section",
        scaled(pyelftools, 150),
        1 / 20,
    )
    report.ratio("our reader, 1000 files", scaled(ours, len(paths)), "LIEF", scaled(lief, 150), 1)

    closed, listed = rounds(
        ROUNDS, lambda: call(lambda: close(programs)), lambda: call(lambda: real(programs[:JUDGED]))
    )
    per_file(report, "programs closed, files parsed", closed, len(programs), 3000)
    report.ratio(
        "our loader, 1000 programs", scaled(closed, len(programs)), "ld.so --list", scaled(listed, JUDGED), 1
    )

    scope = Scope("/usr/bin", ("/usr/lib",), ARCHITECTURES["x86_64"])
    judged = [call(lambda: verify(DirectoryTree(Path("/")), scope)) for _ in range(3)]
    report.line(f"  verify /usr/bin, every byte read: {min(cost.wall for cost in judged):.2f} s")


def elf_files() -> list[tuple[Path, ElfFile]]:
    found = []
    for top in ("/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu"):
        for path in sorted(Path(top).iterdir()):
            if path.is_file() and not path.is_symlink():
                try:
                    facts = read_file(path)
                except ElfError:
                    continue
                if facts.is_dynamic and facts.machine == 62 and facts.elf_class == 64:
                    found.append((path, facts))
    return found


def parse(paths: Sequence[Path]) -> None:
    for path in paths:
        read_file(path)


def walk(paths: Sequence[Path]) -> None:
    from elftools.elf.elffile import ELFFile

    for path in paths:
        with path.open("rb") as stream:
            dynamic = ELFFile(stream).get_section_by_name(".dynamic")
            list(dynamic.iter_tags())


def lief_parse(paths: Sequence[Path]) -> None:
    import lief

    for path in paths:
        lief.ELF.parse(str(path))


def close(programs: Sequence[Path]) -> None:
    files = Files(DirectoryTree(Path("/")))
    loaders = Loaders(files, LOADER)
    for path in programs:
        facts = files.facts(str(path)[1:])
        assert isinstance(facts, ElfFile)
        loaders.load(str(path)[1:], facts)


def real(programs: Sequence[Path]) -> None:
    for path in programs:
        subprocess.run(
            [LOADER, "--list", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )


def scaled(costs: Sequence[Cost], count: int) -> list[Cost]:
    """The cost of 1000 files."""
    return [Cost(1000 * cost.wall / count, 1000 * cost.cpu / count) for cost in costs]


def per_file(report: Report, name: str, costs: Sequence[Cost], count: int, goal: int) -> None:
    # Of processor time: the machine may have other things to do.
    rates = sorted(count / cost.cpu for cost in costs)
    report.line(f"  {name}: {rates[len(rates) // 2]:.0f} a second (goal: {goal})")
