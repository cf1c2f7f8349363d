"""The emulated loader against the real one: ``ld.so --list`` is the judge of every case.

The rules are those of glibc's ``elf/dl-load.c``; scenarios follow libtree's tests.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from closure_forge import LOADER, Forged, Real, forge, real_list, write

from bundler.closure.files import Files
from bundler.closure.loaded import Closure, How
from bundler.closure.loader import Loader, resolve_needed
from bundler.closure.loaders import Loaders
from bundler.elf.read import ElfFile, read_file
from bundler.tree import DirectoryTree

pytestmark = pytest.mark.skipif(not LOADER.exists(), reason="the judge is glibc's loader for x86-64")

FATAL = {"needed-unfit", "needed-missing", "version-missing", "version-unloaded", "version-relr"}


def cpu_level() -> int:
    flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    return 4 if "avx512f" in flags else 3 if "avx2" in flags else 2 if "sse4_2" in flags else 1


def emulated(path: Path) -> Closure:
    files = Files(DirectoryTree(Path("/")))
    inside = os.path.realpath(path).lstrip("/")
    facts = files.facts(inside)
    assert isinstance(facts, ElfFile)
    return Loaders(files, str(LOADER)).load(inside, facts, level=cpu_level())


def names(closure: Closure) -> tuple[str, ...]:
    places = (closure.objects[place] for place in closure.sequence if place)
    return tuple(item.name for item in places if item.how is not How.INTERPRETER)


def assert_agreement(path: Path) -> tuple[Closure, Real]:
    closure, real = emulated(path), real_list(path)
    problems = {problem.rule for problem in closure.problems} & FATAL
    if real.status == 0 and not real.missing and ": version `" not in real.error:
        assert names(closure) == real.names
        assert not problems
    else:
        assert problems, real
        if real.missing:
            missing = {p.subject for p in closure.problems if p.rule == "needed-missing"}
            assert missing == set(real.missing)
    return closure, real


def lib(name: str, *needed: str, **rest: object) -> Forged:
    return replace(Forged(needed=needed, soname=name), **rest)  # type: ignore[arg-type]


def main(*needed: str, **rest: object) -> Forged:
    return replace(Forged(needed=needed, pie=True, interpreter=str(LOADER)), **rest)  # type: ignore[arg-type]


Make = Callable[[Path], dict[str, Forged | bytes]]

LOADS: dict[str, Make] = {
    "rpath": lambda d: {"m": main("a.so", rpath=f"{d}/x"), "x/a.so": lib("a.so")},
    "runpath": lambda d: {"m": main("a.so", runpath=f"{d}/x"), "x/a.so": lib("a.so")},
    "both tags: DT_RPATH is ignored": lambda d: {
        "m": main("a.so", rpath=f"{d}/x", runpath=f"{d}/y"),
        "x/a.so": lib("a.so"),
        "y/a.so": lib("a.so"),
    },
    "DT_RPATH is inherited": lambda d: {
        "m": main("a.so", rpath=f"{d}/x"),
        "x/a.so": lib("a.so", "b.so"),
        "x/b.so": lib("b.so", "c.so"),
        "x/c.so": lib("c.so"),
    },
    "the requester's own DT_RPATH comes first": lambda d: {
        "m": main("a.so", rpath=f"{d}/x"),
        "x/a.so": lib("a.so", "b.so", rpath=f"{d}/y"),
        "x/b.so": lib("b.so"),
        "y/b.so": lib("b.so"),
    },
    "an ancestor's DT_RPATH counts beyond one with a DT_RUNPATH": lambda d: {
        "m": main("a.so", rpath=f"{d}/x"),
        "x/a.so": lib("a.so", "b.so", runpath=f"{d}/y"),
        "y/b.so": lib("b.so", "c.so"),
        "x/c.so": lib("c.so"),
    },
    "breadth first": lambda d: {
        "m": main("a.so", "b.so", rpath=f"{d}/x"),
        "x/a.so": lib("a.so", "c.so"),
        "x/b.so": lib("b.so", "d.so"),
        "x/c.so": lib("c.so"),
        "x/d.so": lib("d.so", "a.so"),
    },
    "a loaded library answers to its soname": lambda d: {
        "m": main("first.so", "b.so", rpath=f"{d}/x"),
        "x/first.so": lib("second.so"),
        "x/b.so": lib("b.so", "second.so"),
    },
    "an absolute name is opened as it is": lambda d: {
        "m": main(f"{d}/x/a.so"),
        "x/a.so": lib("a.so"),
    },
    "an absolute name, then the soname": lambda d: {
        "m": main(f"{d}/x/a.so", f"{d}/x/b.so"),
        "x/a.so": lib("a.so"),
        "x/b.so": lib("b.so", "a.so"),
    },
    "one file by two names is one object": lambda d: {
        "m": main("a.so", "b.so", rpath=f"{d}/x"),
        "x/a.so": Forged(),
        "x/b.so": b"->a.so",
    },
    "$ORIGIN of a program": lambda d: {"m": main("a.so", rpath="$ORIGIN/x"), "x/a.so": lib("a.so")},
    "${ORIGIN} of a library is where it was found": lambda d: {
        "m": main("a.so", rpath=f"{d}/x"),
        "x/a.so": b"->../y/a.so",
        "y/a.so": lib("a.so", "b.so", runpath="${ORIGIN}/z"),
        "x/z/b.so": lib("b.so"),
        "y/z/b.so": lib("b.so"),
    },
    "$ORIGINAL is no token": lambda d: {
        "m": main("a.so", rpath=f"{d}/$ORIGINAL:{d}/x"),
        "$ORIGINAL/a.so": lib("a.so"),
        "x/a.so": lib("a.so"),
    },
    "a token in a needed name": lambda d: {"m": main("$ORIGIN/x/a.so"), "x/a.so": lib("a.so")},
    "slashes at the end, and a directory twice": lambda d: {
        "m": main("a.so", rpath=f"{d}/x//:{d}/x/:{d}/y"),
        "y/a.so": lib("a.so"),
    },
    "another machine is passed over": lambda d: {
        "m": main("a.so", rpath=f"{d}/x:{d}/y"),
        "x/a.so": lib("a.so", machine=183),
        "y/a.so": lib("a.so"),
    },
    "a dangling link is passed over": lambda d: {
        "m": main("a.so", rpath=f"{d}/x:{d}/y"),
        "x/a.so": b"->nowhere",
        "y/a.so": lib("a.so"),
    },
    "glibc-hwcaps": lambda d: {
        "m": main("a.so", rpath=f"{d}/x"),
        "x/a.so": lib("a.so"),
        "x/glibc-hwcaps/x86-64-v2/a.so": lib("a.so"),
        "x/glibc-hwcaps/x86-64-v3/a.so": lib("a.so"),
    },
    "a library that needs itself": lambda d: {
        "m": main("a.so", rpath=f"{d}/x"),
        "x/a.so": lib("a.so", "b.so"),
        "x/b.so": lib("b.so", "a.so", "b.so"),
    },
    "DT_AUXILIARY may be absent": lambda d: {
        "m": main("a.so", rpath=f"{d}/x"),
        "x/a.so": lib("a.so", auxiliary="none.so"),
    },
    "a filtee stands before its filter": lambda d: {
        "m": main("a.so", rpath=f"{d}/x"),
        "x/a.so": lib("a.so", filter="f.so"),
        "x/f.so": lib("f.so"),
    },
    "versions": lambda d: {
        "m": main("a.so", rpath=f"{d}/x", versions_needed=[("a.so", "V1", False)]),
        "x/a.so": lib("a.so", versions_defined=["a.so", "V1"]),
    },
    "a weak version may be absent": lambda d: {
        "m": main("a.so", rpath=f"{d}/x", versions_needed=[("a.so", "V2", True)]),
        "x/a.so": lib("a.so", versions_defined=["a.so", "V1"]),
    },
    "versions of a library that has none": lambda d: {
        "m": main("a.so", rpath=f"{d}/x", versions_needed=[("a.so", "V2", False)]),
        "x/a.so": lib("a.so"),
    },
    "a library as the main program": lambda d: {
        "m": lib("m.so", "a.so", rpath=f"{d}/x"),
        "x/a.so": lib("a.so", "m.so"),
    },
}

FAILS: dict[str, tuple[str, Make]] = {
    "DT_RUNPATH is not inherited": (
        "needed-missing",
        lambda d: {
            "m": main("a.so", runpath=f"{d}/x"),
            "x/a.so": lib("a.so", "b.so"),
            "x/b.so": lib("b.so"),
        },
    ),
    "a DT_RUNPATH turns inherited DT_RPATHs off": (
        "needed-missing",
        lambda d: {
            "m": main("a.so", rpath=f"{d}/x"),
            "x/a.so": lib("a.so", "b.so", runpath=f"{d}/y"),
            "x/b.so": lib("b.so"),
        },
    ),
    "an absolute name that is not there": ("needed-missing", lambda d: {"m": main(f"{d}/x/a.so")}),
    "default directories are refused": (
        "needed-missing",
        lambda d: {"m": main("libc.so.6", nodeflib=True)},
    ),
    "an empty file in front": (
        "needed-unfit",
        lambda d: {"m": main("a.so", rpath=f"{d}/x:{d}/y"), "x/a.so": b"", "y/a.so": lib("a.so")},
    ),
    "junk in front": (
        "needed-unfit",
        lambda d: {"m": main("a.so", rpath=f"{d}/x:{d}/y"), "x/a.so": b"junk" * 99, "y/a.so": lib("a.so")},
    ),
    "a directory in front": (
        "needed-unfit",
        lambda d: {"m": main("a.so", rpath=f"{d}/x:{d}/y"), "x/a.so/f": b"", "y/a.so": lib("a.so")},
    ),
    "a loop of links in front": (
        "needed-missing",
        lambda d: {"m": main("a.so", rpath=f"{d}/x:{d}/y"), "x/a.so": b"->a.so", "y/a.so": lib("a.so")},
    ),
    "another OS ABI": (
        "needed-unfit",
        lambda d: {"m": main("a.so", rpath=f"{d}/x"), "x/a.so": lib("a.so", osabi=9)},
    ),
    "a program as a library": (
        "needed-unfit",
        lambda d: {"m": main("a.so", rpath=f"{d}/x"), "x/a.so": lib("a.so", pie=True)},
    ),
    "an object file": (
        "needed-unfit",
        lambda d: {"m": main("a.so", rpath=f"{d}/x"), "x/a.so": lib("a.so", type=1)},
    ),
    "a version that is not there": (
        "version-missing",
        lambda d: {
            "m": main("a.so", rpath=f"{d}/x", versions_needed=[("a.so", "V2", False)]),
            "x/a.so": lib("a.so", versions_defined=["a.so", "V1"]),
        },
    ),
    "versions by a name that nothing was loaded by": (
        "version-unloaded",
        lambda d: {
            "m": main(f"{d}/x/a.so", versions_needed=[("a.so", "V1", False)]),
            "x/a.so": lib("a.so", versions_defined=["a.so", "V1"]),
        },
    ),
    "DT_RELR without its version": (
        "version-relr",
        lambda d: {
            "m": main("libc.so.6", relr=True, versions_needed=[("libc.so.6", "GLIBC_2.34", False)]),
        },
    ),
    "a filter without its filtee": (
        "needed-missing",
        lambda d: {"m": main("a.so", rpath=f"{d}/x"), "x/a.so": lib("a.so", filter="f.so")},
    ),
}


def lay(directory: Path, files: dict[str, Forged | bytes]) -> Path:
    """Write the files; ``->`` begins a symbolic link's target."""
    for name, spec in files.items():
        path = directory / name
        if isinstance(spec, bytes) and spec.startswith(b"->"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(spec[2:].decode())
        else:
            write(path, spec)
    return directory / "m"


@pytest.mark.parametrize("name", LOADS)
def test_loads_as_the_loader_does(name: str, tmp_path: Path) -> None:
    closure, real = assert_agreement(lay(tmp_path, LOADS[name](tmp_path)))
    assert real.status == 0
    assert real.names
    assert all(lookup.target is not None for lookup in closure.lookups)


@pytest.mark.parametrize("name", FAILS)
def test_fails_as_the_loader_does(name: str, tmp_path: Path) -> None:
    rule, make = FAILS[name]
    closure, real = assert_agreement(lay(tmp_path, make(tmp_path)))
    assert real.status != 0 or real.missing or ": version `" in real.error
    assert rule in {problem.rule for problem in closure.problems}


def test_agrees_on_random_trees(tmp_path: Path) -> None:
    loaded = sum(_agrees(random.Random(seed), tmp_path / str(seed)) for seed in range(100))
    assert loaded > 10  # otherwise the cases prove little


def _agrees(chance: random.Random, directory: Path) -> bool:
    places = [directory / f"d{number}" for number in range(3)]
    sonames = [f"l{number}.so" for number in range(5)]

    def search() -> str | None:
        forms = ("{0}", "{0}/", "$ORIGIN/../{1}", "${{ORIGIN}}/../{1}", "{0}/$ORIGINAL")
        chosen = [chance.choice(places) for _ in range(chance.randint(0, 4))]
        return ":".join(chance.choice(forms).format(p, p.name) for p in chosen) or None

    def spec(name: str, program: bool = False) -> Forged:
        needed = chance.sample(sonames, chance.randint(1 if program else 0, 3))
        return Forged(
            needed=[str(chance.choice(places) / n) if chance.random() < 0.1 else n for n in needed],
            soname=chance.choice([name, name, name, None, chance.choice(sonames)]) if not program else None,
            rpath=search(),
            runpath=search() if chance.random() < 0.2 else None,
            nodeflib=chance.random() < 0.3,
            machine=62 if program or chance.random() < 0.97 else 183,
            pie=program,
            interpreter=str(LOADER) if program else None,
        )

    for name in sonames:
        for place in places:
            kind = chance.random()
            below = chance.choice(["", "", "", "glibc-hwcaps/x86-64-v2", "glibc-hwcaps/x86-64-v3"])
            if kind < 0.8:
                write(place / below / name, spec(name))
            elif kind < 0.9:
                place.mkdir(parents=True, exist_ok=True)
                (place / name).symlink_to(f"../d{chance.randint(0, 2)}/{chance.choice(sonames)}")
            elif kind < 0.91:
                write(place / name, chance.choice([b"", b"junk", forge(Forged(pie=True))]))
    _, real = assert_agreement(write(directory / "m", spec("m", program=True)))
    return real.status == 0


def test_a_library_of_this_machine_is_closed_as_the_loader_says() -> None:
    _, real = assert_agreement(Path("/usr/bin/env"))
    assert real.names


def test_found_only_because_it_was_loaded_before(tmp_path: Path) -> None:
    path = lay(
        tmp_path,
        {
            "m": main("a.so", "b.so", runpath=f"{tmp_path}/x"),
            "x/a.so": lib("a.so"),
            "x/b.so": lib("b.so", "a.so"),
        },
    )
    closure, _ = assert_agreement(path)
    assert [(lookup.needed, lookup.accident) for lookup in closure.lookups] == [
        ("a.so", False),
        ("b.so", False),
        ("a.so", True),
    ]


def test_chain_leads_from_the_program(tmp_path: Path) -> None:
    path = lay(
        tmp_path,
        {"m": main("a.so", rpath=f"{tmp_path}/x"), "x/a.so": lib("a.so", "b.so"), "x/b.so": lib("b.so")},
    )
    closure = emulated(path)
    last = next(place for place, item in enumerate(closure.objects) if item.elf.soname == "b.so")
    assert closure.chain(last) == (str(path), f"{tmp_path}/x/a.so", f"{tmp_path}/x/b.so")


def test_every_cpu_level_chooses_its_own(tmp_path: Path) -> None:
    path = lay(tmp_path, LOADS["glibc-hwcaps"](tmp_path))
    files = Files(DirectoryTree(Path("/")))
    facts = read_file(path)
    found = [Loader(files, facts, level=level).load(str(path)[1:]).objects[-1].path for level in (1, 2, 3, 4)]
    directories = [os.path.relpath(f"/{place}", tmp_path) for place in found]
    assert directories == [
        "x/a.so",
        "x/glibc-hwcaps/x86-64-v2/a.so",
        "x/glibc-hwcaps/x86-64-v3/a.so",
        "x/glibc-hwcaps/x86-64-v3/a.so",
    ]


def test_resolve_needed_gives_what_a_search_would_load(tmp_path: Path) -> None:
    path = lay(
        tmp_path,
        {
            "m": main("a.so", "b.so", "none.so", LOADER.name, f"{tmp_path}/x/c.so", runpath="/nowhere"),
            "x/a.so": lib("a.so", "b.so"),
            "y/b.so": lib("b.so"),
            "x/c.so": lib("c.so"),
        },
    )
    search = (f"{tmp_path}/x", f"{tmp_path}/y")
    resolved = resolve_needed(DirectoryTree(Path("/")), str(path), read_file(path), search=search)
    assert resolved == (("a.so", f"{tmp_path}/x/a.so"), ("b.so", f"{tmp_path}/y/b.so"))


QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
ARM_LOADER = Path("/usr/aarch64-linux-gnu/lib/ld-linux-aarch64.so.1")
ARM_CASES = [
    "rpath",
    "both tags: DT_RPATH is ignored",
    "DT_RPATH is inherited",
    "an ancestor's DT_RPATH counts beyond one with a DT_RUNPATH",
    "breadth first",
    "a loaded library answers to its soname",
    "one file by two names is one object",
    "${ORIGIN} of a library is where it was found",
    "a dangling link is passed over",
    "versions",
]


@pytest.mark.skipif(QEMU is None or not ARM_LOADER.exists(), reason="the judge is glibc's loader for AArch64")
@pytest.mark.parametrize("name", ARM_CASES)
def test_loads_as_the_loader_of_another_machine_does(name: str, tmp_path: Path) -> None:
    specs = LOADS[name](tmp_path)
    files = {path: replace(s, machine=183) if isinstance(s, Forged) else s for path, s in specs.items()}
    path = lay(tmp_path, files)
    view = Files(DirectoryTree(Path("/")))
    facts = view.facts(str(path)[1:])
    assert isinstance(facts, ElfFile)
    closure = Loaders(view, str(ARM_LOADER)).load(str(path)[1:], facts)
    real = real_list(path, (str(QEMU), str(ARM_LOADER)))
    assert real.status == 0, real.error
    assert names(closure) == real.names
