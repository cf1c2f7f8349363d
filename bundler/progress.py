"""Events to text on standard error: plain lines, live bars on a terminal, or JSON lines for programs."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, TextIO

from bundler.events import Event, Message, Sink, TaskAdvanced, TaskFinished, TaskStarted, ignore

if TYPE_CHECKING:
    from tqdm import tqdm

Mode = Literal["auto", "plain", "tty", "json", "none"]

HEARTBEAT = 30.0
"""Seconds between signs of life of one long task in plain mode."""

REFRESH = 0.1
"""Seconds between two drawings of one bar."""


@contextmanager
def renderer(mode: Mode = "auto", stream: TextIO | None = None) -> Iterator[Sink]:
    """A sink that draws on ``stream`` (default: standard error), safe to call from any thread."""
    out = sys.stderr if stream is None else stream
    if mode == "auto":
        mode = "tty" if out.isatty() else "plain"
    if mode == "none":
        yield ignore
        return
    drawing: Plain | Json | Bars
    if mode == "tty":
        drawing = Bars(out)
    else:
        drawing = Json(out) if mode == "json" else Plain(out)
    lock = threading.Lock()

    def sink(event: Event) -> None:
        with lock:
            drawing.draw(event)

    try:
        yield sink
    finally:
        drawing.close()


class Plain:
    """One line when a task begins, one when it ends, and a sign of life between."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._spoken: dict[str, float] = {}

    def draw(self, event: Event) -> None:
        now = time.monotonic()
        match event:
            case Message(text=text, level=level):
                self._say(f"warning: {text}" if level == "warning" else text)
            case TaskStarted(task=task):
                self._spoken[task] = now
                self._say(f"{task} …")
            case TaskAdvanced(task=task, note=note):
                if now - self._spoken.setdefault(task, now) >= HEARTBEAT:
                    self._spoken[task] = now
                    self._say(f"{task} … {note}".rstrip())
            case TaskFinished():
                self._spoken.pop(event.task, None)
                self._say(ending(event))

    def close(self) -> None:
        self._out.flush()

    def _say(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


class Json:
    """Each event as one JSON object on a line: its kind, its fields and the time since the epoch in ms."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def draw(self, event: Event) -> None:
        record = {"event": type(event).__name__, **asdict(event), "time": int(time.time() * 1000)}
        self._out.write(json.dumps(record, ensure_ascii=True) + "\n")
        self._out.flush()

    def close(self) -> None:
        self._out.flush()


class Bars:
    """A bar for every task that runs; what is finished stays above as a line."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._bars: dict[str, tqdm[Any]] = {}

    def draw(self, event: Event) -> None:
        from tqdm import tqdm

        match event:
            case Message(text=text, level=level):
                tqdm.write(f"warning: {text}" if level == "warning" else text, file=self._out)
            case TaskStarted(task=task, total=total, unit=unit):
                counted = total is not None
                self._bars[task] = tqdm(
                    total=total,
                    desc=task,
                    file=self._out,
                    leave=False,
                    mininterval=REFRESH,
                    dynamic_ncols=True,
                    unit="B" if unit == "bytes" else f" {unit}",
                    unit_scale=unit == "bytes",
                    bar_format=None if counted else "{desc}  {elapsed}  {postfix}",
                )
            case TaskAdvanced(task=task, done=done, note=note):
                if (bar := self._bars.get(task)) is not None:
                    if note:
                        bar.set_postfix_str(note[:60], refresh=False)
                    bar.update(max(0, done - bar.n) or (1 if bar.total is None else 0))
            case TaskFinished(task=task):
                if (bar := self._bars.pop(task, None)) is not None:
                    bar.close()
                tqdm.write(ending(event), file=self._out)

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()
        self._out.flush()


def ending(event: TaskFinished) -> str:
    """The line that says how a task ended."""
    how = {"done": "done", "cached": "cached", "failed": "failed"}[event.outcome]
    time_taken = f" in {duration(event.seconds)}" if event.seconds >= 0.05 else ""
    return f"{event.task}: {event.note or how}{time_taken}"


def duration(seconds: float) -> str:
    """Seconds in the form that a person reads: ``0.3 s``, ``42 s``, ``3 min 05 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
