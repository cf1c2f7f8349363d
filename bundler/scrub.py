"""An image without the traces of bundles: layers filtered, configuration cleaned, the rest untouched."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bundler.digest import Digest, canonical_json
from bundler.oci.header import padding
from bundler.oci.image import LAYER, MANIFEST, PIECE, Descriptor, Image, Layer, Original, manifest_json
from bundler.oci.parse import load_object, parse_config
from bundler.oci.stream import LayerStream, open_layer
from bundler.oci.tar import members
from bundler.traces import clean_config, clean_inner, describe, is_commit, mount_points
from bundler.tree import Entry


@dataclass(frozen=True, slots=True)
class Base:
    """The image that another one was made from: how many layers it has, and its inner configuration."""

    layers: int
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """``changes`` are lines for a reader; without any, ``image`` is the one that was given."""

    image: Image
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FilteredBlob:
    """A layer's tar without some of its entries, empty ones.  All other bytes stay as they are."""

    layer: Layer
    drop: frozenset[str]

    def copy_to(self, out: Any) -> None:
        stream = open_layer(self.layer)
        try:
            for start, end in self._spans(stream):
                with stream.open(start, end - start) as part:
                    while piece := part.read(PIECE):
                        out.write(piece)
        finally:
            stream.close()

    def file(self) -> tuple[Path, int, int] | None:
        return None

    def _spans(self, stream: LayerStream) -> Iterator[tuple[int, int]]:
        """The ranges to keep.  An entry begins, with its extended headers, where the one before ends."""
        kept = at = 0
        with stream.open() as tar:
            for member in members(tar, stream.length, where=f"layer {self.layer.diff_id}"):
                size = member.entry.size
                end = member.offset + size + padding(size)
                if member.entry.path in self.drop:
                    if at > kept:
                        yield kept, at
                    kept = end
                at = end
        yield kept, stream.length


def scrub(
    image: Image,
    *,
    root: str,
    base: Base | None = None,
    restore: bool | None = None,
    further: Iterable[str] = (),
) -> Scrubbed:
    """``image`` without mount points below ``root`` and without what mounting left in its configuration.

    ``further`` are other paths where something was mounted: what is empty there goes, too.
    With ``base``, its layers are left alone, and (``restore``; None: if the image was committed from a
    container) its configuration becomes the base's.  Raises InputError for damaged layers.
    """
    config = load_object(image.config_bytes, "the image's configuration")
    inner = config.get("config") or {}
    committed = is_commit(config)
    kept = base.layers if base is not None else 0
    drops = mount_points(
        [_entries(layer) for layer in image.layers],
        root,
        kept=kept,
        engine=base is not None,
        further=further,
    )
    layers = [_without(layer, drop) for layer, drop in zip(image.layers, drops, strict=True)]
    if base is not None and (committed if restore is None else restore):
        cleaned = dict(base.config)
    else:
        cleaned = clean_inner(inner, root, None if base is None else base.config)
    changes = [f"layer {number}: /{path}" for number, drop in enumerate(drops) for path in sorted(drop)]
    changes += describe(inner, cleaned)
    if not changes:
        return Scrubbed(image, ())
    remaining = tuple(layer for layer in layers if layer is not None)
    raw = canonical_json(
        clean_config(
            config,
            cleaned,
            diff_ids=[layer.diff_id for layer in remaining],
            dropped=[number for number, layer in enumerate(layers) if layer is None],
            root=root,
        )
    )
    original = Original(manifest_json(raw, remaining, image.annotations), MANIFEST, raw)
    parsed = parse_config(raw, "the scrubbed image").config
    return Scrubbed(replace(image, layers=remaining, config=parsed, original=original), tuple(changes))


def _entries(layer: Layer) -> list[Entry]:
    stream = open_layer(layer)
    try:
        with stream.open() as tar:
            found = members(tar, stream.length, where=f"layer {layer.diff_id}")
            return [member.entry for member in found if member.entry.path]
    finally:
        stream.close()


def _without(layer: Layer, drop: frozenset[str]) -> Layer | None:
    """The layer without these directories; None if nothing is left of it."""
    if not drop:
        return layer
    if all(entry.path in drop for entry in _entries(layer)):
        return None
    blob = FilteredBlob(layer, drop)
    measure = _Measure()
    blob.copy_to(measure)
    diff_id = Digest("sha256:" + measure.hash.hexdigest())
    descriptor = Descriptor(LAYER, diff_id, measure.size, layer.descriptor.annotations)
    return replace(layer, descriptor=descriptor, diff_id=diff_id, blob=blob)


class _Measure:
    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self.hash.update(data)
        self.size += len(data)
