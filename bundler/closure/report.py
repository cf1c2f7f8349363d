"""What verify is asked about, and what it answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from bundler.closure.rules import Severity, rules
from bundler.recipe import Accept
from bundler.target import Architecture
from bundler.tree import inside, shown

KERNEL_FLOOR = (5, 4, 0)
"""The oldest kernel that a bundle promises to run on, unless its scope says otherwise."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What is judged and what it may reach.

    ``prefix`` is the directory whose files are judged; ``allowed`` are the prefixes that they may load
    and run from (``prefix`` itself need not be named).  ``isa_level`` is the level of x86-64 that the
    bundle promises to run on (1: the baseline).  ``seed`` says that the seed toolchain built it, whose
    limits are then named instead of counted; ``deep`` looks for undefined symbols too.
    """

    prefix: str
    allowed: tuple[str, ...]
    architecture: Architecture
    accepts: tuple[Accept, ...] = ()
    seed: bool = False
    isa_level: int = 1
    kernel: tuple[int, int, int] = KERNEL_FLOOR
    deep: bool = False
    commands: tuple[str, ...] = ()
    """What the bundle exports, relative to its prefix: it must be there."""

    def allows(self, path: str) -> bool:
        """Whether an absolute path without links lies in one of the prefixes."""
        return any(inside(path, prefix) for prefix in (self.prefix, *self.allowed))


@dataclass(frozen=True, slots=True)
class Violation:
    """One finding, of whatever severity: the file, the rule, the reason and the way there.

    ``path`` is absolute, as in the container; ``chain`` leads from the program that is started over the
    objects that it loads to the one that is wanting.
    """

    rule: str
    path: str
    message: str
    severity: Severity = Severity.ERROR
    chain: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        """What to do about it."""
        return rules()[self.rule].action

    def to_dict(self) -> dict[str, Any]:
        record: dict[str, Any] = {
            "rule": self.rule,
            "severity": str(self.severity),
            "path": self.path,
            "message": self.message,
            "hint": self.hint,
        }
        if self.chain:
            record["chain"] = list(self.chain)
        return record

    def __str__(self) -> str:
        line = shown(f"{self.path}: {self.severity}: {self.message} [{self.rule}]")
        return f"{line}\n    chain: {shown(' → '.join(self.chain))}" if len(self.chain) > 1 else line


def finding(rule: str, path: str, message: str, chain: tuple[str, ...] = ()) -> Violation:
    """A finding with the severity of its rule."""
    return Violation(rule, path, message, rules()[rule].severity, chain)


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of one verification; findings are sorted by rule and path."""

    prefix: str
    violations: tuple[Violation, ...] = ()
    notes: tuple[Violation, ...] = ()
    """Warnings and information: nothing that makes it not in order."""
    limits: tuple[Violation, ...] = ()
    """What the seed toolchain cannot move."""
    accepted: tuple[tuple[Violation, str], ...] = ()
    """Violations that the bundle takes on, with the reason that its image file gives."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many of what was looked at: files, links, scripts, programs, libraries, look-ups."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """The highest version of each family that is needed, as in ``{"GLIBC": "GLIBC_2.38"}``."""

    @property
    def ok(self) -> bool:
        return not self.violations

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        return {
            "prefix": self.prefix,
            "ok": self.ok,
            "violations": [finding.to_dict() for finding in self.violations],
            "notes": [finding.to_dict() for finding in self.notes],
            "limits": [finding.to_dict() for finding in self.limits],
            "accepted": [{**finding.to_dict(), "reason": reason} for finding, reason in self.accepted],
            "counts": dict(self.counts),
            "versions": dict(self.versions),
        }


def to_json(reports: Iterable[Report]) -> str:
    return json.dumps([report.to_dict() for report in reports], indent=2, ensure_ascii=True) + "\n"


def to_text(report: Report, *, verbose: bool = False) -> str:
    """The report for people: violations and warnings in full, the rest counted unless ``verbose``."""
    warnings = tuple(note for note in report.notes if note.severity is Severity.WARNING)
    information = tuple(note for note in report.notes if note.severity is not Severity.WARNING)
    lines = [*_groups(report.violations), *_groups(warnings)]
    if verbose:
        lines += [*_groups(information), *_groups(report.limits)]
        lines += [shown(f"{found.path}: accepted: {why} [{found.rule}]") for found, why in report.accepted]
    elif report.limits:
        lines += ["limits of the seed toolchain:", *(f"  {line}" for line in _limits(report.limits))]
    totals = [
        _count(len(report.violations), "violation"),
        _count(len(warnings), "warning"),
        _count(len(information), "note"),
        _count(len(report.limits), "limit of the seed toolchain", "limits of the seed toolchain"),
        f"{len(report.accepted)} accepted",
    ]
    totals = totals[:1] + [text for text in totals[1:] if not text.startswith("0 ")]
    looked = ", ".join(_count(number, _ONE[name], name) for name, number in report.counts.items())
    lines.append(f"{report.prefix}: {'in order' if report.ok else 'NOT in order'}: {', '.join(totals)}")
    lines.append(f"  looked at {looked}")
    if report.versions:
        lines.append(f"  needs {', '.join(report.versions.values())}")
    return "\n".join(lines) + "\n"


_ONE = {
    "files": "file",
    "links": "link",
    "scripts": "script",
    "programs": "program",
    "libraries": "library",
    "look-ups": "look-up",
}


def _groups(findings: Iterable[Violation]) -> Iterator[str]:
    """The findings, and after those of one rule what it means and what to do."""
    for name, group in groupby(findings, key=lambda finding: finding.rule):
        yield from map(str, group)
        rule = rules()[name]
        yield f"  why: {rule.explanation}"
        yield f"  hint: {rule.action}"


def _limits(limits: Iterable[Violation]) -> Iterator[str]:
    for path, group in groupby(sorted(limits, key=lambda limit: limit.path), key=lambda limit: limit.path):
        yield shown(f"{path}: {'; '.join(limit.message for limit in group)}")


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
