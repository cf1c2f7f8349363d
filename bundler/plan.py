"""Which nodes a set of bundles needs, and in what order.

Pure: from recipes and bundles to a graph.  A *node* is one recipe built for one prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bundler.errors import BundleError, InputError, raise_all
from bundler.recipe import Bundle, Recipe, Step, Toolchain
from bundler.target import Target

RUNTIME = "runtime"
TOOLCHAIN = "toolchain"
FINISH = "finish"
"""Name of the node that stands for a bundle's finishing steps."""


@dataclass(frozen=True, slots=True)
class NodeOutput:
    """Where a part of a node goes: globs relative to the prefix of a bundle."""

    bundle: str
    prefix: str
    globs: tuple[str, ...]
    rpath: tuple[str, ...]
    """Library directories of that bundle: the runtime's, then those of required bundles, then its own."""


@dataclass(frozen=True, slots=True)
class Node:
    """One recipe at one prefix.  Names of other nodes are their ``id``."""

    id: str
    recipe: Recipe
    prefix: str
    outputs: tuple[NodeOutput, ...]
    direct: tuple[str, ...]
    """What the recipe names in ``depends``."""
    sees: tuple[str, ...]
    """Every node whose outputs the build sees, in plan order."""
    reach: tuple[tuple[str, str], ...]
    """(bundle, prefix) pairs for the ``BUNDLE_<NAME>`` variables, in order of requirement."""
    bootstraps: bool
    """It is part of a toolchain: it sees the one that builds that, if there is one, and not its own."""
    target: Target
    """Where it goes: a toolchain that builds the toolchain has a root of its own."""


@dataclass(frozen=True, slots=True)
class PlannedBundle:
    """A bundle with its place; ``nodes`` give its files, one layer each, in this order."""

    bundle: Bundle
    prefix: str
    requires: tuple[str, ...]
    """All bundles that it requires, also through others, the runtime first."""
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Nodes and bundles, both in an order in which they can be built."""

    target: Target
    nodes: Mapping[str, Node]
    bundles: Mapping[str, PlannedBundle]

    def heights(self) -> dict[str, int]:
        """For each node the length of the longest chain of nodes that wait for it, itself included."""
        found: dict[str, int] = {}
        for node in reversed(list(self.nodes.values())):
            height = found.setdefault(node.id, 1)
            for other in node.direct:
                found[other] = max(found.get(other, 1), height + 1)
        return found


def make_plan(
    wanted: Sequence[str],
    bundles: Mapping[str, Bundle],
    recipes: Mapping[str, Recipe],
    toolchain: Toolchain,
    target: Target,
) -> Plan:
    """The plan for ``wanted`` bundles and all that they need.

    Raises InputError (all problems at once) for unknown names, cycles and conflicting prefixes.
    """
    _check_machine(toolchain, target)
    order = _bundle_order(wanted, bundles)
    listed = [name for bundle in order for name in bundles[bundle].recipes]
    if any(name not in toolchain.recipes or toolchain.recipes[name].outputs for name in listed):
        # Whatever is compiled needs the toolchain, although no image of it may be wanted; and a recipe
        # that the runtime and the toolchain share has files for both.
        order = _bundle_order([*wanted, *(n for n in (RUNTIME, TOOLCHAIN) if n in bundles)], bundles)
    has_toolchain = any(name in toolchain.recipes for bundle in order for name in bundles[bundle].recipes)
    builder = _builder(bundles, toolchain, target) if has_toolchain else {}
    return _Planner(order, bundles, recipes, toolchain, target, builder).plan(wanted)


def _builder(bundles: Mapping[str, Bundle], toolchain: Toolchain, target: Target) -> Mapping[str, Node]:
    """Nodes of the toolchain that builds ``toolchain``, and of those that build it, by ids of their own."""
    builder = toolchain.bootstrap
    if builder is None:
        return {}
    if builder.bootstrap_root == target.root:
        raise InputError(
            f"the root {target.root!r} is where the toolchain {builder.name!r} lies while it builds",
            hint="choose another --root",
        )
    place = Target(target.architecture, builder.bootstrap_root)
    plan = make_plan([TOOLCHAIN], bundles, {}, builder, place)

    def name(node: str) -> str:
        return node if "@" in node else f"{node}@{builder.name}"

    return {
        name(node.id): replace(
            node,
            id=name(node.id),
            direct=tuple(map(name, node.direct)),
            sees=tuple(map(name, node.sees)),
        )
        for node in plan.nodes.values()
    }


def _check_machine(toolchain: Toolchain, target: Target) -> None:
    """Raise InputError where the packages that a toolchain is made of, or runs in, are another machine's."""
    have = {package.architecture for package in (*toolchain.lock.packages, *toolchain.buildroot.packages)}
    foreign = sorted(have - {target.architecture.debian, "all"})
    if foreign:
        raise InputError(
            f"the toolchain {toolchain.name!r} is not for {target.architecture.name}",
            why=f"its lock files pin packages for {', '.join(foreign)}, not {target.architecture.debian}",
            hint="build on and for the machine that the packages are for",
        )


