"""From a node of the plan to the request that builds it: what it sees, where, and how it is relocated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bundler.build_request import BuildRequest, Dependency, OutputSpec
from bundler.digest import Digest
from bundler.key import installed_key, key_of
from bundler.plan import RUNTIME, Node, NodeOutput, Plan
from bundler.recipe import LockedPackage, Source
from bundler.relocate import Context
from bundler.relocation import Place, command_table, relocate_tree
from bundler.store import Store
from bundler.tree import DirectoryTree, FileTree, UnionTree


def package_source(package: LockedPackage) -> Source:
    """A package of a lock as a source that can be fetched."""
    return Source((f"debian:{package.path}",), package.digest, unpack="none")


def request_for(
    node: Node,
    inputs: Mapping[str, Any],
    plan: Plan,
    store: Store,
    outputs: Mapping[str, Mapping[str, Digest]],
    *,
    buildroot: Path,
    sources: Sequence[tuple[Source, Path]],
    packages: Sequence[Path],
) -> BuildRequest:
    """The request for ``node``, whose keys are made of ``inputs``.

    ``outputs`` holds the trees by prefix of every node that it sees.
    """
    seen = [plan.nodes[name] for name in node.sees]
    dependencies = tuple(
        Dependency(other.recipe.name, prefix, digest)
        for other in seen
        for prefix, digest in sorted(outputs[other.id].items())
    )
    linked = _prefixes(other for other in seen if not other.bootstraps)
    # A toolchain's own tools go before those of the toolchain that builds it.
    own = [other for other in seen if other.target == node.target]
    basic = {output.prefix for other in seen for output in other.outputs if output.bundle == RUNTIME}
    tools = [prefix for prefix in _prefixes([*own, *seen]) if prefix not in linked and prefix not in basic]
    return BuildRequest(
        recipe=node.recipe,
        key=key_of(inputs),
        installed_key=installed_key(inputs),
        prefix=node.prefix,
        outputs=tuple(OutputSpec(output.bundle, output.prefix, output.globs) for output in node.outputs),
        bundles=dict(node.reach),
        dependencies=dependencies,
        search=tuple(reversed(linked)),
        path_directories=tuple(f"{prefix}/bin" for prefix in (*reversed(linked), *tools)),
        target=node.target,
        buildroot=buildroot,
        sources=tuple(sources),
        packages=tuple(packages),
        relocate=_relocation(node, store, dependencies),
    )


def _prefixes(nodes: Iterable[Node]) -> list[str]:
    """Prefixes of all outputs of the nodes, each once, in order."""
    found: dict[str, None] = {}
    for node in nodes:
        found.update(dict.fromkeys(output.prefix for output in node.outputs))
    return list(found)


def _relocation(
    node: Node, store: Store, dependencies: Sequence[Dependency]
) -> Callable[[Path], Sequence[str]]:
    """The step that makes an installed tree run from its prefix; returns files that name the build."""

    def relocate(dest: Path) -> Sequence[str]:
        by_prefix: dict[str, list[Digest]] = {}
        for dependency in dependencies:
            by_prefix.setdefault(dependency.prefix, []).append(dependency.digest)
        seen = UnionTree(
            [DirectoryTree(store.union(trees), at=prefix.strip("/")) for prefix, trees in by_prefix.items()]
        )
        everything = UnionTree([DirectoryTree(dest), seen])
        loader = node.target.architecture.loader
        places = [Place(output.prefix, _context(output, loader, everything)) for output in node.outputs]
        # No other than those that its key tells of.
        bundles = dict(node.reach) | {output.bundle: output.prefix for output in node.outputs}
        done = relocate_tree(
            dest,
            places,
            edits=node.recipe.literals,
            bundles=bundles,
            deps_root=node.target.root,
            dependencies=seen,
            core=node.bootstraps,
        )
        return done.leaks

    return relocate


def _context(output: NodeOutput, loader: str, tree: FileTree) -> Context:
    """What relocation knows at one prefix: library directories name the prefixes in reach, basic first."""
    prefixes = tuple(directory.removesuffix("/lib") for directory in output.rpath)
    return Context(
        loader=f"{output.rpath[0]}/{loader}",
        rpath=output.rpath,
        prefixes=prefixes,
        commands=command_table(tuple(reversed(prefixes)), tree),
    )
