"""Whole images to and from a registry: only the blobs that the other side lacks, several at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

from bundler.digest import Digest, digest_bytes, digest_file, hex_of
from bundler.errors import InputError
from bundler.events import Sink, TaskAdvanced, TaskFinished, TaskStarted, ignore
from bundler.oci import image as media
from bundler.oci.compress import Codec, codec_of, compress_layer
from bundler.oci.image import Blob, Descriptor, FileBlob, Image, Layer, MemoryBlob
from bundler.oci.layout import check_place, write_layout
from bundler.oci.parse import load_object, parse_config, parse_descriptor, parse_index, parse_manifest
from bundler.oci.read import build_image
from bundler.oci.stream import open_range
from bundler.registry.client import MANIFESTS, Repository

AT_ONCE = 4
"""Blobs under way at the same time."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did: the manifest that the registry now has, and the bytes that were sent."""

    descriptor: Descriptor
    sent: int
    skipped: int
    """Layers that the registry had, or took over from another repository."""


def push(
    image: Image,
    repository: Repository,
    *,
    codec: Codec = "gzip",
    mount_from: Sequence[str] = (),
    memory: Path | None = None,
    sink: Sink = ignore,
) -> Pushed:
    """Store an image under the repository's tag.

    Layers that are not compressed are, with ``codec``; others go as they are.  ``memory`` is a directory
    that remembers what each layer becomes, so that one that the registry has is not even compressed.
    """
    with tempfile.TemporaryDirectory(prefix="bundle-push-") as scratch:
        unique = list({layer.diff_id: layer for layer in image.layers}.values())
        pusher = _Pusher(repository, codec, Path(scratch), tuple(mount_from), memory, sink)
        with ThreadPoolExecutor(AT_ONCE, "push") as pool:
            made = dict(pool.map(pusher.push_layer, unique))
        config = image.config_bytes
        pusher.push_blob(Descriptor(media.CONFIG, digest_bytes(config), len(config)), MemoryBlob(config))
    layers = [made[layer.diff_id] for layer in image.layers]
    unchanged = [layer.descriptor for layer in layers] == [layer.descriptor for layer in image.layers]
    manifest = image.manifest_bytes if unchanged else media.manifest_json(config, layers, image.annotations)
    kind = image.media_type if unchanged else media.MANIFEST
    repository.put_manifest(repository.reference.version, manifest, kind)
    return Pushed(Descriptor(kind, digest_bytes(manifest), len(manifest)), pusher.sent, pusher.skipped)


class _Pusher:
    def __init__(
        self,
        repository: Repository,
        codec: Codec,
        scratch: Path,
        mount_from: tuple[str, ...],
        memory: Path | None,
        sink: Sink,
    ) -> None:
        self._repository = repository
        self._codec = codec
        self._scratch = scratch
        self._mount_from = mount_from
        self._memory = memory
        self._sink = sink
        self._compressing = threading.Lock()
        self.sent = 0
        self.skipped = 0

    def push_layer(self, layer: Layer) -> tuple[Digest, Layer]:
        """See to it that the registry has the layer; returns it as the registry has it."""
        known = self._remembered(layer)
        if known is not None and self._repository.has_blob(known.digest):
            self.skipped += 1
            return layer.diff_id, replace(layer, descriptor=known)
        # One keeps all cores busy; several at once would only need more memory.
        with self._compressing:
            small = compress_layer(layer, self._codec, self._scratch)
        self.push_blob(small.descriptor, small.blob, task=layer.comment)
        self._remember(layer, small)
        place = small.blob.file()
        if place is not None and place[0].parent == self._scratch:
            place[0].unlink()
        return layer.diff_id, small

    def push_blob(self, descriptor: Descriptor, blob: Blob, *, task: str = "") -> None:
        if self._repository.has_blob(descriptor.digest):
            self.skipped += 1
            return
        location = None
        for source in self._mount_from:
            location = self._repository.mount_blob(descriptor.digest, source)
            if location is None:
                self.skipped += 1
                return
        name = f"push {task or descriptor.digest[7:19]}"
        self._sink(TaskStarted(name, descriptor.size, "bytes"))
        with _stream(blob, self._scratch) as stream:
            self._repository.put_blob(
                descriptor,
                stream,
                location=location,
                report=lambda done: self._sink(TaskAdvanced(name, done)),
            )
        self._sink(TaskFinished(name))
        self.sent += descriptor.size

    def _memory_file(self, layer: Layer) -> Path | None:
        if self._memory is None or codec_of(layer) != "none" or self._codec == "none":
            return None
        package = {"gzip": "deflate", "zstd": "backports.zstd"}[self._codec]
        return self._memory / f"{hex_of(layer.diff_id)}.{package}-{metadata.version(package)}.json"

    def _remembered(self, layer: Layer) -> Descriptor | None:
        file = self._memory_file(layer)
        if file is None:
            return None
        try:
            return parse_descriptor(json.loads(file.read_bytes()), str(file), "descriptor")
        except (OSError, ValueError, InputError):
            return None

    def _remember(self, layer: Layer, small: Layer) -> None:
        file = self._memory_file(layer)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f".{file.name}.{os.getpid()}")
            temporary.write_text(json.dumps(small.descriptor.to_dict()))
            temporary.rename(file)


