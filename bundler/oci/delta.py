"""An image built on top of another: the other's layers as they are, and above them only what they lack.

Shared content is there once.  What the base has already, but different, is refused: the layer above would
hide it from the programs that it was made for.  So is what would not start there for want of a library.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bundler.digest import Digest
from bundler.errors import BundleError, InputError, raise_all
from bundler.oci.base import BaseTree
from bundler.oci.compose import Part, with_base
from bundler.oci.image import Image, ImageConfig, Layer, layer_of
from bundler.oci.inventory import Inventory, Owned, inventory
from bundler.oci.layer import LayerSource, layer_entries, relink
from bundler.oci.loading import missing, unloadable
from bundler.oci.merged import ImageTree
from bundler.tree import Entry, FileTree, Kind, UnionTree, parents, shown


@dataclass(frozen=True, slots=True)
class Delta:
    """The image on its base.  ``added`` and ``shared`` count files and their bytes."""

    image: Image
    added: tuple[int, int]
    shared: tuple[int, int]


def delta(want: Part, base: Part, tree: FileTree, *, cache: Path | None = None, reference: str = "") -> Delta:
    """``want`` on top of ``base``, whose layers stay as they are.

    ``tree`` shows the files of ``want`` and is read again when the new layers are written.  Raises
    Problems that name the owners on both sides, or every library that is missing.
    """
    for one, other in (("os", "operating systems"), ("architecture", "machines")):
        if getattr(want.image.config, one) != getattr(base.image.config, one):
            raise InputError(f"{want.name} and {base.name} are for different {other}")
    have, wanted = inventory(base.image, cache), inventory(want.image, cache)
    raise_all(list(_conflicts(want, wanted, base, have)))
    raise_all(_lacks(wanted, base, have, tree))
    present = {layer.diff_id for layer in base.image.layers}
    layers = []
    # A layer that deletes would take from the base what it was never meant to know.
    whole = not (isinstance(tree, ImageTree) and tree.whiteouts)
    for layer in want.image.layers:
        own = {path: owned.entry for path, owned in wanted.items() if owned.layer == layer.diff_id}
        missing = [entry for path, entry in own.items() if path not in have]
        if layer.diff_id in present or not missing:
            continue
        solid = [entry for entry in own.values() if entry.kind is not Kind.DIRECTORY]
        if whole and all(entry.path not in have for entry in solid) and _plain_parents(own, have):
            layers.append(layer)
        else:
            layers.append(_partial(layer, missing, wanted, have, tree))
    image = Image(
        layers=(*base.image.layers, *layers),
        config=_config(want.image.config, base.image.config),
        annotations=with_base(want.image.annotations, base),
        reference=reference or want.image.reference,
    )
    files = [owned.entry for owned in wanted.values() if owned.entry.kind is Kind.FILE]
    return Delta(
        image,
        added=_count(entry for entry in files if entry.path not in have),
        shared=_count(entry for entry in files if entry.path in have),
    )


def _count(entries: Iterable[Entry]) -> tuple[int, int]:
    sizes = [0 if entry.hardlink else entry.size for entry in entries]
    return len(sizes), sum(sizes)


def _conflicts(want: Part, wanted: Inventory, base: Part, have: Inventory) -> Iterable[BundleError]:
    for path, owned in wanted.items():
        there = have.get(path)
        if there is not None:
            if why := _difference(owned, wanted, there, have):
                yield _conflict(path, why, want, owned, base, there)
            continue
        for parent in parents(path):
            above = have.get(parent)
            if above is not None and above.entry.kind is not Kind.DIRECTORY:
                why = f"would lie below /{shown(parent)}, which is a {above.entry.kind}"
                yield _conflict(path, why, want, owned, base, above)
                break


def _difference(one: Owned, ones: Inventory, other: Owned, others: Inventory) -> str | None:
    """Why two entries at one path are not the same; directories are, whatever their modes."""
    mine, theirs = one.entry, other.entry
    if mine.kind is not theirs.kind:
        return f"is a {mine.kind} here and a {theirs.kind} there"
    if mine.kind is Kind.DIRECTORY:
        return None
    if mine.kind is Kind.FILE and _digest(mine, ones) != _digest(theirs, others):
        return "has different content"
    for name in ("target", "mode", "uid", "gid", "xattrs", "device"):
        if getattr(mine, name) != getattr(theirs, name):
            return f"differs in its {name}"
    return None


def _digest(entry: Entry, known: Inventory) -> Digest | None:
    return known[entry.hardlink].entry.digest if entry.hardlink is not None else entry.digest


def _lacks(wanted: Inventory, base: Part, have: Inventory, tree: FileTree) -> list[BundleError]:
    """Loaders and libraries that files of ours find neither beside them nor in the base."""
    with BaseTree(base.image, have) as below:
        return missing(
            unloadable(UnionTree([tree, below]), wanted),
            lambda path: wanted[path].owner,
            hint="name the image that has it, too: bundle delta IMAGE IMAGE --on BASE",
        )


def _conflict(path: str, why: str, want: Part, one: Owned, base: Part, other: Owned) -> InputError:
    return InputError(
        f"{why}: {one.owner} of {want.name}, and {other.owner} of {base.name}", where="/" + shown(path)
    )


def _plain_parents(own: Mapping[str, Entry], have: Inventory) -> bool:
    """Whether a layer's directories leave those of the base as they are."""
    return all(
        entry.kind is not Kind.DIRECTORY
        or path not in have
        or (entry.mode, entry.uid, entry.gid)
        == (have[path].entry.mode, have[path].entry.uid, have[path].entry.gid)
        for path, entry in own.items()
    )


def _partial(
    layer: Layer, missing: Sequence[Entry], wanted: Inventory, have: Inventory, tree: FileTree
) -> Layer:
    """A layer of the entries that the base lacks, parents as the base has them."""
    entries = {entry.path: entry for entry in missing}
    for path in list(entries):
        for parent in parents(path):
            if parent not in entries:
                known = have.get(parent) or wanted.get(parent)
                entries[parent] = known.entry if known else Entry(parent, Kind.DIRECTORY)
    linked = relink(entries.values())
    name, _, version = layer.comment.partition(" ")
    source = LayerSource(name or "files", version, tree, layer_entries(linked, special=True), special=True)
    return layer_of(source)


def _config(want: ImageConfig, base: ImageConfig) -> ImageConfig:
    """The base's configuration; what the image above says counts more, and PATH is joined."""
    variables = dict(text.partition("=")[::2] for text in base.environment)
    for text in want.environment:
        name, _, value = text.partition("=")
        words = [*value.split(":"), *variables.get(name, "").split(":")] if name == "PATH" else [value]
        variables[name] = ":".join(dict.fromkeys(word for word in words if word))
    return replace(
        base,
        command=want.command or base.command,
        entrypoint=want.entrypoint or base.entrypoint,
        environment=tuple(f"{name}={value}" for name, value in variables.items()),
        labels=tuple(sorted({**dict(base.labels), **dict(want.labels)}.items())),
        other={**base.other, **want.other},
    )
