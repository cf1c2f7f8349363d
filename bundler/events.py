"""What happens while the library works, as values: renderers (``progress.py``) draw them.

The library never prints.  It calls a :data:`Sink` with one of the events below; times are seconds,
sizes bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Message:
    """One sentence for the user."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """Work that has a name began; ``total`` is in ``unit`` where it is known ahead."""

    task: str
    total: int | None = None
    unit: Literal["bytes", "files", "steps"] = "steps"


@dataclass(frozen=True, slots=True)
class TaskAdvanced:
    """``done`` units of the task are done, counted from its start."""

    task: str
    done: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class TaskFinished:
    """The task ended; ``outcome`` is ``cached`` where nothing had to be done."""

    task: str
    outcome: Literal["done", "cached", "failed"] = "done"
    seconds: float = 0.0
    note: str = ""


Event = Message | TaskStarted | TaskAdvanced | TaskFinished
Sink = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A sink for callers that do not care."""
