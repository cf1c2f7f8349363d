"""podman, through its command: there need be no service that listens."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bundler.digest import Digest
from bundler.engine import (
    ContainerSpec,
    EngineContainer,
    EngineError,
    EngineImage,
    EngineInfo,
    Feed,
)
from bundler.errors import EnvironmentLacks
from bundler.process import BASE_ENVIRONMENT, Completed, find_tool, run, run_attached, run_feeding

_PASSED = ("CONTAINERS_", "CONTAINER_", "STORAGE_", "XDG_", "DBUS_", "TMPDIR", "HOME", "USER", "TERM")


def connect_podman() -> Podman:
    """podman on this machine; raises EnvironmentLacks where it is missing or does not work."""
    engine = Podman(find_tool("podman"))
    done = engine.try_call("version", "--format", "{{.Version}}")
    if not done.ok:
        raise EnvironmentLacks("podman does not work", why=_text(done.stderr))
    return engine


class Podman:
    """podman (:class:`bundler.engine.Engine`)."""

    name = "podman"
    loads_thin = False

    def __init__(self, program: str) -> None:
        self._program = program

    def info(self) -> EngineInfo:
        found = json.loads(self._call("info", "--format", "json"))
        host, store = found["host"], found["store"]
        return EngineInfo(
            name=self.name,
            version=str(found.get("version", {}).get("Version", "")),
            storage=str(store.get("graphDriverName", "")),
            root=Path(store.get("graphRoot", "")),
            local=not host.get("serviceIsRemote", False),
            rootless=bool(host.get("security", {}).get("rootless")),
            details={
                "cgroup": f"{host.get('cgroupManager')}, version {host.get('cgroupVersion')}",
                "runtime": str(host.get("ociRuntime", {}).get("name", "")),
                "kernel": str(host.get("kernel", "")),
            },
        )

    def image(self, reference: str) -> EngineImage | None:
        done = self.try_call("image", "exists", reference)
        if done.status == 1:
            return None
        _judge(done)
        return _image(json.loads(self._call("image", "inspect", reference))[0])

    def images(self) -> Sequence[EngineImage]:
        ids = sorted(set(self._call("images", "--all", "--quiet", "--no-trunc").split()))
        return [_image(item) for item in json.loads(self._call("image", "inspect", *ids))] if ids else []

    def load(self, feed: Feed) -> None:
        _judge(run_feeding([self._program, "load", "--quiet"], feed, environment=_environment()))

    def save(self, reference: str, file: Path) -> None:
        # podman refuses to write to a file that is there.
        file.unlink(missing_ok=True)
        self._call("save", "--quiet", "--format", "docker-archive", "--output", str(file), reference)

    def tag(self, image: str, reference: str) -> None:
        self._call("tag", image, reference)

    def remove_image(self, reference: str) -> None:
        self._call("rmi", reference)

    def create(self, spec: ContainerSpec) -> str:
        words: list[str] = ["create", "--pull=never"]
        for option, value in (
            ("--name", spec.name),
            ("--workdir", spec.directory),
            ("--user", spec.user),
            ("--network", spec.network),
            ("--entrypoint", None if spec.entrypoint is None else json.dumps(list(spec.entrypoint))),
        ):
            if value is not None:
                words.append(f"{option}={value}")
        words += ["--read-only"] if spec.read_only else []
        words += ["--interactive"] if spec.interactive else []
        words += ["--tty"] if spec.terminal else []
        words += [f"--label={name}={value}" for name, value in spec.labels.items()]
        words += [f"--env={variable}" for variable in spec.environment]
        words += [f"--volume={volume}" for volume in (*map(str, spec.mounts), *spec.binds)]
        words += [f"--volumes-from={name}" for name in spec.volumes_from]
        container = self._call(*words, spec.image, *spec.command).strip()
        if any(mount.copy for mount in spec.mounts):
            self._fill(container, spec.command[0])
        return container

    def _fill(self, container: str, command: str) -> None:
        """Have the volumes filled.

        podman does so only when it readies a container to start (podman#8041), which must fail, since
        there is no such command: if it fails for that, the volumes were filled before.
        """
        done = self.try_call("init", container)
        if not done.ok and command.encode() not in done.stderr:
            self.remove(container)
            _judge(done)

    def attach(self, container: str, *, interactive: bool) -> int:
        words = ["start", "--attach", *(["--interactive"] if interactive else []), container]
        status = run_attached([self._program, *words], environment=_environment())
        return self._why_not_started(container) if status == 125 else status

    def _why_not_started(self, container: str) -> int:
        """The shell's status for a command that cannot start, where podman has told its user of it."""
        reason = self.try_call("init", container).stderr.lower()
        if b"not found" in reason or b"no such file" in reason:
            return 127
        return 126 if b"permission denied" in reason else 125

    def run_to_end(self, container: str) -> int:
        self._call("start", container)
        return int(self._call("wait", container))

    def commit(self, container: str) -> Digest:
        return Digest("sha256:" + self._call("commit", "--quiet", container).strip().removeprefix("sha256:"))

    def rename(self, container: str, name: str) -> None:
        self._call("rename", container, name)

    def remove(self, container: str) -> None:
        self._call("rm", "--force", "--ignore", "--volumes", container)

    def containers(self, label: str) -> Sequence[EngineContainer]:
        found = json.loads(self._call("ps", "--all", "--filter", f"label={label}", "--format", "json"))
        return [
            EngineContainer(item["Names"][0], item["Labels"], Digest("sha256:" + item["ImageID"]))
            for item in found
        ]

    def create_volume(self, name: str, labels: Mapping[str, str], options: Mapping[str, str]) -> None:
        words = [f"--label={key}={value}" for key, value in labels.items()]
        words += [f"--opt={key}={value}" for key, value in options.items()]
        self._call("volume", "create", *words, name)

    def has_volume(self, name: str) -> bool:
        return self.try_call("volume", "exists", name).ok

    def volumes(self, label: str) -> Mapping[str, str]:
        found = json.loads(self._call("volume", "ls", "--filter", f"label={label}", "--format", "json"))
        return {item["Name"]: item["Labels"][label] for item in found}

    def export_volume(self, name: str, path: str, file: Path) -> None:
        self._call("volume", "export", f"--output={file}", name)

    def remove_volume(self, name: str) -> bool:
        return self.try_call("volume", "rm", name).ok

    def try_call(self, *words: str) -> Completed:
        return run([self._program, *words], environment=_environment())

    def _call(self, *words: str) -> str:
        done = self.try_call(*words)
        _judge(done)
        return _text(done.stdout)


def _judge(done: Completed) -> None:
    if not done.ok:
        words = " ".join(done.argv[1:3])
        raise EngineError(f"podman {words} failed", why=_text(done.stderr).strip() or f"status {done.status}")


def _environment() -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
    return {**BASE_ENVIRONMENT, **passed}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _image(found: Mapping[str, Any]) -> EngineImage:
    parent = str(found.get("Parent") or "")
    return EngineImage(
        id=Digest("sha256:" + str(found["Id"]).removeprefix("sha256:")),
        names=tuple(found.get("RepoTags") or ()),
        diff_ids=tuple(Digest(layer) for layer in (found.get("RootFS") or {}).get("Layers") or ()),
        config=found.get("Config") or {},
        platform=f"{found.get('Os')}/{found.get('Architecture')}",
        parent=Digest("sha256:" + parent.removeprefix("sha256:")) if parent else None,
    )
