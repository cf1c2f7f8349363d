"""The one place where processes start.  The environment is built by the caller, never inherited whole."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bundler.errors import EnvironmentLacks

BASE_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
}
"""What our own helpers (not builds) run with; proxy and Docker settings are passed by who needs them."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A process that ended: its status (negative: the signal that ended it) and what it printed."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        return self.status == 0


def find_tool(name: str, *, package: str | None = None) -> str:
    """Absolute path of a program on the machine; raises EnvironmentLacks with what to install."""
    found = shutil.which(name, path=os.environ.get("PATH", BASE_ENVIRONMENT["PATH"]))
    if found is None:
        raise EnvironmentLacks(
            f"the program {name!r} is not on this machine",
            hint=f"apt-get install {package or name}",
        )
    return found


def run(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stdin: bytes | None = None,
    log: Path | None = None,
    timeout: float | None = None,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a program to its end.  With ``log``, both its outputs are appended to that file instead.

    Never raises for the program's status: the caller judges.  Raises EnvironmentLacks where it cannot
    start, and TimeoutError (the process is killed) after ``timeout`` seconds.
    """
    built = dict(BASE_ENVIRONMENT if environment is None else environment)
    sink = log.open("ab") if log is not None else None
    try:
        done = subprocess.run(
            list(argv),
            env=built,
            cwd=directory,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=sink or subprocess.PIPE,
            stderr=subprocess.STDOUT if sink else subprocess.PIPE,
            timeout=timeout,
            pass_fds=tuple(pass_fds),
            check=False,
        )
    except FileNotFoundError as error:
        raise EnvironmentLacks(f"cannot start {argv[0]!r}", why=str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"{argv[0]} ran longer than {timeout} s") from error
    finally:
        if sink is not None:
            sink.close()
    return Completed(tuple(argv), done.returncode, done.stdout or b"", done.stderr or b"")


def run_feeding(
    argv: Sequence[str], feed: Callable[[IO[bytes]], None], *, environment: Mapping[str, str] | None = None
) -> Completed:
    """Run a program whose standard input ``feed`` writes, however long that is.

    A program that stops reading early ends the feeding; its status tells why.  Raises as :func:`run`,
    and what ``feed`` raises, after the program was killed.
    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = _start(argv, environment, stdin=subprocess.PIPE, stdout=stdout, stderr=stderr)
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                feed(stdin)
        except BaseException:
            process.kill()
            process.wait()
            raise
        status = process.wait()
        stdout.seek(0)
        stderr.seek(0)
        return Completed(tuple(argv), status, stdout.read(), stderr.read())


def run_attached(argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> int:
    """Run a program on our own standard input, output and error, and return its status.

    The first interrupt asks it to end, as a terminal would; the second kills it and is raised.
    """
    process = _start(argv, environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.kill()
        process.wait()
        raise


def _start(
    argv: Sequence[str], environment: Mapping[str, str] | None, **streams: Any
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            list(argv), env=dict(BASE_ENVIRONMENT if environment is None else environment), **streams
        )
    except OSError as error:
        raise EnvironmentLacks(f"cannot start {argv[0]!r}", why=str(error)) from error


def stream(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    output: Callable[[bytes], None],
    stop: threading.Event | None = None,
) -> int:
    """Run a program and hand both its outputs to ``output`` as they come; returns its status.

    It is killed when ``stop`` is set, and when ``output`` raises.  Raises EnvironmentLacks where it
    cannot start.
    """
    process = _start(
        argv, environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    # Our end of its standard input stays open, unused: to who reads it, its end means that we are gone.
    with process:
        assert process.stdout is not None
        waiting = select.poll()
        waiting.register(process.stdout, select.POLLIN)
        try:
            while True:
                if stop is not None and stop.is_set():
                    process.kill()
                    break
                if waiting.poll(200):
                    data = os.read(process.stdout.fileno(), 1 << 16)
                    if not data:
                        break
                    output(data)
        except BaseException:
            process.kill()
            raise
    return process.returncode
