"""The proof at run time, as values: which command was started where, what it opened, what that means."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bundler.closure.report import Scope
from bundler.tree import inside, shown

HARM = "/harm"
"""Where the hostile environment points: there lie damaged libraries, scripts and locales."""

CONTAINER_FILES = (
    "/etc/group", "/etc/gitconfig", "/etc/host.conf", "/etc/hosts", "/etc/inputrc", "/etc/localtime",
    "/etc/nsswitch.conf", "/etc/os-release", "/etc/passwd", "/etc/resolv.conf", "/etc/services",
    "/etc/shells", "/etc/terminfo", "/etc/timezone", "/usr/lib/os-release",
    "/dev", "/proc", "/sys", "/tmp", "/root", "/home",
)  # fmt: skip
"""What programs are meant to read of their container: who and where they are, never code."""

HARMLESS = tuple(
    f"{HARM}/{name}"
    for name in ("locale", "terminfo", "zone", "certificates", "magic", "openssl.cnf", "gconv/gconv-modules")
)
"""Data that a variable asks for: whoever sets it wants it read.  The outcome must still be the same."""

SEED_FILES = ("/etc/ld.so.preload", f"{HARM}/preload.so")
"""What the loader of the seed toolchain reads besides, a limit of it."""

_LOADER_SAYS = re.compile(
    r"error while loading shared libraries|Inconsistency detected by ld\.so|not found \(required by"
    r"|symbol lookup error|kernel too old|Error loading shared library|Error relocating"
)
_CALL = re.compile(
    r'^(open|openat|openat2|execve|execveat)\((?:AT_FDCWD, )?"((?:[^"\\]|\\.)*)"(?:\.\.\.)?,? ?([^)]*)\)'
)
_SPAWNED = re.compile(r"^(?:clone3?|v?fork)\(.*= (\d+)$")


@dataclass(frozen=True, slots=True)
class Situation:
    """Where a command is started: always read-only, without a network, in an empty environment but PATH.

    ``hostile`` sets the variables of :func:`harmful_environment`; ``proc`` mounts /proc.
    """

    root: str
    uid: int
    hostile: bool
    proc: bool = False

    @property
    def name(self) -> str:
        return f"{self.root} {self.uid}{' hostile' if self.hostile else ''}"


def situations(roots: Sequence[str]) -> tuple[Situation, ...]:
    """The columns of the matrix for the named foreign roots: ``scratch`` and ``musl`` go without /proc."""
    return tuple(
        Situation(root, uid, hostile, proc=root not in ("scratch", "musl"))
        for root in roots
        for uid in (0, 12345)
        for hostile in (False, True)
    )


def harmful_environment() -> dict[str, str]:
    """Variables by which a container's environment reaches into programs, all set to do harm."""
    return {
        "LD_LIBRARY_PATH": f"{HARM}/lib",
        "LD_PRELOAD": f"{HARM}/preload.so",
        "LOCPATH": f"{HARM}/locale",
        "GCONV_PATH": f"{HARM}/gconv",
        "NLSPATH": f"{HARM}/%N.cat",
        "LANG": "xx_XX.UTF-8",
        "LC_ALL": "xx_XX.UTF-8",
        "TERM": "no-such-terminal",
        "TERMINFO": f"{HARM}/terminfo",
        "TZ": f":{HARM}/zone",
        "BASH_ENV": f"{HARM}/profile",
        "ENV": f"{HARM}/profile",
        "SHELL": f"{HARM}/sh",
        "PYTHONHOME": f"{HARM}/python",
        "PYTHONPATH": f"{HARM}/python",
        "PYTHONSTARTUP": f"{HARM}/profile",
        "PERL5LIB": f"{HARM}/perl",
        "PERL5OPT": "-MHarm",
        "RUBYLIB": f"{HARM}/ruby",
        "RUBYOPT": "-rharm",
        "GEM_HOME": f"{HARM}/gems",
        "GIT_EXEC_PATH": f"{HARM}/git",
        "OPENSSL_CONF": f"{HARM}/openssl.cnf",
        "SSL_CERT_FILE": f"{HARM}/certificates",
        "MAGIC": f"{HARM}/magic",
    }


