"""What holds which software: recipes, the bundles that list them, and images that say so in manifests."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from bundler import labels
from bundler.advisories import Software
from bundler.catalogue import Catalogue
from bundler.errors import BundleError, InputError
from bundler.oci.image import Image
from bundler.oci.manifest import MANIFEST, PARTS, cpe_of, package_urls
from bundler.oci.merged import ImageTree
from bundler.plan import required
from bundler.recipe import Recipe, Toolchain, lock_of, packages_of
from bundler.tree import FileTree, Kind

MAX_LINE = 4 << 20
"""Bytes of one line of a manifest that are read."""
MAX_LINES = 100_000
"""Lines of a manifest that are read before its entries begin."""


@dataclass(frozen=True, slots=True)
class Held:
    """Software inside an image, and the bundle that it belongs to; none where its layer is there alone."""

    software: Software
    bundle: str


def of_recipe(recipe: Recipe, toolchain: Toolchain) -> Software:
    """The software that a recipe makes, by the names that its image's manifest would have."""
    held = {package.name for package in lock_of(recipe, toolchain).packages}
    pinned = replace(recipe, packages=tuple(name for name in recipe.packages if name in held))
    packages = packages_of(pinned, toolchain)
    return Software(recipe.name, recipe.version, package_urls(recipe, packages), cpe_of(recipe))


def recipes_held(catalogue: Catalogue, toolchain: Toolchain) -> dict[Software, tuple[Path, tuple[str, ...]]]:
    """Software of every recipe, with its file and the bundles that list it."""
    bundles: dict[str, list[str]] = {}
    for name in catalogue.bundles:
        for recipe in catalogue.bundles[name].recipes:
            bundles.setdefault(recipe, []).append(name)
    recipes = {**{name: catalogue.recipes[name] for name in catalogue.recipes}, **toolchain.recipes}
    return {
        of_recipe(recipe, toolchain): (recipe.path, tuple(bundles.get(name, ())))
        for name, recipe in recipes.items()
    }


def requirers(catalogue: Catalogue) -> dict[str, tuple[str, ...]]:
    """For each bundle those that require it, directly or through others."""
    found: dict[str, list[str]] = {name: [] for name in catalogue.bundles}
    for name in catalogue.bundles:
        for other in required(name, catalogue.bundles):
            found[other].append(name)
    return {name: tuple(others) for name, others in found.items()}


def held_by(image: Image, where: str) -> list[Held]:
    """What the manifests inside an image name, also where it was put together of bundles or single layers.

    Raises InputError for an image that has no manifest, or one that is none.
    """
    found: list[Held] = []
    for tree, path in manifests(image, where, layers=True):
        with tree.open(path) as stream:
            bundle = ""
            for record in _head(stream, f"{where}:/{path}"):
                if record["type"] == "bundle":
                    bundle = str(record.get("name", ""))
                elif record["type"] == "recipe" and record.get("license"):
                    found.append(Held(_software(record), bundle))
    named = {held.software for held in found if held.bundle}
    return [held for held in found if held.bundle or held.software not in named]


def manifests(image: Image, where: str, *, layers: bool = False) -> Iterator[tuple[FileTree, str]]:
    """Each bundle's manifest in an image, as a tree and the path in it; raises InputError if there is none.

    That of a single bundle lies in the last layer, and no other one is looked into for it.  Otherwise,
    with ``layers``, what single recipes' layers say comes before it.
    """
    try:
        place = f"{labels.read_facts(image.labels, where=where).prefix.strip('/')}/{MANIFEST}"
    except BundleError:
        place = ""
    if place and image.layers:
        with ImageTree(replace(image, layers=image.layers[-1:], original=None)) as tree:
            if tree.get(place) is not None:
                yield tree, place
                return
    with ImageTree(image) as tree:
        files = [entry.path for entry in tree.walk() if entry.kind is Kind.FILE]
        found = [path for path in files if layers and path.endswith(".jsonl") and f"/{PARTS}/" in path]
        found += [path for path in files if path.endswith("/" + MANIFEST)]
        if not found:
            raise InputError(
                "says nothing of what is inside it",
                where=where,
                why="no bundle's manifest lies in it",
                hint="'bundle build' and 'bundle adopt' make images that have one",
            )
        for path in found:
            yield tree, path


def _head(stream: BinaryIO, where: str) -> Iterator[Mapping[str, Any]]:
    """The lines of a manifest before its entries, which are the most of it and tell nothing here."""
    for number in range(1, MAX_LINES):
        line = stream.readline(MAX_LINE)
        try:
            record = json.loads(line) if line else {"type": "entry"}
            kind = record["type"]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise InputError(
                "is no line of a manifest", where=f"{where}:{number}", why=repr(error)
            ) from error
        if kind not in ("bundle", "layer", "recipe"):
            return
        yield record


def _software(record: Mapping[str, Any]) -> Software:
    purls = record.get("purls")
    return Software(
        str(record.get("name", "")),
        str(record.get("version", "")),
        tuple(map(str, purls)) if isinstance(purls, list) else (),
        str(record.get("cpe", "")),
    )
