"""The recipes and bundles of this checkout, as files: they fit together, and their sources can be had."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from bundler.plan import make_plan, required
from bundler.recipe import Bundle, Recipe
from bundler.recipe_file import read_bundle, read_recipe, read_toolchain
from bundler.target import parse_target
from bundler.wheel_lock import FILE, read_wheel_lock

CHECKOUT = Path(__file__).parents[2]
RECIPES = {path.parent.name: read_recipe(path) for path in (CHECKOUT / "recipes").glob("*/recipe.toml")}
BUNDLES = {path.stem: read_bundle(path) for path in (CHECKOUT / "images").glob("*.toml")}
LOCKED = read_wheel_lock(CHECKOUT / "recipes" / "ansible" / FILE, "ansible")
SEED = read_toolchain(CHECKOUT / "toolchain" / "seed.toml")


def test_each_recipe_is_in_one_bundle() -> None:
    homes = Counter(name for bundle in BUNDLES.values() for name in bundle.recipes if name in RECIPES)
    assert homes == Counter(dict.fromkeys(RECIPES, 1))


@pytest.mark.parametrize("bundle", BUNDLES.values(), ids=lambda bundle: bundle.name)
def test_bundles_can_be_planned(bundle: Bundle) -> None:
    plan = make_plan([bundle.name], BUNDLES, RECIPES, SEED, parse_target())
    assert set(required(bundle.name, BUNDLES)) <= set(plan.bundles)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_recipes_are_whole(recipe: Recipe) -> None:
    assert recipe.summary and recipe.homepage and recipe.license
    for source in recipe.sources:
        # Upstream's servers come and go; Debian's snapshot archive keeps what it once had.
        assert any(url.startswith(("debian:", "pypi:")) for url in source.urls), source.urls
        if not source.directory.startswith("wheels/"):
            assert all(recipe.version.split("+")[0] in url or "debian:" in url for url in source.urls)


def test_ansible_has_the_version_of_its_lock() -> None:
    versions = {wheel.project: wheel.version for wheel in LOCKED}
    assert versions["ansible-core"] == RECIPES["ansible"].version == BUNDLES["ansible"].version
    assert len(RECIPES["ansible"].sources) == len(LOCKED)


@pytest.mark.parametrize("bundle", BUNDLES.values(), ids=lambda bundle: bundle.name)
def test_commands_are_exported_once(bundle: Bundle) -> None:
    others = [BUNDLES[name] for name in required(bundle.name, BUNDLES)]
    names = [Path(command).name for one in (bundle, *others) for command in one.commands]
    assert [name for name, times in Counter(names).items() if times > 1] == []


def test_what_is_not_verified_can_be_planned() -> None:
    """The recipes of ``unverified`` are read like the others, and only a user who names them sees them."""
    unverified = CHECKOUT / "unverified"
    recipes = {path.parent.name: read_recipe(path) for path in unverified.glob("recipes/*/recipe.toml")}
    bundles = {path.stem: read_bundle(path) for path in unverified.glob("images/*.toml")}
    assert recipes and not set(recipes) & set(RECIPES)
    for name, bundle in bundles.items():
        # The bundle of the same name, with recipes more: its other recipes and exports do not drift apart.
        assert set(bundle.recipes) == {*BUNDLES[name].recipes, *recipes}
        assert set(BUNDLES[name].commands) <= set(bundle.commands)
        assert bundle.requires == BUNDLES[name].requires
        plan = make_plan([name], {**BUNDLES, **bundles}, {**RECIPES, **recipes}, SEED, parse_target())
        assert set(recipes) <= {node.recipe.name for node in plan.nodes.values()}
        page = (unverified / "README.md").read_text()
        assert all(f"| `{recipe}` |" in page for recipe in recipes)
