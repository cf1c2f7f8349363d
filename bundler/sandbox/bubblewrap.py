"""The first backend: namespaces made by bubblewrap, as root or as an ordinary user."""

from __future__ import annotations

import os
import shutil
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from bundler import process
from bundler.sandbox.room import HOME, HOST_NAME, UID, Room, limited, top_level

_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
"""Device numbers, from the kernel's Documentation/admin-guide/devices.txt."""


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


def _devices_of(room: Room) -> Path:
    return room.work.with_name(room.work.name + ".dev")
