"""The build root: pinned binary packages unpacked once, a tree of the store like any other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from bundler.digest import Digest, canonical_json, digest_bytes
from bundler.errors import InputError
from bundler.events import Sink, TaskAdvanced, TaskFinished, TaskStarted, ignore
from bundler.recipe import Lock
from bundler.sandbox import HOME, HOST_NAME, UID
from bundler.store import Store
from bundler.tree import check_path

FORMAT = 1
"""Raised whenever the same packages are laid out in another way."""

_FILES = {
    "etc/passwd": f"root:x:0:0:root:/root:/bin/sh\nbuild:x:{UID}:{UID}:build:{HOME}:/bin/sh\n",
    "etc/group": f"root:x:0:\nbuild:x:{UID}:\n",
    "etc/hosts": f"127.0.0.1 localhost {HOST_NAME}\n::1 localhost\n",
    # Places for what a container engine mounts, which cannot make them in a read-only directory.
    "etc/hostname": f"{HOST_NAME}\n",
    "etc/resolv.conf": "",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
"""So that a build has a name and a home, whoever runs it."""


def buildroot_key(lock: Lock, links: Iterable[tuple[str, str]] = ()) -> Digest:
    """Identity of the build root that a lock and its links give."""
    return digest_bytes(
        canonical_json(
            {
                "format": FORMAT,
                "packages": [[package.name, package.digest] for package in lock.packages],
                "links": [list(link) for link in links],
                "files": _FILES,
            }
        )
    )


def find_buildroot(store: Store, lock: Lock, links: Iterable[tuple[str, str]] = ()) -> Path | None:
    """Where the build root lies, if it is in the store already: then no package is needed."""
    outputs = store.outputs(buildroot_key(lock, links))
    return store.tree_path(outputs["/"]) if outputs else None


def make_buildroot(
    store: Store,
    lock: Lock,
    packages: Iterable[Path],
    links: Iterable[tuple[str, str]] = (),
    sink: Sink = ignore,
) -> Path:
    """Unpack the packages of ``lock`` (fetched and checked, in its order) unless that was done before.

    They are taken one by one, so that the first are unpacked while the last are still being fetched.
    ``links`` are (path, target) pairs.  Raises InputError for packages that are no sound archives.
    """
    from bundler.unpack import unpack_deb

    links = tuple(links)
    key = buildroot_key(lock, links)
    task = "unpack the build root"
    store.open()
    with store.key_lock(key):
        if found := find_buildroot(store, lock, links):
            return found
        sink(TaskStarted(task, len(lock.packages), "files"))
        with store.temporary() as work:
            root = work / "root"
            root.mkdir()
            for done, package in enumerate(packages, 1):
                unpack_deb(package, root)
                sink(TaskAdvanced(task, done, package.name))
            for path, text in _FILES.items():
                _write(root, path, text)
            for path, target in links:
                _symlink(root, path, target)
            digest = store.add_tree(root)
        store.record(key, {"/": digest}, {"name": "buildroot", "suite": lock.suite, "date": lock.date})
        sink(TaskFinished(task))
    return store.tree_path(digest)


def _write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_text(text)


def _symlink(root: Path, path: str, target: str) -> None:
    file = root / check_path(path)
    if os.path.lexists(file) and not file.is_symlink():
        raise InputError(f"the build root's link {path!r} would replace a file of a package")
    file.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(target)
