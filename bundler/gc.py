"""Clears the store down to a size; what was used longest ago goes first.

That are keys, with the trees that no other key leads to, sources, logs, kept build directories, and what
else others lay down in the cache.  Keys that :meth:`Store.hold` names stay, and so do their trees.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bundler.digest import Digest, hex_of
from bundler.store import Store, remove_tree

_NOT_FILES = frozenset({"locks", "roots", "tmp", "keys", "trees"})
"""Directories of the store whose entries are not simply files by age."""


@dataclass(frozen=True, slots=True)
class Collected:
    """``before`` and ``after`` are bytes on disk; ``removed`` counts what went, a tree or a file each."""

    before: int
    after: int
    removed: int


def collect(store: Store, limit: int) -> Collected:
    """Remove what was used longest ago until the store takes at most ``limit`` bytes.

    What is held stays, so it may take more; what no key leads to goes in any case.  Raises
    EnvironmentLacks while another process uses the store.
    """
    with store.alone():
        removed = store.sweep() + _remove_orphans(store, {})
        keys = _keys(store)
        references = Counter(digest for trees in keys.values() for digest in trees)
        sizes = {digest: _size(store.tree_path(digest)) for digest in references}
        others = {path: _size(path, files="unions" not in path.parts) for path in _others(store)}
        before = total = sum(sizes.values()) + sum(others.values())
        held = _held(store)
        ages = sorted((_used(path), path) for path in (*others, *(p for p in keys if p.stem not in held)))
        for _, path in ages:
            if total <= limit:
                break
            if path in others:
                total -= others[path]
                _remove(store, path)
            else:
                path.unlink()
                for digest in keys.pop(path):
                    references[digest] -= 1
                    total -= sizes[digest] if not references[digest] else 0
            removed += 1
        removed += _remove_orphans(store, keys)
        # Nobody else is here, so nobody waits for one of the locks or still writes one of the files.
        for pattern in ("locks/key-*", "*/.*"):
            for path in store.root.glob(pattern):
                _remove(store, path)
    return Collected(before, total, removed)


def release(store: Store) -> None:
    """Hold nothing any more."""
    for path in (store.root / "roots").glob("*.json"):
        path.unlink(missing_ok=True)


def parse_size(text: str) -> int:
    """Bytes from ``20G``, ``500M``, ``1.5T`` (powers of 1024) or a plain number; raises ValueError."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "B")
    size = float(number) * 1024 ** "BKMGT".index(unit)
    if not 0 <= size < 1 << 62:
        raise ValueError(text)
    return int(size)


def _keys(store: Store) -> dict[Path, tuple[Digest, ...]]:
    """The trees of each key; one whose trees are not all here leads nowhere, and goes."""
    found: dict[Path, tuple[Digest, ...]] = {}
    for path in (store.root / "keys").glob("*.json"):
        record = store.lookup(Digest(f"sha256:{path.stem}"), use=False)
        if record is None:
            path.unlink()
        else:
            found[path] = tuple(sorted(set(record.outputs.values())))
    return found


def _held(store: Store) -> set[str]:
    """Hexadecimal digits of the keys that are roots."""
    held: set[str] = set()
    for path in (store.root / "roots").glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            held.update(hex_of(key) for key in json.loads(path.read_bytes()))
    return held


def _others(store: Store) -> Iterator[Path]:
    for directory in store.root.iterdir():
        if directory.name not in _NOT_FILES and directory.is_dir():
            yield from directory.iterdir()


def _used(path: Path) -> float:
    status = path.lstat()
    return status.st_mtime if path.suffix == ".json" else max(status.st_mtime, status.st_atime)


def _remove_orphans(store: Store, known: Mapping[Path, tuple[Digest, ...]]) -> int:
    """Trees that no key leads to, and the unions, which may hold some of them."""
    wanted = {hex_of(digest) for trees in (known or _keys(store)).values() for digest in trees}
    orphans = [p for p in (store.root / "trees").iterdir() if p.name.removesuffix(".jsonl") not in wanted]
    for path in orphans:
        _remove(store, path)
    if any(path.suffix == ".jsonl" for path in orphans):
        for union in (store.root / "unions").iterdir():
            _remove(store, union)
    return sum(path.suffix == ".jsonl" for path in orphans)


def _remove(store: Store, path: Path) -> None:
    """Rename a directory away before it is removed: killed in between, no half of it is seen."""
    if path.is_dir() and not path.is_symlink():
        gone = store.root / "tmp" / f"gone-{path.name}"
        path.rename(gone)
        remove_tree(gone)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path, *, files: bool = True) -> int:
    """Bytes on disk at and below a path, several names of one file counted once."""
    sizes = {path.lstat().st_ino: path.lstat().st_blocks}
    for parent, directories, names in os.walk(path):
        for name in (*directories, *(names if files else ())):
            status = os.lstat(os.path.join(parent, name))
            sizes[status.st_ino] = status.st_blocks
    return sum(sizes.values()) * 512
