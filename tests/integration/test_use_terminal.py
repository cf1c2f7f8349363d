"""Commands at a terminal: they have one, too, and the keys that end them reach them."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from command import Bundle
from dockerd import Dockerd

pytestmark = pytest.mark.engine
SECONDS = 60.0


class Terminal:
    """A process of ``bundle`` on a pseudo-terminal."""

    def __init__(self, bundle: Bundle, *words: str) -> None:
        self.master, slave = pty.openpty()
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bundler", *words],
            env={**bundle.environment, "TERM": "xterm"},
            cwd=bundle.out.parent,
            stdin=slave,
            stdout=slave,
            stderr=subprocess.DEVNULL,
            # The terminal is to be its own, so that the kernel turns keys into signals for it.
            preexec_fn=lambda: (os.setsid(), os.close(os.open(os.ttyname(slave), os.O_RDWR)))[1],
        )
        os.close(slave)

    def wait_for(self, text: bytes) -> None:
        end = time.monotonic() + SECONDS
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"{text!r} did not come: {self.seen!r}"
            self.seen += os.read(self.master, 4096)

    def end(self) -> int:
        try:
            return self.process.wait(SECONDS)
        finally:
            os.close(self.master)


def test_a_terminal_is_handed_through(bundle: Bundle, foreign_image: Callable[[str], str]) -> None:
    words = ["run", "--from", foreign_image("musl"), "--with", "tools", "--"]
    terminal = Terminal(
        bundle, *words, "sh", "-c", "test -t 0 && test -t 1 && echo it is; read a; echo got $a"
    )
    terminal.wait_for(b"it is")
    os.write(terminal.master, b"typed\r")
    terminal.wait_for(b"got typed")
    assert terminal.end() == 0


def test_control_c_reaches_the_command(bundle: Bundle, foreign_image: Callable[[str], str]) -> None:
    words = ["run", "--from", foreign_image("musl"), "--with", "tools", "--"]
    script = "trap 'echo caught; exit 42' INT; echo ready; while :; do sleep 0.1; done"
    terminal = Terminal(bundle, *words, "sh", "-c", script)
    terminal.wait_for(b"ready")
    os.write(terminal.master, b"\x03")
    terminal.wait_for(b"caught")
    assert terminal.end() == 42


def test_termination_leaves_no_container(
    bundle: Bundle, foreign_image: Callable[[str], str], dockerd: Dockerd
) -> None:
    words = ["run", "--from", foreign_image("musl"), "--with", "tools", "--"]
    script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done"
    process = subprocess.Popen(
        [sys.executable, "-m", "bundler", *words, "sh", "-c", script],
        env=bundle.environment,
        cwd=bundle.out.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 7
    assert not dockerd.docker("ps", "--quiet")
