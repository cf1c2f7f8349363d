"""What the recipes give now, beside what an image holds: recipe by recipe, file by file, layer by layer.

The image's manifest is read back.  Of recipes that are built, whether packed or not, files and layers are
known; of those that are to be built first only the version, and why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from bundler.assemble import Assembler, Part
from bundler.digest import Digest
from bundler.errors import InputError
from bundler.holders import manifests
from bundler.labels import Facts
from bundler.oci.compare import Change
from bundler.oci.compose import BASE_DIGEST, PARTS
from bundler.oci.image import Image
from bundler.oci.manifest import PARTS as PARTS_PLACE
from bundler.oci.manifest import Manifest, read_manifest, recipe_record
from bundler.pipeline import Pipeline
from bundler.plan import PlannedBundle
from bundler.survey import NodeState
from bundler.tree import Entry, Kind, sort_key

Step = Literal["kept", "changed", "added", "removed", "to build"]

_COMPARED = tuple(field.name for field in fields(Entry) if field.name not in ("path", "digest"))


@dataclass(frozen=True, slots=True)
class Made:
    """A recipe's outcome in a bundle.  ``size`` counts the bytes of its layer.

    ``about`` is its line in the manifest: licence, package URLs, sources.
    """

    version: str
    layer: Digest
    size: int
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pending:
    """A recipe that is not built; ``why`` in words, as ``bundle plan`` has them."""

    version: str
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class State:
    """A bundle as an image has it, or as the recipes give it."""

    facts: Facts
    recipes: Mapping[str, Made]
    entries: Mapping[str, Entry]
    owners: Mapping[str, str]
    """Name of the recipe that each path is from."""
    pending: Mapping[str, Pending]
    image: Digest | None = None
    """Its image ID, where that is known: of what lies on another image it is not, nor of what is unpacked."""


@dataclass(frozen=True, slots=True)
class RecipeStep:
    """What becomes of one recipe; ``fetched`` are the bytes of its layer, where that is a new one."""

    name: str
    step: Step
    before: str | None
    after: str | None
    why: tuple[str, ...] = ()
    """Why it is to be built; of one that changed, what of its line in the manifest did."""
    files: tuple[Change, ...] = ()
    fetched: int = 0


@dataclass(frozen=True, slots=True)
class Upgrade:
    """All that changes in one bundle; sizes in bytes, the layer of manifest and SBOMs not counted."""

    before: Facts
    after: Facts
    recipes: tuple[RecipeStep, ...]
    kept: tuple[int, int]
    """Layers that stay, and their bytes."""
    images: tuple[Digest | None, Digest | None] = (None, None)
    """Image IDs before and after, where they are known."""

    @property
    def keeps_recipes(self) -> bool:
        return self.before.version == self.after.version and all(one.step == "kept" for one in self.recipes)

    @property
    def is_empty(self) -> bool:
        """Nothing changes, as far as is known: labels and required bundles are part of the image, too."""
        before, after = self.images
        return self.keeps_recipes and (before is None or before == after)


def compare(before: State, after: State) -> Upgrade:
    """The steps from one state to another, in the order of recipes' names."""
    files: dict[str, list[Change]] = {}
    for owner, change in _changes(before, after):
        files.setdefault(owner, []).append(change)
    names = sorted({*before.recipes, *after.recipes, *after.pending})
    held = {made.layer for made in before.recipes.values()}
    kept = [made for made in after.recipes.values() if made.layer in held]
    return Upgrade(
        before.facts,
        after.facts,
        tuple(_step(name, before, after, tuple(files.get(name, ())), held) for name in names),
        (len({made.layer for made in kept}), sum(made.size for made in kept)),
        (before.image, after.image),
    )


def _step(
    name: str, before: State, after: State, files: tuple[Change, ...], held: Iterable[Digest]
) -> RecipeStep:
    old, new = before.recipes.get(name), after.recipes.get(name)
    version = old.version if old else None
    if name in after.pending:
        pending = after.pending[name]
        return RecipeStep(name, "to build", version, pending.version, pending.why)
    if new is None:
        return RecipeStep(name, "removed", version, None, files=files)
    fetched = 0 if new.layer in held else new.size
    if old is None:
        return RecipeStep(name, "added", None, new.version, (), files, fetched)
    about = sorted(key for key in {*old.about, *new.about} if old.about.get(key) != new.about.get(key))
    step: Step = "changed" if about else "kept"
    return RecipeStep(name, step, version, new.version, tuple(about), files, fetched)


