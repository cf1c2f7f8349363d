"""``bundle shell``: look at a build from the inside."""

from __future__ import annotations

import argparse
import difflib

from bundler.cli import common
from bundler.errors import InputError
from bundler.pipeline import Pipeline
from bundler.progress import renderer

NAME = "shell"
GROUP = "build"
SUMMARY = "open a shell where the steps of a recipe would run"
EPILOG = """\
What the recipe depends on is built first. Its sources are unpacked and patched, its steps lie in
/build/steps: 'sh -eu /build/steps/01-configure' runs the first. What the shell changes is gone with it.

examples:
  bundle shell rsync
  bundle shell zlib --bundle libs
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="recipe to look at")
    parser.add_argument("--bundle", metavar="BUNDLE", help="as part of this bundle, where several hold it")
    parser.add_argument(
        "--sandbox",
        choices=("auto", "bubblewrap", "docker"),
        default="auto",
        help="how builds are kept apart from the machine (default: %(default)s)",
    )
    common.add_work(parser)
    common.add_inputs(parser)


def run(arguments: argparse.Namespace) -> int:
    settings = common.settings(arguments)
    bundles = common.catalogue(settings).bundles
    wanted = [arguments.bundle] if arguments.bundle else list(bundles)
    holders = [name for name in wanted if name not in bundles or arguments.recipe in bundles[name].recipes]
    if not holders:
        known = sorted({recipe for bundle in bundles.values() for recipe in bundle.recipes})
        close = difflib.get_close_matches(arguments.recipe, known, 1)
        raise InputError(
            f"no bundle holds the recipe {arguments.recipe!r}"
            if not arguments.bundle
            else f"the bundle {arguments.bundle!r} does not hold the recipe {arguments.recipe!r}",
            hint=f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(known),
        )
    with renderer(arguments.progress) as sink:
        pipeline = Pipeline(settings, holders[:1], sink)
        nodes = [node for node in pipeline.plan.nodes.values() if node.target == settings.target]
        return pipeline.visit(next(node.id for node in nodes if node.recipe.name == arguments.recipe))
