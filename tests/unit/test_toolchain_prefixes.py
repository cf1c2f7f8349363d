"""What the recipes of toolchains name is there when they are built.  Nothing is built for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bundler.catalogue import Catalogue
from bundler.plan import make_plan
from bundler.target import parse_target

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("toolchain", "root"), [("seed", "/.deps"), ("stage", "/.stage"), ("source", "/.deps")]
)
def test_prefixes_that_recipes_name_are_in_reach(toolchain: str, root: str) -> None:
    """A part of the runtime knows no prefix but its own; one of two bundles has no prefix of its own."""
    catalogue = Catalogue(
        recipes=[CHECKOUT / "recipes"], images=[CHECKOUT / "images"], toolchains=CHECKOUT / "toolchain"
    )
    bundles = {name: catalogue.bundle(name) for name in ("runtime", "toolchain")}
    plan = make_plan(list(bundles), bundles, {}, catalogue.toolchain(toolchain), parse_target("x86_64", root))
    missing = []
    for node in plan.nodes.values():
        texts = [*node.recipe.environment.values(), *(step.script for step in node.recipe.steps)]
        named = {name for text in texts for name in re.findall(r"\$\{?(BUNDLE_\w+|PREFIX)", text)}
        known = {f"BUNDLE_{bundle.upper()}" for bundle, _ in node.reach}
        missing += [
            (node.id, name) for name in named - known - ({"PREFIX"} if len(node.outputs) == 1 else set())
        ]
    assert missing == []
