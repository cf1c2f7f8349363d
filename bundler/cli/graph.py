"""``bundle graph``: the dependency graph as a picture or as text."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
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
  bundle graph --libraries --output libraries.svg shell
"""

Drawn = tuple[Sequence[graph.GraphNode], Mapping[str, Sequence[str]]]
"""Boxes, what is needed before what needs it, and edges by the ids of the boxes."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", help="bundle to draw")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write the picture here (SVG)")
    parser.add_argument("--toolchain-too", action="store_true", help="draw the toolchain's recipes, too")
    parser.add_argument(
        "--libraries",
        action="store_true",
        help="draw which program and library loads which, of built bundles",
    )
    common.add_inputs(parser)


def run(arguments: argparse.Namespace) -> int:
    nodes, edges = _libraries(arguments) if arguments.libraries else _recipes(arguments)
    if arguments.output is None:
        print(graph.to_text(nodes, edges), end="")
        return ExitCode.DONE
    common.write_text(arguments.output, graph.to_svg(nodes, edges, " ".join(arguments.bundles)))
    return ExitCode.DONE


def _recipes(arguments: argparse.Namespace) -> Drawn:
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
    return nodes, edges


def _libraries(arguments: argparse.Namespace) -> Drawn:
    from bundler.closure.users import library_graph
    from bundler.engine import connect
    from bundler.subject import Opener, gather

    nodes: dict[str, graph.GraphNode] = {}
    edges: dict[str, tuple[str, ...]] = {}
    with ExitStack() as stack:
        opener = Opener(stack, arguments.out, connect)
        subjects = [opener.open(name) for name in arguments.bundles]
        for subject in subjects:
            judged = gather(subject, opener, subjects, ())
            owners = {one.prefix: one.name for one in (subject, *judged.required)}
            found = library_graph(judged.tree, judged.scope)
            for path in found.objects:
                owner = next((name for prefix, name in owners.items() if path.startswith(prefix + "/")), "")
                nodes.setdefault(path, graph.GraphNode(path, path.rpartition("/")[2], owner, path))
                edges[path] = found.needs[path] or edges.get(path, ())
    return list(nodes.values()), edges
