"""Where recipes run: a build root, some directories, and nothing else of the machine.

A :class:`Room` says what is seen inside; a :class:`Sandbox` runs programs in it.  Both backends give the
same room: bubblewrap through namespaces of one's own, and a Docker engine (``docker_sandbox.py``) where
those are not to be had.
"""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bundler import process
from bundler.errors import EnvironmentLacks

UID = 1000
HOST_NAME = "build"
HOME = "/build"
"""The one directory that a build may write to, besides ``/tmp``."""

_OURS = frozenset({"proc", "sys", "dev", "tmp", "build"})
"""Names at the top of a build root that the sandbox itself provides or leaves out."""

_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
"""Device numbers, from the kernel's Documentation/admin-guide/devices.txt."""

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

    def run(
        self,
        room: Room,
        argv: Sequence[str],
        output: Callable[[bytes], None],
        stop: threading.Event | None = None,
    ) -> int:
        """Run to the end and return the status; all that is still alive inside dies with it."""


class Bubblewrap:
    """Namespaces made by bubblewrap, as root or as an ordinary user."""

    name = "bubblewrap"

    def __init__(self, program: str | None = None) -> None:
        self._program = program or process.find_tool("bwrap", package="bubblewrap")

    def command(self, room: Room, argv: Sequence[str], *, interactive: bool = False) -> list[str]:
        words = [self._program, "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
        words += ["--uid", str(UID), "--gid", str(UID), "--hostname", HOST_NAME]
        words += [] if interactive else ["--new-session"]
        words += ["--clearenv"]
        for name, value in sorted(room.environment.items()):
            words += ["--setenv", name, value]
        for path, link in top_level(room.buildroot):
            words += (
                ["--symlink", link, f"/{path.name}"] if link else ["--ro-bind", str(path), f"/{path.name}"]
            )
        # Read-only: the kernel lets root's user write to /proc/sys, whatever its capabilities.
        words += ["--proc", "/proc", "--remount-ro", "/proc"]
        words += ["--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]
        for device in sorted(_devices_of(room).glob("*")):
            words += ["--dev-bind", str(device), f"/dev/{device.name}"]
        words += ["--bind", str(room.work), HOME]
        for mount in sorted(room.mounts, key=lambda mount: mount.target):
            words += ["--bind" if mount.writable else "--ro-bind", str(mount.source), mount.target]
        words += ["--remount-ro", "/", "--chdir", room.directory]
        return [*words, "--", *limited(argv, interactive)]

    def run(
        self,
        room: Room,
        argv: Sequence[str],
        output: Callable[[bytes], None],
        stop: threading.Event | None = None,
    ) -> int:
        self.prepare(room)
        return process.stream(self.command(room, argv), environment={}, output=output, stop=stop)

    def prepare(self, room: Room) -> None:
        """Started by root, a build is root outside, and owns the machine's device nodes: `ld -o /dev/null`
        would change their mode for everybody.  So it gets nodes of its own."""
        devices = _devices_of(room)
        if os.geteuid() != 0 or devices.exists():
            return
        devices.mkdir()
        try:
            for name, numbers in _DEVICES.items():
                node = devices / name
                os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(*numbers))
                node.chmod(0o666)
            os.close(os.open(devices / "null", os.O_RDWR))
        except OSError:
            # Root of a container without that right, or a file system without devices: then the nodes
            # at hand are not ours to change either.
            shutil.rmtree(devices)
            devices.mkdir()

    def why_not(self, buildroot: Path, work: Path) -> str | None:
        """The reason why this machine cannot do it, or None."""
        heard: list[bytes] = []
        room = Room(buildroot, work, (), {"PATH": "/usr/bin:/bin"}, directory=HOME)
        if self.run(room, ["true"], heard.append) == 0:
            return None
        return b"".join(heard).decode(errors="replace").strip() or "bubblewrap failed"


def _devices_of(room: Room) -> Path:
    return room.work.with_name(room.work.name + ".dev")


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


def choose_sandbox(buildroot: Path, work: Path, wanted: str = "auto") -> Sandbox:
    """The backend that was asked for (``bubblewrap``, ``docker``), or the first that works here.

    Raises EnvironmentLacks with the reason of each that does not.
    """
    reasons: list[str] = []
    if wanted in ("auto", "bubblewrap"):
        try:
            bubblewrap = Bubblewrap()
            reason = bubblewrap.why_not(buildroot, work)
            if reason is None:
                return bubblewrap
            reasons.append(f"bubblewrap: {reason}")
        except EnvironmentLacks as error:
            reasons.append(f"bubblewrap: {error.message}")
    if wanted in ("auto", "docker"):
        from bundler.docker_sandbox import DockerSandbox

        try:
            docker = DockerSandbox()
            reason = docker.why_not(buildroot, work)
            if reason is None:
                return docker
            reasons.append(f"docker: {reason}")
        except EnvironmentLacks as error:
            reasons.append(f"docker: {error.message}")
    raise EnvironmentLacks(
        "no sandbox works on this machine",
        why="; ".join(reasons),
        hint="install bubblewrap and allow user namespaces, or start a Docker engine",
    )
