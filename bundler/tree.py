"""File trees as values: entries in byte order, and read-only views of where they lie.

An :class:`Entry` is one name in a tree; a :class:`FileTree` is anything that can list and open entries:
a directory, the layers of an image, several of them at once.  Paths are relative to the root of the
tree, with ``/`` between the parts and neither a leading nor a trailing one; the root itself is ``""``.
Names that are not UTF-8 are kept through ``surrogateescape``, as ``os.fsdecode`` makes them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from bundler import digest as digests
from bundler.digest import Digest
from bundler.errors import InputError

EPOCH = 315532800
"""The one modification time of everything we make: 1980-01-01, the first that a zip file can hold."""

MAX_LINKS = 40
"""Symbolic links followed in one look-up before it is a loop (Linux: MAXSYMLINKS)."""

_LARGE = 256 << 10
"""Bytes of a file from which on another thread hashes it: for less, handing it over costs more."""
_HASHERS = 2

MAX_STEPS = 1000
"""Parts of paths passed in one look-up; links of a hostile tree could otherwise ask for 80 000 each."""


class Kind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    CHARACTER = "character"
    BLOCK = "block"
    FIFO = "fifo"
    SOCKET = "socket"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a tree.

    ``mode`` holds the permission bits with setuid, setgid and sticky (``0o7777``); ``size`` and
    ``digest`` belong to files; ``target`` is a symbolic link's text; ``hardlink`` is the path of the
    first name, in byte order, of the file that this is another name of, and None for that first name.
    """

    path: str
    kind: Kind
    mode: int = 0o755
    size: int = 0
    digest: Digest | None = None
    target: str | None = None
    hardlink: str | None = None
    uid: int = 0
    gid: int = 0
    mtime: int = EPOCH
    xattrs: tuple[tuple[str, bytes], ...] = ()
    device: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The entry as JSON takes it; what has its default value is left out."""
        record: dict[str, Any] = {"path": self.path, "kind": str(self.kind), "mode": f"{self.mode:04o}"}
        if self.kind is Kind.FILE and self.hardlink is None:
            record["size"] = self.size
            if self.digest is not None:
                record["digest"] = self.digest
        for name in ("target", "hardlink"):
            if (value := getattr(self, name)) is not None:
                record[name] = value
        if self.uid or self.gid:
            record["owner"] = f"{self.uid}:{self.gid}"
        if self.mtime != EPOCH:
            record["mtime"] = self.mtime
        if self.xattrs:
            record["xattrs"] = {name: value.hex() for name, value in self.xattrs}
        if self.device is not None:
            record["device"] = list(self.device)
        return record


def entry_from_dict(record: Mapping[str, Any], *, where: str | None = None) -> Entry:
    """The inverse of :meth:`Entry.to_dict`; raises InputError for a record that no entry gives."""
    try:
        uid, gid = (int(part) for part in str(record.get("owner", "0:0")).split(":"))
        device = record.get("device")
        text = record.get("digest")
        return Entry(
            path=check_path(str(record["path"])),
            kind=Kind(record["kind"]),
            mode=int(record["mode"], 8) & 0o7777,
            size=int(record.get("size", 0)),
            digest=None if text is None else digests.parse_digest(str(text)),
            target=None if (target := record.get("target")) is None else str(target),
            hardlink=None if (link := record.get("hardlink")) is None else check_path(str(link)),
            uid=uid,
            gid=gid,
            mtime=int(record.get("mtime", EPOCH)),
            xattrs=tuple(sorted((str(k), bytes.fromhex(v)) for k, v in record.get("xattrs", {}).items())),
            device=None if device is None else (int(device[0]), int(device[1])),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError("not a record of a tree entry", where=where, why=str(error)) from error


def check_path(path: str) -> str:
    """Return ``path`` if it is relative, plain and stays inside; raises InputError otherwise."""
    if path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise InputError(f"the path {path!r} is not a plain relative path")
    return path


def sort_key(path: str) -> bytes:
    """Byte-wise order, whatever the locale."""
    return os.fsencode(path)


def shown(path: str) -> str:
    """The path as a terminal may show it: control characters and what is not UTF-8 are escaped."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def parents(path: str) -> Iterator[str]:
    """The directories above ``path``, outermost first, without the root."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def inside(path: str, prefix: str) -> bool:
    """Whether ``path`` is ``prefix`` or below it; ``/a/bc`` is not below ``/a/b``."""
    prefix = prefix.rstrip("/")
    return path == prefix or path.startswith(prefix + "/")


def join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def tree_digest(entries: Iterable[Entry]) -> Digest:
    """Identity of a tree: a digest over its entries, one canonical JSON line each, in byte order."""
    lines = [
        digests.canonical_json(entry.to_dict()) for entry in sorted(entries, key=lambda e: sort_key(e.path))
    ]
    return digests.digest_bytes(b"\n".join(lines))


class Names(Protocol):
    """What there is in a read-only file system, if not its contents."""

    def get(self, path: str) -> Entry | None:
        """The entry at ``path`` (lstat), or None; ``""`` is the root directory."""

    def names(self, path: str) -> Sequence[str]:
        """Names in the directory at ``path``, in byte order; empty if there is no such directory."""


class FileTree(Names, Protocol):
    """A read-only file system.  No method follows a symbolic link: see :func:`resolve`."""

    def walk(self) -> Iterator[Entry]:
        """Every entry below the root, parents before children; sort by :func:`sort_key` for byte order."""

    def open(self, path: str) -> BinaryIO:
        """The content of the regular file at ``path``, seekable; raises InputError if it is none."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """Where a path leads: ``hops`` are the symbolic links followed, in order, as paths in the tree.

    ``error`` is the errno name of a failure (``ENOENT``, ``ENOTDIR``, ``ELOOP``); ``path`` is then where
    it stopped.
    """

    path: str
    entry: Entry | None
    hops: tuple[str, ...] = ()
    error: str | None = None


def resolve(tree: FileTree, path: str, *, follow_last: bool = True) -> Resolution:
    """Walk ``path`` through ``tree`` as the kernel does, absolute links starting at the tree's root."""
    pending = [part for part in path.split("/") if part not in ("", ".")][::-1]
    here: list[str] = []
    hops: list[str] = []
    steps = 0
    entry: Entry | None = tree.get("")
    while pending:
        part = pending.pop()
        steps += 1
        if steps > MAX_STEPS:
            return Resolution("/".join(here), None, tuple(hops), "ELOOP")
        if entry is not None and entry.kind is not Kind.DIRECTORY:
            return Resolution("/".join(here), None, tuple(hops), "ENOTDIR")
        if part == "..":
            here = here[:-1]
            entry = tree.get("/".join(here))
            continue
        here.append(part)
        current = "/".join(here)
        # No file system has names with NUL in them, but what a hostile file says may.
        entry = tree.get(current) if "\0" not in part else None
        if entry is None:
            return Resolution(current, None, tuple(hops), "ENOENT")
        if entry.kind is Kind.SYMLINK and (pending or follow_last):
            hops.append(current)
            if len(hops) > MAX_LINKS:
                return Resolution(current, None, tuple(hops), "ELOOP")
            target = entry.target or ""
            here = [] if target.startswith("/") else here[:-1]
            entry = tree.get("/".join(here))
            pending.extend(p for p in reversed(target.split("/")) if p not in ("", "."))
    return Resolution("/".join(here), entry, tuple(hops))