@dataclass(frozen=True, slots=True)
class Event:
    """A file that a process opened or executed, with success."""

    call: str
    path: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one start went; ``status`` is None after a timeout, negative for a signal."""

    status: int | None
    said: str = ""
    """The end of its standard error."""
    outside: tuple[Event, ...] = ()
    """What it opened and executed outside of what is allowed."""
    seen: bool = True
    """Whether the trace has its start: a sandbox that fails proves nothing."""

    @property
    def problem(self) -> str | None:
        """Why this is not in order, or None."""
        if self.status is None:
            return "did not end"
        if not self.seen:
            return f"was not started: {self.said.strip().rpartition(chr(10))[2] or 'no reason given'}"
        if (found := _LOADER_SAYS.search(self.said)) is not None:
            return f"the loader says: {found[0]}"
        if self.status < 0 or self.status in (126, 127) or 128 < self.status < 160:
            return f"did not start, or crashed (status {self.status})"
        if self.outside:
            return f"{self.outside[0].call} of {self.outside[0].path}, which is outside"
        return None


@dataclass(frozen=True, slots=True)
class Cell:
    command: str
    situation: Situation
    outcome: Outcome
    problem: str | None


@dataclass(frozen=True, slots=True)
class Matrix:
    """All starts of one bundle's commands, by command and situation."""

    prefix: str
    cells: tuple[Cell, ...]

    @property
    def ok(self) -> bool:
        return all(cell.problem is None for cell in self.cells)

    def to_dict(self) -> dict[str, Any]:
        return {
            "prefix": self.prefix,
            "ok": self.ok,
            "runs": [
                {
                    "command": cell.command,
                    "situation": cell.situation.name,
                    "status": cell.outcome.status,
                    "problem": cell.problem,
                    "outside": [f"{event.call} {event.path}" for event in cell.outcome.outside],
                }
                for cell in self.cells
            ],
        }


def make_matrix(prefix: str, runs: Iterable[tuple[str, Situation, Outcome]]) -> Matrix:
    """Judge each run, and hold the runs of one command against each other: nothing around it may matter."""
    runs = list(runs)
    # Without /proc some commands (ps) say so and end: that is theirs to decide.
    plain: dict[tuple[str, bool], int | None] = {}
    for command, situation, outcome in runs:
        if not situation.hostile and outcome.problem is None:
            plain.setdefault((command, situation.proc), outcome.status)
    cells = []
    for command, situation, outcome in runs:
        problem = outcome.problem
        usual = plain.get((command, situation.proc), outcome.status)
        if problem is None and outcome.status != usual:
            problem = f"ends with status {outcome.status} here and {usual} elsewhere"
        cells.append(Cell(command, situation, outcome, problem))
    return Matrix(prefix, tuple(cells))


def read_trace(lines: Iterable[str], command: str | None = None) -> tuple[Event, ...]:
    """The successful opens and starts in the trace of one process, as ``strace -ff`` writes it.

    With ``command``, only from its start on: what the sandbox did before is not the command's.
    """
    events: list[Event] = []
    started = command is None
    for line in lines:
        match = _CALL.match(line)
        if match is None or " = -1 " in line[match.end() :] or " = " not in line[match.end() :]:
            continue
        call, path = match[1], _unescape(match[2])
        if not started:
            started = call.startswith("exec") and path == command
        if started:
            events.append(Event("execution" if call.startswith("exec") else "opening", path))
    return tuple(events)


def spawned(lines: Iterable[str]) -> frozenset[int]:
    """Process numbers that the process of a trace started."""
    return frozenset(int(match[1]) for line in lines if (match := _SPAWNED.match(line)))


