"""Measuring: rounds in turn, medians, and ratios within a round, since these machines drift."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Cost:
    """Seconds of wall time, seconds of processor time, and the peak resident size of one process in bytes."""

    wall: float
    cpu: float
    peak: int = 0


def command(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: str | None = None,
    statuses: Sequence[int] = (0,),
) -> Cost:
    """What a command costs as a whole process with its children; raises if it ends with another status."""
    began = time.monotonic()
    process = subprocess.Popen(
        argv,
        env=None if environment is None else {**os.environ, **environment},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in statuses:
        started = " ".join(argv)[:500]
        raise RuntimeError(
            f"{started} ended with {process.returncode}: {said[-2000:].decode(errors='replace')}"
        )
    return Cost(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def call(function: Callable[[], object]) -> Cost:
    """What a call in this process costs, its children included."""

    def cpu() -> float:
        usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    began, before = time.monotonic(), cpu()
    function()
    return Cost(time.monotonic() - began, cpu() - before)


@dataclass
class Report:
    """Collects lines; ``python -m tests.bench`` prints them as they come."""

    lines: list[str] = field(default_factory=list)

    def line(self, text: str) -> None:
        self.lines.append(text)
        print(text, flush=True)

    def cost(self, name: str, costs: Sequence[Cost]) -> None:
        """One thing by itself: medians."""
        wall, cpu = median(c.wall for c in costs), median(c.cpu for c in costs)
        peak = max(c.peak for c in costs)
        shown = f", peak {peak / (1 << 20):.0f} MiB" if peak else ""
        self.line(f"  {name}: {wall:.3f} s wall, {cpu:.3f} s cpu{shown} (median of {len(costs)})")

    def ratio(self, name: str, ours: Sequence[Cost], peer: str, theirs: Sequence[Cost], goal: float) -> None:
        """Ours over the peer's, round by round; ``goal`` is the ratio that we want to stay below."""
        found = median(a.wall / b.wall for a, b in zip(ours, theirs, strict=True))
        self.cost(name, ours)
        self.cost(peer, theirs)
        self.line(f"  ratio {name} / {peer}: {found:.3f} (goal: at most {goal})")


def rounds(count: int, *measured: Callable[[], Cost]) -> list[list[Cost]]:
    """Each in turn, ``count`` times over after one round that warms up; costs by measured thing."""
    for function in measured:
        function()
    found: list[list[Cost]] = [[] for _ in measured]
    for _ in range(count):
        for costs, function in zip(found, measured, strict=True):
            costs.append(function())
    return found


BUNDLE = (sys.executable, "-m", "bundler")
