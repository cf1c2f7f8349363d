"""Images written to disk: as an OCI layout, and as one archive that OCI and Docker's clients both take.

A layout appears whole or not at all: it is made beside its place and exchanged with what is there.  Blobs
that the former layout has are linked, not written again.

Blobs are not synced to disk, which would double the time of large images.  The kernel may die all the same:
file systems put a file's size on disk after its data, so a blob that did not arrive is too short, and every
use compares the size, every reading the digest.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from bundler.digest import Digest, canonical_json, digest_bytes, hex_of
from bundler.errors import EnvironmentLacks, InputError
from bundler.oci.header import END, header, padding
from bundler.oci.image import (
    REF_NAME,
    Blob,
    Descriptor,
    Image,
    MemoryBlob,
    blobs_of,
    full_name,
    index_bytes,
    memory_stream,
)
from bundler.tree import Entry, Kind

MARKER = "oci-layout"
LAYOUT = canonical_json({"imageLayoutVersion": "1.0.0"})
BLOBS = "blobs/sha256"

_YOUNG = 60.0
"""Seconds for which what is not locked yet may still be somebody's."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_layout(directory: Path, image: Image) -> Descriptor:
    """Make ``directory`` the OCI layout of ``image`` and return the manifest's descriptor.

    Nothing is written where the layout already is that.  Raises InputError if something else lies there
    or a layer's files changed, EnvironmentLacks if the disk is full.
    """
    index, blobs = index_bytes(image), blobs_of(image)
    _sweep(directory)
    if _is_current(directory, index, blobs):
        return image.descriptor()
    check_place(directory)
    with _room(directory), _beside(directory) as fresh:
        (fresh / BLOBS).mkdir(parents=True)
        for digest, (size, blob) in blobs.items():
            _place(fresh / BLOBS / hex_of(digest), digest, size, blob, directory / BLOBS / hex_of(digest))
        _write(fresh / MARKER, LAYOUT)
        _write(fresh / "index.json", index)
        for path in (fresh / BLOBS, fresh / "blobs", fresh):
            _sync(path)
        _swap(fresh, directory)
    return image.descriptor()


def add_image(directory: Path, image: Image, tag: str) -> None:
    """List a further image in an OCI layout, in the place of one that had the tag."""
    index = json.loads((directory / "index.json").read_bytes())
    others = [item for item in index["manifests"] if (item.get("annotations") or {}).get(REF_NAME) != tag]
    manifest = image.manifest_bytes
    own = Descriptor(image.media_type, digest_bytes(manifest), len(manifest), ((REF_NAME, tag),))
    with _room(directory):
        for digest, (size, blob) in blobs_of(image).items():
            path = directory / BLOBS / hex_of(digest)
            if not path.is_file() or path.stat().st_size != size:
                _replace(path, memory_stream(blob).read())
        _replace(directory / "index.json", canonical_json({**index, "manifests": [*others, own.to_dict()]}))


def _replace(path: Path, data: bytes) -> None:
    temporary = _name_beside(path)
    try:
        _write(temporary, data)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_image(path: Path, image: Image) -> None:
    """Write an archive where the name ends in ``.tar``, an OCI layout otherwise."""
    if path.suffix == ".tar":
        write_archive(path, image)
    else:
        write_layout(path, image)