def outside(events: Iterable[Event], scope: Scope) -> tuple[Event, ...]:
    """The events that reach outside of what a bundle in this scope may open or execute."""
    readable = CONTAINER_FILES + HARMLESS + (SEED_FILES if scope.seed else ())
    found = {
        event: None
        for event in events
        if event.path.startswith("/")
        and event.path != "/"
        and not scope.allows(event.path)
        and (event.call == "execution" or not any(inside(event.path, place) for place in readable))
        # Parents of the prefixes are read by what walks up from its own place.
        and not any(inside(prefix, event.path) for prefix in (scope.prefix, *scope.allowed))
    }
    return tuple(found)


def to_text(matrix: Matrix) -> str:
    """A line for each command, a mark for each situation, and all problems below."""
    columns = list(dict.fromkeys(cell.situation.name for cell in matrix.cells))
    commands = list(dict.fromkeys(cell.command for cell in matrix.cells))
    marks = {
        (cell.command, cell.situation.name): "ok" if cell.problem is None else "FAIL" for cell in matrix.cells
    }
    width = max((len(command) for command in commands), default=0)
    lines = [f"  {number} {name}" for number, name in enumerate(columns, 1)]
    lines.append(f"{'':<{width}} " + "".join(f"{number:>5}" for number in range(1, len(columns) + 1)))
    for command in commands:
        lines.append(f"{command:<{width}} " + "".join(f"{marks[command, name]:>5}" for name in columns))
    lines += [
        f"{cell.command} in {cell.situation.name}: {cell.problem}" for cell in matrix.cells if cell.problem
    ]
    failed = sum(cell.problem is not None for cell in matrix.cells)
    verdict = "every command runs the same" if matrix.ok else f"{failed} do not do what they do elsewhere"
    lines.append(f"{matrix.prefix}: {len(matrix.cells)} starts of {len(commands)} commands: {verdict}")
    return "\n".join(map(shown, lines)) + "\n"


def to_html(matrices: Sequence[Matrix]) -> str:
    """A page of its own with one table for each bundle; the reason of a failure is in its cell."""
    parts = [_HEAD]
    for matrix in matrices:
        columns = list(dict.fromkeys(cell.situation.name for cell in matrix.cells))
        cells = {(cell.command, cell.situation.name): cell for cell in matrix.cells}
        parts.append(f"<h2>{_text(matrix.prefix)}</h2>\n<table>\n<tr><th>command</th>")
        parts += [f"<th>{_text(name)}</th>" for name in columns]
        parts.append("</tr>\n")
        for command in dict.fromkeys(cell.command for cell in matrix.cells):
            parts.append(f"<tr><th>{_text(command)}</th>")
            parts += [_cell(cells[command, name]) for name in columns]
            parts.append("</tr>\n")
        parts.append("</table>\n")
    return "".join(parts) + "</body></html>\n"


def _cell(cell: Cell) -> str:
    if cell.problem is None:
        return f'<td class="ok" title="status {cell.outcome.status}">ok</td>'
    return f'<td class="bad" title="{_text(cell.outcome.said[-500:])}">{_text(cell.problem)}</td>'


def _text(text: str) -> str:
    return html.escape(shown(text))


def _unescape(text: str) -> str:
    """A string as strace prints it: C escapes of bytes."""
    return (
        text.encode("latin-1", "replace")
        .decode("unicode_escape")
        .encode("latin-1")
        .decode("utf-8", "surrogateescape")
    )


_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Bundles in foreign roots</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222; }
table { border-collapse: collapse; margin-bottom: 2em; }
th, td { border: 1px solid #ccc; padding: 0.25em 0.6em; text-align: left; font-weight: normal; }
tr:first-child th { background: #f2f2f2; padding: 0.6em 0.25em; }
tr:first-child th { writing-mode: vertical-rl; transform: rotate(180deg); }
td.ok { background: #e4f5e4; text-align: center; }
td.bad { background: #fbdcdc; font-size: 12px; min-width: 7em; max-width: 14em; }
tr th:first-child { white-space: nowrap; writing-mode: horizontal-tb; transform: none; }
</style></head><body>
<h1>Every exported command, started in foreign roots</h1>
<p>Read-only, without a network. The number is the user; hostile: the environment's variables point to
damaged libraries, locales and scripts.</p>
"""
