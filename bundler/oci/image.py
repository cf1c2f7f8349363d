"""Images as values: blobs, layers, configuration; and their JSON (OCI image specification 1.1).

An image that we make is known by its content alone: compact JSON with sorted keys, one fixed time, layers
uncompressed, so that a layer's digest is its diff ID.  One that was read keeps the very bytes that it had.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from bundler.digest import Digest, canonical_json, digest_bytes
from bundler.errors import InputError
from bundler.oci.layer import LayerIdentity, LayerSource, write_layer

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = LAYER + "+gzip"
LAYER_ZSTD = LAYER + "+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = DOCKER_LAYER + ".gzip"

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"

CREATED = "1980-01-01T00:00:00Z"
"""The one time that is written into images: that of every file, :data:`bundler.tree.EPOCH`."""

PIECE = 1 << 20
"""Bytes copied at once."""

Pairs = tuple[tuple[str, str], ...]


class Blob(Protocol):
    """Bytes that can be had again: a file, a range of one, or a layer still to be written."""

    def copy_to(self, out: Any) -> None:
        """Write all bytes to ``out``, anything that has ``write``."""

    def file(self) -> tuple[Path, int, int] | None:
        """File, offset and length in bytes, where the bytes lie in a file as they are."""


@dataclass(frozen=True, slots=True)
class MemoryBlob:
    data: bytes = field(repr=False)

    def copy_to(self, out: Any) -> None:
        out.write(self.data)

    def file(self) -> tuple[Path, int, int] | None:
        return None


@dataclass(frozen=True, slots=True)
class FileBlob:
    """``length`` bytes of a file from ``offset`` on."""

    path: Path
    length: int
    offset: int = 0

    def copy_to(self, out: Any) -> None:
        with self.path.open("rb") as stream:
            for piece in pieces(stream, self.offset, self.length):
                out.write(piece)

    def file(self) -> tuple[Path, int, int] | None:
        return self.path, self.offset, self.length


@dataclass(frozen=True, slots=True)
class TarBlob:
    """An uncompressed layer that is written when it is asked for."""

    source: LayerSource
    identity: LayerIdentity

    def copy_to(self, out: Any) -> None:
        if write_layer(self.source, out) != self.identity:
            raise InputError(
                f"the files of {self.source.name} are no longer what its layer was made of",
                why=f"the layer {self.identity.diff_id} cannot be written again",
                hint="they were changed after they were built: remove the tree and build it again",
            )

    def file(self) -> tuple[Path, int, int] | None:
        return None


def pieces(stream: BinaryIO, offset: int, length: int) -> Iterator[memoryview]:
    """``length`` bytes of a seekable stream, in pieces that share one buffer; InputError if cut short."""
    buffer = memoryview(bytearray(min(PIECE, max(length, 1))))
    stream.seek(offset)
    while length:
        count = stream.readinto(buffer[: min(length, len(buffer))])  # type: ignore[attr-defined]
        if not count:
            raise InputError(f"ends {length} bytes early", where=str(getattr(stream, "name", "")) or None)
        yield buffer[:count]
        length -= count


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What refers to a blob (descriptor.md); ``size`` in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Pairs = ()

    def to_dict(self) -> dict[str, Any]:
        record: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.annotations:
            record["annotations"] = dict(self.annotations)
        return record


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its blob as it lies, and the diff ID that it has whatever its compression."""

    descriptor: Descriptor
    diff_id: Digest
    blob: Blob
    comment: str = ""
    """What made it: the text of its history item."""
    history: tuple[Mapping[str, Any], ...] = field(default=(), compare=False, repr=False)
    """The history items of the image it was read from, as they were: its own, and those without a layer."""


def layer_of(source: LayerSource, identity: LayerIdentity | None = None) -> Layer:
    """The layer of a source, uncompressed; without a remembered ``identity`` all its files are read once."""
    known = identity or write_layer(source)
    label = f"{source.name} {source.version}".strip()
    annotations = tuple(
        (key, value) for key, value in ((TITLE, source.name), (VERSION, source.version)) if value
    )
    descriptor = Descriptor(LAYER, known.diff_id, known.size, annotations)
    return Layer(descriptor, known.diff_id, TarBlob(source, known), label)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How a container of the image starts (config.md).  ``other`` holds what has no field here, as it was."""

    architecture: str
    os: str = "linux"
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    """``NAME=value``, in order."""
    labels: Pairs = ()
    created: str = CREATED
    other: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the inner ``config`` object."""
    outer: Mapping[str, Any] = field(default_factory=dict)
    """Further keys beside it, such as ``variant``."""


