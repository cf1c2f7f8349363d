"""The log of one build: a file, its last lines, and a note now and then for who watches."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from bundler.events import Sink, TaskAdvanced

_NOTE_EVERY = 0.2
"""Seconds between notes: a make can print thousands of lines a second, and nobody reads them."""


class BuildLog:
    """Takes output as it comes; every failing build leaves its file behind."""

    def __init__(self, path: Path, task: str, sink: Sink) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._task = task
        self._sink = sink
        self._stream = path.open("wb")
        self._lines: deque[bytes] = deque(maxlen=200)
        self._partial = b""
        self._done = 0
        self._step = ""
        self._noted = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def step(self, name: str, done: int) -> None:
        """A step begins, ``done`` steps were done before it."""
        self._done, self._step = done, name
        self._stream.write(f"==> {name}\n".encode())
        self._sink(TaskAdvanced(self._task, done, name))

    def write(self, data: bytes) -> None:
        """Output of a step; the file is flushed so that it can be followed."""
        self._stream.write(data)
        self._stream.flush()
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-4096:]
        self._lines.extend(lines)
        now = time.monotonic()
        if lines and now - self._noted > _NOTE_EVERY:
            self._noted = now
            self._sink(TaskAdvanced(self._task, self._done, f"{self._step}: {_text(lines[-1])[:120]}"))

    def tail(self, count: int) -> list[str]:
        """The last lines, made safe for a terminal."""
        lines = [*self._lines, self._partial] if self._partial else list(self._lines)
        return [_text(line) for line in lines[-count:]]


def _text(line: bytes) -> str:
    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace").expandtabs()
    return "".join(character if character.isprintable() else "?" for character in text)
