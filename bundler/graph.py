"""The dependency graph as a picture (SVG) and as text.  Pure: names and edges in, a document out.

The layout is the classic layered one (Sugiyama, Tagawa, Toda 1981): a node's column is the longest way
down to what it depends on; rows are ordered by the mean row of what a node is joined to, which untangles
most crossings of graphs as small as ours.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean as mean

COLUMN = 190
ROW = 30
BOX_WIDTH = 140
BOX_HEIGHT = 22
MARGIN = 24
SWEEPS = 8

COLOURS = ("#dbe9f6", "#e2f0d9", "#fdeada", "#ece2f3", "#fff5cc", "#dff2ef", "#f8dfe3", "#e9e9e9")


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A box: its text, the group that colours it (a bundle), and a remark shown on hovering."""

    id: str
    label: str
    group: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """``columns`` hold ids, what depends on nothing first; ``routes`` the ids that an edge passes.

    An edge over several columns passes a place of its own in each between, so that no box hides it.
    """

    columns: tuple[tuple[str, ...], ...]
    routes: Mapping[tuple[str, str], tuple[str, ...]]


def lay_out(nodes: Sequence[GraphNode], edges: Mapping[str, Sequence[str]]) -> Layout:
    """Columns and rows for the nodes, which must come in dependency order."""
    depth: dict[str, int] = {}
    for node in nodes:
        below = (depth[other] for other in edges.get(node.id, ()) if other in depth)
        depth[node.id] = 1 + max(below, default=-1)
    columns: list[list[str]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for node in nodes:
        columns[depth[node.id]].append(node.id)
    routes: dict[tuple[str, str], tuple[str, ...]] = {}
    joined: dict[str, list[str]] = {node.id: [] for node in nodes}
    for name in depth:
        for other in (other for other in edges.get(name, ()) if other in depth):
            between = range(depth[name] - 1, depth[other], -1)
            route = (name, *(f"{name} → {other} @ {column}" for column in between), other)
            for number, place in zip(between, route[1:-1], strict=True):
                columns[number].append(place)
            for one, two in pairwise(route):
                joined.setdefault(one, []).append(two)
                joined.setdefault(two, []).append(one)
            routes[name, other] = route
    for _ in range(SWEEPS):
        row = {name: float(index) for column in columns for index, name in enumerate(column)}
        for column in columns:
            column.sort(key=lambda name: mean(row[o] for o in joined[name]) if joined[name] else row[name])
            row.update({name: float(index) for index, name in enumerate(column)})
    return Layout(tuple(map(tuple, columns)), routes)


def to_svg(nodes: Sequence[GraphNode], edges: Mapping[str, Sequence[str]], title: str) -> str:
    """An SVG 1.1 document; arrows point from a node to what it depends on."""
    layout = lay_out(nodes, edges)
    placed = layout.columns
    by_id = {node.id: node for node in nodes}
    groups = list(dict.fromkeys(node.group for node in nodes))
    colour = {group: COLOURS[index % len(COLOURS)] for index, group in enumerate(groups)}
    tallest = max((len(column) for column in placed), default=1)
    legend = MARGIN + 24
    where: dict[str, tuple[float, float]] = {}
    for number, column in enumerate(placed):
        offset = (tallest - len(column)) * ROW / 2
        for row, name in enumerate(column):
            where[name] = (MARGIN + number * COLUMN, legend + MARGIN + offset + row * ROW)
    width = max(MARGIN * 2 + max(len(placed), 1) * COLUMN, MARGIN * 2 + len(groups) * 130)
    height = legend + MARGIN * 2 + tallest * ROW
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:.0f}" '
        f'viewBox="0 0 {width} {height:.0f}" font-family="sans-serif" font-size="12">',
        f"<title>{html.escape(title)}</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 8 4 0 8z" fill="#777"/></marker></defs>',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for index, group in enumerate(groups):
        left = MARGIN + index * 130
        lines.append(
            f'<rect x="{left}" y="{MARGIN}" width="14" height="14" fill="{colour[group]}" stroke="#888"/>'
        )
        lines.append(f'<text x="{left + 20}" y="{MARGIN + 12}">{html.escape(group)}</text>')
    for route in layout.routes.values():
        lines.append(f'<path d="{_curve(route, where)}" fill="none" stroke="#999" marker-end="url(#tip)"/>')
    for name, node in by_id.items():
        x, y = where[name]
        remark = f"<title>{html.escape(node.remark)}</title>" if node.remark else ""
        lines.append(
            f'<g>{remark}<rect x="{x}" y="{y:.1f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="4" '
            f'fill="{colour[node.group]}" stroke="#666"/>'
            f'<text x="{x + BOX_WIDTH / 2}" y="{y + 15:.1f}" text-anchor="middle">'
            f"{html.escape(node.label)}</text></g>"
        )
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


def _curve(route: Sequence[str], where: Mapping[str, tuple[float, float]]) -> str:
    """An SVG path from the left side of the first box through the places between to the last box."""
    x, y = where[route[0]][0], where[route[0]][1] + BOX_HEIGHT / 2
    path = f"M{x:.0f} {y:.1f}"
    for index, name in enumerate(route[1:], 2):
        right, level = where[name][0] + BOX_WIDTH, where[name][1] + BOX_HEIGHT / 2
        half = (x + right) / 2
        path += f" C{half:.1f} {y:.1f} {half:.1f} {level:.1f} {right:.0f} {level:.1f}"
        x, y = right, level
        if index < len(route):
            x = where[name][0]
            path += f" L{x:.0f} {y:.1f}"
    return path


def to_text(nodes: Sequence[GraphNode], edges: Mapping[str, Sequence[str]]) -> str:
    """Each node that nothing depends on as a tree; what was shown before is marked with ``…``."""
    by_id = {node.id: node for node in nodes}
    used = {other for node in nodes for other in edges.get(node.id, ())}
    lines: list[str] = []
    shown: set[str] = set()
    pending: list[tuple[str, str, str]] = [
        (node.id, "", "") for node in reversed(nodes) if node.id not in used
    ]
    while pending:
        name, lead, below = pending.pop()
        below_names = [other for other in edges.get(name, ()) if other in by_id]
        again = name in shown and bool(below_names)
        lines.append(f"{lead}{by_id[name].label}{' …' if again else ''}")
        if again:
            continue
        shown.add(name)
        for index, other in reversed(list(enumerate(below_names))):
            last = index == len(below_names) - 1
            pending.append(
                (other, below + ("└── " if last else "├── "), below + ("    " if last else "│   "))
            )
    return "\n".join(lines) + "\n"
