"""The merged file system of an image written into a directory, so that nothing can leave it.

What is written is the merged tree: plain names, and parents that are directories we made.  So there is no
link to walk through, whatever the layers' tars said.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path

from bundler.errors import EnvironmentLacks, InputError
from bundler.oci.image import PIECE, Image
from bundler.oci.merged import ImageTree
from bundler.oci.stream import LIMITS, Limits
from bundler.tree import Entry, FileTree, Kind

_DEVICES = {Kind.CHARACTER: stat.S_IFCHR, Kind.BLOCK: stat.S_IFBLK, Kind.FIFO: stat.S_IFIFO}


def unpack(image: Image, directory: Path, *, keep_owner: bool = False, limits: Limits = LIMITS) -> None:
    """Write the image's files below ``directory``, which is new or empty.

    Modes, times, links and extended attributes are kept; owners with ``keep_owner`` (needs root).  Raises
    InputError for a hostile or damaged image, EnvironmentLacks where the disk is full or refuses.
    """
    with ImageTree(image, limits=limits) as tree:
        write_tree(tree, directory, keep_owner=keep_owner)


def write_tree(tree: FileTree, directory: Path, *, keep_owner: bool = False) -> None:
    """As :func:`unpack`, for any tree; its hard links stay links."""
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise InputError("is not empty", where=str(directory), hint="name a new directory")
    root = os.fspath(directory)
    late: list[Entry] = []
    for entry in tree.walk():
        target = f"{root}/{entry.path}"
        try:
            if entry.hardlink is not None:
                late.append(entry)
                continue
            _create(tree, entry, target)
            if entry.kind is Kind.DIRECTORY:
                late.append(entry)
            else:
                _set_attributes(entry, target, keep_owner)
        except OSError as error:
            raise _failed(entry, error) from error
    for entry in [item for item in late if item.hardlink is not None]:
        os.link(f"{root}/{entry.hardlink}", f"{root}/{entry.path}", follow_symlinks=False)
    for entry in reversed([item for item in late if item.hardlink is None]):
        _set_attributes(entry, f"{root}/{entry.path}", keep_owner)


def _create(tree: FileTree, entry: Entry, target: str) -> None:
    if entry.kind is Kind.DIRECTORY:
        os.mkdir(target, 0o700)
    elif entry.kind is Kind.SYMLINK:
        os.symlink(entry.target or "", target)
    elif entry.kind is Kind.FILE:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as out, tree.open(entry.path) as stream:
            shutil.copyfileobj(stream, out, PIECE)
    elif entry.kind in _DEVICES:
        os.mknod(target, _DEVICES[entry.kind] | 0o600, os.makedev(*(entry.device or (0, 0))))
    else:
        raise InputError(f"a {entry.kind} cannot be unpacked", where="/" + entry.path)


def _set_attributes(entry: Entry, target: str, keep_owner: bool) -> None:
    """Owner before mode and attributes: changing it clears setuid and capabilities."""
    if keep_owner:
        os.chown(target, entry.uid, entry.gid, follow_symlinks=False)
    if entry.kind is not Kind.SYMLINK:
        os.chmod(target, entry.mode)
    for name, value in entry.xattrs:
        # Without privileges a capability cannot be set; the file is of use without it.
        with contextlib.suppress(PermissionError):
            os.setxattr(target, name, value, follow_symlinks=False)
    os.utime(target, (entry.mtime, entry.mtime), follow_symlinks=False)


def _failed(entry: Entry, error: OSError) -> EnvironmentLacks:
    hint = "devices need root" if entry.kind in _DEVICES and error.errno == errno.EPERM else None
    why = os.strerror(error.errno or 0)
    return EnvironmentLacks("cannot be unpacked", where="/" + entry.path, why=why, hint=hint)