def _changes(before: State, after: State) -> Iterator[tuple[str, Change]]:
    """Paths that are not the same, each with its recipe.

    Directories follow from what is in them, and what layers say of themselves from the rest.
    """
    old = {path: entry for path, entry in before.entries.items() if before.owners[path] not in after.pending}
    parts = {f"{state.facts.prefix.strip('/')}/{PARTS_PLACE}" for state in (before, after)}
    for path in sorted(old.keys() | after.entries.keys(), key=sort_key):
        if path.rpartition("/")[0] in parts:
            continue
        one, other = old.get(path), after.entries.get(path)
        if all(entry is None or entry.kind is Kind.DIRECTORY for entry in (one, other)):
            continue
        if other is None:
            yield before.owners[path], Change("removed", path)
        elif one is None:
            yield after.owners[path], Change("added", path, size=other.size)
        elif what := _differences(one, other):
            yield after.owners[path], Change("changed", path, what, other.size)


def _differences(one: Entry, other: Entry) -> tuple[str, ...]:
    found = [name for name in _COMPARED if getattr(one, name) != getattr(other, name)]
    if one.digest != other.digest and "size" not in found:
        found.append("content")
    return tuple(found)


def packed(image: Image, where: str) -> list[State]:
    """The bundles inside an image, from their manifests; raises InputError for an image that has none."""
    sizes = {layer.diff_id: layer.descriptor.size for layer in image.layers}
    parts = dict(word.partition("=")[::2] for word in image.labels.get(PARTS, "").split())
    found = []
    for tree, path in manifests(image, where):
        with tree.open(path) as stream:
            manifest = read_manifest(stream.read(), where=f"{where}:/{path}")
        own = parts.get(manifest.facts.name) if parts else image.id
        on_another = BASE_DIGEST in dict(image.annotations)
        found.append(_state(manifest, sizes, Digest(own) if own and not on_another else None))
    return found


def _state(manifest: Manifest, sizes: Mapping[Digest, int], image: Digest | None) -> State:
    recipes, left = {}, dict(sizes)
    for name, record in manifest.recipes.items():
        layer = Digest(str(record.get("layer", "")))
        recipes[name] = Made(str(record.get("version", "")), layer, left.pop(layer, 0), record)
    return State(manifest.facts, recipes, manifest.entries, manifest.owners, {}, image)


def planned(pipeline: Pipeline, names: Sequence[str]) -> list[State]:
    """Bundles as the recipes give them now, from what the store holds; nothing is built."""
    nodes = {state.node.id: state for state in pipeline.surveyor.survey()}
    assembler = pipeline.assembler()
    found = {}
    for name, bundle in pipeline.plan.bundles.items():
        built = all(nodes[node].state == "built" for node in bundle.nodes)
        packed = assembler.recall(bundle, pipeline.parts(bundle)) if built else None
        if name in names:
            image = packed.image if packed else None
            found[name] = _planned(pipeline, assembler, bundle, nodes, image)
    return [found[name] for name in names]


def _planned(
    pipeline: Pipeline,
    assembler: Assembler,
    bundle: PlannedBundle,
    nodes: Mapping[str, NodeState],
    image: Digest | None,
) -> State:
    recipes: dict[str, Made] = {}
    pending: dict[str, Pending] = {}
    entries: dict[str, Entry] = {}
    owners: dict[str, str] = {}
    parts: list[Part] = []
    for name in bundle.nodes:
        state = nodes[name]
        recipe = state.node.recipe
        if state.state != "built":
            why = ("waits for " + ", ".join(state.why),) if state.state == "waits" else state.why
            pending[recipe.name] = Pending(recipe.version, why)
            continue
        parts.append(pipeline.part(bundle, name))
    sizes: dict[Digest, int] = {}
    for layer, component in assembler.components(bundle, parts):
        sizes.setdefault(layer.diff_id, layer.descriptor.size)
        recipes[component.name] = Made(
            component.version, layer.diff_id, sizes[layer.diff_id], recipe_record(component)
        )
        # Of a layer that several share the bytes count once.
        sizes[layer.diff_id] = 0
        for entry in component.entries:
            entries.setdefault(entry.path, entry)
            owners.setdefault(entry.path, component.name)
    file = bundle.bundle
    facts = Facts(file.name, file.version, bundle.prefix, file.compat)
    return State(facts, recipes, entries, owners, pending, image)


def known_bundles(states: Iterable[State], known: Iterable[str], where: str) -> list[str]:
    """Names of the bundles in an image; raises InputError for one that no file here describes."""
    names = [state.facts.name for state in states]
    here = set(known)
    if strange := [name for name in names if name not in here]:
        raise InputError(
            f"holds the bundle {strange[0]!r}, which no file here describes",
            where=where,
            hint="--images DIR and --recipes DIR say where further ones are",
        )
    return names
