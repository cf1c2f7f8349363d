"""Docker, through its API.

Reference: Docker Engine API 1.41.  Requests have no time limit: loading and filling volumes take as long as
they take.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

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
from bundler.process import BASE_ENVIRONMENT, find_tool, run_attached

if TYPE_CHECKING:
    from docker.api.client import APIClient

PIECE = 1 << 20
_HINT = "start it, or say where it is with DOCKER_HOST; 'bundle doctor' looks closer"


def connect_docker() -> Docker:
    """The engine at DOCKER_HOST, in the current Docker context, or at the usual socket.

    Raises EnvironmentLacks where none answers.
    """
    host = _host()
    if host.startswith("unix://") and not os.path.exists(host.removeprefix("unix://")):
        raise EnvironmentLacks("no Docker engine answers", where=host, why="no such socket", hint=_HINT)
    import docker
    from requests.exceptions import RequestException

    try:
        client = docker.from_env(environment={**os.environ, "DOCKER_HOST": host}, timeout=None)  # type: ignore[arg-type]
        client.ping()
    except (docker.errors.DockerException, RequestException, OSError) as error:
        raise EnvironmentLacks("no Docker engine answers", where=host, why=str(error), hint=_HINT) from error
    return Docker(client.api, host)


def _host() -> str:
    if host := os.environ.get("DOCKER_HOST"):
        return host
    config = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    if config.is_file() or os.environ.get("DOCKER_CONTEXT"):
        from docker.context import ContextAPI

        with contextlib.suppress(Exception):  # a context that cannot be read is as good as none
            context = ContextAPI.get_current_context()
            if context is not None and context.Host:
                return str(context.Host)
    return "unix:///var/run/docker.sock"


class Docker:
    """A Docker engine (:class:`bundler.engine.Engine`)."""

    name = "docker"
    loads_thin = True

    def __init__(self, api: APIClient, host: str) -> None:
        self._api = api
        self._host = host

    def info(self) -> EngineInfo:
        with _told("asking the engine about itself"):
            found = self._api.info()
        options = " ".join(found.get("SecurityOptions") or ())
        return EngineInfo(
            name=self.name,
            version=str(found.get("ServerVersion", "")),
            storage=str(found.get("Driver", "")),
            root=Path(found.get("DockerRootDir", "/var/lib/docker")),
            local=self._host.startswith("unix://"),
            rootless="rootless" in options,
            details={
                "host": self._host,
                "cgroup": f"{found.get('CgroupDriver')}, version {found.get('CgroupVersion', '1')}",
                "security": options,
                "kernel": str(found.get("KernelVersion", "")),
            },
        )

    def image(self, reference: str) -> EngineImage | None:
        import docker

        with _told(f"looking at the image {reference}"):
            try:
                return _image(self._api.inspect_image(reference))  # type: ignore[no-untyped-call]
            except docker.errors.ImageNotFound:
                return None

    def images(self) -> Sequence[EngineImage]:
        with _told("listing images"):
            ids = {str(item["Id"]) for item in self._api.images(all=True)}
        return [found for one in sorted(ids) if (found := self.image(one)) is not None]

    def load(self, feed: Feed) -> None:
        with _pumped(feed) as pieces, _told("loading an image"):
            for line in self._api.load_image(pieces):  # type: ignore[no-untyped-call]
                if isinstance(line, dict) and (error := line.get("error")):
                    raise EngineError("loading an image failed", why=str(error))

    def save(self, reference: str, file: Path) -> None:
        with _told(f"saving the image {reference}"), file.open("wb") as out:
            for piece in self._api.get_image(reference, chunk_size=PIECE):
                out.write(piece)

    def tag(self, image: str, reference: str) -> None:
        repository, tag = _split(reference)
        with _told(f"naming an image {reference}"):
            self._api.tag(image, repository, tag, force=True)

    def remove_image(self, reference: str) -> None:
        with _told(f"removing the image {reference}"):
            self._api.remove_image(reference)

    def create(self, spec: ContainerSpec) -> str:
        host_config = self._api.create_host_config(
            binds=[*map(str, spec.mounts), *spec.binds],
            volumes_from=list(spec.volumes_from),
            network_mode=spec.network,
            read_only=spec.read_only,
        )
        options: dict[str, Any] = {
            "command": list(spec.command),
            "name": spec.name,
            # Docker clears an image's entrypoint where it is given one that is empty.
            "entrypoint": None if spec.entrypoint is None else list(spec.entrypoint or ("",)),
            "labels": dict(spec.labels),
            "environment": list(spec.environment),
            "working_dir": spec.directory,
            "user": spec.user,
            "stdin_open": spec.interactive,
            "tty": spec.terminal,
            "host_config": host_config,
        }
        with _told(f"making a container of {spec.image}"):
            return str(self._api.create_container(spec.image, **options)["Id"])

    def attach(self, container: str, *, interactive: bool) -> int:
        words = ["start", "--attach", *(["--interactive"] if interactive else []), container]
        passed = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("DOCKER_") or name in ("HOME", "TERM", "SSH_AUTH_SOCK")
        }
        tool = find_tool("docker", package="docker.io, or docker-cli")
        environment = {**BASE_ENVIRONMENT, **passed, "DOCKER_HOST": self._host}
        run_attached([tool, *words], environment=environment)
        with _told("asking how a container ended"):
            # The client's own status is 1 where the command cannot be started, and newer clients leave a
            # container running that was to be terminated: the engine knows better.
            if self._api.inspect_container(container)["State"]["Running"]:
                self._api.stop(container)
            return int(self._api.inspect_container(container)["State"]["ExitCode"])

    def run_to_end(self, container: str) -> int:
        with _told("starting a container"):
            self._api.start(container)
            return int(self._api.wait(container)["StatusCode"])

    def commit(self, container: str) -> Digest:
        with _told("committing a container"):
            return Digest(str(self._api.commit(container)["Id"]))

    def rename(self, container: str, name: str) -> None:
        with _told(f"naming a container {name}"):
            self._api.rename(container, name)

    def remove(self, container: str) -> None:
        import docker

        with _told(f"removing the container {container}"), contextlib.suppress(docker.errors.NotFound):
            self._api.remove_container(container, v=True, force=True)

    def containers(self, label: str) -> Sequence[EngineContainer]:
        with _told("listing containers"):
            found = self._api.containers(all=True, filters={"label": label})
        return [
            EngineContainer(str(item["Names"][0]).lstrip("/"), item["Labels"], Digest(item["ImageID"]))
            for item in found
            if item.get("Names")
        ]

    def create_volume(self, name: str, labels: Mapping[str, str], options: Mapping[str, str]) -> None:
        with _told(f"making the volume {name}"):
            self._api.create_volume(name, driver="local", driver_opts=dict(options), labels=dict(labels))

    def has_volume(self, name: str) -> bool:
        import docker

        with _told(f"looking at the volume {name}"):
            try:
                self._api.inspect_volume(name)
            except docker.errors.NotFound:
                return False
            return True

    def volumes(self, label: str) -> Mapping[str, str]:
        with _told("listing volumes"):
            found = self._api.volumes(filters={"label": label})["Volumes"] or ()
        return {str(item["Name"]): str(item["Labels"][label]) for item in found}

    def export_volume(self, name: str, path: str, file: Path) -> None:
        with _told(f"reading the volume {name}"), file.open("wb") as out:
            stream, _ = self._api.get_archive(name, f"{path}/.", chunk_size=PIECE)
            for piece in stream:
                out.write(piece)

    def remove_volume(self, name: str) -> bool:
        import docker

        with _told(f"removing the volume {name}"):
            try:
                self._api.remove_volume(name)
            except docker.errors.APIError as error:
                if error.response is not None and error.response.status_code in (404, 409):
                    return False
                raise
            return True


def _image(found: Mapping[str, Any]) -> EngineImage:
    data = (found.get("GraphDriver") or {}).get("Data") or {}
    directories: tuple[Path, ...] = ()
    if (found.get("GraphDriver") or {}).get("Name") == "overlay2" and data.get("UpperDir"):
        lower = [part for part in str(data.get("LowerDir") or "").split(":") if part]
        # The engine lists the highest first.
        directories = tuple(Path(part) for part in reversed([str(data["UpperDir"]), *lower]))
    return EngineImage(
        id=Digest(str(found["Id"])),
        names=tuple(found.get("RepoTags") or ()),
        diff_ids=tuple(Digest(layer) for layer in (found.get("RootFS") or {}).get("Layers") or ()),
        config=found.get("Config") or {},
        platform=f"{found.get('Os')}/{found.get('Architecture')}",
        # Only there is an image known by the digest that a registry knows it by.
        by_manifest=any(str(name).endswith("@" + found["Id"]) for name in found.get("RepoDigests") or ()),
        parent=Digest(found["Parent"]) if found.get("Parent") else None,
        directories=directories,
    )


def _split(reference: str) -> tuple[str, str]:
    head, colon, tag = reference.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (reference, "latest")


@contextlib.contextmanager
def _told(doing: str) -> Iterator[None]:
    """What the engine or the connection to it raises, as an error of ours."""
    import docker
    from requests.exceptions import RequestException

    try:
        yield
    except docker.errors.APIError as error:
        raise EngineError(f"{doing} failed", why=error.explanation or str(error)) from error
    except (docker.errors.DockerException, RequestException) as error:
        raise EngineError(f"{doing} failed", why=str(error)) from error


@contextlib.contextmanager
def _pumped(feed: Feed) -> Iterator[Iterator[bytes]]:
    """What ``feed`` writes, as an iterator: a thread writes into a pipe.  Its error comes out at the end."""
    read_end, write_end = os.pipe()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            # A reader that went away is judged by what the engine answered.
            with contextlib.suppress(BrokenPipeError), os.fdopen(write_end, "wb", PIECE) as out:
                feed(out)
        except BaseException as error:
            failures.append(error)

    def pieces(stream: IO[bytes]) -> Iterator[bytes]:
        while piece := stream.read(PIECE):
            yield piece

    thread = threading.Thread(target=work, name="image archive", daemon=True)
    try:
        with os.fdopen(read_end, "rb", 0) as stream:
            thread.start()
            yield pieces(stream)
    except EngineError as error:
        thread.join()
        raise failures[0] if failures else error from None
    thread.join()
    if failures:
        raise failures[0]
