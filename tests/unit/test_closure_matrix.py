"""The proof at run time as values: traces read, judged, drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.closure.matrix import (
    HARM,
    Event,
    Outcome,
    Situation,
    harmful_environment,
    make_matrix,
    outside,
    read_trace,
    situations,
    spawned,
    to_html,
    to_text,
)
from bundler.closure.report import Scope
from bundler.errors import InputError
from bundler.proof import read_roots
from bundler.target import ARCHITECTURES

SCOPE = Scope("/.deps/x/1", ("/.deps/rt/1",), ARCHITECTURES["x86_64"])
PLAIN, HOSTILE = Situation("scratch", 0, False), Situation("scratch", 0, True)

TRACE = r"""
openat(AT_FDCWD, "/proc/self/status", O_RDONLY) = 3
execve("/.deps/x/1/bin/t", ["/.deps/x/1/bin/t", "--version"], 0x7ffd /* 2 vars */) = 0
openat(AT_FDCWD, "/.deps/x/1/lib/none.so", O_RDONLY|O_CLOEXEC) = -1 ENOENT (No such file or directory)
openat(AT_FDCWD, "/.deps/rt/1/lib/libc.so.6", O_RDONLY|O_CLOEXEC) = 3
open("/caf\303\251", O_RDONLY) = 4
clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD, child_tidptr=0x7f) = 77
vfork() = 78
execve("/bin/sh", ["sh", "-c", "true"], 0x7ffd /* 2 vars */) = -1 ENOENT (No such file or directory)
+++ exited with 0 +++
""".strip().splitlines()


def test_a_trace_counts_from_the_start_of_the_command() -> None:
    assert read_trace(TRACE, "/.deps/x/1/bin/t") == (
        Event("execution", "/.deps/x/1/bin/t"),
        Event("opening", "/.deps/rt/1/lib/libc.so.6"),
        Event("opening", "/café"),
    )
    assert read_trace(TRACE, "/.deps/x/1/bin/other") == ()
    assert read_trace(TRACE)[0] == Event("opening", "/proc/self/status")
    assert spawned(TRACE) == {77, 78}


@pytest.mark.parametrize(
    ("event", "allowed"),
    [
        (Event("opening", "/.deps/x/1/lib/liba.so"), True),
        (Event("opening", "/.deps/rt/1/lib/libc.so.6"), True),
        (Event("opening", "/.deps/rt/10/lib/libc.so.6"), False),
        (Event("opening", "/.deps"), True),
        (Event("opening", "/etc/passwd"), True),
        (Event("execution", "/etc/passwd"), False),
        (Event("opening", "/etc/passwdx"), False),
        (Event("opening", "/dev/null"), True),
        (Event("opening", "/lib/libc.so.6"), False),
        (Event("opening", f"{HARM}/lib/libc.so.6"), False),
        (Event("opening", f"{HARM}/preload.so"), False),
        (Event("opening", f"{HARM}/locale/xx_XX.UTF-8/LC_CTYPE"), True),
        (Event("execution", "/bin/sh"), False),
        (Event("opening", "relative"), True),
    ],
)
def test_what_may_be_opened(event: Event, allowed: bool) -> None:
    assert (outside([event], SCOPE) == ()) is allowed


def test_the_seed_reads_what_is_preloaded() -> None:
    seed = Scope("/.deps/x/1", (), ARCHITECTURES["x86_64"], seed=True)
    assert outside([Event("opening", f"{HARM}/preload.so")], seed) == ()


@pytest.mark.parametrize(
    ("outcome", "problem"),
    [
        (Outcome(0), None),
        (Outcome(1, "usage: t"), None),
        (Outcome(None), "did not end"),
        (Outcome(127), "did not start, or crashed (status 127)"),
        (Outcome(139), "did not start, or crashed (status 139)"),
        (Outcome(-9), "did not start, or crashed (status -9)"),
        (Outcome(255), None),
        (Outcome(1, "bwrap: no\nbwrap: room", seen=False), "was not started: bwrap: room"),
        (Outcome(1, "t: error while loading shared libraries: x"), "the loader says"),
        (Outcome(0, "", (Event("opening", "/usr/x"),)), "opening of /usr/x, which is outside"),
    ],
)
def test_what_an_outcome_means(outcome: Outcome, problem: str | None) -> None:
    found = outcome.problem
    assert found == problem or (found is not None and problem is not None and found.startswith(problem))


def test_the_same_command_must_end_the_same_everywhere() -> None:
    matrix = make_matrix("/.deps/x/1", [("bin/t", PLAIN, Outcome(2)), ("bin/t", HOSTILE, Outcome(0))])
    assert [cell.problem for cell in matrix.cells] == [None, "ends with status 0 here and 2 elsewhere"]
    assert to_text(matrix).splitlines() == [
        "  1 scratch 0",
        "  2 scratch 0 hostile",
        "          1    2",
        "bin/t    ok FAIL",
        "bin/t in scratch 0 hostile: ends with status 0 here and 2 elsewhere",
        "/.deps/x/1: 2 starts of 1 commands: 1 do not do what they do elsewhere",
    ]


def test_a_command_may_miss_proc() -> None:
    mounted = Situation("debian", 0, False, proc=True)
    assert make_matrix("/.deps/x/1", [("bin/ps", PLAIN, Outcome(47)), ("bin/ps", mounted, Outcome(0))]).ok


def test_a_page_holds_no_markup_of_what_ran() -> None:
    evil = Outcome(127, "<script>alert(1)</script>")
    page = to_html([make_matrix("/.deps/<b>", [("bin/<i>", PLAIN, evil)])])
    assert "<script>" not in page and "<b>" not in page and "<i>" not in page
    assert "&lt;script&gt;" in page


def test_situations_cover_roots_users_and_environments() -> None:
    found = situations(("scratch", "debian"))
    assert len({situation.name for situation in found}) == 8
    assert {situation.proc for situation in found if situation.root == "scratch"} == {False}


def test_the_harmful_environment_names_every_leak_of_the_notes() -> None:
    names = {
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "LOCPATH",
        "GCONV_PATH",
        "PYTHONHOME",
        "PERL5LIB",
        "BASH_ENV",
        "TERM",
        "TZ",
    }
    assert names <= set(harmful_environment())


def test_roots_are_directories(tmp_path: Path) -> None:
    (tmp_path / "alpine").mkdir()
    assert read_roots([f"musl={tmp_path}/alpine", str(tmp_path / "alpine")]) == {
        "scratch": None,
        "musl": tmp_path / "alpine",
        "alpine": tmp_path / "alpine",
    }
    with pytest.raises(InputError, match="no root directory"):
        read_roots(["x=/no/such/directory"])
