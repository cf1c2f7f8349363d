from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from bundler.jobserver import Jobserver, makeflags


class Make:
    """Speaks the client's side of the protocol on a fifo."""

    def __init__(self, fifo: Path) -> None:
        self.descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)

    def take(self, wanted: int, seconds: float = 0.0) -> int:
        """Take up to ``wanted`` tokens within a time; returns how many there were."""
        end, got = time.monotonic() + seconds, 0
        while got < wanted:
            try:
                got += len(os.read(self.descriptor, wanted - got))
            except BlockingIOError:
                if time.monotonic() >= end:
                    break
                time.sleep(0.002)
        return got

    def give(self, tokens: int) -> None:
        os.write(self.descriptor, b"+" * tokens)

    def close(self) -> None:
        os.close(self.descriptor)


@pytest.mark.parametrize("jobs", [1, 2, 16])
def test_a_build_alone_gets_all_but_its_own_slot(tmp_path: Path, jobs: int) -> None:
    server = Jobserver(jobs)
    with server.client(tmp_path / "a"):
        make = Make(tmp_path / "a")
        assert make.take(100) == jobs - 1
        make.close()
    assert server.available() == jobs
    assert not (tmp_path / "a").exists()


def test_tokens_of_a_killed_build_come_back(tmp_path: Path) -> None:
    server = Jobserver(8)
    with server.client(tmp_path / "a"):
        make = Make(tmp_path / "a")
        assert make.take(5) == 5
        assert server.available() == 2
        make.close()
    assert server.available() == 8


def test_tokens_that_a_build_makes_up_do_not_count(tmp_path: Path) -> None:
    server = Jobserver(4)
    with server.client(tmp_path / "a"):
        make = Make(tmp_path / "a")
        make.give(50)
        assert server.available() == 3
        make.close()
    assert server.available() == 4


def test_an_idle_build_does_not_hoard(tmp_path: Path) -> None:
    server = Jobserver(6)
    with server.client(tmp_path / "idle"), server.client(tmp_path / "busy"):
        make = Make(tmp_path / "busy")
        assert make.take(4, seconds=5) == 4
        make.give(4)
        make.close()
    assert server.available() == 6


def test_two_busy_builds_never_use_more_than_there_is(tmp_path: Path) -> None:
    server = Jobserver(4)
    with server.client(tmp_path / "a"), server.client(tmp_path / "b"):
        first, second = Make(tmp_path / "a"), Make(tmp_path / "b")
        held = first.take(2, seconds=1)
        assert held == 2
        assert second.take(2, seconds=0.2) == 0
        first.give(1)
        assert second.take(1, seconds=5) == 1
        first.close()
        second.close()
    assert server.available() == 4


def test_a_build_waits_for_its_own_slot(tmp_path: Path) -> None:
    server = Jobserver(2)
    began = threading.Event()

    def build() -> None:
        with server.client(tmp_path / "b"):
            began.set()

    with server.client(tmp_path / "a"):
        make = Make(tmp_path / "a")
        assert make.take(1) == 1
        thread = threading.Thread(target=build)
        thread.start()
        assert not began.wait(0.1)
        make.give(1)
        assert began.wait(5)
        thread.join()
        make.close()
    assert server.available() == 2


def test_many_builds_in_turn(tmp_path: Path) -> None:
    server = Jobserver(3)
    running, most = [0], [0]
    guard = threading.Lock()

    def build(number: int) -> None:
        with server.client(tmp_path / str(number)):
            make = Make(tmp_path / str(number))
            for _ in range(5):
                extra = make.take(number % 3)
                with guard:
                    running[0] += 1 + extra
                    most[0] = max(most[0], running[0])
                time.sleep(0.001)
                with guard:
                    running[0] -= 1 + extra
                make.give(extra)
            make.close()

    threads = [threading.Thread(target=build, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] <= 3
    assert server.available() == 3


def test_makeflags() -> None:
    assert makeflags("/build/jobserver") == "--jobserver-auth=fifo:/build/jobserver"


def test_no_jobs() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Jobserver(0)