@contextlib.contextmanager
def _stream(blob: Blob, scratch: Path) -> Iterator[BinaryIO]:
    """A blob as a seekable stream: uploads go back where they broke off."""
    place = blob.file()
    if place is not None:
        with place[0].open("rb") as file:
            yield open_range(file, place[1], place[2])
        return
    with tempfile.TemporaryFile(dir=scratch) as spool:
        blob.copy_to(spool)
        spool.flush()
        yield open_range(spool, 0, spool.tell())


def pull(
    repository: Repository,
    directory: Path,
    *,
    platform: str = "linux/amd64",
    sink: Sink = ignore,
    check: Callable[[Sequence[Digest]], None] | None = None,
) -> Image:
    """Fetch an image into ``directory`` as an OCI layout, byte for byte what the registry has.

    ``check`` is called before anything is fetched, with the digests of what the name leads to (an index,
    where there is one, then the image's manifest), and raises to prevent it.
    Blobs that the directory has are not fetched again; what an interrupted pull fetched lies beside it
    and is used.  Raises InputError for what is not what it is named.
    """
    check_place(directory)
    manifest, kind, digests = _choose(repository, platform)
    where = str(repository.reference)
    parsed = parse_manifest(manifest, where)
    if check is not None:
        check(digests)
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = directory.parent / f".{directory.name}.pull"
    with _held(staging):
        config = _fetch_small(repository, parsed.config, staging)
        parse_config(config, where)
        wanted = list({layer.digest: layer for layer in parsed.layers}.values())
        fetch = _fetcher(repository, directory, staging, sink)
        with ThreadPoolExecutor(AT_ONCE, "pull") as pool:
            blobs: Mapping[Digest, Blob] = dict(pool.map(fetch, wanted))
        image = build_image(manifest, kind, config, blobs, where, where)
        write_layout(directory, image)
        shutil.rmtree(staging, ignore_errors=True)
    return image


def _choose(repository: Repository, platform: str) -> tuple[bytes, str, list[Digest]]:
    data, kind = _manifest(repository, repository.reference.version)
    digests: list[Digest] = []
    for _ in range(3):
        digests.append(digest_bytes(data))
        if kind not in (media.INDEX, media.DOCKER_LIST):
            return data, kind, digests
        listed = parse_index(data, str(repository.reference))
        fits = [item for item in listed if item.platform == platform] or (
            list(listed) if len(listed) == 1 else []
        )
        if not fits:
            names = ", ".join(item.platform or "?" for item in listed)
            raise InputError(f"holds no image for {platform}", where=str(repository.reference), why=names)
        data, kind = _manifest(repository, fits[0].descriptor.digest)
    raise InputError("holds an index in an index in an index", where=str(repository.reference))


def _manifest(repository: Repository, version: str) -> tuple[bytes, str]:
    """Some registries call every manifest ``application/json``: then what it says itself counts."""
    data, kind = repository.manifest(version)
    if kind not in MANIFESTS:
        record = load_object(data, str(repository.reference))
        kind = str(record.get("mediaType") or (media.INDEX if "manifests" in record else media.MANIFEST))
    return data, kind


def _fetch_small(repository: Repository, descriptor: Descriptor, staging: Path) -> bytes:
    if descriptor.size > media.PIECE * 4:
        raise InputError(f"its configuration has {descriptor.size} bytes", where=str(repository.reference))
    path = staging / hex_of(descriptor.digest)
    if not path.exists():
        repository.fetch_blob(descriptor, path)
    data = path.read_bytes()
    if digest_bytes(data) != descriptor.digest:
        path.unlink()
        raise InputError(f"the blob {descriptor.digest} is damaged", where=str(path), hint="pull again")
    return data


def _fetcher(
    repository: Repository, directory: Path, staging: Path, sink: Sink
) -> Callable[[Descriptor], tuple[Digest, Blob]]:
    def fetch(descriptor: Descriptor) -> tuple[Digest, Blob]:
        name = hex_of(descriptor.digest)
        present = directory / "blobs/sha256" / name
        if present.is_file() and digest_file(present) == descriptor.digest:
            return descriptor.digest, FileBlob(present, descriptor.size)
        blobs = staging / "sha256"
        blobs.mkdir(exist_ok=True)
        path = blobs / name
        task = f"pull {name[:12]}"
        sink(TaskStarted(task, descriptor.size, "bytes"))
        if not path.exists():
            repository.fetch_blob(descriptor, path, lambda done: sink(TaskAdvanced(task, done)))
        sink(TaskFinished(task))
        return descriptor.digest, FileBlob(path, descriptor.size)

    return fetch


@contextlib.contextmanager
def _held(staging: Path) -> Iterator[None]:
    """The directory of a pull, by one process at a time; a dead one's is taken over."""
    staging.mkdir(exist_ok=True)
    descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError("another process is pulling into this directory", where=str(staging)) from error
        yield
    finally:
        os.close(descriptor)