@dataclass(frozen=True, slots=True)
class Original:
    """The bytes that an image was read from, kept so that passing it on changes nothing."""

    manifest: bytes = field(repr=False)
    media_type: str
    config: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Image:
    """Layers from the lowest up, a configuration, and the manifest's annotations.

    ``reference`` is the name that it goes by, as in ``shell:0.1.0``.  A changed image
    (``dataclasses.replace``) must drop ``original``.
    """

    layers: tuple[Layer, ...]
    config: ImageConfig
    annotations: Pairs = ()
    reference: str = ""
    original: Original | None = None

    @property
    def labels(self) -> Mapping[str, str]:
        return dict(self.config.labels)

    @property
    def config_bytes(self) -> bytes:
        return self.original.config if self.original else canonical_json(_config_json(self))

    @property
    def manifest_bytes(self) -> bytes:
        if self.original:
            return self.original.manifest
        return manifest_json(self.config_bytes, self.layers, self.annotations)

    @property
    def media_type(self) -> str:
        return self.original.media_type if self.original else MANIFEST

    @property
    def id(self) -> Digest:
        """Digest of the configuration: the image ID in Docker, whatever the layers' compression."""
        return digest_bytes(self.config_bytes)

    @property
    def digest(self) -> Digest:
        """Digest of the manifest."""
        return digest_bytes(self.manifest_bytes)

    def descriptor(self) -> Descriptor:
        """What an index holds for it, with the names by which engines know it."""
        manifest = self.manifest_bytes
        annotations: Pairs = ()
        if self.reference:
            tag = self.reference.rpartition("/")[2].partition(":")[2] or "latest"
            annotations = ((CONTAINERD_NAME, full_name(self.reference)), (REF_NAME, tag))
        return Descriptor(self.media_type, digest_bytes(manifest), len(manifest), annotations)


def full_name(reference: str) -> str:
    """A reference with what is left out of it: the domain and ``library`` of Docker's own, and the tag.

    The rules are those of github.com/distribution/reference, "normalize.go": containerd knows images by
    such names only, and Docker with its image store shows others as nameless.
    """
    first, slash, _ = reference.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        reference = "docker.io/" + ("" if slash else "library/") + reference
    return reference if ":" in reference.rpartition("/")[2] else reference + ":latest"


def _config_json(image: Image) -> dict[str, Any]:
    config = image.config
    inner: dict[str, Any] = dict(config.other)
    for key, value in (
        ("Cmd", config.command),
        ("Entrypoint", config.entrypoint),
        ("Env", config.environment),
    ):
        if value:
            inner[key] = list(value)
    if config.labels:
        inner["Labels"] = dict(config.labels)
    return {
        **config.outer,
        "architecture": config.architecture,
        "os": config.os,
        "config": inner,
        "created": config.created,
        "history": [item for layer in image.layers for item in _history(layer)],
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in image.layers]},
    }


def _history(layer: Layer) -> tuple[Mapping[str, Any], ...]:
    return layer.history or ({"created": CREATED, "created_by": layer.comment},)


def manifest_json(config: bytes, layers: Sequence[Layer], annotations: Pairs = ()) -> bytes:
    """The manifest of these layers and the configuration with these bytes (manifest.md)."""
    record: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": Descriptor(CONFIG, digest_bytes(config), len(config)).to_dict(),
        "layers": [layer.descriptor.to_dict() for layer in layers],
    }
    if annotations:
        record["annotations"] = dict(annotations)
    return canonical_json(record)


def index_bytes(image: Image) -> bytes:
    """The ``index.json`` of a layout that holds the image."""
    manifests = [image.descriptor().to_dict()]
    return canonical_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})


def blobs_of(image: Image) -> dict[Digest, tuple[int, Blob]]:
    """Every blob of the image with its size in bytes: manifest, configuration, each layer once."""
    found: dict[Digest, tuple[int, Blob]] = {}
    for data in (image.manifest_bytes, image.config_bytes):
        found[digest_bytes(data)] = len(data), MemoryBlob(data)
    for layer in image.layers:
        found.setdefault(layer.descriptor.digest, (layer.descriptor.size, layer.blob))
    return found


def memory_stream(blob: Blob) -> BinaryIO:
    """All of a small blob, in memory."""
    out = io.BytesIO()
    blob.copy_to(out)
    out.seek(0)
    return out
