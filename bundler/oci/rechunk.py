"""A root file system cut into layers by what its updates will cost, and proven to be the same afterwards."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO, cast

from bundler.digest import Digest, canonical_json, digest_bytes, hex_of
from bundler.errors import BundleError, CheckError, InputError
from bundler.oci.chunk import Component, History, Plan, Planner
from bundler.oci.compare import entry_changes
from bundler.oci.compress import Codec
from bundler.oci.image import Image, ImageConfig, Layer
from bundler.oci.layer import LayerSource, layer_entries
from bundler.oci.merged import Listing
from bundler.oci.packages import assign, read_packages, update_dates
from bundler.oci.rootfs import Attributes, content
from bundler.oci.store import store_layer
from bundler.tree import EPOCH, Entry, FileTree, Kind, parents, shown

PLAN = "bundle.chunks"
"""Annotation of an image: the plan that it was cut by, as the next one's input."""
BUDGET = 64
PERIOD_WEEKS = 2
_PERIODS = 130
_FORMAT = 1
_NOTHING = digest_bytes(b"")


@dataclass(frozen=True, slots=True)
class Memory:
    """A plan, and a digest of each component's entries, which tells what changed since."""

    plan: Plan
    signatures: Mapping[str, str]

    def to_json(self) -> bytes:
        layers = [list(layer) for layer in self.plan.layers]
        return canonical_json({"format": _FORMAT, "layers": layers, "signatures": dict(self.signatures)})


