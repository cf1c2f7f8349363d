"""The store: trees by digest, keys that lead to them, logs, and room to work in, below the cache directory.

Nothing is seen under its final name before it is whole and on disk, so a process may be killed at any
moment: what it leaves lies in ``tmp``, where the next one clears it away.  Locks are ``flock``: the kernel
gives them up with the process that holds them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundler.digest import Digest, canonical_json, digest_bytes, hex_of
from bundler.errors import BundleError, EnvironmentLacks, InputError, raise_all
from bundler.tree import EPOCH, Entry, Kind, entry_from_dict, scan, sort_key, tree_digest

DIRECTORIES = ("trees", "keys", "unions", "logs", "tmp", "locks", "failed", "roots")
_TOUCH_AFTER = 3600.0
"""Seconds after which a use is noted again: ``gc`` needs the order of uses to the hour, not to the second."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a key leads to: a tree for each bundle, and what is worth knowing about its making."""

    outputs: Mapping[str, Digest]
    meta: Mapping[str, Any]


class Store:
    """Content-addressed trees and what leads to them.  Safe for many threads and processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._guard = threading.Lock()
        self._user: int | None = None

    # Trees

    def add_tree(self, directory: Path) -> Digest:
        """Take a directory over as a tree and return its digest; the directory is gone afterwards.

        Modes become 0755 or 0644 (special bits stay, for the verifier to see), times the one constant;
        it must lie in the store's own :meth:`temporary`.  Raises InputError for sockets and devices.
        """
        self.open()
        normalise(directory)
        entries = scan(directory)
        _refuse_special(entries)
        digest = tree_digest(entries)
        final = self.tree_path(digest)
        if self._whole(digest):
            remove_tree(directory)
            return digest
        lines = b"".join(canonical_json(entry.to_dict()) + b"\n" for entry in entries)
        write_file(self._entries_path(digest), lines)
        _sync_file_system(directory)
        try:
            directory.rename(final)
        except OSError:
            # Another process was first; its tree has the same digest, so it is the same tree.
            if not final.is_dir():
                raise
            remove_tree(directory)
        _sync_directory(final.parent)
        return digest

    def tree_path(self, digest: Digest) -> Path:
        """Where the tree lies, whether or not it is there."""
        return self.root / "trees" / hex_of(digest)

    def copy(self, digest: Digest, to: Path) -> None:
        """Make a copy of a tree that may be written to; its hard links and extended attributes are kept.

        Raises EnvironmentLacks where the disk is full.
        """
        from bundler import process

        done = process.run(["cp", "-a", "--", os.fspath(self.tree_path(digest)), os.fspath(to)])
        if not done.ok:
            raise EnvironmentLacks(
                "cannot copy a tree of the store",
                where=os.fspath(to),
                why=done.stderr.decode(errors="replace"),
            )

    def entries(self, digest: Digest) -> tuple[Entry, ...]:
        """Entries of a tree, as they were when it was added; raises InputError if it is not here."""
        path = self._entries_path(digest)
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError as error:
            raise InputError(f"the store has no tree {digest}", where=str(path)) from error
        return tuple(
            entry_from_dict(json.loads(line.decode("utf-8", "surrogateescape")), where=str(path))
            for line in lines
        )

    def check(self, digest: Digest) -> bool:
        """Whether the tree still is what its digest says; reads every file."""
        return self._whole(digest) and tree_digest(scan(self.tree_path(digest))) == digest

    def _entries_path(self, digest: Digest) -> Path:
        return self.root / "trees" / f"{hex_of(digest)}.jsonl"

    def _whole(self, digest: Digest) -> bool:
        return self.tree_path(digest).is_dir() and self._entries_path(digest).is_file()

    # Keys

    def record(
        self, key: Digest, outputs: Mapping[str, Digest], meta: Mapping[str, Any] | None = None
    ) -> None:
        """Remember what a key gave; every tree must be in the store."""
        value = {"outputs": dict(outputs), "meta": dict(meta or {})}
        write_file(self._key_path(key), json.dumps(value, sort_keys=True, indent=1).encode() + b"\n")

    def lookup(self, key: Digest, *, use: bool = True) -> Record | None:
        """What a key gave, if all of it is here.  A record that cannot be read counts as missing.

        ``use`` notes that it is in use, which keeps it from being collected soon.
        """
        path = self._key_path(key)
        self.open()
        try:
            status = path.stat()
            value = json.loads(path.read_bytes())
            found = Record({name: Digest(text) for name, text in value["outputs"].items()}, value["meta"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if not all(self._whole(digest) for digest in found.outputs.values()):
            return None
        if use and time.time() - status.st_mtime > _TOUCH_AFTER:
            with contextlib.suppress(OSError):
                os.utime(path)
        return found

    def outputs(self, key: Digest) -> Mapping[str, Digest] | None:
        """The trees that a key gave, by bundle, or None where one is missing."""
        found = self.lookup(key)
        return found.outputs if found else None

    def _key_path(self, key: Digest) -> Path:
        return self.root / "keys" / f"{hex_of(key)}.json"

    def hold(self, name: str, keys: Sequence[Digest]) -> None:
        """Make ``keys`` a root of that name: :mod:`bundler.gc` keeps what they lead to."""
        path = self.root / "roots" / f"{name}.json"
        data = json.dumps(sorted(set(keys)), indent=1).encode() + b"\n"
        if not path.exists() or path.read_bytes() != data:
            write_file(path, data)

    # Unions

    def union(self, digests: Sequence[Digest], names: Mapping[Digest, str] | None = None) -> Path:
        """Several trees as one directory of hard links, made once; a single tree is its own union.

        Never write below it: its files are the trees'.  ``names`` says in errors what each tree is.
        Raises InputError for every path that two of the trees have, unless it is a directory in both.
        """
        wanted = tuple(dict.fromkeys(digests))
        if len(wanted) == 1:
            return self.tree_path(wanted[0])
        name = hex_of(digest_bytes(canonical_json(sorted(wanted))))
        final = self.root / "unions" / name
        if final.is_dir():
            with contextlib.suppress(OSError):
                os.utime(final)
            return final
        merged = self._merge(wanted, names or {})
        with self.temporary() as work:
            farm = work / "union"
            farm.mkdir()
            farm.chmod(0o755)
            for path, (digest, entry) in sorted(merged.items(), key=lambda item: sort_key(item[0])):
                _link(self.tree_path(digest) / path, farm / path, entry)
            for path, (_, entry) in merged.items():
                if entry.kind is Kind.DIRECTORY:
                    os.utime(farm / path, (EPOCH, EPOCH))
            try:
                farm.rename(final)
            except OSError:
                if not final.is_dir():
                    raise
        return final

    def _merge(
        self, digests: Sequence[Digest], names: Mapping[Digest, str]
    ) -> dict[str, tuple[Digest, Entry]]:
        merged: dict[str, tuple[Digest, Entry]] = {}
        problems: list[BundleError] = []
        for digest in digests:
            for entry in self.entries(digest):
                other, first = merged.setdefault(entry.path, (digest, entry))
                if first is entry or first.kind is entry.kind is Kind.DIRECTORY:
                    continue
                label, owner = (names.get(d, hex_of(d)[:12]) for d in (digest, other))
                problems.append(
                    InputError(
                        f"{owner} and {label} both install {entry.path}",
                        hint=f"one of their recipes must say: drop = [{json.dumps(entry.path)}]",
                    )
                )
        raise_all(problems)
        return merged

    # Room to work in

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Path]:
        """A directory of one's own on the store's file system, removed afterwards.

        It is locked for as long as its owner lives, so that others know what was left behind.
        """
        self.open()
        with self.lock("tmp", shared=True):
            path = Path(tempfile.mkdtemp(dir=self.root / "tmp"))
            owner = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(owner, fcntl.LOCK_EX)
        try:
            path.chmod(0o755)
            yield path
        finally:
            remove_tree(path)
            os.close(owner)

    def sweep(self) -> int:
        """Remove what killed processes left in ``tmp``; returns how many directories that were."""
        removed = 0
        with self.lock("tmp"):
            for path in (self.root / "tmp").iterdir():
                if path.is_dir() and not path.is_symlink():
                    owner = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    try:
                        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        remove_tree(path)
                        removed += 1
                    except BlockingIOError:
                        pass
                    finally:
                        os.close(owner)
                else:
                    path.unlink(missing_ok=True)
        return removed

    @contextlib.contextmanager
    def lock(
        self, name: str, *, shared: bool = False, waiting: Callable[[], None] | None = None
    ) -> Iterator[None]:
        """Hold the lock of that name against other threads and processes.

        ``waiting`` is called once if somebody else has it.
        """
        descriptor = os.open(self.root / "locks" / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    waiting()
                fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    def key_lock(
        self, key: Digest, waiting: Callable[[], None] | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Held while a key is built, so that two processes that need it do the work once."""
        return self.lock(f"key-{hex_of(key)[:32]}", waiting=waiting)

    def log_path(self, name: str, key: Digest) -> Path:
        """The log of building a key of the recipe ``name``."""
        return self.root / "logs" / name / f"{hex_of(key)}.log"

    # The store as a whole

    def open(self) -> None:
        """Make the directories, sweep, and be counted as a user: nothing is collected while one lives."""
        with self._guard:
            if self._user is not None:
                return
            try:
                for name in DIRECTORIES:
                    (self.root / name).mkdir(parents=True, exist_ok=True)
                user = os.open(self.root / "locks" / "store", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise EnvironmentLacks(
                    "cannot write to the cache directory",
                    where=str(self.root),
                    why=error.strerror,
                    hint="set BUNDLE_CACHE to a directory of yours",
                ) from error
            fcntl.flock(user, fcntl.LOCK_SH)
            self._user = user
        self.sweep()

    def close(self) -> None:
        """No longer be counted as a user."""
        with self._guard:
            if self._user is not None:
                os.close(self._user)
                self._user = None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the store against all others; raises EnvironmentLacks while another process uses it."""
        self.open()
        assert self._user is not None
        try:
            fcntl.flock(self._user, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            # A failed change of kind may have given up the lock (flock(2)).
            fcntl.flock(self._user, fcntl.LOCK_SH)
            raise EnvironmentLacks(
                "another process uses the cache", where=str(self.root), hint="try again when it is done"
            ) from error
        try:
            yield
        finally:
            fcntl.flock(self._user, fcntl.LOCK_SH)


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole: a temporary name beside it, to disk, then the rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory and all below it, also what a build made unreadable for its owner."""

    def unlock(function: Callable[[str], object], name: str, _error: object) -> None:
        parent = Path(name).parent
        with contextlib.suppress(OSError):
            parent.chmod(0o700)
            if not Path(name).is_symlink():
                Path(name).chmod(0o700)
            if function in (os.unlink, os.rmdir):
                function(name)
            else:
                shutil.rmtree(name, ignore_errors=True)

    shutil.rmtree(path, onerror=unlock)


def normalise(directory: Path) -> None:
    """Set every mode and time below ``directory`` to what depends on the content alone; follows no link."""
    pending = [os.fspath(directory)]
    while pending:
        here = pending.pop()
        os.chmod(here, 0o755)
        with os.scandir(here) as names:
            for name in names:
                if name.is_dir(follow_symlinks=False):
                    pending.append(name.path)
                elif not name.is_symlink():
                    mode = name.stat(follow_symlinks=False).st_mode
                    special = mode & (stat.S_ISUID | stat.S_ISGID)
                    os.chmod(name.path, (0o755 if mode & 0o111 else 0o644) | special)
                os.utime(name.path, (EPOCH, EPOCH), follow_symlinks=False)
        os.utime(here, (EPOCH, EPOCH))


def _refuse_special(entries: Sequence[Entry]) -> None:
    raise_all(
        [
            InputError(f"a tree holds files, directories and links, not a {entry.kind}", where=entry.path)
            for entry in entries
            if entry.kind not in (Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK)
        ]
    )


def _link(source: Path, target: Path, entry: Entry) -> None:
    if entry.kind is Kind.DIRECTORY:
        target.mkdir()
        target.chmod(0o755)
    elif entry.kind is Kind.SYMLINK:
        target.symlink_to(entry.target or "")
    else:
        try:
            os.link(source, target)
        except OSError:
            # A file can have too many names (ext4: 65000), or a file system none but one.
            shutil.copy2(source, target)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file_system(path: Path) -> None:
    """syncfs(2): one flush for a tree of thousands of files instead of one each."""
    import ctypes

    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs", str(path))
    finally:
        os.close(descriptor)