def write_archive(file: Path, image: Image, *, omit: frozenset[Digest] = frozenset()) -> None:
    """Write ``image`` to ``file`` as :func:`stream_archive` does; the file appears when it is whole.

    It is synced first: unlike a blob's, its length says nothing about what it must be.
    """
    _sweep(file)
    temporary = _name_beside(file)
    with _room(file):
        try:
            with temporary.with_suffix(".new").open("xb") as out, _locked(out.fileno()):
                temporary.with_suffix(".new").rename(temporary)
                stream_archive(out, image, omit=omit)
                out.flush()
                os.fsync(out.fileno())
                temporary.rename(file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    _sync(file.parent)


def stream_archive(out: Any, image: Image, *, omit: frozenset[Digest] = frozenset()) -> None:
    """Write to ``out`` the tar of an OCI layout that also has ``docker save``'s manifest.json.

    image-layout.md allows further files, and Docker's loader takes its paths from manifest.json, so the
    blobs serve both.  ``omit`` are the diff IDs of layers left out: an engine that has them does not look
    for their files (it fails cleanly otherwise).
    """
    left_out = {layer.descriptor.digest for layer in image.layers if layer.diff_id in omit}
    small = {MARKER: LAYOUT, "index.json": index_bytes(image), "manifest.json": _docker_manifest(image)}
    for name, data in small.items():
        _member(out, name, len(data), MemoryBlob(data))
    for name in ("blobs", BLOBS):
        out.write(header(Entry(name, Kind.DIRECTORY, mtime=0)))
    for digest, (size, blob) in sorted(blobs_of(image).items()):
        if digest not in left_out:
            _member(out, f"{BLOBS}/{hex_of(digest)}", size, blob)
    out.write(END)


def _docker_manifest(image: Image) -> bytes:
    """``manifest.json`` as moby's image/tarexport reads it."""
    names = [full_name(image.reference).removeprefix("docker.io/").removeprefix("library/")]
    return canonical_json(
        [
            {
                "Config": f"{BLOBS}/{hex_of(image.id)}",
                "RepoTags": names if image.reference else [],
                "Layers": [f"{BLOBS}/{hex_of(layer.descriptor.digest)}" for layer in image.layers],
            }
        ]
    )


def _member(out: Any, name: str, size: int, blob: Blob) -> None:
    out.write(header(Entry(name, Kind.FILE, mode=0o644, size=size, mtime=0)))
    blob.copy_to(out)
    out.write(bytes(padding(size)))


def _is_current(directory: Path, index: bytes, blobs: dict[Digest, tuple[int, Blob]]) -> bool:
    try:
        if (directory / "index.json").read_bytes() != index or (directory / MARKER).read_bytes() != LAYOUT:
            return False
        names = {entry.name: entry.stat().st_size for entry in os.scandir(directory / BLOBS)}
    except OSError:
        return False
    return names == {hex_of(digest): size for digest, (size, _) in blobs.items()}


def check_place(directory: Path) -> None:
    """Raise InputError unless a layout may be written there: it is new, empty, or a layout already."""
    replaceable = directory.is_dir() and ((directory / MARKER).is_file() or not any(directory.iterdir()))
    if directory.is_symlink() or (directory.exists() and not replaceable):
        raise InputError(
            "is there already and is no OCI layout", where=str(directory), hint="name another directory"
        )


def _place(path: Path, digest: Digest, size: int, blob: Blob, former: Path) -> None:
    """Bring a blob to ``path``: linked from where it lies whole, written and checked otherwise."""
    for candidate in (former, _whole_file(blob)):
        if candidate is not None and _link(candidate, path, size):
            return
    checked = _Checked(path, digest)
    with checked:
        blob.copy_to(checked)


def _whole_file(blob: Blob) -> Path | None:
    """The file that holds a blob and nothing else; a tool that reads layouts shares it by link."""
    place = blob.file()
    if place is None or place[1] or place[0].parent.name != "sha256":
        return None
    return place[0]


def _link(existing: Path, path: Path, size: int) -> bool:
    try:
        if existing.is_symlink() or existing.stat().st_size != size:
            return False
        os.link(existing, path)
    except OSError:
        return False
    return True


class _Checked:
    """A file that is kept only if its bytes have the digest that they must have."""

    def __init__(self, path: Path, digest: Digest) -> None:
        self._path = path
        self._digest = digest
        self._hash = hashlib.sha256()
        self._out: BinaryIO = path.open("xb")

    def write(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._out.write(data)

    def __enter__(self) -> _Checked:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._out as out:
            if kind is None:
                out.flush()
                os.fchmod(out.fileno(), 0o444)
        found = "sha256:" + self._hash.hexdigest()
        if kind is None and found != self._digest:
            self._path.unlink()
            raise InputError(f"a blob is not what it is named: {self._digest}", why=f"its bytes have {found}")


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _beside(directory: Path) -> Iterator[Path]:
    """A new directory beside ``directory``, gone afterwards."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Only what is locked has a name that others sweep away.
    fresh = _name_beside(directory)
    unlocked = fresh.with_suffix(".new")
    unlocked.mkdir()
    descriptor = os.open(unlocked, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with _locked(descriptor):
            unlocked.rename(fresh)
            yield fresh
    finally:
        os.close(descriptor)
        shutil.rmtree(fresh, ignore_errors=True)


def _name_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _sweep(path: Path) -> None:
    """Remove what dead processes left beside ``path``.

    The kernel releases the lock of a process that dies: what can be locked belongs to nobody.
    """
    form = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}(?:\.old)?\.(?:tmp|new)")
    with contextlib.suppress(OSError):
        for stale in [entry for entry in path.parent.iterdir() if form.fullmatch(entry.name)]:
            if stale.suffix == ".new" and time.time() - stale.stat().st_mtime < _YOUNG:
                continue
            descriptor = os.open(stale, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                with _locked(descriptor):
                    if stale.is_dir():
                        shutil.rmtree(stale, ignore_errors=True)
                    else:
                        stale.unlink()
            except BlockingIOError:
                continue
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """An exclusive lock on an open file or directory; raises BlockingIOError if another process has it."""
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _swap(fresh: Path, directory: Path) -> None:
    """Put ``fresh`` in the place of ``directory``; what was there is then called ``fresh``, or gone."""
    if not directory.exists():
        fresh.rename(directory)
    elif not _exchange(fresh, directory):
        aside = fresh.with_name(fresh.name.removesuffix(".tmp") + ".old.tmp")
        directory.rename(aside)
        fresh.rename(directory)
        shutil.rmtree(aside, ignore_errors=True)
    _sync(directory.parent)


def _exchange(one: Path, other: Path) -> bool:
    """renameat2(2) with RENAME_EXCHANGE, where the file system has it."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


@contextlib.contextmanager
def _room(place: Path) -> Iterator[None]:
    """Errors of the disk as errors for a user."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            why = os.strerror(error.errno)
            raise EnvironmentLacks("cannot be written", where=str(place), why=why) from error
        raise
