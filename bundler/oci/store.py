"""Layers written once, while they are read: the digest is known, and the blob there, in the same pass."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bundler.digest import hex_of
from bundler.oci.compress import Codec, compressor, describe
from bundler.oci.image import FileBlob, Layer, layer_of
from bundler.oci.layer import LayerSource, write_layer


def store_layer(source: LayerSource, blobs: Path, *, codec: Codec = "none") -> Layer:
    """Pack a layer into ``blobs``/sha256, named by its digest; an image's layout links it from there."""
    directory = blobs / "sha256"
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file, ExitStack() as stack:
            if codec == "none":
                layer = layer_of(source, write_layer(source, file))
                size = layer.descriptor.size
            else:
                out = compressor(codec, file)
                stack.callback(out.abandon)
                identity = write_layer(source, out)
                digest, size = out.finish()
                plain = layer_of(source, identity)
                layer = replace(plain, descriptor=describe(plain, codec, out, digest, size))
        path = directory / hex_of(layer.descriptor.digest)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return replace(layer, blob=FileBlob(path, size))
