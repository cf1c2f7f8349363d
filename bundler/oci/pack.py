"""A bundle as an image: one layer per recipe in the order given, then one that says what is in them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import BinaryIO

from bundler.digest import digest_bytes
from bundler.errors import InputError
from bundler.oci import sbom
from bundler.oci.header import content_size
from bundler.oci.image import TITLE, VERSION, Image, ImageConfig, Layer, layer_of
from bundler.oci.layer import Contents, LayerSource, layer_entries
from bundler.oci.manifest import MANIFEST, PARTS, BundleFacts, Component, manifest_lines, part_lines
from bundler.tree import Entry, Kind, walk

BUDGET = 64
"""Layers of a bundle, its last one not counted: engines take 127, and bundles are composed."""


class MemoryTree:
    """A file tree of a few small files, by path."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = dict(files)
        entries = layer_entries(
            Entry(path, Kind.FILE, 0o644, len(data), digest_bytes(data)) for path, data in files.items()
        )
        self._entries = {entry.path: entry for entry in entries}

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(self._entries.values())

    def get(self, path: str) -> Entry | None:
        return self._entries.get(path) if path else Entry("", Kind.DIRECTORY)

    def names(self, path: str) -> Sequence[str]:
        above = PurePosixPath(path)
        return [PurePosixPath(name).name for name in self._entries if PurePosixPath(name).parent == above]

    def walk(self) -> Iterator[Entry]:
        return walk(self)

    def open(self, path: str) -> BinaryIO:
        if path not in self._files:
            raise InputError("is not a regular file", where=path)
        return io.BytesIO(self._files[path])


class _Beside:
    """A tree with a few files beside those that it has."""

    def __init__(self, tree: Contents, beside: MemoryTree) -> None:
        self._tree = tree
        self._beside = beside

    def open(self, path: str) -> BinaryIO:
        return (self._beside if self._beside.get(path) else self._tree).open(path)


def recipe_layer(source: LayerSource, prefix: str, component: Component) -> LayerSource:
    """The layer of a recipe, together with what it says of itself: its part of the manifest, its SBOMs.

    ``component`` has the entries of ``source``.  Raises InputError where the recipe installs such files.
    """
    place = f"{prefix.strip('/')}/{PARTS}/{component.name}"
    files = {f"{place}.jsonl": part_lines(prefix, component)}
    if component.license:
        files[f"{place}.spdx.json"] = sbom.recipe_spdx(component)
        files[f"{place}.cdx.json"] = sbom.recipe_cyclonedx(component)
    own = MemoryTree(files)
    added = [entry for entry in own.entries if entry.kind is Kind.FILE]
    return replace(source, tree=_Beside(source.tree, own), entries=layer_entries((*source.entries, *added)))


class _Several:
    """Trees side by side, each opened for the paths that are its own."""

    def __init__(self, sources: Sequence[LayerSource]) -> None:
        self._trees = {
            entry.path: source.tree
            for source in sources
            for entry in source.entries
            if entry.kind is Kind.FILE
        }

    def open(self, path: str) -> BinaryIO:
        return self._trees[path].open(path)


def within_budget(sources: Sequence[LayerSource], budget: int = BUDGET) -> list[LayerSource]:
    """The layer of each source: its own, or one that those share which are the smallest above the budget.

    A change among the small ones costs little; the large ones keep layers that only they can change.
    """
    if len(sources) <= budget:
        return list(sources)
    sizes = [sum(content_size(entry) for entry in source.entries) for source in sources]
    by_size = sorted(range(len(sources)), key=lambda at: (-sizes[at], sources[at].name))
    rest = frozenset(by_size[budget - 1 :])
    small = [sources[at] for at in sorted(rest)]
    entries: list[Entry] = []
    directories: set[str] = set()
    for entry in (entry for source in small for entry in source.entries):
        if entry.kind is not Kind.DIRECTORY or entry.path not in directories:
            entries.append(entry)
        if entry.kind is Kind.DIRECTORY:
            directories.add(entry.path)
    shared = LayerSource(f"{len(small)} small recipes", "", _Several(small), layer_entries(entries))
    return [shared if at in rest else source for at, source in enumerate(sources)]


def facts_layer(bundle: BundleFacts, components: Sequence[Component]) -> Layer:
    """The last layer: manifest and SBOMs, in ``share/bundle`` of the prefix."""
    inside = bundle.facts.prefix.strip("/")
    tree = MemoryTree(
        {
            f"{inside}/{MANIFEST}": manifest_lines(bundle, components),
            f"{inside}/{sbom.SPDX}": sbom.spdx(bundle, components),
            f"{inside}/{sbom.CYCLONEDX}": sbom.cyclonedx(bundle, components),
        }
    )
    return layer_of(LayerSource("manifest", bundle.facts.version, tree, tree.entries))


def bundle_image(
    bundle: BundleFacts,
    layers: Sequence[Layer],
    components: Sequence[Component],
    *,
    command: Sequence[str],
    environment: Sequence[tuple[str, str]] = (),
    reference: str = "",
) -> Image:
    """The image of a bundle.  ``command`` is its Cmd: ``docker create`` wants one even where none is run."""
    facts = bundle.facts
    described = tuple(sorted({**facts.to_labels(), TITLE: facts.name, VERSION: facts.version}.items()))
    config = ImageConfig(
        architecture=bundle.architecture,
        command=tuple(command),
        environment=tuple(f"{name}={value}" for name, value in environment),
        labels=described,
    )
    return Image((*layers, facts_layer(bundle, components)), config, described, reference)
