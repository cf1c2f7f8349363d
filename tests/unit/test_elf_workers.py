"""Work shared among processes: everything comes back, in order, whatever happens to a worker."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bundler.elf.format import ElfError
from bundler.elf.workers import MAX_SHARES, in_processes
from bundler.errors import EnvironmentLacks


def square(number: int) -> int:
    return number * number


def answer_at_length(number: int) -> bytes:
    """More than a pipe holds."""
    return bytes([number]) * (1 << 20)


def refuse_seven(number: int) -> int:
    if number == 7:
        raise ElfError("is seven", where="seven", hint="take eight")
    return number


def die_at_seven(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def held() -> tuple[int, str]:
    """Open files and children of this process."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return len(os.listdir("/proc/self/fd")), children


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 100, MAX_SHARES])
def test_answers_come_in_order(count: int, workers: int) -> None:
    assert list(in_processes(square, range(count), workers)) == [n * n for n in range(count)]


def test_long_answers() -> None:
    assert [set(found) for found in in_processes(answer_at_length, range(9), 2)] == [{n} for n in range(9)]


def test_an_error_is_raised_here() -> None:
    with pytest.raises(ElfError, match="is seven") as caught:
        list(in_processes(refuse_seven, range(20), 2))
    assert (caught.value.where, caught.value.hint) == ("seven", "take eight")
    assert "refuse_seven" in caught.value.__notes__[0]


def test_a_killed_worker_is_told() -> None:
    with pytest.raises(EnvironmentLacks, match="was killed"):
        list(in_processes(die_at_seven, range(20), 1))


def test_who_wants_no_more_leaves_no_process_behind() -> None:
    before = held()
    answers = in_processes(square, range(1000), 3)
    assert next(answers) == 0 and held() != before
    answers.close()
    assert held() == before
