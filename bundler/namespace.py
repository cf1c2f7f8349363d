"""A command in a directory with bundles mounted, in namespaces alone: no engine, no image.

The directory stays as it is: it is seen read-only, and so are the bundles, unpacked once into the cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.digest import hex_of
from bundler.errors import InputError
from bundler.load import Packed
from bundler.oci.unpack import unpack
from bundler.process import find_tool, run_attached
from bundler.store import Store

SCRATCH = "scratch"
"""What stands for an empty directory, as in a Dockerfile."""
_OWN = ("dev", "proc", "tmp")
"""Directories that the namespace has of its own, whatever the root holds there."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where the command runs; ``root`` None is an empty one.  ``binds`` are ``HOST:PATH[:ro]``."""

    root: Path | None
    bundles: Sequence[tuple[str, Path]]
    environment: tuple[str, ...] = ()
    directory: str = "/"
    user: str = "0:0"
    binds: tuple[str, ...] = ()
    network: bool = False


def unpacked(store: Store, bundles: Iterable[Packed]) -> list[tuple[str, Path]]:
    """Each bundle's prefix, and the directory in the cache that has its files."""
    return [(bundle.facts.prefix, _unpacked(store, bundle)) for bundle in bundles]


def _unpacked(store: Store, bundle: Packed) -> Path:
    final = store.root / "unpacked" / hex_of(bundle.id)
    inside = bundle.facts.prefix.lstrip("/")
    if not final.is_dir():
        if bundle.image is None:
            raise InputError(f"the bundle {bundle.facts.name} is in an engine only", hint="build it here")
        with store.temporary() as temporary:
            unpack(bundle.image, temporary / "files")
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                (temporary / "files").rename(final)
            except OSError:
                # Another process was quicker; what it has made is the same.
                if not final.is_dir():
                    raise
    os.utime(final)
    return final / inside


def command_line(program: str, room: Room, command: Sequence[str]) -> list[str]:
    """The words for bubblewrap.

    The root is a file system in memory with the directory's entries bound into it one by one: so mount
    points can be made beside them, and nothing is made in the directory.
    """
    uid, _, gid = room.user.partition(":")
    words = [program, "--unshare-all", "--die-with-parent", "--uid", uid, "--gid", gid or uid]
    words += ["--share-net"] if room.network else []
    for entry in sorted(room.root.iterdir()) if room.root is not None else ():
        if entry.is_symlink():
            words += ["--symlink", os.readlink(entry), f"/{entry.name}"]
        elif entry.name not in _OWN:
            words += ["--ro-bind", str(entry), f"/{entry.name}"]
    words += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    for prefix, directory in room.bundles:
        words += ["--ro-bind", str(directory), prefix]
    for bind in room.binds:
        host, path, *modes = bind.split(":")
        words += ["--ro-bind" if "ro" in modes else "--bind", host, path]
    return [*words, "--chdir", room.directory, "--", *command]


def run_in_namespace(room: Room, command: Sequence[str]) -> int:
    """Run the command on our own standard streams and return its exit status."""
    uid, _, gid = room.user.partition(":")
    if not all(part.isdigit() for part in (uid, gid or uid)):
        raise InputError(f"--user {room.user}: without an engine, users are numbers", hint="as in 1000:1000")
    variables = dict(text.split("=", 1) for text in room.environment)
    program = find_tool("bwrap", package="bubblewrap")
    return run_attached(command_line(program, room, command), environment=variables)
