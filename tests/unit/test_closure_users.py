"""Who uses what: the ways to a file, and the graph of libraries."""

from __future__ import annotations

import inspect
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from closure_forge import Forged, write
from test_closure_verify import LIBA, PREFIX, RUNTIME, SCOPE, TOOL, sound

from bundler.closure.users import LibraryGraph, library_graph, uses
from bundler.tree import DirectoryTree


@pytest.mark.parametrize(
    ("what", "paths", "ways"),
    [
        (
            "liba.so.1",
            [f"{PREFIX}/lib/liba.so.1"],
            [(f"{PREFIX}/bin/tool", f"{PREFIX}/lib/liba.so.1")],
        ),
        ("bin/sh", [f"{RUNTIME}/bin/sh"], [(f"{PREFIX}/bin/script", f"{RUNTIME}/bin/sh")]),
        (
            f"{RUNTIME}/lib/libc.so.6",
            [f"{RUNTIME}/lib/libc.so.6"],
            [
                (f"{PREFIX}/bin/tool", f"{RUNTIME}/lib/libc.so.6"),
                (f"{PREFIX}/lib/liba.so.1", f"{RUNTIME}/lib/libc.so.6"),
            ],
        ),
        ("bin/tool", [f"{PREFIX}/bin/tool"], []),
        ("none.so", [], []),
    ],
)
def test_ways_lead_to_what_was_asked_for(
    what: str, paths: list[str], ways: list[tuple[str, ...]], tmp_path: Path
) -> None:
    sound(tmp_path)
    found = uses(DirectoryTree(tmp_path), SCOPE, what)
    assert list(found.paths) == paths
    assert list(found.ways) == ways


def test_a_library_that_is_missing_has_its_ways_too(tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    write(prefix / "lib/liba.so.1", replace(LIBA, needed=["libgone.so.4"]))
    found = uses(DirectoryTree(tmp_path), SCOPE, "libgone.so.4")
    assert found.paths == ()
    assert found.ways[0] == (f"{PREFIX}/bin/tool", f"{PREFIX}/lib/liba.so.1", "libgone.so.4 (not found)")


def test_the_graph_has_what_is_needed_first(tmp_path: Path) -> None:
    sound(tmp_path)
    loader = f"{RUNTIME}/lib/ld-linux-x86-64.so.2"
    libc, liba, tool = f"{RUNTIME}/lib/libc.so.6", f"{PREFIX}/lib/liba.so.1", f"{PREFIX}/bin/tool"
    assert library_graph(DirectoryTree(tmp_path), SCOPE) == LibraryGraph(
        (loader, libc, liba, tool), {loader: (), libc: (loader,), liba: (libc,), tool: (liba, libc)}
    )


def test_a_circle_loses_one_edge(tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    write(prefix / "lib/liba.so.1", replace(LIBA, needed=["libb.so.1"]))
    write(prefix / "lib/libb.so.1", replace(LIBA, soname="libb.so.1", needed=["liba.so.1"]))
    found = library_graph(DirectoryTree(tmp_path), SCOPE)
    a, b = f"{PREFIX}/lib/liba.so.1", f"{PREFIX}/lib/libb.so.1"
    assert (found.needs[a], found.needs[b]) in (((b,), ()), ((), (a,)))


def test_a_long_chain_needs_no_recursion(tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    for number in range(120):
        needed = [f"n{number + 1}.so"] if number < 119 else []
        spec = Forged(soname=f"n{number}.so", needed=needed, rpath=f"{PREFIX}/lib", nodeflib=True)
        write(prefix / f"lib/n{number}.so", spec)
    write(prefix / "bin/tool", replace(TOOL, needed=["n0.so"], versions_needed=()))
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 60)
    try:
        found = uses(DirectoryTree(tmp_path), SCOPE, "n119.so")
        drawn = library_graph(DirectoryTree(tmp_path), SCOPE)
    finally:
        sys.setrecursionlimit(limit)
    assert max(map(len, found.ways)) == 121
    assert len(drawn.objects) > 120
