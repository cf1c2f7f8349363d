"""What a build sees, and what any backend does with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

UID = 1000
HOST_NAME = "build"
HOME = "/build"
"""The one directory that a build may write to, besides ``/tmp``."""

_OURS = frozenset({"proc", "sys", "dev", "tmp", "build"})
"""Names at the top of a build root that the sandbox itself provides or leaves out."""

LIMITS = "umask 022; ulimit -c 0; ulimit -S -n 1024; ulimit -S -s 8192"
"""What configure scripts can see of the process that started them is the same everywhere."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the machine at an absolute path inside."""

    source: Path
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """What a program in the sandbox sees: ``work`` is at ``/build``, the only place that it can change."""

    buildroot: Path
    work: Path
    mounts: tuple[Mount, ...]
    environment: Mapping[str, str]
    directory: str = f"{HOME}/src"
    """The working directory, inside."""


class Sandbox(Protocol):
    """A way to run programs in a room, without network, as uid and gid 1000."""

    name: str

    def command(self, room: Room, argv: Sequence[str], *, interactive: bool = False) -> list[str]:
        """The command that does it, which a user can also paste."""

    def prepare(self, room: Room) -> None:
        """Make what :meth:`command` relies on; :meth:`run` does it by itself."""

    def run(
        self,
        room: Room,
        argv: Sequence[str],
        output: Callable[[bytes], None],
        stop: threading.Event | None = None,
    ) -> int:
        """Run to the end and return the status; all that is still alive inside dies with it."""


def limited(argv: Sequence[str], interactive: bool) -> list[str]:
    """``argv`` with fixed limits and umask, and with an empty standard input."""
    return ["/bin/sh", "-c", f'{LIMITS}; exec "$@"' + ("" if interactive else " </dev/null"), "sh", *argv]


def top_level(buildroot: Path) -> list[tuple[Path, str | None]]:
    """What is shown at ``/``: entries of the build root, with the text of those that are links."""
    return [
        (path, os.readlink(path) if path.is_symlink() else None)
        for path in sorted(buildroot.iterdir())
        if path.name not in _OURS
    ]
