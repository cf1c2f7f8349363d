"""Images read from disk: OCI layouts, OCI archives and ``docker save`` archives, by what they hold."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from bundler.digest import Digest, digest_bytes, digest_stream, hex_of
from bundler.errors import InputError
from bundler.oci import image as media
from bundler.oci.image import Blob, Descriptor, FileBlob, Image, Layer, Original, manifest_json, pieces
from bundler.oci.parse import (
    Listed,
    ParsedConfig,
    load_object,
    parse_config,
    parse_index,
    parse_manifest,
)
from bundler.oci.signature import ENVELOPE, SIMPLE_SIGNING, Document, documents_of
from bundler.oci.stream import LIMITS, Limits, decompress, open_range, sniff
from bundler.oci.tar import members
from bundler.tree import Kind

_INDEXES = (media.INDEX, media.DOCKER_LIST)
_MANIFESTS = (media.MANIFEST, media.DOCKER_MANIFEST, "")
_NESTED = 3


def is_image(path: Path) -> bool:
    """Whether a path looks like something that :func:`open_image` takes: a layout, or any file."""
    return (path / "oci-layout").is_file() if path.is_dir() else path.is_file()


def find_image(name: str, out: Path, *, reference: str | None = None) -> Image:
    """The image that a user means: a path, or the name of a bundle that was built into ``out``."""
    return open_image(find_path(name, out), reference=reference)


def find_path(name: str, out: Path) -> Path:
    """Where the image lies that :func:`find_image` opens; raises InputError if there is none."""
    path = Path(name)
    if not is_image(path):
        built = out / name
        if "/" in name or not is_image(built):
            hint = f"'bundle build {name}' makes it" if "/" not in name else None
            why = f"neither a path nor a bundle in {out}"
            raise InputError(f"there is no image {name!r}", why=why, hint=hint)
        path = built
    return path


def open_image(
    path: Path, *, reference: str | None = None, platform: str | None = None, limits: Limits = LIMITS
) -> Image:
    """The image in an OCI layout or in an OCI or Docker archive (gzip and zstd around it are undone).

    ``reference`` (a name or tag) and ``platform`` (``linux/amd64``) choose where there are several.
    Layers are not read yet; what is read of them later is checked against their digests.  Raises
    InputError for what is damaged, hostile, or ambiguous.
    """
    files = _Layout(path) if path.is_dir() else _archive(path, limits)
    if (index := files.find("index.json")) is not None:
        wanted = _Choice(reference, platform, str(path))
        listed = parse_index(_small(index, f"{path}/index.json", limits), str(path), limits)
        return _open_manifest(files, wanted.one_of(_flatten(files, listed, limits)), limits)
    if (manifest := files.find("manifest.json")) is not None:
        return _open_docker(files, _small(manifest, f"{path}/manifest.json", limits), reference, limits)
    raise InputError("is neither an OCI layout nor an image archive", where=str(path))


def documents_beside(path: Path, *, limits: Limits = LIMITS) -> list[Document]:
    """Signatures and statements in cosign's form in a layout or an OCI archive, whatever they are for."""
    files = _Layout(path) if path.is_dir() else _archive(path, limits)
    index = files.find("index.json")
    if index is None:
        return []
    listed = parse_index(_small(index, f"{path}/index.json", limits), str(path), limits)
    found = []
    for item in _flatten(files, listed, limits):
        if item.descriptor.media_type not in _MANIFESTS:
            continue
        for layer in parse_manifest(_checked(files, item.descriptor, limits), files.where, limits).layers:
            if layer.media_type in (SIMPLE_SIGNING, ENVELOPE):
                found.append(Document(layer.media_type, _checked(files, layer, limits), layer.annotations))
    return found


def attached_to(path: Path, tag: str) -> list[Document]:
    """What lies in a layout under cosign's ``tag``; nothing where there is no such tag."""
    listed = parse_index(_small_file(path / "index.json"), str(path))
    found = [item for item in listed if item.name == tag]
    return documents_of(_open_manifest(_Layout(path), found[-1], LIMITS)) if found else []


def _small_file(path: Path) -> bytes:
    return _small(FileBlob(path, path.stat().st_size), str(path), LIMITS)


def is_oci_archive(path: Path, *, limits: Limits = LIMITS) -> bool:
    """Whether an archive is read as OCI's: those that are Docker's as well are."""
    return _archive(path, limits).find("index.json") is not None


class _Files(Protocol):
    @property
    def where(self) -> str: ...

    def find(self, name: str) -> FileBlob | None: ...


@dataclass(frozen=True, slots=True)
class _Layout:
    root: Path

    @property
    def where(self) -> str:
        return str(self.root)

    def find(self, name: str) -> FileBlob | None:
        file = self.root / name
        return FileBlob(file, file.stat().st_size) if file.is_file() else None


