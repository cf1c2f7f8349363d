"""Manifests, indexes and configurations parsed at the edge, from bytes that anyone may have written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bundler.digest import Digest, parse_digest
from bundler.errors import InputError
from bundler.oci import image as media
from bundler.oci.image import Descriptor, ImageConfig, Pairs
from bundler.oci.stream import LIMITS, Limits

_ATTACHED = re.compile(r"(?:^|:)sha256-[0-9a-f]{64}\.(?:sig|att|sbom)\Z")
_COSIGN_KINDS = {f"dev.cosignproject.cosign/{kind}" for kind in ("sigs", "atts", "sboms")}
_INNER = {"Cmd", "Entrypoint", "Env", "Labels"}
_OUTER = {"architecture", "os", "config", "created", "history", "rootfs"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest refers to (manifest.md)."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Pairs


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of an index: a manifest, the name that it has there, its platform (``os/architecture``)."""

    descriptor: Descriptor
    name: str
    platform: str | None

    @property
    def is_attached(self) -> bool:
        """Whether it is no image but says something of one: cosign's signatures and their like."""
        kind = dict(self.descriptor.annotations).get("kind")
        return kind in _COSIGN_KINDS or _ATTACHED.search(self.name) is not None


@dataclass(frozen=True, slots=True)
class ParsedConfig:
    config: ImageConfig
    diff_ids: tuple[Digest, ...]
    comments: tuple[str, ...]
    """One for each layer: how its history item says that it was made, or an empty text."""
    history: tuple[tuple[Mapping[str, Any], ...], ...]
    """One for each layer: its history item, those without a layer before it, at last those behind it."""


def load_object(data: bytes, where: str, limits: Limits = LIMITS) -> Mapping[str, Any]:
    """A JSON object of bounded size and depth; raises InputError."""
    if len(data) > limits.json:
        raise InputError(f"holds {len(data)} bytes of JSON", where=where, why=f"the limit is {limits.json}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError("is no JSON", where=where, why=str(error)) from error
    return _object(value, where, "the document")


def parse_manifest(data: bytes, where: str, limits: Limits = LIMITS) -> Manifest:
    record = load_object(data, where, limits)
    layers = _list(record.get("layers"), where, "layers")
    if len(layers) > limits.layers:
        raise InputError(f"has {len(layers)} layers", where=where, why=f"the limit is {limits.layers}")
    return Manifest(
        config=parse_descriptor(record.get("config"), where, "config"),
        layers=tuple(parse_descriptor(item, where, f"layers[{at}]") for at, item in enumerate(layers)),
        annotations=_pairs(record.get("annotations"), where, "annotations"),
    )


def parse_index(data: bytes, where: str, limits: Limits = LIMITS) -> tuple[Listed, ...]:
    found = []
    for at, item in enumerate(_list(load_object(data, where, limits).get("manifests"), where, "manifests")):
        descriptor = parse_descriptor(item, where, f"manifests[{at}]")
        names = dict(descriptor.annotations)
        platform = _object(item.get("platform") or {}, where, f"manifests[{at}].platform")
        text = f"{platform.get('os')}/{platform.get('architecture')}" if platform else None
        name = names.get(media.CONTAINERD_NAME) or names.get(media.REF_NAME) or ""
        found.append(Listed(descriptor, name, text))
    return tuple(found)


def parse_descriptor(value: Any, where: str, key: str) -> Descriptor:
    record = _object(value, where, key)
    size = record.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise InputError(f"{key}.size is no size: {size!r}", where=where)
    return Descriptor(
        media_type=_text(record.get("mediaType", ""), where, f"{key}.mediaType"),
        digest=parse_digest(_text(record.get("digest"), where, f"{key}.digest"), where=where),
        size=size,
        annotations=_pairs(record.get("annotations"), where, f"{key}.annotations"),
    )


def parse_config(data: bytes, where: str, limits: Limits = LIMITS) -> ParsedConfig:
    record = load_object(data, where, limits)
    inner = _object(record.get("config") or {}, where, "config")
    rootfs = _object(record.get("rootfs"), where, "rootfs")
    diff_ids = tuple(
        parse_digest(_text(item, where, "rootfs.diff_ids"), where=where)
        for item in _list(rootfs.get("diff_ids"), where, "rootfs.diff_ids")
    )
    config = ImageConfig(
        architecture=_text(record.get("architecture"), where, "architecture"),
        os=_text(record.get("os"), where, "os"),
        command=_texts(inner.get("Cmd"), where, "config.Cmd"),
        entrypoint=_texts(inner.get("Entrypoint"), where, "config.Entrypoint"),
        environment=_texts(inner.get("Env"), where, "config.Env"),
        labels=_pairs(inner.get("Labels"), where, "config.Labels"),
        created=_text(record.get("created") or media.CREATED, where, "created"),
        other={key: value for key, value in inner.items() if key not in _INNER},
        outer={key: value for key, value in record.items() if key not in _OUTER},
    )
    history = [
        _object(item, where, "history") for item in _list(record.get("history") or [], where, "history")
    ]
    items: list[list[Mapping[str, Any]]] = [[]]
    for item in history:
        items[-1].append(item)
        if not item.get("empty_layer"):
            items.append([])
    behind = items.pop()
    if len(items) != len(diff_ids):
        return ParsedConfig(config, diff_ids, ("",) * len(diff_ids), ((),) * len(diff_ids))
    comments = tuple(str(own[-1].get("created_by", "")) for own in items)
    if items:
        items[-1] += behind
    return ParsedConfig(config, diff_ids, comments, tuple(map(tuple, items)))


def _object(value: Any, where: str, key: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{key} is no object", where=where)
    return value


def _list(value: Any, where: str, key: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise InputError(f"{key} is no list", where=where)
    return value


def _text(value: Any, where: str, key: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{key} is no text", where=where)
    return value


def _texts(value: Any, where: str, key: str) -> tuple[str, ...]:
    return tuple(_text(item, where, key) for item in _list(value or [], where, key))


def _pairs(value: Any, where: str, key: str) -> Pairs:
    record = _object(value or {}, where, key)
    return tuple(sorted((name, _text(item, where, f"{key}.{name}")) for name, item in record.items()))