def required(name: str, bundles: Mapping[str, Bundle]) -> tuple[str, ...]:
    """All bundles that ``name`` requires, also through others, most basic first."""
    return tuple(found for found in _bundle_order([name], bundles) if found != name)


def _bundle_order(wanted: Sequence[str], bundles: Mapping[str, Bundle]) -> tuple[str, ...]:
    return tuple(_depth_first(wanted, lambda name: bundles[name].requires, "bundle", bundles))


def _depth_first(wanted: Sequence[str], edges: Any, what: str, known: Mapping[str, Any]) -> Iterator[str]:
    """Post-order over ``edges``, without recursion, naming unknown names and cycles with their path."""
    done: set[str] = set()
    for start in wanted:
        path: list[tuple[str, Iterator[str]]] = []
        on_path: dict[str, None] = {}

        def enter(name: str, path: Any = path, on_path: Any = on_path) -> None:
            chain = " → ".join([*on_path, name])
            if name not in known:
                asks = known[next(reversed(on_path))] if on_path else None
                raise InputError(
                    f"there is no {what} {name!r}",
                    where=str(asks.path) if isinstance(asks, Bundle) else None,
                    at=("requires", name),
                    why=f"asked for by {chain}" if on_path else None,
                    hint=_close(name, known),
                )
            if name in on_path:
                cycle = [*list(on_path)[list(on_path).index(name) :], name]
                raise InputError(
                    f"{what}s depend on each other in a circle: {' → '.join(cycle)}",
                    hint="one of them must do without the other",
                )
            on_path[name] = None
            path.append((name, iter(edges(name))))

        if start in done:
            continue
        enter(start)
        while path:
            name, rest = path[-1]
            following = next((n for n in rest if n not in done), None)
            if following is not None:
                enter(following)
                continue
            path.pop()
            del on_path[name]
            done.add(name)
            yield name


def _close(name: str, known: Mapping[str, Any]) -> str | None:
    import difflib

    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(sorted(known)[:20])


