"""Images put together without touching a layer: manifest and configuration are new, every blob stays.

A later layer would silently hide what an earlier one has at the same path, and a layer is no package: it
knows nothing of the libraries that it needs.  So what is put together is checked as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bundler import labels
from bundler.digest import Digest, digest_stream
from bundler.errors import BundleError, InputError, raise_all
from bundler.oci.image import Image, Layer, Pairs
from bundler.oci.merged import ImageTree
from bundler.tree import Entry, Kind, shown

PARTS = "bundle.parts"
"""Label of an image that was put together: names and image IDs of its parts."""
BASE_NAME = "org.opencontainers.image.base.name"
BASE_DIGEST = "org.opencontainers.image.base.digest"


@dataclass(frozen=True, slots=True)
class Part:
    """An image to put in, and what the user calls it."""

    name: str
    image: Image


@dataclass(frozen=True, slots=True)
class _Seen:
    part: int
    entry: Entry


def compose(parts: Sequence[Part], *, reference: str = "", check: bool = True, closed: bool = True) -> Image:
    """One image that holds the layers of all parts, each once, those of the first part lowest.

    The first part says how a container starts.  Raises Problems that name both owners of what conflicts,
    and each file with the library that it lacks.  ``check`` may be left out where the caller knows, and
    what is not ``closed`` may lack libraries.
    """
    if not parts:
        raise InputError("there is nothing to put together")
    _same_platform(parts)
    layers: dict[Digest, Layer] = {}
    for layer in (layer for part in parts for layer in part.image.layers):
        layers.setdefault(layer.diff_id, layer)
    config = replace(
        parts[0].image.config,
        environment=_environment(parts),
        labels=_labels(parts),
    )
    image = Image(tuple(layers.values()), config, _annotations(parts), reference)
    if check and not _known_to_fit(parts):
        raise_all([*_conflicts(parts), *(_lacks(image) if closed else ())])
    return image


def rebase(part: Part, old: Part, new: Part, *, reference: str = "") -> Image:
    """The image with the layers of ``old``, its base, replaced by those of ``new``, and checked as a whole.

    Its own configuration stays.  Raises InputError if ``old`` is not its base.
    """
    count = len(old.image.layers)
    below = [layer.diff_id for layer in part.image.layers[:count]]
    if not count or below != [layer.diff_id for layer in old.image.layers]:
        raise InputError(f"{old.name} is not the base of {part.name}", why="its first layers are others")
    _same_platform([part, new])
    own = part.image.layers[count:]
    image = replace(
        part.image,
        layers=(*new.image.layers, *own),
        annotations=with_base(part.image.annotations, new),
        reference=reference or part.image.reference,
        original=None,
    )
    above = Part(part.name, replace(part.image, layers=own, original=None))
    raise_all([*_conflicts([new, above], overrides=True), *_lacks(image)])
    return image


def with_base(annotations: Pairs, base: Part) -> Pairs:
    """Annotations that record the base image (annotations.md, "Pre-Defined Annotation Keys")."""
    name = base.image.reference or base.name
    kept = {**dict(annotations), BASE_NAME: name, BASE_DIGEST: base.image.digest}
    return tuple(sorted(kept.items()))


def _same_platform(parts: Sequence[Part]) -> None:
    platforms = {(part.image.config.os, part.image.config.architecture): part.name for part in parts}
    if len(platforms) > 1:
        why = ", ".join(f"{name} is for {'/'.join(platform)}" for platform, name in platforms.items())
        raise InputError("the images are for different platforms", why=why)


def _environment(parts: Sequence[Part]) -> tuple[str, ...]:
    """All variables; PATH is joined, of others the parts must say the same."""
    found: dict[str, tuple[str, str]] = {}
    problems: list[BundleError] = []
    for part in parts:
        for text in part.image.config.environment:
            name, _, value = text.partition("=")
            former, owner = found.get(name, (value, part.name))
            if name == "PATH":
                words = dict.fromkeys([*former.split(":"), *value.split(":")])
                found[name] = ":".join(words), owner
            elif former == value:
                found[name] = former, owner
            else:
                why = f"{owner} says {former!r}, {part.name} says {value!r}"
                problems.append(InputError(f"the images disagree on the variable {name}", why=why))
    raise_all(problems)
    return tuple(f"{name}={value}" for name, (value, _) in found.items())


def _labels(parts: Sequence[Part]) -> Pairs:
    """Labels of all, the first part's before others'; several bundles do not claim to be one."""
    merged: dict[str, str] = {}
    for part in reversed(parts):
        merged.update(part.image.labels)
    if len(parts) > 1:
        merged = {name: value for name, value in merged.items() if not name.startswith("bundle.")}
        merged[PARTS] = " ".join(f"{_short(part)}={part.image.id}" for part in parts)
    return tuple(sorted(merged.items()))


def _annotations(parts: Sequence[Part]) -> Pairs:
    return ((PARTS, " ".join(f"{_short(part)}={part.image.id}" for part in parts)),)


def _short(part: Part) -> str:
    name = part.image.labels.get(labels.NAME) or part.image.reference or part.name
    return name.replace(" ", "-")


def _known_to_fit(parts: Sequence[Part]) -> bool:
    """Whether all parts are bundles that were verified against just each other, at prefixes of their own."""
    try:
        facts = [labels.read_facts(part.image.labels, where=part.name) for part in parts]
    except BundleError:
        return False
    at_hand = {(one.name, part.image.id) for one, part in zip(facts, parts, strict=True)}
    needed = {(required.name, required.digest) for one in facts for required in one.requires}
    prefixes = [one.prefix + "/" for one in facts]
    apart = all(
        not one.startswith(other)
        for at, one in enumerate(prefixes)
        for number, other in enumerate(prefixes)
        if at != number
    )
    return apart and needed <= at_hand


def _conflicts(parts: Sequence[Part], *, overrides: bool = False) -> list[BundleError]:
    """Paths that are not the same in two parts; with ``overrides`` the last may replace files by files."""
    problems: list[BundleError] = []
    seen: dict[str, _Seen] = {}
    with ExitStack() as stack:
        trees = [stack.enter_context(ImageTree(part.image)) for part in parts]
        for number, tree in enumerate(trees):
            for entry in tree.walk():
                former = seen.setdefault(entry.path, _Seen(number, entry))
                if former.part == number or _agree(trees, former, tree, entry):
                    continue
                if overrides and former.entry.kind is entry.kind:
                    continue
                owners = [(parts[former.part], trees[former.part]), (parts[number], tree)]
                told = " and ".join(f"{part.name} ({_layer(part, at, entry.path)})" for part, at in owners)
                what = _what(former.entry, entry)
                problems.append(
                    InputError(
                        f"{what} in {told}", where="/" + shown(entry.path), hint="leave one of them out"
                    )
                )
        for number, part in enumerate(parts):
            problems += _deleted(parts, number, part, trees)
    return problems


def _agree(trees: Sequence[ImageTree], former: _Seen, tree: ImageTree, entry: Entry) -> bool:
    one = former.entry
    if (one.kind, one.mode, one.uid, one.gid, one.target, one.size, one.device) != (
        entry.kind, entry.mode, entry.uid, entry.gid, entry.target, entry.size, entry.device,
    ):  # fmt: skip
        return False
    if entry.kind is not Kind.FILE:
        return True
    other = trees[former.part]
    if one.xattrs != entry.xattrs:
        return False
    if other.place_of(entry.path) == tree.place_of(entry.path):
        return True
    with other.open(entry.path) as before, tree.open(entry.path) as after:
        return digest_stream(before) == digest_stream(after)


def _what(one: Entry, other: Entry) -> str:
    if one.kind is not other.kind:
        return f"is a {one.kind} and a {other.kind}"
    if one.kind is Kind.SYMLINK:
        return "leads to different places"
    if (one.mode, one.uid, one.gid) != (other.mode, other.uid, other.gid):
        return "has different owners or modes"
    return "has different content"


def _layer(part: Part, tree: ImageTree, path: str) -> str:
    layer = part.image.layers[tree.layer_of(path)]
    return layer_name(layer)


def layer_name(layer: Layer) -> str:
    """What to call a layer: what made it, else the beginning of its diff ID."""
    return f"layer {layer.comment[:60]}" if layer.comment else f"layer {layer.diff_id[:19]}"


def _deleted(
    parts: Sequence[Part], number: int, part: Part, trees: Sequence[ImageTree]
) -> Iterable[BundleError]:
    """What a part's whiteouts would take from the parts below it."""
    for path in trees[number].whiteouts:
        for below in range(number):
            if _has(trees[below], path):
                yield InputError(f"{part.name} deletes what {parts[below].name} has", where="/" + shown(path))


def _has(tree: ImageTree, path: str) -> bool:
    """Whether there is something at a path, or in the directory if it ends in a slash."""
    return bool(tree.names(path[:-1])) if path.endswith("/") else tree.get(path) is not None


def _lacks(image: Image) -> list[BundleError]:
    """Each library or loader that is missing, with the files that need it and their layers."""
    from bundler.oci.loading import missing, unloadable

    with ImageTree(image) as tree:
        return missing(
            unloadable(tree),
            lambda path: layer_name(image.layers[tree.layer_of(path)]),
            hint="add the image that has it",
        )
