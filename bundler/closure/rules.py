"""The rules of verify as values; ``rules.toml`` beside this module is their text."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Literal

Where = Literal["libc", "elf", "build-file", "any"]


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    INFORMATION = "information"
    LIMIT = "limit"
    """What the seed toolchain cannot do: named, and no violation."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that may be wrong, why that matters, and what to do about it."""

    name: str
    severity: Severity
    summary: str
    explanation: str
    action: str
    where: Where = "any"
    """For rules that look for bytes: the kind of file."""
    strings: tuple[str, ...] = ()
    seed: frozenset[str] = frozenset()
    """Those of ``strings`` that are limits in what the seed toolchain built."""


@cache
def rules() -> dict[str, Rule]:
    """Every rule by its name, in the order of the file."""
    text = resources.files("bundler.closure").joinpath("rules.toml").read_text(encoding="utf-8")
    return {
        name: Rule(
            name=name,
            severity=Severity(table["severity"]),
            summary=table["summary"],
            explanation=table["explanation"],
            action=table["action"],
            where=table.get("where", "any"),
            strings=tuple(table.get("strings", ())),
            seed=frozenset(table.get("seed", ())),
        )
        for name, table in tomllib.loads(text).items()
    }
