"""``bundle verify`` on real programs: built with the machine's compiler against a runtime of their own.

The runtime is the machine's libc under a private prefix, so each program is what a bundle's would be; each
fault is one that only shows when something runs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.closure import Scope, verify
from bundler.closure.matrix import Matrix, to_html, to_text
from bundler.proof import prove
from bundler.subject import Judged, Subject
from bundler.target import ARCHITECTURES
from bundler.tree import DirectoryTree

RUNTIME, PREFIX = "/.deps/rt/1", "/.deps/x/1"
LOADER = f"{RUNTIME}/lib/ld-linux-x86-64.so.2"

PRINT = '#include <stdio.h>\nint main(void) { puts("here"); return 3; }\n'
SHELL = '#include <stdlib.h>\nint main(void) { return system("exit 4") == 1024 ? 4 : 5; }\n'
READ = '#include <fcntl.h>\nint main(void) { return open("/etc/debian_version", O_RDONLY) < 0 ? 0 : 0; }\n'
CRASH = "int main(void) { *(volatile int *)8 = 1; return 0; }\n"
CHILD = (
    "#include <unistd.h>\n#include <sys/wait.h>\n#include <fcntl.h>\n"
    'int main(void) { if (!fork()) { open("/etc/issue", O_RDONLY); _exit(0); } wait(0); return 0; }\n'
)


def compile_program(root: Path, name: str, source: str, *flags: str) -> None:
    target = root / PREFIX[1:] / "bin" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [
        "gcc",
        "-x",
        "c",
        "-o",
        str(target),
        "-",
        f"-Wl,--dynamic-linker={LOADER}",
        "-Wl,-z,nodefaultlib",
    ]
    flags = flags or ("-Wl,--disable-new-dtags", f"-Wl,-rpath,{RUNTIME}/lib")
    subprocess.run([*command, *flags], input=source, text=True, check=True)


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    library = tmp_path / RUNTIME[1:] / "lib"
    library.mkdir(parents=True)
    (tmp_path / PREFIX[1:]).mkdir(parents=True)
    for name in ("ld-linux-x86-64.so.2", "libc.so.6"):
        shutil.copy(Path("/lib/x86_64-linux-gnu") / name, library / name)
    tree = DirectoryTree(tmp_path)
    architecture = ARCHITECTURES["x86_64"]
    scope = Scope(PREFIX, (RUNTIME,), architecture, seed=True)
    return Judged(Subject("x", PREFIX, tree, architecture), tree, scope, ())


def run_commands(judged: Judged, roots: dict[str, Path | None], *names: str) -> Matrix:
    commands = tuple(f"bin/{name}" for name in names)
    return prove(replace(judged, subject=replace(judged.subject, commands=commands)), roots, jobs=2)


def problems(matrix: Matrix) -> dict[str, str]:
    return {cell.situation.name: cell.problem for cell in matrix.cells if cell.problem is not None}


def test_a_sound_program_runs_everywhere(
    judged: Judged, tmp_path: Path, foreign_root: Callable[[str], Path]
) -> None:
    compile_program(tmp_path, "good", PRINT)
    assert verify(judged.tree, judged.scope).ok
    roots = {"scratch": None, "musl": foreign_root("musl"), "debian": foreign_root("debian")}
    matrix = run_commands(judged, roots, "good")
    assert problems(matrix) == {}
    assert len(matrix.cells) == 12
    assert {cell.outcome.status for cell in matrix.cells} == {3}
    text = to_text(matrix)
    assert text.splitlines()[-1] == f"{PREFIX}: 12 starts of 1 commands: every command runs the same"
    assert to_html([matrix]).count('class="ok"') == 12
    assert json.dumps(matrix.to_dict())


def test_with_a_runpath_the_environment_decides(judged: Judged, tmp_path: Path) -> None:
    compile_program(tmp_path, "weak", PRINT, "-Wl,--enable-new-dtags", f"-Wl,-rpath,{RUNTIME}/lib")
    assert {item.rule for item in verify(judged.tree, judged.scope).violations} == {"runpath"}
    found = problems(run_commands(judged, {"scratch": None}, "weak"))
    assert set(found) == {"scratch 0 hostile", "scratch 12345 hostile"}
    assert "error while loading shared libraries" in found["scratch 0 hostile"]


def test_a_program_of_the_host_does_not_start_in_scratch(judged: Judged, tmp_path: Path) -> None:
    target = tmp_path / PREFIX[1:] / "bin/true"
    target.parent.mkdir()
    shutil.copy("/bin/true", target)
    assert "interpreter-outside" in {item.rule for item in verify(judged.tree, judged.scope).violations}
    assert len(problems(run_commands(judged, {"scratch": None}, "true"))) == 4


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (SHELL, "execution of /bin/sh, which is outside"),
        (READ, "opening of /etc/debian_version, which is outside"),
        (CHILD, "opening of /etc/issue, which is outside"),
        (CRASH, "did not start, or crashed (status 139)"),
    ],
)
def test_what_only_shows_at_run_time(
    source: str, expected: str, judged: Judged, tmp_path: Path, foreign_root: Callable[[str], Path]
) -> None:
    compile_program(tmp_path, "bad", source)
    matrix = run_commands(judged, {"scratch": None, "debian": foreign_root("debian")}, "bad")
    assert problems(matrix)["debian 0"] == expected
    assert not matrix.ok
    assert "FAIL" in to_text(matrix)


def test_a_command_that_is_not_there(judged: Judged, tmp_path: Path) -> None:
    (problem,) = set(problems(run_commands(judged, {"scratch": None}, "none")).values())
    assert problem.startswith("was not started: ")
