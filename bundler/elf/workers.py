"""Work shared among forked processes.

Less than :mod:`concurrent.futures` does, and started in a fraction of its time: hardly anything is loaded,
no threads, no queues.  The numbers of all shares lie in one pipe, from which each worker takes its next
one; its answers come back through a pipe of its own.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, TypeVar

from bundler.errors import EnvironmentLacks

MAX_SHARES = 1024
"""So many numbers fit into a pipe, which holds a page at least."""
_NUMBER = 4
"""Bytes of a share's number; a read of so many gets one whole."""

Share = TypeVar("Share")
Answer = TypeVar("Answer")


def in_processes(work: Callable[[Share], Answer], shares: Sequence[Share], workers: int) -> Iterator[Answer]:
    """``work`` of each of at most ``MAX_SHARES`` shares, in their order.

    On Ctrl-C, or when the caller wants no more, the workers finish what they have begun.  Raises what
    ``work`` raises, and EnvironmentLacks when a worker was killed.
    """
    numbers, given = os.pipe()
    os.write(given, b"".join(number.to_bytes(_NUMBER, "big") for number in range(len(shares))))
    os.close(given)
    answers: dict[int, Answer] = {}
    streams: dict[int, BinaryIO] = {}
    processes: list[int] = []
    ready = select.poll()
    try:
        for _ in range(workers):
            process, stream = _fork(work, shares, numbers)
            processes.append(process)
            streams[stream.fileno()] = stream
            ready.register(stream, select.POLLIN)
        for number in range(len(shares)):
            while number not in answers:
                if not streams:
                    raise EnvironmentLacks(
                        "a process that patched files was killed",
                        why="perhaps the machine has too little memory",
                        hint="start again: what is done is left as it is",
                    )
                for descriptor, _ in ready.poll():
                    if not _receive(streams[descriptor], answers):
                        ready.unregister(descriptor)
                        streams.pop(descriptor).close()
            yield answers.pop(number)
    finally:
        # The workers end when no number is left.
        while os.read(numbers, MAX_SHARES * _NUMBER):
            pass
        os.close(numbers)
        for stream in streams.values():
            stream.close()
        for process in processes:
            os.waitpid(process, 0)


def _receive(stream: BinaryIO, answers: dict[int, Answer]) -> bool:
    """Take a worker's next answer; whether there was one."""
    try:
        number, answer, error = pickle.load(stream)
    except (EOFError, pickle.UnpicklingError):
        return False
    if error is not None:
        raise error
    answers[number] = answer
    return True


def _fork(work: Callable[[Share], Answer], shares: Sequence[Share], numbers: int) -> tuple[int, BinaryIO]:
    """A new worker: its process, and the stream of its answers."""
    source, target = os.pipe()
    process = os.fork()
    if process:
        os.close(target)
        return process, open(source, "rb")
    try:
        # On Ctrl-C it is for the parent to say something.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # It lives for one task: to look for cycles costs more than they would.
        gc.disable()
        os.close(source)
        with open(target, "wb") as stream:
            while taken := os.read(numbers, _NUMBER):
                number = int.from_bytes(taken, "big")
                stream.write(_answer(work, number, shares[number]))
                stream.flush()
    finally:
        # Nothing of the parent's is to be finished here: its open files, its own finally clauses.
        os._exit(0)


def _answer(work: Callable[[Share], Answer], number: int, share: Share) -> bytes:
    try:
        return pickle.dumps((number, work(share), None))
    except Exception as error:
        import traceback

        error.add_note("".join(traceback.format_exception(error)))
        return pickle.dumps((number, None, error))
