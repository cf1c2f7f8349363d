"""The emulated loader on real programs and libraries: ``ld.so --list`` must agree on every one.

``BUNDLE_CORPUS_ROOT`` names another root than this machine's, ``BUNDLE_CORPUS_STEP=1`` takes all of it.
"""

from __future__ import annotations

import subprocess

from corpus import LOADER, ROOT, STEP, Sample, samples

from bundler.closure.files import Files
from bundler.closure.loaded import Closure, How
from bundler.closure.loaders import Loaders
from bundler.elf.format import EM_X86_64
from bundler.tree import DirectoryTree, resolve

FATAL = {"needed-missing", "needed-unfit", "version-missing", "version-unloaded", "version-relr"}


def cpu_level() -> int:
    """The highest of the levels that this machine's loader says it searches."""
    done = subprocess.run([LOADER, "--help"], capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines() if "x86-64-v" in line]
    return max((int(words[0][-1]) for words in lines if "supported," in " ".join(words)), default=1)


def real(path: str) -> tuple[list[str], list[str], bool]:
    """Names that were loaded, names that were not found, and whether all is well."""
    inside = [] if str(ROOT) == "/" else ["bwrap", "--ro-bind", str(ROOT), "/", "--dev", "/dev", "--clearenv"]
    done = subprocess.run(
        [*inside, LOADER, "--list", path], capture_output=True, text=True, env={}, check=False, timeout=60
    )
    names, missing = [], []
    for line in done.stdout.splitlines():
        text = line.strip()
        if "=> not found" in text:
            missing.append(text.partition(" => ")[0])
        elif " (0x" in text:
            names.append(text.rpartition(" (0x")[0].rpartition(" => ")[2])
    fine = done.returncode == 0 and not missing and ": version `" not in done.stderr
    return names, missing, fine


def loaded(closure: Closure) -> list[str]:
    places = (closure.objects[place] for place in closure.sequence if place)
    return [item.name for item in places if item.how is not How.INTERPRETER]


def without_own(names: list[str]) -> list[str]:
    """The kernel's object and the loader have no place in the search that could be compared."""
    return [name for name in names if not name.startswith("linux-vdso") and not name.endswith(LOADER[7:])]


def test_agrees_with_the_real_loader_on_every_file() -> None:
    tree = DirectoryTree(ROOT)
    loaders = Loaders(Files(tree), LOADER)
    level = cpu_level()
    differ = []
    found = [sample for sample in samples(max(1, STEP // 4)) if fits(sample)]
    for sample in found:
        path = "/" + str(sample.path.relative_to(ROOT))
        closure = loaders.load(resolve(tree, path).path, sample.facts, level=level)
        names, missing, fine = real(path)
        broken = {problem.subject for problem in closure.problems if problem.rule in FATAL}
        if fine:
            agree = without_own(names) == without_own(loaded(closure)) and not broken
        else:
            # The loader stops at what it cannot forgive; what it did before is not comparable.
            agree = bool(broken) and set(missing) <= broken
        if not agree:
            differ.append((path, names, loaded(closure), closure.problems[:3]))
    assert len(found) > 10
    assert not differ, differ[:3]


def fits(sample: Sample) -> bool:
    facts = sample.facts
    return (
        facts.machine == EM_X86_64
        and facts.elf_class == 64
        and bool(facts.needed)
        and facts.interpreter in (None, LOADER)
    )
