"""Two images side by side: what changed in their files, and what a client with one fetches for the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Literal

from bundler.digest import Digest, digest_stream
from bundler.oci.image import Image
from bundler.oci.merged import ImageTree
from bundler.tree import Entry, FileTree, Kind

_COMPARED = tuple(field.name for field in fields(Entry) if field.name not in ("path", "digest"))


@dataclass(frozen=True, slots=True)
class Change:
    """One path that is not the same in both; ``what`` names the properties that differ."""

    kind: Literal["added", "removed", "changed"]
    path: str
    what: tuple[str, ...] = ()
    size: int = 0
    """Bytes that the path has in the later tree."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """What a client that has one image fetches for another; sizes are those of blobs, in bytes."""

    fetched: int
    total: int
    layers: tuple[Digest, ...]
    """Diff IDs of the layers that it fetches."""


def transfer(have: Image | None, want: Image) -> Transfer:
    """What a registry or an engine sends: whole layers that are not there, known by their diff IDs."""
    known = {layer.diff_id for layer in have.layers} if have else set()
    missing = {layer.diff_id: layer.descriptor.size for layer in want.layers if layer.diff_id not in known}
    total = {layer.diff_id: layer.descriptor.size for layer in want.layers}
    return Transfer(sum(missing.values()), sum(total.values()), tuple(missing))


def changes(before: FileTree, after: FileTree) -> Iterator[Change]:
    """Every difference between two trees, in byte order of paths: properties, links, contents."""
    return entry_changes(before.walk(), after.walk(), lambda path: _same_content(before, after, path))


def entry_changes(
    before: Iterable[Entry], after: Iterable[Entry], same_content: Callable[[str], bool]
) -> Iterator[Change]:
    """The same of two listings; ``same_content`` is asked about a path that is a file of one size in both."""
    old = {entry.path: entry for entry in before}
    new = {entry.path: entry for entry in after}
    for path in sorted(old.keys() | new.keys(), key=lambda name: name.encode("utf-8", "surrogateescape")):
        one, other = old.get(path), new.get(path)
        if one is None and other is not None:
            yield Change("added", path, size=other.size)
        elif other is None:
            yield Change("removed", path)
        elif one is not None and (what := _differences(one, other, same_content)):
            yield Change("changed", path, what, other.size)


def _differences(one: Entry, other: Entry, same_content: Callable[[str], bool]) -> tuple[str, ...]:
    found = [name for name in _COMPARED if getattr(one, name) != getattr(other, name)]
    same_size = one.kind is other.kind is Kind.FILE and one.size == other.size
    if same_size and not same_content(one.path):
        found.append("content")
    return tuple(found)


def _same_content(before: FileTree, after: FileTree, path: str) -> bool:
    if (
        isinstance(before, ImageTree)
        and isinstance(after, ImageTree)
        and before.place_of(path) == after.place_of(path)
    ):
        return True
    with before.open(path) as one, after.open(path) as other:
        return digest_stream(one) == digest_stream(other)
