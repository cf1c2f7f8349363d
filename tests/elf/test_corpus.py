"""The patcher on a whole system: nothing that ran before runs differently, no tool finds new faults."""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import corpus
import pytest
from judges import faults, tool

from bundler.elf.format import ET_EXEC
from bundler.elf.patch import patch_file
from bundler.elf.place import Tier
from bundler.elf.read import read_file

WORKERS = 2


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every library of the root's library directory, patched; the loader beside them as it is."""
    directory = tmp_path_factory.mktemp("prefix")
    for name, path in corpus.libraries():
        if not path.is_file():
            continue
        with path.open("rb") as stream:
            if stream.read(4) != b"\x7fELF":
                continue
        facts = read_file(path)
        if path.is_symlink() and (directory / path.resolve().name).exists():
            (directory / name).symlink_to(path.resolve().name)
        elif facts.is_dynamic and corpus.editable(facts):
            patch_file(path.resolve(), corpus.edits(facts), directory / name)
        else:
            shutil.copy2(path.resolve(), directory / name)
    return directory


def same(before: tuple[int | str, bytes, bytes], after: tuple[int | str, bytes, bytes]) -> bool:
    """Whether a program ended alike and said the same; times, process numbers and races aside."""

    def plain(output: bytes) -> list[bytes]:
        return sorted(re.sub(rb"\d+", b"0", output).splitlines())

    return before[0] == after[0] and [plain(o) for o in before[1:]] == [plain(o) for o in after[1:]]


def test_programs_run_as_before(prefix: Path, tmp_path: Path) -> None:
    """Each with libc, libstdc++ and all others patched as well."""

    def compare(number_and_sample: tuple[int, corpus.Sample]) -> str | None:
        number, sample = number_and_sample
        patched = tmp_path / str(number)
        patch_file(sample.path, corpus.edits(sample.facts), patched)
        place = Path("/", sample.path.relative_to(corpus.ROOT))
        before = corpus.run(sample.path, place, None, "--version")
        after = corpus.run(patched, place, prefix, "--version")
        patched.unlink()
        if before[0] == "timeout" or same(before, after):
            return None
        return (
            f"{place}: {before[0]} became {after[0]}: {after[2][:300]!r} {after[1][:80]!r} {before[1][:80]!r}"
        )

    found = corpus.programs()
    with ThreadPoolExecutor(WORKERS) as pool:
        broken = [problem for problem in pool.map(compare, enumerate(found)) if problem]
    assert len(found) >= 10 and broken == []


def test_tools_find_nothing_new(tmp_path: Path) -> None:
    """strip, eu-strip, objcopy, readelf, eu-elflint and pyelftools, each before and after."""

    def judge(number_and_sample: tuple[int, corpus.Sample]) -> list[str]:
        number, sample = number_and_sample
        scratch = tmp_path / str(number)
        scratch.mkdir()
        patched = scratch / "patched"
        patch_file(sample.path, corpus.edits(sample.facts), patched)
        problems = [f"{sample.path}: {fault}" for fault in faults(sample.path, patched, scratch)]
        shutil.rmtree(scratch)
        return problems

    found = [sample for sample in corpus.samples() if corpus.editable(sample.facts)]
    with ThreadPoolExecutor(WORKERS) as pool:
        problems = [problem for some in pool.map(judge, enumerate(found)) for problem in some]
    assert len(found) >= 20 and problems == []


def test_sizes_and_a_second_run(tmp_path: Path) -> None:
    """Three quarters keep their size, all grow little altogether, and nothing is written twice."""
    tiers: Counter[Tier] = Counter()
    before = after = same = 0
    found = [sample for sample in corpus.samples(max(1, corpus.STEP // 4)) if corpus.editable(sample.facts)]
    for sample in found:
        target = tmp_path / "patched"
        result = patch_file(sample.path, corpus.edits(sample.facts), target)
        assert not patch_file(target, corpus.edits(sample.facts)).changed
        tiers[result.tier] += 1
        before, after = before + result.size_before, after + result.size_after
        same += result.size_before == result.size_after
    assert Tier.MOVED_HEADERS not in tiers, tiers
    assert same >= 0.7 * len(found), tiers
    assert after <= 1.03 * before, (before, after)


def test_lief_agrees(tmp_path: Path) -> None:
    """LIEF reads the same names, versions and symbols as before, and the paths as we meant them."""
    import lief

    for sample in [sample for sample in corpus.samples() if corpus.editable(sample.facts)][:40]:
        patched = tmp_path / "patched"
        wanted = corpus.edits(sample.facts)
        patch_file(sample.path, wanted, patched)
        before, after = lief.ELF.parse(str(sample.path)), lief.ELF.parse(str(patched))
        assert before is not None and after is not None
        if sample.facts.interpreter is not None:
            assert after.interpreter == wanted.interpreter
        assert [e.rpath for e in after.dynamic_entries if isinstance(e, lief.ELF.DynamicEntryRpath)] == [
            wanted.rpath
        ]
        assert after.libraries == before.libraries
        assert [s.name for s in after.dynamic_symbols] == [s.name for s in before.dynamic_symbols]
        assert [str(s.symbol_version) for s in after.dynamic_symbols] == [
            str(s.symbol_version) for s in before.dynamic_symbols
        ]


def test_patchelf_agrees(tmp_path: Path) -> None:
    """patchelf reads what we wrote as we meant it, and can write the file once more."""
    patchelf = shutil.which("patchelf", path=str(Path(sys.executable).parent)) or "patchelf"
    for number, sample in enumerate(corpus.programs()[:12]):
        patched = tmp_path / str(number)
        wanted = corpus.edits(sample.facts)
        patch_file(sample.path, wanted, patched)
        assert tool(patchelf, "--print-interpreter", patched).stdout.strip() == wanted.interpreter
        assert tool(patchelf, "--print-rpath", patched).stdout.strip() == wanted.rpath
        assert tool(patchelf, "--print-needed", patched).stdout.split() == list(sample.facts.needed)
        again = tool(patchelf, "--force-rpath", "--set-rpath", f"{wanted.rpath}:/and/one/more", patched)
        if sample.facts.type == ET_EXEC and "rewriteSectionsExecutable" in again.stderr:
            continue  # patchelf wants a section behind all that it moves, and fails without one.
        assert again.returncode == 0, again.stderr
        place = Path("/", sample.path.relative_to(corpus.ROOT))
        first = corpus.run(sample.path, place, None, "--version")
        assert corpus.run(patched, place, None, "--version")[:2] == first[:2]