class _Planner:
    """Holds the tables while one plan is made."""

    def __init__(
        self,
        order: Sequence[str],
        bundles: Mapping[str, Bundle],
        recipes: Mapping[str, Recipe],
        toolchain: Toolchain,
        target: Target,
        builder: Mapping[str, Node],
    ) -> None:
        self.builder = builder
        self.order = tuple(order)
        self.bundles = bundles
        self.recipes = recipes
        self.toolchain = toolchain
        self.target = target
        self.prefixes = {name: target.prefix(bundles[name].short, bundles[name].compat) for name in order}
        self.required = {name: required(name, bundles) for name in order}
        self.homes = self._homes()

    def plan(self, wanted: Sequence[str]) -> Plan:
        self._check_bundles()
        ids = {home: f"{home[0]}/{home[1]}" for home in dict.fromkeys(self.homes.values())}
        direct: dict[str, tuple[str, ...]] = {}
        build_only: dict[str, tuple[str, ...]] = {}
        problems: list[BundleError] = []
        for bundle, recipe_name in ids:
            recipe = self._recipe(recipe_name)
            name = ids[bundle, recipe_name]
            direct[name] = tuple(self._locate(bundle, recipe, recipe.depends, problems))
            build_only[name] = tuple(self._locate(bundle, recipe, recipe.build_depends, problems))
        raise_all(problems)
        base = tuple(name for home, name in ids.items() if home[1] in self.toolchain.recipes)

        def edges(name: str) -> tuple[str, ...]:
            implied = () if name in base else base
            return (*implied, *direct[name], *build_only[name])

        order = list(_depth_first(list(direct), edges, "recipe", direct))
        homes = {name: home for home, name in ids.items()}
        nodes = dict(self.builder)
        for name in order:
            seen: set[str] = set() if name in base else set(base)
            for dependency in (*direct[name], *build_only[name]):
                seen |= {dependency, *self._linked(dependency, direct)}
            nodes[name] = self._node(homes[name], name, direct[name], seen, order, name in base)
        for bundle in self.order:
            if self.bundles[bundle].finishes:
                finish = self._finish(bundle, order, nodes)
                nodes[finish.id] = finish
                order.append(finish.id)
        planned = {
            bundle: PlannedBundle(
                bundle=self.bundles[bundle],
                prefix=self.prefixes[bundle],
                requires=self.required[bundle],
                nodes=tuple(n for n in order if any(o.bundle == bundle for o in nodes[n].outputs)),
            )
            for bundle in self.order
        }
        return Plan(self.target, nodes, planned)

    def _recipe(self, name: str) -> Recipe:
        return self.toolchain.recipes.get(name) or self.recipes[name]

    def _known(self, name: str) -> bool:
        return name in self.toolchain.recipes or name in self.recipes

    def _close_recipe(self, name: str) -> str | None:
        return _close(name, dict.fromkeys([*self.recipes, *self.toolchain.recipes]))

    def _homes(self) -> dict[tuple[str, str], tuple[str, str]]:
        """For each (bundle, recipe) listed: the (bundle, recipe) under which it is built once."""
        homes: dict[tuple[str, str], tuple[str, str]] = {}
        for bundle in self.order:
            for name in self.bundles[bundle].recipes:
                if not self._known(name):
                    continue
                outputs = self._recipe(name).outputs
                if outputs:
                    homes[bundle, name] = (outputs[0].bundle, name)
                    continue
                above = next((b for b in self.required[bundle] if (b, name) in homes), None)
                homes[bundle, name] = homes[above, name] if above else (bundle, name)
        return homes

    def _check_bundles(self) -> None:
        problems: list[BundleError] = []
        for bundle in self.order:
            file = self.bundles[bundle]
            for name in file.recipes:
                if not self._known(name):
                    problems.append(
                        InputError(
                            f"bundle {bundle!r} lists the recipe {name!r}, which does not exist",
                            where=str(file.path),
                            at=("recipes", name),
                            hint=self._close_recipe(name),
                        )
                    )
                    continue
                named = [output.bundle for output in self._recipe(name).outputs]
                if named and bundle not in named:
                    problems.append(
                        InputError(
                            f"bundle {bundle!r} lists {name!r}, which has no [output.{bundle}]",
                            where=str(self._recipe(name).path),
                            at=("output",),
                            why="its outputs are " + ", ".join(named),
                        )
                    )
                problems += [
                    InputError(
                        f"the recipe {name!r} has an output for {other!r}, which is no bundle here",
                        where=str(self._recipe(name).path),
                        at=("output", other),
                    )
                    for other in named
                    if other not in self.prefixes
                ]
            if bundle != RUNTIME and RUNTIME in self.bundles and RUNTIME not in self.required[bundle]:
                problems.append(
                    InputError(
                        f"bundle {bundle!r} does not require {RUNTIME!r}",
                        where=str(file.path),
                        at=("requires",),
                        hint=f'requires = ["{RUNTIME}"]',
                    )
                )
            for other in self.required[bundle]:
                if self.prefixes[other] == self.prefixes[bundle]:
                    problems.append(
                        InputError(
                            f"bundles {other!r} and {bundle!r} have one prefix, {self.prefixes[bundle]}",
                            where=str(file.path),
                            at=("short",),
                        )
                    )
        raise_all(problems)

    def _locate(
        self, bundle: str, recipe: Recipe, names: Sequence[str], problems: list[BundleError]
    ) -> Iterator[str]:
        """Ids of the nodes that ``names`` mean, as seen from a bundle."""
        for name in names:
            within = [bundle, *reversed(self.required[bundle]), *(o.bundle for o in recipe.outputs)]
            if self._recipe_is_basic(name):
                within += [TOOLCHAIN, RUNTIME]
            home = next((self.homes[b, name] for b in within if (b, name) in self.homes), None)
            if home is None:
                problems.append(
                    InputError(
                        f"{recipe.name!r} depends on {name!r}, which neither the bundle {bundle!r} "
                        "nor one that it requires holds",
                        where=str(recipe.path),
                        at=("depends" if name in recipe.depends else "build_depends", name),
                        why=None if self._known(name) else "there is no such recipe",
                        hint=f"add {name!r} to the recipes of {self.bundles[bundle].path.name}"
                        if self._known(name)
                        else self._close_recipe(name),
                    )
                )
                continue
            yield f"{home[0]}/{home[1]}"

    def _recipe_is_basic(self, name: str) -> bool:
        return name in self.toolchain.recipes

    def _linked(self, name: str, direct: Mapping[str, tuple[str, ...]]) -> set[str]:
        """All that ``name`` depends on, also through others."""
        found: set[str] = set()
        pending = [name]
        while pending:
            for dependency in direct[pending.pop()]:
                if dependency not in found:
                    found.add(dependency)
                    pending.append(dependency)
        return found

    def _node(
        self,
        home: tuple[str, str],
        name: str,
        direct: tuple[str, ...],
        seen: set[str],
        order: Sequence[str],
        bootstraps: bool,
    ) -> Node:
        bundle, recipe_name = home
        recipe = self._recipe(recipe_name)
        outputs = tuple(self._output(output.bundle, output.files) for output in recipe.outputs) or (
            self._output(bundle, ("**",)),
        )
        chain = self.toolchain.bootstrap
        builder = [n for n in self.builder if bootstraps and chain and n.endswith(f"@{chain.name}")]
        reach = dict.fromkeys(self.required[bundle])
        if recipe.outputs:
            reach |= dict.fromkeys(output.bundle for output in outputs)
        return Node(
            id=name,
            recipe=recipe,
            prefix=self.prefixes[bundle],
            outputs=outputs,
            direct=direct,
            sees=(*builder, *(other for other in order if other in seen)),
            reach=tuple((b, self.prefixes[b]) for b in reach),
            bootstraps=bootstraps,
            target=self.target,
        )

    def _finish(self, bundle: str, order: Sequence[str], nodes: Mapping[str, Node]) -> Node:
        """What is computed over all recipes of a bundle, as a node of its own that sees them all."""
        file = self.bundles[bundle]
        within = {bundle, *self.required[bundle], *(n for n in (RUNTIME, TOOLCHAIN) if n in self.prefixes)}
        seen = tuple(n for n in order if within & {output.bundle for output in nodes[n].outputs})
        own = tuple(n for n in seen if any(output.bundle == bundle for output in nodes[n].outputs))
        recipe = Recipe(
            name=FINISH,
            version=file.version,
            license="",
            path=file.path,
            steps=tuple(Step(finish.name, finish.script) for finish in file.finishes),
        )
        return Node(
            id=f"{bundle}/{FINISH}",
            recipe=recipe,
            prefix=self.prefixes[bundle],
            outputs=(self._output(bundle, ("**",)),),
            direct=own,
            sees=seen,
            reach=tuple((b, self.prefixes[b]) for b in self.required[bundle]),
            bootstraps=False,
            target=self.target,
        )

    def _output(self, bundle: str, globs: tuple[str, ...]) -> NodeOutput:
        libraries = (*self.required[bundle], bundle)
        return NodeOutput(
            bundle, self.prefixes[bundle], globs, tuple(f"{self.prefixes[b]}/lib" for b in libraries)
        )
