"""An engine in memory: images, containers and volumes as a real one would show them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bundler.digest import Digest, digest_bytes
from bundler.engine import ContainerSpec, EngineContainer, EngineError, EngineImage, EngineInfo, Feed


@dataclass
class FakeEngine:
    """``lies``: says that it loaded what it did not.  ``refuses_thin``: takes whole archives only."""

    name: str = "docker"
    loads_thin: bool = True
    lies: bool = False
    refuses_thin: bool = False
    storage: str = "overlay2"
    broken: str = ""
    """Why no container starts."""
    store: dict[str, EngineImage] = field(default_factory=dict)
    made: dict[str, ContainerSpec] = field(default_factory=dict)
    volume_options: dict[str, Mapping[str, str]] = field(default_factory=dict)
    volume_labels: dict[str, Mapping[str, str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    loads: list[int] = field(default_factory=list)
    """Layers in each archive that came."""

    def info(self) -> EngineInfo:
        return EngineInfo(self.name, "20.10.24", self.storage, Path("/"), local=True)

    def image(self, reference: str) -> EngineImage | None:
        return next((image for image in self.store.values() if reference in (image.id, *image.names)), None)

    def images(self) -> Sequence[EngineImage]:
        return list(self.store.values())

    def load(self, feed: Feed) -> None:
        stream = io.BytesIO()
        feed(stream)
        stream.seek(0)
        with tarfile.open(fileobj=stream) as tar:
            files = {member.name: tar.extractfile(member) for member in tar if member.isfile()}
            (listed,) = json.load(files["manifest.json"])  # type: ignore[arg-type]
            raw = files[listed["Config"]].read()  # type: ignore[union-attr]
        config = json.loads(raw)
        diff_ids = tuple(Digest(layer) for layer in config["rootfs"]["diff_ids"])
        present = [layer for layer in listed["Layers"] if layer in files]
        self.loads.append(len(present))
        known = {layer for image in self.store.values() for layer in image.diff_ids}
        absent = [one for one, name in zip(diff_ids, listed["Layers"], strict=True) if name not in files]
        if absent and (self.refuses_thin or not known.issuperset(absent)):
            raise EngineError("loading an image failed", why="no such file")
        if self.lies and absent:
            return
        image = EngineImage(digest_bytes(raw), tuple(listed["RepoTags"]), diff_ids, config["config"])
        self.store[image.id] = image

    def save(self, reference: str, file: Path) -> None:
        raise NotImplementedError

    def tag(self, image: str, reference: str) -> None:
        found = self.store[image]
        names = (*found.names, reference)
        self.store[image] = EngineImage(found.id, names, found.diff_ids, found.config)

    def remove_image(self, reference: str) -> None:
        found = self.image(reference)
        assert found is not None
        del self.store[found.id]

    def create(self, spec: ContainerSpec) -> str:
        identity = spec.name or f"container-{len(self.made)}"
        self.made[identity] = spec
        return identity

    def attach(self, container: str, *, interactive: bool) -> int:
        return 0

    def run_to_end(self, container: str) -> int:
        if self.broken:
            raise EngineError("starting a container failed", why=self.broken)
        return 0

    def commit(self, container: str) -> Digest:
        raise NotImplementedError

    def rename(self, container: str, name: str) -> None:
        self.made[name] = self.made.pop(container)

    def remove(self, container: str) -> None:
        self.made.pop(container, None)

    def containers(self, label: str) -> Sequence[EngineContainer]:
        return [
            EngineContainer(name, spec.labels, Digest(spec.image))
            for name, spec in self.made.items()
            if label in spec.labels
        ]

    def create_volume(self, name: str, labels: Mapping[str, str], options: Mapping[str, str]) -> None:
        self.volume_options[name] = options
        self.volume_labels[name] = labels

    def has_volume(self, name: str) -> bool:
        return name in self.volume_options

    def volumes(self, label: str) -> Mapping[str, str]:
        return {
            name: self.volume_labels[name][label]
            for name in self.volume_options
            if label in self.volume_labels.get(name, {})
        }

    def export_volume(self, name: str, path: str, file: Path) -> None:
        raise NotImplementedError

    def remove_volume(self, name: str) -> bool:
        if name in self.used or name not in self.volume_options:
            return False
        del self.volume_options[name]
        return True
