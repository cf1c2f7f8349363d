"""``bundle verify --run``: every exported command started in foreign roots, watched by strace.

Each start has a mount namespace of its own in which the bundles lie read-only at their prefixes over a
foreign root; nothing of the machine is in it but what that root holds.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bundler.closure.matrix import (
    HARM,
    Event,
    Matrix,
    Outcome,
    Situation,
    harmful_environment,
    make_matrix,
    outside,
    read_trace,
    situations,
    spawned,
)
from bundler.closure.report import Scope
from bundler.errors import InputError
from bundler.process import find_tool, run
from bundler.subject import Judged
from bundler.tree import FileTree, Kind, join, walk
from bundler.tree_writer import TreeWriter

TIMEOUT = 30.0
"""Seconds for one start."""
_TAIL = 2000
"""Characters of standard error that are kept."""
_NODES = ("null", "zero", "full", "random", "urandom", "tty")


@dataclass(frozen=True, slots=True)
class _Stage:
    """What all starts of one bundle share: tools, the unpacked files, and a directory to work in."""

    bwrap: str
    strace: str
    bundles: Path
    harm: Path
    work: Path
    roots: Mapping[str, Path | None]
    scope: Scope


def prove(judged: Judged, roots: Mapping[str, Path | None], *, jobs: int) -> Matrix:
    """Start every exported command of the bundle in every situation, ``jobs`` at once.

    ``roots`` are directories by name, None for an empty root.  Raises InputError for a bundle that exports
    nothing, EnvironmentLacks where bubblewrap or strace is missing.
    """
    subject = judged.subject
    if not subject.commands:
        raise InputError("exports no commands, so there is nothing to run", where=subject.name)
    with tempfile.TemporaryDirectory(prefix="bundle-proof-") as directory:
        work = Path(directory)
        stage = _Stage(
            bwrap=find_tool("bwrap", package="bubblewrap"),
            strace=find_tool("strace"),
            bundles=work / "bundles",
            harm=_lay_harm(work / "harm", judged.tree, judged.scope),
            work=work,
            roots=roots,
            scope=judged.scope,
        )
        for prefix in (judged.scope.prefix, *judged.scope.allowed):
            _unpack(judged.tree, prefix.strip("/"), stage.bundles)
        runs = [
            (command, situation) for command in subject.commands for situation in situations(tuple(roots))
        ]
        with ThreadPoolExecutor(jobs) as pool:
            outcomes = list(pool.map(lambda item: _start(stage, item[0], item[1]), runs))
    return make_matrix(
        judged.scope.prefix,
        [(command, situation, outcome) for (command, situation), outcome in zip(runs, outcomes, strict=True)],
    )


def _start(stage: _Stage, command: str, situation: Situation) -> Outcome:
    program = f"{stage.scope.prefix}/{command}"
    with tempfile.TemporaryDirectory(dir=stage.work) as directory:
        trace = Path(directory) / "trace"
        watched = [stage.strace, "-ff", "-qq", "-s", "4096", "-o", str(trace)]
        watched += [
            "-e",
            "trace=open,openat,openat2,execve,execveat,clone,clone3,fork,vfork",
            "-e",
            "signal=none",
        ]
        words = [*watched, *_sandbox(stage, situation), "--", program, "--version"]
        try:
            done = run(words, environment={}, timeout=TIMEOUT)
        except TimeoutError:
            return Outcome(None)
        said = done.stderr.decode("utf-8", "replace")[-_TAIL:]
        events = _events(Path(directory), program)
    # bubblewrap gives a signal back as 128 and its number.
    return Outcome(done.status, said, outside(events, stage.scope), seen=bool(events))


def _sandbox(stage: _Stage, situation: Situation) -> list[str]:
    words = [stage.bwrap, "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    # No namespace for processes: the numbers in the trace must be those that fork returned.
    words += ["--unshare-user", "--unshare-ipc", "--unshare-net", "--unshare-uts"]
    words += ["--uid", str(situation.uid), "--gid", str(situation.uid), "--clearenv"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/"}
    if situation.hostile:
        environment |= harmful_environment()
    for name, value in environment.items():
        words += ["--setenv", name, value]
    root = stage.roots[situation.root]
    for path in sorted(root.iterdir()) if root is not None else ():
        if path.name in ("proc", "dev", "sys"):
            continue
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), f"/{path.name}"]
        else:
            words += ["--ro-bind", str(path), f"/{path.name}"]
    words += ["--dev", "/dev"]
    # Started by root, a command would own the machine's device nodes, and could change their modes.
    for node in _NODES:
        words += ["--remount-ro", f"/dev/{node}"]
    words += ["--proc", "/proc"] if situation.proc else []
    words += ["--ro-bind", str(stage.harm), HARM]
    for prefix in sorted({stage.scope.prefix, *stage.scope.allowed}):
        words += ["--ro-bind", f"{stage.bundles}{prefix}", prefix]
    return [*words, "--remount-ro", "/", "--chdir", "/"]


def _events(directory: Path, program: str) -> tuple[Event, ...]:
    """What the command and all processes that it started opened, from one trace file each."""
    traces = {
        int(path.suffix[1:]): path.read_text("utf-8", "surrogateescape").splitlines()
        for path in directory.glob("trace.*")
    }
    events: list[Event] = []
    pending: list[int] = []
    for lines in traces.values():
        own = read_trace(lines, program)
        if own:
            events += own
            pending += spawned(lines)
    seen: set[int] = set()
    while pending:
        number = pending.pop()
        if number in seen or number not in traces:
            continue
        seen.add(number)
        events += read_trace(traces[number])
        pending += spawned(traces[number])
    return tuple(events)


def _unpack(tree: FileTree, below: str, root: Path) -> None:
    """Write what is below a directory of the tree to disk; nothing there is setuid or writable."""
    writer = TreeWriter(root, "/" + below, is_root=True)
    writer.directory(below)
    for entry in walk(tree, below):
        if entry.kind is Kind.DIRECTORY:
            writer.directory(entry.path)
        elif entry.kind is Kind.SYMLINK:
            writer.symlink(entry.path, entry.target or "")
        elif entry.kind is Kind.FILE:
            with tree.open(entry.path) as stream:
                executable = bool(entry.mode & 0o111)
                writer.file(entry.path, stream, entry.size, executable=executable, mtime=None)
    writer.finish()


def _lay_harm(directory: Path, tree: FileTree, scope: Scope) -> Path:
    """A directory in which everything that a variable may name is there, and damaged."""
    library = directory / "lib"
    library.mkdir(parents=True)
    for prefix in (scope.prefix, *scope.allowed):
        for name in tree.names(join(prefix.strip("/"), "lib")):
            if ".so" in name:
                (library / name).write_bytes(b"harm")
    for name in ("preload.so", "zone", "openssl.cnf", "certificates", "magic"):
        (directory / name).write_bytes(b"harm")
    (directory / "locale/xx_XX.UTF-8").mkdir(parents=True)
    for name in ("LC_CTYPE", "LC_COLLATE", "LC_TIME"):
        (directory / "locale/xx_XX.UTF-8" / name).write_bytes(b"harm")
    for name in ("profile", "sh"):
        (directory / name).write_text("exit 97\n")
        (directory / name).chmod(0o755)
    for name in ("gconv", "terminfo/n", "python", "perl", "ruby", "gems", "git"):
        (directory / name).mkdir(parents=True)
    (directory / "gconv/gconv-modules").write_text("module INTERNAL UTF-8// HARM 1\n")
    (directory / "terminfo/n/no-such-terminal").write_bytes(b"harm")
    (directory / "python/encodings.py").write_text("raise SystemExit(97)\n")
    (directory / "ruby/harm.rb").write_text("exit 97\n")
    (directory / "perl/Harm.pm").write_text("exit 97;\n")
    return directory


def read_roots(directories: Sequence[str]) -> dict[str, Path | None]:
    """Foreign roots from ``NAME=DIRECTORY`` words, the empty one first; raises InputError."""
    roots: dict[str, Path | None] = {"scratch": None}
    for word in directories:
        name, equals, text = word.partition("=")
        path = Path(text if equals else name)
        if not path.is_dir():
            raise InputError(f"there is no root directory {str(path)!r}", hint="as in --root musl=DIRECTORY")
        roots[name if equals else path.name] = path.absolute()
    return roots
