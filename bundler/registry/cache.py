"""A registry as the cache that machines share: what one built, by its key, another need not build.

An entry is an image under the tag ``<hex of the key>``: a layer for each tree, and a configuration that
says which key it is for and which digests its trees have.  Both are compared before anything is kept.  That
a tree is what its recipe gives cannot be seen from outside: let only those write there whom you trust.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bundler.digest import Digest, digest_bytes, hex_of, parse_digest
from bundler.errors import InputError
from bundler.oci import image as media
from bundler.oci.image import Blob, Descriptor, FileBlob, Image, ImageConfig
from bundler.oci.layer import source_of_tree
from bundler.oci.merged import ImageTree
from bundler.oci.parse import parse_manifest
from bundler.oci.read import build_image
from bundler.oci.store import store_layer
from bundler.oci.unpack import write_tree
from bundler.registry.client import Repository
from bundler.registry.reference import Reference, parse_reference
from bundler.store import Store

KEY = "bundle.cache.key"
"""Label of an entry: the key that it is for."""
OUTPUT = "bundle.cache.output."
"""Prefix of the labels that name the tree of each prefix."""


class SharedCache:
    """The entries in one repository, ``HOST[:PORT]/REPOSITORY``."""

    def __init__(self, name: str, *, plain_http: bool = False) -> None:
        reference = parse_reference(name)
        if reference.digest or name.endswith(f":{reference.tag}"):
            raise InputError(f"{name!r} has a tag", hint="a cache is a repository: every key is a tag in it")
        self._reference = reference
        self._plain_http = plain_http

    def _repository(self, key: Digest) -> Repository:
        return Repository(
            Reference(self._reference.host, self._reference.repository, hex_of(key)),
            plain_http=self._plain_http,
        )

    def pull(self, key: Digest, store: Store) -> Mapping[str, Digest] | None:
        """Take the trees of a key into the store: their digests by prefix, or None where there is no entry.

        Raises InputError for an entry that is not what it says, of which nothing is kept, and
        EnvironmentLacks where the registry does not answer.
        """
        repository = self._repository(key)
        where = str(repository.reference)
        if repository.has_manifest(hex_of(key)) is None:
            return None
        manifest, kind = repository.manifest(hex_of(key))
        parsed = parse_manifest(manifest, where)
        with store.temporary() as work:
            fetched: dict[Digest, Blob] = {}
            for descriptor in (parsed.config, *parsed.layers):
                path = work / hex_of(descriptor.digest)
                if descriptor.digest not in fetched:
                    repository.fetch_blob(descriptor, path)
                    fetched[descriptor.digest] = FileBlob(path, descriptor.size)
            config = (work / hex_of(parsed.config.digest)).read_bytes()
            image = build_image(manifest, kind, config, fetched, where)
            outputs = _announced(image, key, where)
            _take(image, outputs, store, work, where)
        store.record(key, outputs, {"from": where})
        return outputs

    def push(self, key: Digest, store: Store) -> bool:
        """Store what a key gave, if nobody did before; whether it was sent."""
        found = store.lookup(key)
        repository = self._repository(key)
        if found is None or repository.has_manifest(hex_of(key)) is not None:
            return False
        labels = {KEY: key, **{OUTPUT + prefix: tree for prefix, tree in found.outputs.items()}}
        with store.temporary() as work:
            layers = []
            for tree in sorted(set(found.outputs.values())):
                entries = store.entries(tree)
                source = source_of_tree(entries, store.tree_path(tree), "", name=tree, version="")
                layer = store_layer(source, work, codec="gzip")
                layers.append(layer)
                if not repository.has_blob(layer.descriptor.digest):
                    with _path(layer.blob).open("rb") as stream:
                        repository.put_blob(layer.descriptor, stream)
            image = Image(tuple(layers), ImageConfig("unknown", labels=tuple(sorted(labels.items()))))
            config = image.config_bytes
            repository.put_blob(
                Descriptor(media.CONFIG, digest_bytes(config), len(config)), io.BytesIO(config)
            )
            repository.put_manifest(hex_of(key), image.manifest_bytes, media.MANIFEST)
        return True


def _path(blob: Blob) -> Path:
    place = blob.file()
    assert place is not None
    return place[0]


def _announced(image: Image, key: Digest, where: str) -> dict[str, Digest]:
    """The trees that an entry says it holds; raises InputError if it is for another key."""
    labels = image.labels
    if labels.get(KEY) != key:
        raise InputError("is an entry for another key", where=where, why=f"it says {labels.get(KEY)}")
    return {
        name.removeprefix(OUTPUT): parse_digest(text, where=where)
        for name, text in labels.items()
        if name.startswith(OUTPUT)
    }


def _take(image: Image, outputs: Mapping[str, Digest], store: Store, work: Path, where: str) -> None:
    """Bring every tree into the store, and compare what it became with what was announced."""
    missing = set(outputs.values())
    for number, layer in enumerate(image.layers):
        target = work / f"tree-{number}"
        with ImageTree(replace(image, layers=(layer,), original=None)) as tree:
            if any(entry.uid or entry.gid for entry in tree.walk()):
                raise InputError("an entry's files belong to somebody", where=where)
            write_tree(tree, target)
        missing.discard(store.add_tree(target))
    if missing:
        found = ", ".join(sorted(missing))
        raise InputError("an entry does not hold what it says", where=where, why=f"no layer gives {found}")
