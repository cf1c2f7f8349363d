"""Which components share a layer, so that a client fetches as little as possible at each update.

A layer is fetched anew when any of its members changed.  Its expected cost is its size times the chance
of that, taken half from how often its members did change together and half from their rates as if they
were independent: the first knows that a project's packages move at once, the second what has not happened
yet.  Layers are merged greedily to the budget, or the largest stand alone, and members are moved while that
helps; the cheaper of the two outcomes is taken.

Later plans begin with the former one, which is an input like any other: a member moves only if what that
saves over the updates to come is more than what it makes clients fetch now.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from bundler.errors import InputError

HALF_LIFE = 26.0
"""Weeks after which an update counts half as much."""
HORIZON = 12
"""Updates over which a move has to pay."""
_PRIOR = 3.0
"""Periods' worth of evidence that the mean rate counts for."""
_LEAST = 0.01
"""Updates per period that the mean component is taken to have at least, where no history says more."""
_SWEEPS = 20


@dataclass(frozen=True, slots=True)
class Component:
    """What is updated as one.  ``size`` in bytes; ``updates`` are the periods in which it changed."""

    name: str
    size: int
    updates: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """Layers as sets of component names, in the order in which they are stacked."""

    layers: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class History:
    """Periods of ``weeks`` weeks each, numbered from 0, of which ``periods`` have passed."""

    periods: int
    weeks: float = 2.0

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """Weight of each period, oldest first; they add up to 1."""
        raw = [0.5 ** ((self.periods - 1 - at) * self.weeks / HALF_LIFE) for at in range(self.periods)]
        total = sum(raw)
        return tuple(weight / total for weight in raw)

    @cached_property
    def _bytes(self) -> tuple[tuple[float, ...], ...]:
        """Weight of every value of every byte of a bit mask."""
        padded = [*self.weights, *([0.0] * (-self.periods % 8))]
        return tuple(
            tuple(sum(padded[at + bit] for bit in range(8) if value >> bit & 1) for value in range(256))
            for at in range(0, len(padded), 8)
        )

    def share(self, mask: int) -> float:
        """Weighted share of the periods in a bit mask."""
        total = 0.0
        for table in self._bytes:
            total += table[mask & 255]
            mask >>= 8
        return total

    @cached_property
    def evidence(self) -> float:
        """How many periods the weights amount to."""
        return 1 / max(self.weights) if self.weights else 0.0


@dataclass(slots=True)
class _Layer:
    """A layer under construction: totals of its members."""

    members: set[int] = field(default_factory=set)
    size: int = 0
    mask: int = 0
    rate: float = 0.0


