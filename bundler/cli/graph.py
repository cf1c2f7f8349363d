"""``bundle graph``: the dependency graph as a picture or as text."""

from __future__ import annotations

import argparse
from pathlib import Path

from bundler import graph
from bundler.cli import common
from bundler.errors import ExitCode

NAME = "graph"
GROUP = "look"
SUMMARY = "draw what depends on what, as text or SVG"
EPILOG = """\
examples:
  bundle graph gitartifact
  bundle graph --output shell.svg shell
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", help="bundle to draw")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the picture here (SVG)")
    parser.add_argument("--toolchain-too", action="store_true", help="draw the toolchain's recipes, too")
    common.add_inputs(parser)


def run(arguments: argparse.Namespace) -> int:
    settings = common.settings(arguments)
    plan = common.plan(settings, common.catalogue(settings), arguments.bundles)
    nodes = [
        graph.GraphNode(
            node.id,
            node.recipe.name,
            node.id.partition("/")[0],
            f"{node.recipe.name} {node.recipe.version} · {node.prefix}",
        )
        for node in plan.nodes.values()
        if arguments.toolchain_too or not node.bootstraps
    ]
    edges = {node.id: node.direct for node in plan.nodes.values()}
    if arguments.output is None:
        print(graph.to_text(nodes, edges), end="")
        return ExitCode.DONE
    common.write_text(arguments.output, graph.to_svg(nodes, edges, " ".join(arguments.bundles)))
    return ExitCode.DONE
