"""One pool of job slots for all builds that run at once, spoken to in GNU make's own protocol.

"Job slots", GNU make manual, section 13.1: a client reads a byte to start a job beyond its first and
writes it back afterwards.  Each build has a fifo of its own (make 4.4, ninja 1.13), and the pool moves
tokens between them.  So it always knows how many a build holds, and those of one that was killed come
back; with one fifo for all, nobody could tell whose were missing.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TICK = 0.02
"""Seconds after which unused tokens are dealt anew, while builds compete for them."""


@dataclass(slots=True)
class _Client:
    descriptor: int
    given: int = 0
    """Tokens put into its fifo and not seen again: unread, or held by a running job."""

    def collect(self) -> int:
        """Take what lies unread in the fifo; tokens that a client made up itself do not count."""
        try:
            found = len(os.read(self.descriptor, 4096))
        except BlockingIOError:
            return 0
        counted = min(found, self.given)
        self.given -= counted
        return counted

    def give(self, tokens: int) -> None:
        self.given += os.write(self.descriptor, b"+" * tokens) if tokens else 0


class Jobserver:
    """``jobs`` slots in all.  A running build holds one, for the job that every make may always run."""

    def __init__(self, jobs: int) -> None:
        if jobs < 1:
            raise ValueError("a jobserver needs at least one job")
        self.jobs = jobs
        self._free = jobs
        self._clients: list[_Client] = []
        self._waiting = 0
        self._turn = 0
        self._changed = threading.Condition()
        self._dealer: threading.Thread | None = None

    @contextlib.contextmanager
    def client(self, fifo: Path) -> Iterator[None]:
        """Wait for a slot, and serve a build through a new fifo at ``fifo`` until the block ends.

        Whatever the build still holds then, because it was killed, is given back.
        """
        os.mkfifo(fifo)
        fifo.chmod(0o666)
        client = _Client(os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            self._enter(client)
            try:
                yield
            finally:
                self._leave(client)
        finally:
            os.close(client.descriptor)
            fifo.unlink(missing_ok=True)

    def available(self) -> int:
        """Slots that nobody uses at this moment."""
        with self._changed:
            self._collect()
            free = self._free
            self._deal()
            return free

    def _enter(self, client: _Client) -> None:
        with self._changed:
            self._waiting += 1
            try:
                self._collect()
                while self._free == 0:
                    self._changed.wait(TICK)
                    self._collect()
                self._free -= 1
            finally:
                self._waiting -= 1
            self._clients.append(client)
            self._deal()
            if self._dealer is None and len(self._clients) > 1:
                self._dealer = threading.Thread(target=self._run, name="jobserver", daemon=True)
                self._dealer.start()

    def _leave(self, client: _Client) -> None:
        with self._changed:
            self._collect()
            self._clients.remove(client)
            self._free += client.given + 1
            self._deal()
            self._changed.notify_all()

    def _run(self) -> None:
        """Deal until one client is left: alone, it has all tokens in its fifo and needs no dealer."""
        with self._changed:
            while len(self._clients) > 1:
                self._changed.wait(TICK)
                self._collect()
                self._deal()
            self._dealer = None

    def _collect(self) -> None:
        self._free += sum(client.collect() for client in self._clients)

    def _deal(self) -> None:
        """Spread what is free evenly, the odd ones in turn; a build that waits to begin goes first."""
        if self._waiting or not self._clients:
            return
        share, odd = divmod(self._free, len(self._clients))
        for index, client in enumerate(self._clients):
            client.give(share + ((index - self._turn) % len(self._clients) < odd))
        self._free = 0
        self._turn += 1


def makeflags(fifo: str) -> str:
    """``MAKEFLAGS`` for a build that sees its fifo at the path ``fifo``.

    Without ``-jN``: makefiles that hand ``$(MFLAGS)`` on would make each sub-make count for itself.
    """
    return f"--jobserver-auth=fifo:{fifo}"
