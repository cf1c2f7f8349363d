"""What is attached to an image in a registry, as cosign does it: under a tag made of the image's digest."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from bundler.digest import Digest, digest_bytes
from bundler.errors import InputError
from bundler.oci import image as media
from bundler.oci.image import Descriptor, blobs_of, memory_stream
from bundler.oci.parse import parse_manifest
from bundler.oci.signature import ENVELOPE, SIMPLE_SIGNING, Document, Kind, attachment, tag_of
from bundler.oci.stream import LIMITS
from bundler.registry.client import Repository


def fetch_attached(repository: Repository, digest: Digest, kind: Kind) -> list[Document]:
    """Signatures (``sig``) or statements (``att``) about the manifest with this digest."""
    tag = tag_of(digest, kind)
    if repository.has_manifest(tag) is None:
        return []
    where = f"{repository.reference.host}/{repository.reference.repository}:{tag}"
    manifest = parse_manifest(repository.manifest(tag)[0], where)
    return [
        Document(layer.media_type, _small(repository, layer, where), layer.annotations)
        for layer in manifest.layers
        if layer.media_type in (SIMPLE_SIGNING, ENVELOPE)
    ]


def _small(repository: Repository, descriptor: Descriptor, where: str) -> bytes:
    if descriptor.size > LIMITS.json:
        raise InputError(f"is larger than {LIMITS.json} bytes", where=f"{where}: {descriptor.digest}")
    with tempfile.TemporaryDirectory(prefix="bundle-") as name:
        path = Path(name, "blob")
        repository.fetch_blob(descriptor, path)
        return path.read_bytes()


def attach(repository: Repository, subject: Descriptor, kind: Kind, document: Document) -> None:
    """Add a document to what is attached to a manifest; a statement becomes a referrer, too."""
    image = attachment([*fetch_attached(repository, subject.digest, kind), document])
    manifest = image.manifest_bytes
    for digest, (size, blob) in blobs_of(image).items():
        if digest != digest_bytes(manifest) and not repository.has_blob(digest):
            data = memory_stream(blob).read()
            repository.put_blob(Descriptor(media.LAYER, digest, size), io.BytesIO(data))
    repository.put_manifest(tag_of(subject.digest, kind), manifest, media.MANIFEST)
    if kind == "att":
        repository.attach(subject, document.media_type, document.media_type, document.data)
