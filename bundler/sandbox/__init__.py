"""Where recipes run: a build root, some directories, and nothing else of the machine.

A :class:`Room` says what is seen inside; a :class:`Sandbox` runs programs in it.  Both backends give the
same room: bubblewrap through namespaces of one's own, and a Docker engine where those are not to be had.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bundler.errors import EnvironmentLacks
from bundler.sandbox.room import HOME, HOST_NAME, UID, Mount, Room, Sandbox

__all__ = ["HOME", "HOST_NAME", "UID", "Mount", "Room", "Sandbox", "choose_sandbox"]


def choose_sandbox(buildroot: Path, work: Path, wanted: str = "auto") -> Sandbox:
    """The backend that was asked for (``bubblewrap``, ``docker``), or the first that works here.

    It is tried out below ``work``, an empty directory.  Raises EnvironmentLacks with the reason of each
    that does not work.
    """
    from bundler.sandbox.bubblewrap import Bubblewrap
    from bundler.sandbox.docker import DockerSandbox

    backends: dict[str, Callable[[], Sandbox]] = {"bubblewrap": Bubblewrap, "docker": DockerSandbox}
    reasons: list[str] = []
    room = work / "room"
    room.mkdir()
    for name, make in backends.items():
        if wanted not in ("auto", name):
            continue
        try:
            sandbox = make()
            reason = _why_not(sandbox, buildroot, room)
        except EnvironmentLacks as error:
            reason = error.message + (f" ({error.why})" if error.why else "")
        else:
            if reason is None:
                return sandbox
        reasons.append(f"{name}: {reason}")
    raise EnvironmentLacks(
        "no sandbox works on this machine",
        why="; ".join(reasons),
        hint="install bubblewrap and allow user namespaces, or start a Docker engine",
    )


def _why_not(sandbox: Sandbox, buildroot: Path, work: Path) -> str | None:
    """The reason why ``sandbox`` does not work on this machine, or None."""
    heard: list[bytes] = []
    room = Room(buildroot, work, (), {"PATH": "/usr/bin:/bin"}, directory=HOME)
    if sandbox.run(room, ["true"], heard.append) == 0:
        return None
    return b"".join(heard).decode(errors="replace").strip() or f"{sandbox.name} failed"
