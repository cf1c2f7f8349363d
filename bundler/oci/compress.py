"""Layers compressed on their way out: to a registry, or into an archive that shall be small.

An image's identity does not change: its configuration names diff IDs.  The bytes are the same with any
number of threads, for one version of the compressor; that version is written beside each layer.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Literal

from bundler.digest import Digest, hex_of
from bundler.errors import InputError
from bundler.oci import image as media
from bundler.oci.image import Descriptor, FileBlob, Image, Layer
from bundler.oci.stream import open_layer

Codec = Literal["none", "gzip", "zstd"]

MEMBER = 1 << 20
"""Uncompressed bytes in one gzip member: each is compressed by itself, so that all cores work."""
COMPRESSOR = "bundle.compressor"
"""Annotation of a layer: name, version and level of what compressed it."""

_THREADS = 4
"""At most, unless asked: each holds a member, and memory shall stay small on large machines, too."""
_JOB = 1 << 20
"""Uncompressed bytes that one of zstd's workers takes: its default needs more memory than we allow."""
_LEVELS = {"gzip": 5, "zstd": 3}
"""Those of gzip are libdeflate's: its fifth gives no more bytes than gzip -6."""
_MEDIA_TYPES = {"gzip": media.LAYER_GZIP, "zstd": media.LAYER_ZSTD, "none": media.LAYER}
_CODECS = {
    media.LAYER: "none",
    media.DOCKER_LAYER: "none",
    media.LAYER_GZIP: "gzip",
    media.DOCKER_LAYER_GZIP: "gzip",
    media.LAYER_ZSTD: "zstd",
}


def compressed(image: Image, codec: Codec, directory: Path, *, threads: int | None = None) -> Image:
    """The image with its uncompressed layers compressed into files of ``directory``.

    What is compressed already is left as it is: to compress it again would change its digest.
    """
    layers = tuple(compress_layer(layer, codec, directory, threads=threads) for layer in image.layers)
    return _with_layers(image, layers)


def compress_layer(layer: Layer, codec: Codec, directory: Path, *, threads: int | None = None) -> Layer:
    """The layer as :func:`compressed` gives it."""
    if codec == "none" or codec_of(layer) != "none":
        return layer
    path = directory / f"{hex_of(layer.diff_id)}.{codec}"
    with path.open("wb") as file, ExitStack() as stack:
        out = compressor(codec, file, threads=threads)
        stack.callback(out.abandon)
        layer.blob.copy_to(out)
        digest, size = out.finish()
    descriptor = describe(layer, codec, out, digest, size)
    return replace(layer, descriptor=descriptor, blob=FileBlob(path, size))


def compressor(codec: Codec, file: IO[bytes], *, threads: int | None = None) -> Gzip | Zstd:
    """What compresses into ``file`` all that is written to it; ``abandon`` it in any case."""
    count = threads or min(os.cpu_count() or 1, _THREADS)
    return Gzip(file, count) if codec == "gzip" else Zstd(file, count)


def describe(layer: Layer, codec: Codec, made_by: Gzip | Zstd, digest: Digest, size: int) -> Descriptor:
    """The descriptor of a layer's compressed blob, which records the compressor."""
    record = (COMPRESSOR, f"{made_by.name} level {_LEVELS[codec]}")
    annotations = tuple(sorted((*layer.descriptor.annotations, record)))
    return Descriptor(_MEDIA_TYPES[codec], digest, size, annotations)


def uncompressed(image: Image, directory: Path) -> Image:
    """The image with all its layers uncompressed, in files of ``directory``; its ID stays."""
    layers = []
    for layer in image.layers:
        if codec_of(layer) != "none":
            stream = open_layer(layer)
            path = directory / hex_of(layer.diff_id)
            with path.open("wb") as out, stream.open() as tar:
                while piece := tar.read(media.PIECE):
                    out.write(piece)
            stream.close()
            annotations = tuple(pair for pair in layer.descriptor.annotations if pair[0] != COMPRESSOR)
            descriptor = Descriptor(media.LAYER, layer.diff_id, stream.length, annotations)
            layer = replace(layer, descriptor=descriptor, blob=FileBlob(path, stream.length))
        layers.append(layer)
    return _with_layers(image, tuple(layers))


def _with_layers(image: Image, layers: tuple[Layer, ...]) -> Image:
    """The image with the same layers in other blobs: a new manifest over the same configuration."""
    if layers == image.layers:
        return image
    config = image.config_bytes
    manifest = media.manifest_json(config, layers, image.annotations)
    return replace(image, layers=layers, original=media.Original(manifest, media.MANIFEST, config))


def codec_of(layer: Layer) -> str:
    """The layer's compression by its media type; raises InputError for one that is unknown."""
    kind = layer.descriptor.media_type
    if kind not in _CODECS:
        raise InputError(f"the layer {layer.diff_id} has the unknown media type {kind!r}")
    return _CODECS[kind]


class _Hashed:
    """A file, and the digest of what was written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes | bytearray) -> None:
        self._hash.update(data)
        self._file.write(data)

    def result(self) -> tuple[Digest, int]:
        self._file.flush()
        return Digest("sha256:" + self._hash.hexdigest()), self._file.tell()


class Gzip:
    """Independent members in order (RFC 1952, section 2.2: a file is a series of members)."""

    def __init__(self, file: IO[bytes], threads: int) -> None:
        import deflate

        self._compress = deflate.gzip_compress
        self.name = f"libdeflate (deflate {metadata.version('deflate')})"
        self._out = _Hashed(file)
        self._pool = ThreadPoolExecutor(threads, "gzip")
        self._waiting: deque[Future[bytearray]] = deque()
        self._most = threads + 1
        self._member = bytearray()

    def write(self, data: bytes | memoryview, /) -> None:
        view = memoryview(data)
        while view:
            room = MEMBER - len(self._member)
            self._member += view[:room]
            view = view[room:]
            if len(self._member) == MEMBER:
                self._submit()

    def _submit(self) -> None:
        self._waiting.append(self._pool.submit(self._compress, self._member, _LEVELS["gzip"]))
        self._member = bytearray()
        while len(self._waiting) >= self._most:
            self._out.write(self._waiting.popleft().result())

    def finish(self) -> tuple[Digest, int]:
        if self._member:
            self._submit()
        while self._waiting:
            self._out.write(self._waiting.popleft().result())
        return self._out.result()

    def abandon(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Zstd:
    """One frame, whose bytes are the same for any number of workers from one on."""

    def __init__(self, file: IO[bytes], threads: int) -> None:
        from backports import zstd

        parameters = zstd.CompressionParameter
        self.name = f"libzstd {zstd.zstd_version}"
        self._engine: Any = zstd.ZstdCompressor(
            options={
                parameters.compression_level: _LEVELS["zstd"],
                parameters.checksum_flag: 1,
                parameters.nb_workers: max(1, threads),
                parameters.job_size: _JOB,
            }
        )
        self._out = _Hashed(file)

    def write(self, data: bytes | memoryview, /) -> None:
        self._out.write(self._engine.compress(data))

    def finish(self) -> tuple[Digest, int]:
        self._out.write(self._engine.flush())
        return self._out.result()

    def abandon(self) -> None:
        self._engine = None
