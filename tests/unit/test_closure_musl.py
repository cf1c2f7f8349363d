"""musl's loader emulated, against the real one: ``ld-musl-x86_64.so.1 --list`` is the judge."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from closure_forge import Forged, write
from test_closure_loader import lay, lib

from bundler.closure.files import Files
from bundler.closure.loaded import Closure, How
from bundler.closure.musl import MuslLoader, is_musl, is_reserved
from bundler.tree import DirectoryTree

MUSL = Path("/lib/ld-musl-x86_64.so.1")
needs_musl = pytest.mark.skipif(not MUSL.exists(), reason="the judge is musl's loader for x86-64")


def main(*needed: str, **rest: object) -> Forged:
    return Forged(needed=needed, pie=True, interpreter=str(MUSL), **rest)  # type: ignore[arg-type]


def emulated(path: Path) -> Closure:
    files = Files(DirectoryTree(Path("/")))
    return MuslLoader(files).load(os.path.realpath(path).lstrip("/"), interpreter=str(MUSL))


def assert_agreement(path: Path) -> Closure:
    closure = emulated(path)
    done = subprocess.run(
        [MUSL, "--list", path], capture_output=True, text=True, env={}, check=False, cwd="/", timeout=20
    )
    lines = [line.strip().rpartition(" (0x")[0] for line in done.stdout.splitlines() if " (0x" in line]
    real = [line.rpartition(" => ")[2] for line in lines]
    if done.returncode == 0:
        mine = [item.name for item in closure.objects if item.how is not How.MAIN]
        found = [name for name in real if name != str(MUSL)]
        assert [name for name in mine if name != str(MUSL)] == found
        assert not closure.problems
    else:
        assert closure.problems, done.stderr
    return closure


Make = Callable[[Path], dict[str, Forged | bytes]]

CASES: dict[str, Make] = {
    "rpath": lambda d: {"m": main("a.so", rpath=f"{d}/x"), "x/a.so": lib("a.so")},
    "a runpath is inherited too": lambda d: {
        "m": main("a.so", runpath=f"{d}/x"),
        "x/a.so": lib("a.so", "b.so"),
        "x/b.so": lib("b.so"),
    },
    "of both tags DT_RUNPATH wins": lambda d: {
        "m": main("a.so", rpath=f"{d}/x", runpath=f"{d}/y"),
        "x/a.so": lib("a.so"),
        "y/a.so": lib("a.so"),
    },
    "sonames are not looked at": lambda d: {
        "m": main("a.so", "b.so", rpath=f"{d}/x"),
        "x/a.so": lib("b.so"),
        "x/b.so": lib("b.so"),
    },
    "an unknown token disables the list": lambda d: {
        "m": main("a.so", rpath=f"{d}/x:$LIB"),
        "x/a.so": lib("a.so"),
    },
    "$ORIGIN": lambda d: {"m": main("a.so", rpath="$ORIGIN/x"), "x/a.so": lib("a.so")},
    "libc by any of its names is the loader": lambda d: {
        "m": main("libc.so", "libm.so.6", "libpthread.so.0", "a.so", rpath=f"{d}/x"),
        "x/a.so": lib("a.so"),
        "x/libm.so.6": lib("libm.so.6"),
    },
    "one file by two names": lambda d: {
        "m": main("a.so", f"{d}/x/b.so", rpath=f"{d}/x"),
        "x/a.so": Forged(),
        "x/b.so": b"->a.so",
    },
    "missing": lambda d: {"m": main("a.so", "b.so", rpath=f"{d}/x"), "x/a.so": lib("a.so")},
    "junk in front": lambda d: {
        "m": main("a.so", rpath=f"{d}/x:{d}/y"),
        "x/a.so": b"junk",
        "y/a.so": lib("a.so"),
    },
    "a loop of links in front": lambda d: {
        "m": main("a.so", rpath=f"{d}/x:{d}/y"),
        "x/a.so": b"->a.so",
        "y/a.so": lib("a.so"),
    },
}


@needs_musl
@pytest.mark.parametrize("name", CASES)
def test_loads_as_musl_does(name: str, tmp_path: Path) -> None:
    assert_agreement(lay(tmp_path, CASES[name](tmp_path)))


@needs_musl
def test_agrees_on_random_trees(tmp_path: Path) -> None:
    loaded = 0
    for seed in range(40):
        chance = random.Random(seed)
        directory = tmp_path / str(seed)
        places = [directory / f"d{number}" for number in range(3)]
        sonames = [f"l{number}.so" for number in range(5)]

        def search(chance: random.Random = chance, places: list[Path] = places) -> str | None:
            chosen = [str(chance.choice([*places, Path("$ORIGIN")])) for _ in range(chance.randint(0, 4))]
            return ":".join(chosen) or None

        for name in sonames:
            for place in places:
                if chance.random() < 0.8:
                    needed = chance.sample(sonames, chance.randint(0, 3))
                    write(place / name, Forged(needed=needed, soname=name, rpath=search()))
        path = write(directory / "m", main(*chance.sample(sonames, 2), rpath=search(), runpath=search()))
        loaded += not assert_agreement(path).problems
    assert 5 < loaded < 40  # otherwise the cases prove little


def test_the_path_file_beside_the_loader_replaces_the_default(tmp_path: Path) -> None:
    write(tmp_path / "rt/lib/ld-musl-x86_64.so.1", Forged(soname="libc.musl-x86_64.so.1"))
    (tmp_path / "rt/etc").mkdir()
    loader = MuslLoader(Files(DirectoryTree(tmp_path)))
    assert loader.system_path("/lib/ld-musl-x86_64.so.1") == ("/lib", "/usr/local/lib", "/usr/lib")
    (tmp_path / "rt/etc/ld-musl-x86_64.path").write_text("/rt/lib\n/rt/more\n")
    loader = MuslLoader(Files(DirectoryTree(tmp_path)))
    assert loader.system_path("/rt/lib/ld-musl-x86_64.so.1") == ("/rt/lib", "/rt/more")


@pytest.mark.parametrize(
    ("name", "reserved"),
    [("libc.so", True), ("libdl.so.2", True), ("libcrypt.so.1", False), ("libm", False), ("m.so", False)],
)
def test_names_that_are_musl_itself(name: str, reserved: bool) -> None:
    assert is_reserved(name) is reserved


def test_a_loader_of_musl_is_known_by_its_name() -> None:
    assert is_musl("/.deps/rt/1/lib/ld-musl-aarch64.so.1")
    assert not is_musl("/lib64/ld-linux-x86-64.so.2")
