"""Container engines, Docker and podman, behind one protocol.

What differs between them stays inside: Docker is spoken to through its API (the SDK is imported when it is
needed), podman through its command, which is its only interface that is always there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from bundler.digest import Digest
from bundler.errors import EnvironmentLacks, InputError

ENGINES = ("docker", "podman")
VARIABLE = "BUNDLE_ENGINE"
"""Environment variable that chooses the engine where the command line does not."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """An engine that answers.  ``local`` says whether its files can be on this machine."""

    name: str
    version: str
    storage: str
    """Storage driver: ``overlay2``, ``vfs``, ``overlayfs`` (containerd's), …"""
    root: Path
    local: bool
    rootless: bool = False
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineImage:
    """An image in an engine.  ``config`` is the inner object of its configuration, as the engine gives it.

    ``directories`` are those of its layers, the lowest first, where the engine keeps them unpacked and
    mounts volumes of them (podman does not: it wants to change the owner of what it mounts).
    """

    id: Digest
    names: tuple[str, ...]
    diff_ids: tuple[Digest, ...]
    config: Mapping[str, Any]
    platform: str | None = None
    """``os/architecture``."""
    by_manifest: bool = False
    """Whether ``id`` is the digest of the manifest (containerd's store), and not of the configuration."""
    parent: Digest | None = None
    directories: tuple[Path, ...] = ()

    @property
    def labels(self) -> Mapping[str, str]:
        return self.config.get("Labels") or {}


@dataclass(frozen=True, slots=True)
class Mount:
    """A named volume at a path.  ``copy`` fills an empty one with what the image has there."""

    volume: str
    path: str
    read_only: bool = True
    copy: bool = True

    def __str__(self) -> str:
        modes = ["ro" if self.read_only else "rw", *(() if self.copy else ("nocopy",))]
        return f"{self.volume}:{self.path}:{','.join(modes)}"


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to make.  ``entrypoint`` None keeps the image's, ``()`` clears it.

    ``volumes_from`` are ``NAME`` or ``NAME:ro``; ``binds`` are ``HOST:PATH[:ro]``.
    """

    image: str
    command: tuple[str, ...]
    name: str | None = None
    entrypoint: tuple[str, ...] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: tuple[str, ...] = ()
    directory: str | None = None
    user: str | None = None
    network: str | None = None
    read_only: bool = False
    interactive: bool = False
    terminal: bool = False
    mounts: tuple[Mount, ...] = ()
    volumes_from: tuple[str, ...] = ()
    binds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineContainer:
    name: str
    labels: Mapping[str, str]
    image: Digest


class Feed(Protocol):
    """Writes an archive to a stream."""

    def __call__(self, out: IO[bytes], /) -> None: ...


class Engine(Protocol):
    """What we ask of an engine.  Every method raises EngineError for what the engine refuses."""

    @property
    def name(self) -> str: ...

    @property
    def loads_thin(self) -> bool:
        """Whether it takes an archive that leaves out layers which it has."""

    def info(self) -> EngineInfo: ...

    def image(self, reference: str) -> EngineImage | None:
        """The image of that name or ID, or None."""

    def images(self) -> Sequence[EngineImage]:
        """Every image that the engine has."""

    def load(self, feed: Feed) -> None:
        """Load an image archive as it is written."""

    def save(self, reference: str, file: Path) -> None:
        """Write an image to ``file`` as the engine's own archive."""

    def tag(self, image: str, reference: str) -> None: ...

    def remove_image(self, reference: str) -> None: ...

    def create(self, spec: ContainerSpec) -> str:
        """Make a container, its volumes filled, and return its ID."""

    def attach(self, container: str, *, interactive: bool) -> int:
        """Start a container on our own standard streams and return its exit status."""

    def run_to_end(self, container: str) -> int:
        """Start a container, seen by nobody, and return its exit status."""

    def commit(self, container: str) -> Digest:
        """Make a nameless image of a container and return its ID."""

    def rename(self, container: str, name: str) -> None: ...

    def remove(self, container: str) -> None:
        """Remove a container, running or not, and its nameless volumes; one that is gone is fine."""

    def containers(self, label: str) -> Sequence[EngineContainer]:
        """The containers that have the label, whatever its value, running or not."""

    def create_volume(self, name: str, labels: Mapping[str, str], options: Mapping[str, str]) -> None: ...

    def has_volume(self, name: str) -> bool: ...

    def volumes(self, label: str) -> Mapping[str, str]:
        """Names of the volumes that have the label, with its value."""

    def export_volume(self, name: str, path: str, file: Path) -> None:
        """Write what a data container and volume of that name hold to ``file``, as tar.

        ``path`` is where the container has its volume.
        """

    def remove_volume(self, name: str) -> bool:
        """Remove a volume; False if a container uses it or there is none."""


class EngineError(EnvironmentLacks):
    """An engine refused or failed; ``why`` is what it said."""


def connect(name: str | None = None) -> Engine:
    """The engine that is asked for, by ``name`` or environment, else the first that answers.

    Raises InputError for an unknown name, EnvironmentLacks where none answers.
    """
    wanted = name or os.environ.get(VARIABLE) or "auto"
    if wanted not in ("auto", *ENGINES):
        raise InputError(f"unknown engine {wanted!r}", hint="one of auto, " + ", ".join(ENGINES))
    if wanted != "podman":
        from bundler.engine.docker import connect_docker

        try:
            return connect_docker()
        except EnvironmentLacks:
            if wanted == "docker":
                raise
    from bundler.engine.podman import connect_podman

    try:
        return connect_podman()
    except EnvironmentLacks as error:
        if wanted == "podman":
            raise
        raise EnvironmentLacks(
            "no container engine answers: neither Docker nor podman",
            why=error.message,
            hint="start Docker, set DOCKER_HOST, or install podman; 'bundle doctor' looks closer",
        ) from error
