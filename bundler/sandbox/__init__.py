"""Where recipes run: a build root, some directories, and nothing else of the machine.

A :class:`Room` says what is seen inside; a :class:`Sandbox` runs programs in it.  Both backends give the
same room: bubblewrap through namespaces of one's own, and a Docker engine where those are not to be had.
"""

from __future__ import annotations

from pathlib import Path

from bundler.errors import EnvironmentLacks
from bundler.sandbox.room import HOME, HOST_NAME, UID, Mount, Room, Sandbox

__all__ = ["HOME", "HOST_NAME", "UID", "Mount", "Room", "Sandbox", "choose_sandbox"]


def choose_sandbox(buildroot: Path, work: Path, wanted: str = "auto") -> Sandbox:
    """The backend that was asked for (``bubblewrap``, ``docker``), or the first that works here.

    It is tried out below ``work``, an empty directory.  Raises EnvironmentLacks with the reason of each that does not.
    """
    reasons: list[str] = []
    room = work / "room"
    room.mkdir()
    if wanted in ("auto", "bubblewrap"):
        from bundler.sandbox.bubblewrap import Bubblewrap

        try:
            bubblewrap = Bubblewrap()
            reason = bubblewrap.why_not(buildroot, room)
            if reason is None:
                return bubblewrap
            reasons.append(f"bubblewrap: {reason}")
        except EnvironmentLacks as error:
            reasons.append(f"bubblewrap: {error.message}")
    if wanted in ("auto", "docker"):
        from bundler.sandbox.docker import DockerSandbox

        try:
            docker = DockerSandbox()
            reason = docker.why_not(buildroot, room)
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