@dataclass(frozen=True, slots=True)
class _Archive:
    """The regular files of a tar by name, symbolic links between them followed (``docker save`` has them)."""

    where: str
    files: Mapping[str, FileBlob]
    links: Mapping[str, str]

    def find(self, name: str) -> FileBlob | None:
        for _ in range(8):
            if name in self.files:
                return self.files[name]
            if name not in self.links:
                return None
            name = os.path.normpath(f"{name.rpartition('/')[0]}/{self.links[name]}")
        return None


def _archive(path: Path, limits: Limits) -> _Archive:
    try:
        file: IO[bytes] = path.open("rb")
    except OSError as error:
        raise InputError("cannot be read", where=str(path), why=error.strerror) from error
    with file:
        codec = sniff(file.read(8))
        if codec is not None:
            return _unpacked_archive(path, file, codec, limits)
        return _index_archive(path, file, str(path), limits)


def _unpacked_archive(path: Path, file: IO[bytes], codec: str, limits: Limits) -> _Archive:
    size = os.fstat(file.fileno()).st_size
    spool = _Spool()
    with spool.path.open("wb") as out:
        file.seek(0)
        for piece in decompress(iter(lambda: file.read(media.PIECE), b""), codec, str(path)):
            out.write(piece)
            if out.tell() > limits.unpacked_of(size):
                raise InputError("expands too far", where=str(path), why="it looks like a decompression bomb")
    with spool.path.open("rb") as out:
        found = _index_archive(spool.path, out, str(path), limits)
    held = {
        name: _SpooledBlob(blob.path, blob.length, blob.offset, spool) for name, blob in found.files.items()
    }
    return _Archive(str(path), held, found.links)


class _Spool:
    """A temporary file by name, removed with the last reference to it."""

    def __init__(self) -> None:
        descriptor, name = tempfile.mkstemp(prefix="bundle-")
        os.close(descriptor)
        self.path = Path(name)
        weakref.finalize(self, self.path.unlink, missing_ok=True)


@dataclass(frozen=True, slots=True)
class _SpooledBlob(FileBlob):
    """A part of a temporary file, which lives as long as one of its parts."""

    spool: _Spool | None = None


def _index_archive(path: Path, file: IO[bytes], where: str, limits: Limits) -> _Archive:
    files: dict[str, FileBlob] = {}
    links: dict[str, str] = {}
    size = os.fstat(file.fileno()).st_size
    for member in members(open_range(file, 0, size), size, where=where, limits=limits):
        entry = member.entry
        if entry.kind is Kind.FILE and entry.hardlink is not None:
            if entry.hardlink in files:
                files[entry.path] = files[entry.hardlink]
        elif entry.kind is Kind.FILE:
            files[entry.path] = FileBlob(path, entry.size, member.offset)
        elif entry.kind is Kind.SYMLINK:
            links[entry.path] = entry.target or ""
    return _Archive(where, files, links)


@dataclass(frozen=True, slots=True)
class _Choice:
    reference: str | None
    platform: str | None
    where: str

    def one_of(self, listed: Sequence[Listed]) -> Listed:
        """The one manifest that is meant; raises InputError that lists the others."""
        listed = [item for item in listed if self.reference is not None or not item.is_attached]
        fits = [
            item
            for item in listed
            if (self.reference is None or _named(item.name, self.reference))
            and (self.platform is None or item.platform in (None, self.platform))
        ]
        if len({item.descriptor.digest for item in fits}) == 1:
            return fits[0]
        names = ", ".join(
            " ".join(filter(None, (item.name, item.platform))) or item.descriptor.digest for item in listed
        )
        if not fits:
            wanted = " ".join(filter(None, (self.reference, self.platform)))
            why = f"it holds {names}" if names else "it is empty"
            raise InputError(f"holds no image {wanted}".rstrip(), where=self.where, why=why)
        raise InputError("holds several images", where=self.where, why=names, hint="name one of them")


def _named(name: str, reference: str) -> bool:
    return name == reference or name == media.full_name(reference) or name.rpartition(":")[2] == reference


def _flatten(files: _Files, listed: Sequence[Listed], limits: Limits, depth: int = 0) -> list[Listed]:
    """The manifests of an index and of those that it holds."""
    found: list[Listed] = []
    for item in listed:
        if item.descriptor.media_type not in _INDEXES:
            found.append(item)
        elif depth < _NESTED:
            inner = parse_index(_checked(files, item.descriptor, limits), files.where, limits)
            found += (
                Listed(one.descriptor, one.name or item.name, one.platform)
                for one in _flatten(files, inner, limits, depth + 1)
            )
    return found


def _open_manifest(files: _Files, listed: Listed, limits: Limits) -> Image:
    descriptor = listed.descriptor
    if descriptor.media_type not in _MANIFESTS:
        raise InputError(f"is no image but {descriptor.media_type}", where=files.where)
    data = _checked(files, descriptor, limits)
    blobs = {}
    manifest = parse_manifest(data, files.where, limits)
    for layer in manifest.layers:
        blob = files.find(_blob_name(layer.digest))
        if blob is None or blob.length != layer.size:
            why = "it is not there" if blob is None else f"it has {blob.length} bytes instead of {layer.size}"
            raise InputError(f"lacks the layer {layer.digest}", where=files.where, why=why)
        blobs[layer.digest] = blob
    raw = _checked(files, manifest.config, limits)
    return build_image(
        data, descriptor.media_type or media.MANIFEST, raw, blobs, files.where, listed.name, limits
    )