def memory_from_json(data: bytes, *, where: str) -> Memory:
    """The inverse of :meth:`Memory.to_json`; raises InputError."""
    try:
        record = json.loads(data)
        if record["format"] != _FORMAT:
            raise ValueError(f"format {record['format']}")
        layers = tuple(tuple(str(name) for name in layer) for layer in record["layers"])
        signatures = {str(name): str(text) for name, text in record["signatures"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError("is no plan", where=where, why=repr(error)) from error
    return Memory(Plan(layers), signatures)


@dataclass(frozen=True, slots=True)
class Content:
    """What a root file system holds, by component, ready to be planned and cut."""

    entries: tuple[Entry, ...]
    components: Mapping[str, tuple[Entry, ...]]
    updates: Mapping[str, Collection[date]]

    @property
    def signatures(self) -> dict[str, str]:
        return {
            name: hex_of(digest_bytes(canonical_json([entry.to_dict() for entry in entries])))[:16]
            for name, entries in self.components.items()
        }


def examine(tree: FileTree, attributes: Attributes | None = None) -> Content:
    """Sort the files of a root file system into components; raises InputError for what cannot be packed."""
    # Directories get one time: theirs change with every file in them, and would move every layer.
    entries = tuple(
        replace(entry, mtime=EPOCH) if entry.kind is Kind.DIRECTORY else entry
        for entry in content(tree, attributes)
    )
    packages = read_packages(tree)
    owners = assign(entries, packages)
    above = {parent for entry in entries for parent in parents(entry.path)}
    components: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.path not in above:
            components.setdefault(owners[entry.path], []).append(entry)
    return Content(
        entries,
        {name: tuple(found) for name, found in sorted(components.items())},
        update_dates(tree, packages),
    )


def make_plan(found: Content, budget: int, former: Memory | None = None) -> Memory:
    """The plan for a root file system, beginning with a former one where there is one."""
    days = [day for name in found.components for day in found.updates.get(name, ())]
    last = max(days, default=date(1980, 1, 1))
    components = [
        Component(name, _size(entries), frozenset(_periods(found.updates.get(name, ()), last)))
        for name, entries in found.components.items()
    ]
    planner = Planner(components, History(_PERIODS, PERIOD_WEEKS), budget)
    signatures = found.signatures
    if former is None:
        return Memory(planner.first(), signatures)
    changed = [name for name, text in signatures.items() if former.signatures.get(name) != text]
    return Memory(planner.next(former.plan, changed), signatures)


def _periods(days: Collection[date], last: date) -> set[int]:
    """Periods counted back from the last update of all, so that the clock has no say."""
    back = ((last - day).days // (7 * PERIOD_WEEKS) for day in days)
    return {_PERIODS - 1 - periods for periods in back if 0 <= periods < _PERIODS}


def _size(entries: Sequence[Entry]) -> int:
    return sum(512 + (0 if entry.hardlink else (entry.size + 511) // 512 * 512) for entry in entries)


@dataclass(frozen=True, slots=True)
class Cut:
    """An image, and the digests of the contents that went into it, by path."""

    image: Image
    digests: Mapping[str, Digest]


def cut(
    tree: FileTree, found: Content, memory: Memory, config: ImageConfig, blobs: Path, *, codec: Codec = "none"
) -> Cut:
    """The image of a planned root file system; each layer is read, packed, hashed and written in one pass.

    ``blobs`` is a directory that holds the layers from then on.
    """
    noted = _Noted(tree)
    by_path = {entry.path: entry for entry in found.entries}
    layers: list[Layer] = []
    for names in memory.plan.layers:
        own = {entry.path: entry for name in names for entry in found.components.get(name, ())}
        for path in list(own):
            own.update((parent, by_path[parent]) for parent in parents(path))
        entries = layer_entries(own.values(), special=True)
        label = names[0] if len(names) == 1 else f"{len(names)} components: {', '.join(names)}"
        source = LayerSource(label[:200], "", noted, entries, special=True)
        layers.append(store_layer(source, blobs, codec=codec))
    text = memory.to_json().decode("utf-8", "backslashreplace")
    return Cut(Image(tuple(layers), config, ((PLAN, text),)), noted.digests)


class _Noted:
    """Contents that are read anyway, with the digest of each."""

    def __init__(self, tree: FileTree) -> None:
        self._tree = tree
        self.digests: dict[str, Digest] = {}

    def open(self, path: str, /) -> BinaryIO:
        def note(digest: Digest) -> None:
            self.digests[path] = digest

        return cast(BinaryIO, _Noting(self._tree.open(path), note))


class _Noting(io.RawIOBase):
    """A stream that tells the digest of what was read of it when it is closed."""

    def __init__(self, stream: BinaryIO, note: Callable[[Digest], None]) -> None:
        self._stream = stream
        self._raw: Any = getattr(stream, "raw", stream)
        self._note = note
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._raw.readinto(buffer)
        self._hash.update(memoryview(buffer)[:count])
        return count

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
            self._note(Digest("sha256:" + self._hash.hexdigest()))
        super().close()


def prove(made: Cut, found: Content) -> None:
    """Raise CheckError unless the image shows exactly the files that went in: every property and byte.

    The layers are read once more, as a client will; of the files themselves the digests speak.
    """

    def same_content(path: str) -> bool:
        # What is empty was never opened; what is another name of a file is compared under the first one.
        return after[path].hardlink is not None or after[path].digest == made.digests.get(path, _NOTHING)

    after = {entry.path: entry for entry in Listing(made.image).walk()}
    wrong = list(entry_changes(found.entries, after.values(), same_content))
    if wrong:
        lines = [f"  {change.kind} /{shown(change.path)} {' '.join(change.what)}" for change in wrong[:10]]
        raise CheckError(
            f"{len(wrong)} files are not what they were",
            why="the image would not be the same",
            detail="\n".join(lines),
        )


def memory_of(image: Image, where: str) -> Memory:
    """The plan that an image was cut by; raises InputError if it says none."""
    text = dict(image.annotations).get(PLAN)
    if text is None:
        raise InputError("was not cut by a plan", where=where, hint="only what rechunk made has one")
    try:
        return memory_from_json(text.encode(), where=where)
    except BundleError as error:
        raise InputError(error.message, where=where, why=error.why) from error