class Planner:
    """Plans over one set of components; every result is a function of the arguments alone."""

    def __init__(self, components: Iterable[Component], history: History, budget: int) -> None:
        if budget < 1:
            raise InputError(f"a budget of {budget} layers")
        self.components = sorted(components, key=lambda component: component.name)
        self._number = {component.name: at for at, component in enumerate(self.components)}
        if len(self._number) != len(self.components):
            raise InputError("two components have one name")
        self._history = history
        self._budget = budget
        self._masks = [
            sum(1 << at for at in component.updates if at < history.periods) for component in self.components
        ]
        shares = [history.share(mask) for mask in self._masks]
        mean = max(sum(shares) / max(len(shares), 1), _LEAST)
        known = history.evidence
        smooth = [(share * known + mean * _PRIOR) / (known + _PRIOR) for share in shares]
        self._rates = [-math.log1p(-min(rate, 0.999)) for rate in smooth]

    def first(self) -> Plan:
        """A plan without memory."""
        everything = frozenset(range(len(self.components)))
        merged = self._merge([self._layer([at]) for at in everything])
        by_size = sorted(everything, key=lambda at: (-self.components[at].size, at))
        alone = [self._layer([at]) for at in by_size[: self._budget - 1]]
        rest = by_size[self._budget - 1 :]
        starts = [merged, [*alone, self._layer(rest)] if rest else alone]
        for layers in starts:
            self._improve(layers, dirty=everything)
        return self._plan(min(starts, key=lambda layers: sum(map(self._cost, layers))))

    def next(self, former: Plan, changed: Collection[str]) -> Plan:
        """A plan that begins with a former one; ``changed`` are the components that differ since then."""
        layers: list[_Layer] = []
        placed: set[int] = set()
        for names in former.layers:
            members = [self._number[name] for name in names if name in self._number]
            fresh = [at for at in members if at not in placed]
            if fresh:
                layers.append(self._layer(fresh))
                placed.update(fresh)
        new = [at for at in range(len(self.components)) if at not in placed]
        for at in sorted(new, key=lambda at: (-self.components[at].size, at)):
            layers.append(self._layer([at]))
        layers = self._merge(layers)
        dirty = {self._number[name] for name in changed if name in self._number} | set(new)
        self._improve(layers, dirty=frozenset(dirty))
        return self._plan(layers)

    def cost(self, plan: Plan) -> float:
        """Bytes that an update is expected to fetch."""
        return sum(self._cost(self._layer([self._number[name] for name in names])) for names in plan.layers)

    def _layer(self, members: Iterable[int]) -> _Layer:
        layer = _Layer()
        for at in members:
            self._add(layer, at)
        return layer

    def _add(self, layer: _Layer, at: int) -> None:
        layer.members.add(at)
        layer.size += self.components[at].size
        layer.mask |= self._masks[at]
        layer.rate += self._rates[at]

    def _cost(self, layer: _Layer) -> float:
        return self._cost_of(layer.size, layer.mask, layer.rate)

    def _cost_of(self, size: int, mask: int, rate: float) -> float:
        return size * 0.5 * (self._history.share(mask) - math.expm1(-rate))

    def _joined(self, one: _Layer, other: _Layer) -> float:
        return self._cost_of(one.size + other.size, one.mask | other.mask, one.rate + other.rate)

    def _merge(self, layers: list[_Layer]) -> list[_Layer]:
        """Merge the two layers whose union costs the least more, until the budget is kept."""
        if len(layers) <= self._budget:
            return layers
        alive = dict(enumerate(layers))
        costs = {number: self._cost(layer) for number, layer in alive.items()}
        heap = [
            (self._joined(alive[one], alive[other]) - costs[one] - costs[other], one, other)
            for one in alive
            for other in range(one + 1, len(layers))
        ]
        heapq.heapify(heap)
        number = len(layers)
        while len(alive) > self._budget:
            _, one, other = heapq.heappop(heap)
            if one not in alive or other not in alive:
                continue
            merged = self._layer(alive.pop(one).members | alive.pop(other).members)
            cost = self._cost(merged)
            for at, layer in alive.items():
                heapq.heappush(heap, (self._joined(layer, merged) - costs[at] - cost, at, number))
            alive[number], costs[number] = merged, cost
            number += 1
        return list(alive.values())

    def _improve(self, layers: list[_Layer], *, dirty: frozenset[int]) -> None:
        """Move members one by one to where they cost less, as long as a move pays for what it stirs up.

        ``dirty`` are members whose layers are fetched now in any case.
        """
        fetched = [bool(layer.members & dirty) for layer in layers]
        costs = [self._cost(layer) for layer in layers]
        for _ in range(_SWEEPS):
            moved = False
            for at in range(len(self.components)):
                home = next(number for number, layer in enumerate(layers) if at in layer.members)
                rest = self._layer(layers[home].members - {at})
                saved = costs[home] - self._cost(rest)
                best, best_gain = home, 1e-6
                for number, layer in enumerate(layers):
                    if number == home:
                        continue
                    joined = self._cost_of(
                        layer.size + self.components[at].size,
                        layer.mask | self._masks[at],
                        layer.rate + self._rates[at],
                    )
                    gain = (saved - (joined - costs[number])) * HORIZON
                    gain -= 0 if fetched[home] else rest.size
                    gain -= 0 if fetched[number] else layer.size + self.components[at].size
                    if gain > best_gain:
                        best, best_gain = number, gain
                if best != home:
                    layers[home] = rest
                    self._add(layers[best], at)
                    for number in (home, best):
                        costs[number] = self._cost(layers[number])
                        fetched[number] = True
                    moved = True
            if not moved:
                break

    def _plan(self, layers: Sequence[_Layer]) -> Plan:
        """Layers that rarely change come first: engines share layers only from the bottom up."""
        filled = [layer for layer in layers if layer.members]
        order = sorted(filled, key=lambda layer: (self._cost(layer) / max(layer.size, 1), min(layer.members)))
        return Plan(tuple(tuple(self.components[at].name for at in sorted(layer.members)) for layer in order))


def refetched(plan: Plan, former: Plan | None, sizes: Mapping[str, int], changed: Collection[str]) -> int:
    """Bytes that a client with the former plan's layers fetches for this one."""
    known = set(former.layers) if former else set()
    touched = set(changed)
    return sum(
        sum(sizes[name] for name in layer)
        for layer in plan.layers
        if layer not in known or touched.intersection(layer)
    )