class DirectoryTree:
    """A directory as a file tree; ``at`` places it below a path, as a volume is mounted.

    ``DirectoryTree(Path("x"), at=".deps/shell/1")`` shows ``x/bin/bash`` as ``.deps/shell/1/bin/bash``.
    The view trusts that nobody changes the directory meanwhile; entries carry no digest.
    """

    def __init__(self, root: Path, at: str = "") -> None:
        self._root = os.fspath(root)
        self._at = at
        self._above = dict(_chain(at))

    def get(self, path: str) -> Entry | None:
        if path in self._above:
            return Entry(path, Kind.DIRECTORY)
        inner = self._inner(path)
        if inner is None:
            return None
        try:
            return entry_of(inner, path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                return None
            raise

    def names(self, path: str) -> Sequence[str]:
        if path in self._above:
            return (self._above[path],)
        inner = self._inner(path)
        try:
            return sorted(os.listdir(inner), key=os.fsencode) if inner is not None else ()
        except (FileNotFoundError, NotADirectoryError):
            return ()

    def walk(self) -> Iterator[Entry]:
        return walk(self)

    def open(self, path: str) -> BinaryIO:
        return os.fdopen(_open_regular(self._inner(path) or "", path), "rb")

    def _inner(self, path: str) -> str | None:
        if not self._at:
            return f"{self._root}/{path}" if path else self._root
        if path == self._at:
            return self._root
        if path.startswith(self._at + "/"):
            return self._root + path[len(self._at) :]
        return None


def _open_regular(file: str, path: str) -> int:
    """A descriptor of the regular file ``file``, whatever may have taken its place; raises InputError."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InputError("cannot be read", where=path, why=os.strerror(error.errno or 0)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError("is not a regular file", where=path)
    return descriptor


class UnionTree:
    """Several trees seen as one; where two have a path, the earlier one wins, directories merge."""

    def __init__(self, trees: Sequence[FileTree]) -> None:
        self._trees = tuple(trees)

    def get(self, path: str) -> Entry | None:
        owner = self._owner(path)
        return owner.get(path) if owner else None

    def names(self, path: str) -> Sequence[str]:
        found: set[str] = set()
        for tree in self._trees:
            entry = tree.get(path)
            if entry is None:
                continue
            if entry.kind is not Kind.DIRECTORY:
                break
            found.update(tree.names(path))
        return sorted(found, key=os.fsencode)

    def walk(self) -> Iterator[Entry]:
        return walk(self)

    def open(self, path: str) -> BinaryIO:
        owner = self._owner(path)
        if owner is None:
            raise InputError("no such file", where=path)
        return owner.open(path)

    def _owner(self, path: str) -> FileTree | None:
        return next((tree for tree in self._trees if tree.get(path) is not None), None)


def walk(tree: Names, below: str = "") -> Iterator[Entry]:
    """Every entry below a directory of ``tree``, depth first, the names of each directory in byte order."""
    pending = [join(below, name) for name in reversed(tree.names(below))]
    while pending:
        path = pending.pop()
        entry = tree.get(path)
        if entry is None:
            continue
        yield entry
        if entry.kind is Kind.DIRECTORY:
            pending.extend(f"{path}/{name}" for name in reversed(tree.names(path)))


def entry_of(file: str | Path, path: str, *, keep_owner: bool = False, keep_mtime: bool = False) -> Entry:
    """The entry that lstat and the extended attributes of ``file`` give, without digest or hard link."""
    return _entry(file, path, os.lstat(file), keep_owner=keep_owner, keep_mtime=keep_mtime)


def _entry(
    file: str | Path,
    path: str,
    status: os.stat_result,
    *,
    keep_owner: bool,
    keep_mtime: bool,
    digest: Digest | None = None,
    hardlink: str | None = None,
) -> Entry:
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), Kind.SOCKET)
    return Entry(
        path=path,
        kind=kind,
        mode=0o777 if kind is Kind.SYMLINK else stat.S_IMODE(status.st_mode),
        size=status.st_size if kind is Kind.FILE else 0,
        digest=digest,
        hardlink=hardlink,
        target=os.readlink(file) if kind is Kind.SYMLINK else None,
        uid=status.st_uid if keep_owner else 0,
        gid=status.st_gid if keep_owner else 0,
        mtime=int(status.st_mtime) if keep_mtime else EPOCH,
        xattrs=read_xattrs(file),
        device=(
            (os.major(status.st_rdev), os.minor(status.st_rdev))
            if kind in (Kind.CHARACTER, Kind.BLOCK)
            else None
        ),
    )


def read_xattrs(file: str | Path) -> tuple[tuple[str, bytes], ...]:
    """Extended attributes that a tree keeps: file capabilities and ``user.*``, sorted by name."""
    try:
        names = os.listxattr(file, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.EPERM):
            return ()
        raise
    kept = sorted(name for name in names if name == "security.capability" or name.startswith("user."))
    return tuple((name, os.getxattr(file, name, follow_symlinks=False)) for name in kept)


def scan(root: Path, *, keep_owner: bool = False, keep_mtime: bool = False) -> tuple[Entry, ...]:
    """Every entry below ``root`` with digests and hard links, in byte order of paths.

    Unless asked, owners are taken as 0:0 and times as :data:`EPOCH`: what we build has no others.
    """
    # Most commands scan nothing: none of them waits for what this takes to be imported.
    from concurrent.futures import Future, ThreadPoolExecutor

    first_names: dict[tuple[int, int], str] = {}
    entries: list[Entry] = []
    top = os.fspath(root)
    with ThreadPoolExecutor(_HASHERS, "digest") as pool:
        large: dict[int, Future[Digest]] = {}
        for path in sorted(_paths(top), key=sort_key):
            file = f"{top}/{path}"
            status = os.lstat(file)
            digest = link = None
            if stat.S_ISREG(status.st_mode):
                identity = (status.st_dev, status.st_ino)
                link = first_names.setdefault(identity, path) if status.st_nlink > 1 else path
                if link != path:
                    pass
                elif status.st_size < _LARGE:
                    digest = _digest(file, path)
                else:
                    large[len(entries)] = pool.submit(_digest, file, path)
            entries.append(
                _entry(
                    file,
                    path,
                    status,
                    keep_owner=keep_owner,
                    keep_mtime=keep_mtime,
                    digest=digest,
                    hardlink=link if link != path else None,
                )
            )
        for place, found in large.items():
            entries[place] = replace(entries[place], digest=found.result())
    return tuple(entries)


def _paths(top: str) -> Iterator[str]:
    """The path of everything below the directory ``top``, in no order."""
    pending = [""]
    while pending:
        above = pending.pop()
        with os.scandir(join(top, above)) as found:
            for item in found:
                path = join(above, item.name)
                if item.is_dir(follow_symlinks=False):
                    pending.append(path)
                yield path


def _digest(file: str, path: str) -> Digest:
    descriptor = _open_regular(file, path)
    try:
        return digests.digest_descriptor(descriptor)
    finally:
        os.close(descriptor)


def _chain(at: str) -> Iterator[tuple[str, str]]:
    """Each directory above ``at``, the root first, with the name that leads on."""
    above = ""
    for part in at.split("/") if at else ():
        yield above, part
        above = join(above, part)


_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHARACTER,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
}
