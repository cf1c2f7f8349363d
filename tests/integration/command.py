"""The command ``bundle`` as its users start it: a process, with an environment that names an engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


class Bundle:
    """``bundle`` in the directory that holds ``out``, with these variables set besides the session's."""

    def __init__(self, out: Path, environment: Mapping[str, str]) -> None:
        self.out = out
        self.environment = {**os.environ, **environment}

    def run(self, *words: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "bundler", *words],
            env={**self.environment, **environment},
            cwd=self.out.parent,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start it and go on; nobody reads what it prints."""
        return subprocess.Popen(
            [sys.executable, "-m", "bundler", *words],
            env=self.environment,
            cwd=self.out.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __call__(self, *words: str, stdin: str = "", **environment: str) -> str:
        done = self.run(*words, stdin=stdin, **environment)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr
        return done.stdout.strip()