def build_image(
    manifest_data: bytes,
    media_type: str,
    config_data: bytes,
    blobs: Mapping[Digest, Blob],
    where: str,
    reference: str = "",
    limits: Limits = LIMITS,
) -> Image:
    """An image from the bytes of its manifest and configuration, and the blobs of its layers by digest."""
    manifest = parse_manifest(manifest_data, where, limits)
    config = parse_config(config_data, where, limits)
    if len(config.diff_ids) != len(manifest.layers):
        why = f"{len(manifest.layers)} layers, {len(config.diff_ids)} diff IDs"
        raise InputError("its manifest and configuration disagree", where=where, why=why)
    layers = tuple(
        Layer(descriptor, diff_id, blobs[descriptor.digest], comment, history)
        for descriptor, diff_id, comment, history in zip(
            manifest.layers, config.diff_ids, config.comments, config.history, strict=True
        )
    )
    original = Original(manifest_data, media_type, config_data)
    return Image(layers, config.config, manifest.annotations, reference, original)


def _open_docker(files: _Files, data: bytes, reference: str | None, limits: Limits) -> Image:
    """An archive as ``docker save`` wrote it before it was OCI's too (moby, image/spec/v1.2.md)."""
    items = load_object(b'{"images":' + data + b"}", files.where, limits)["images"]
    found: list[tuple[list[str], str, list[str]]] = []
    for item in items if isinstance(items, list) else ():
        names, config, layers = (item.get(key) for key in ("RepoTags", "Config", "Layers"))
        if not isinstance(config, str) or not isinstance(layers, list) or not isinstance(names or [], list):
            raise InputError("manifest.json is not as docker save writes it", where=files.where)
        found.append(([str(name) for name in names or []], config, [str(layer) for layer in layers]))
    fits = [item for item in found if reference is None or any(_named(name, reference) for name in item[0])]
    if len(fits) != 1:
        why = ", ".join(name for names, _, _ in found for name in names) or "none has a name"
        message = "holds several images" if fits else f"holds no image {reference or ''}".rstrip()
        raise InputError(message, where=files.where, why=why, hint="name one of them")
    names, config_name, layer_names = fits[0]
    if (place := files.find(config_name)) is None:
        raise InputError(f"lacks the file {config_name}", where=files.where)
    raw = _small(place, files.where, limits)
    config = parse_config(raw, files.where, limits)
    layers = _docker_layers(files, layer_names, config)
    manifest = manifest_json(raw, layers)
    name = media.full_name(names[0]) if names else ""
    return Image(tuple(layers), config.config, (), name, Original(manifest, media.MANIFEST, raw))


def _docker_layers(files: _Files, names: Sequence[str], config: ParsedConfig) -> list[Layer]:
    if len(names) != len(config.diff_ids):
        why = f"{len(names)} layers, {len(config.diff_ids)} diff IDs"
        raise InputError("its manifest and configuration disagree", where=files.where, why=why)
    layers = []
    described = zip(names, config.diff_ids, config.comments, config.history, strict=True)
    for name, diff_id, comment, history in described:
        blob = files.find(name)
        if blob is None:
            raise InputError(f"lacks the layer {name}", where=files.where)
        with blob.path.open("rb") as file:
            codec = sniff(os.pread(file.fileno(), 8, blob.offset))
            digest = digest_stream(open_range(file, blob.offset, blob.length)) if codec else diff_id
        kind = {None: media.LAYER, "gzip": media.LAYER_GZIP, "zstd": media.LAYER_ZSTD}[codec]
        layers.append(Layer(Descriptor(kind, digest, blob.length), diff_id, blob, comment, history))
    return layers


def _blob_name(digest: Digest) -> str:
    return "blobs/sha256/" + hex_of(digest)


def _checked(files: _Files, descriptor: Descriptor, limits: Limits) -> bytes:
    """A small blob, after its size and digest were compared."""
    blob = files.find(_blob_name(descriptor.digest))
    if blob is None:
        raise InputError(f"lacks the blob {descriptor.digest}", where=files.where)
    data = _small(blob, files.where, limits)
    if len(data) != descriptor.size or digest_bytes(data) != descriptor.digest:
        raise InputError(f"the blob {descriptor.digest} is damaged", where=files.where)
    return data


def _small(blob: FileBlob, where: str, limits: Limits) -> bytes:
    if blob.length > limits.json:
        raise InputError(f"holds {blob.length} bytes of JSON", where=where, why=f"the limit is {limits.json}")
    with blob.path.open("rb") as stream:
        return b"".join(bytes(piece) for piece in pieces(stream, blob.offset, blob.length))
