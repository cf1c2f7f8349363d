"""What an image holds, file by file with digests, without reading more of it than is needed.

A bundle of ours says it itself, in its manifest.  Any other image is read once and its inventory kept,
by the diff IDs of its layers (what they name cannot change), with what loading looks at in its ELF files.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bundler import labels
from bundler.digest import Digest, canonical_json, digest_bytes, digest_stream, hex_of
from bundler.errors import BundleError, InputError
from bundler.oci.glimpse import Glimpse, glimpse_of
from bundler.oci.image import Image
from bundler.oci.manifest import MANIFEST, read_manifest
from bundler.oci.merged import ImageTree
from bundler.tree import Entry, FileTree, Kind, entry_from_dict

FORMAT = 2


@dataclass(frozen=True, slots=True)
class Owned:
    """An entry with its digest, what it came from in words, and the diff ID of its layer."""

    entry: Entry
    owner: str
    layer: Digest
    glimpse: Glimpse = field(default=(), repr=False)
    """Of an ELF file what its loading looks at; nothing where the image says itself what it holds."""


Inventory = Mapping[str, Owned]
"""Entries by path, in byte order of paths."""


def inventory(image: Image, cache: Path | None = None) -> Inventory:
    """The files of an image.  ``cache`` is a directory that remembers images which are not ours."""
    own = _of_bundle(image)
    if own is not None:
        return own
    diff_ids = [layer.diff_id for layer in image.layers]
    file = cache and cache / f"{hex_of(digest_bytes(canonical_json([FORMAT, diff_ids])))}.jsonl"
    if file and (found := _load(file)) is not None:
        return found
    with ImageTree(image) as tree:
        found = {
            entry.path: _read(tree, entry, _layer_name(image, number), diff_ids[number])
            for entry in tree.walk()
            for number in (max(tree.layer_of(entry.path), 0),)
        }
    if file:
        _save(file, found)
    return found


def _of_bundle(image: Image) -> Inventory | None:
    """From the manifest in the last layer; None where there is none, or it speaks of other layers."""
    try:
        prefix = labels.read_facts(image.labels, where="image").prefix.strip("/")
    except BundleError:
        return None
    last = image.layers[-1]
    with ImageTree(replace(image, layers=(last,), original=None)) as tree:
        place = f"{prefix}/{MANIFEST}"
        if tree.get(place) is None:
            return None
        with tree.open(place) as stream:
            manifest = read_manifest(stream.read(), where="/" + place)
        layers = {name: Digest(str(record["layer"])) for name, record in manifest.recipes.items()}
        known = {layer.diff_id for layer in image.layers}
        if set(layers.values()) | {last.diff_id} != known or not set(manifest.owners.values()) <= set(layers):
            return None
        found = {
            path: Owned(entry, manifest.owners[path], layers[manifest.owners[path]])
            for path, entry in manifest.entries.items()
        }
        for entry in tree.walk():
            found.setdefault(entry.path, Owned(_with_digest(tree, entry), "manifest", last.diff_id))
    return _sized(dict(sorted(found.items(), key=lambda item: os.fsencode(item[0]))))


def _read(tree: FileTree, entry: Entry, owner: str, layer: Digest) -> Owned:
    if entry.kind is not Kind.FILE or entry.hardlink is not None:
        return Owned(entry, owner, layer)
    with tree.open(entry.path) as stream:
        digest = digest_stream(stream)
        return Owned(replace(entry, digest=digest), owner, layer, glimpse_of(stream, entry.path))


def _with_digest(tree: FileTree, entry: Entry) -> Entry:
    if entry.kind is not Kind.FILE or entry.hardlink is not None:
        return entry
    with tree.open(entry.path) as stream:
        return replace(entry, digest=digest_stream(stream))


def _layer_name(image: Image, number: int) -> str:
    layer = image.layers[number]
    return layer.comment[:60] or layer.diff_id[:19]


def _save(file: Path, found: Inventory) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with temporary.open("wb") as out:
        for owned in found.values():
            record: dict[str, Any] = {
                "entry": owned.entry.to_dict(),
                "owner": owned.owner,
                "layer": owned.layer,
            }
            if owned.glimpse:
                record["glimpse"] = [[offset, _packed(data)] for offset, data in owned.glimpse]
            out.write(canonical_json(record) + b"\n")
        out.write(b"{}\n")
        out.flush()
        os.fsync(out.fileno())
    temporary.rename(file)


def _load(file: Path) -> dict[str, Owned] | None:
    """The inventory that was kept, or None; the last line says that it is whole."""
    try:
        lines = file.read_bytes().splitlines()
        if not lines or lines.pop() != b"{}":
            return None
        found = {}
        for line in lines:
            record = json.loads(line.decode("utf-8", "surrogateescape"))
            entry = entry_from_dict(record["entry"])
            glimpse = tuple((int(offset), _unpacked(text)) for offset, text in record.get("glimpse", ()))
            found[entry.path] = Owned(entry, str(record["owner"]), Digest(record["layer"]), glimpse)
    except (OSError, ValueError, KeyError, TypeError, InputError, zlib.error):
        return None
    return _sized(found)


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 1)).decode()


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text, validate=True))


def _sized(found: dict[str, Owned]) -> dict[str, Owned]:
    """Further names of a file with its size, which no record repeats."""
    for path, owned in found.items():
        if owned.entry.hardlink is not None and owned.entry.hardlink in found:
            size = found[owned.entry.hardlink].entry.size
            found[path] = replace(owned, entry=replace(owned.entry, size=size))
    return found
