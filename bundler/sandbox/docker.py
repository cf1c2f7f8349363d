"""The second backend: a local Docker engine, where namespaces are not to be had.

The build root's directories are bind mounts, so nothing is copied; the image that the containers start
from holds no more than the links at the top of the build root.
"""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from bundler import process
from bundler.digest import canonical_json, digest_bytes, hex_of
from bundler.errors import EnvironmentLacks
from bundler.sandbox.room import HOME, HOST_NAME, LIMITS, UID, Room, top_level

_START = f"unset HOSTNAME; {LIMITS}"
"""The engine adds that variable by itself."""

_WATCHED = f"""exec 2>&1 3<&0
(cat <&3 >/dev/null; kill -KILL -1) &
exec 3<&-
({_START}; exec "$@" </dev/null) &
wait $!"""
"""The engine would let a container live on when its client is killed.  So one process waits for the end
of standard input, which comes with the client's, and kills all the others.  Both outputs go one way,
or their lines would come out of order."""


class DockerSandbox:
    """Containers of the engine that ``docker`` reaches, with the machine's own file system."""

    name = "docker"

    def __init__(self, program: str | None = None) -> None:
        self._program = program or process.find_tool("docker", package="docker.io")
        self._environment = {
            **process.BASE_ENVIRONMENT,
            **{name: value for name, value in os.environ.items() if name.startswith("DOCKER_")},
            "HOME": os.environ.get("HOME", "/"),
        }
        self._known: set[str] = set()

    def command(self, room: Room, argv: Sequence[str], *, interactive: bool = False) -> list[str]:
        top = top_level(room.buildroot)
        # Root gives the build's directory away, another user cannot: the build then has that user's number.
        user = (UID, UID) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
        words = [self._program, "run", "--rm", "--interactive", *(["--tty"] if interactive else [])]
        words += ["--network", "none", "--hostname", HOST_NAME, "--user", f"{user[0]}:{user[1]}"]
        words += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--log-driver", "none"]
        words += ["--read-only", "--tmpfs", "/tmp:exec,mode=1777", "--workdir", room.directory]
        for name, value in sorted(room.environment.items()):
            words += ["--env", f"{name}={value}"]
        for path, link in top:
            words += [] if link else ["--volume", f"{path}:/{path.name}:ro"]
        words += ["--volume", f"{room.work}:{HOME}"]
        for mount in sorted(room.mounts, key=lambda mount: mount.target):
            words += ["--volume", f"{mount.source}:{mount.target}" + ("" if mount.writable else ":ro")]
        script = f'{_START}; exec "$@"' if interactive else _WATCHED
        return [*words, _image_name(top), "/bin/sh", "-c", script, "sh", *argv]

    def prepare(self, room: Room) -> None:
        self._import_image(room.buildroot)
        if os.geteuid() == 0:
            _give_away(room.work)

    def run(
        self,
        room: Room,
        argv: Sequence[str],
        output: Callable[[bytes], None],
        stop: threading.Event | None = None,
    ) -> int:
        self.prepare(room)
        return process.stream(
            self.command(room, argv), environment=self._environment, output=output, stop=stop
        )

    def _import_image(self, buildroot: Path) -> None:
        top = top_level(buildroot)
        name = _image_name(top)
        if name in self._known:
            return
        found = process.run([self._program, "image", "inspect", name], environment=self._environment)
        if not found.ok:
            made = process.run(
                [self._program, "import", "-", name], environment=self._environment, stdin=_image(top)
            )
            if not made.ok:
                raise EnvironmentLacks(
                    "the Docker engine does not work", why=made.stderr.decode(errors="replace").strip()
                )
        self._known.add(name)


def _image_name(top: Sequence[tuple[Path, str | None]]) -> str:
    links = [[path.name, link] for path, link in top if link]
    return f"bundle-sandbox:{hex_of(digest_bytes(canonical_json(links)))[:12]}"


def _image(top: Sequence[tuple[Path, str | None]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, link in top:
            member = tarfile.TarInfo(path.name)
            member.type = tarfile.SYMTYPE if link else tarfile.DIRTYPE
            member.linkname = link or ""
            member.mode = 0o755
            archive.addfile(member)
    return buffer.getvalue()


def _give_away(directory: Path) -> None:
    """Make the build's user the owner of all that it may change."""
    os.chown(directory, UID, UID)
    for parent, directories, files in os.walk(directory):
        for name in (*directories, *files):
            path = os.path.join(parent, name)
            if os.lstat(path).st_uid != UID:
                os.chown(path, UID, UID, follow_symlinks=False)
