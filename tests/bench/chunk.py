"""A year and more of updates, simulated from the Debian changelogs of this machine's packages.

Every 14 or 30 days those components change that really did.  A client fetches each layer that holds one of
them, or that the plan made anew.  The bytes of all updates, as a share of the images', are what counts;
"one layer each" is the floor that no plan can go below.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from bundler.oci.chunk import Component, History, Plan, Planner, refetched
from bundler.oci.packages import read_packages, update_dates
from bundler.tree import DirectoryTree, Kind
from tests.bench.measure import Report

SUMMARY = "bytes that updates fetch, against layers by size, by popularity and by stability"
BUDGETS = (16, 32, 64)
_BEGINNING = date(2016, 1, 1)


@dataclass(frozen=True)
class Window:
    """Which components, over which time; ``days`` between two releases."""

    name: str
    sizes: Mapping[str, int]
    begin: date
    end: date
    days: int


Strategy = Callable[[Sequence[Component], History, int, Plan | None, Sequence[str]], Plan]


def ours(
    parts: Sequence[Component], history: History, budget: int, former: Plan | None, changed: Sequence[str]
) -> Plan:
    planner = Planner(parts, history, budget)
    return planner.first() if former is None else planner.next(former, changed)


def _ranked(key: Callable[[Component], float]) -> Strategy:
    """The first by some rank have layers of their own, the rest share the last one."""

    def plan(
        parts: Sequence[Component], history: History, budget: int, former: Plan | None, changed: Sequence[str]
    ) -> Plan:
        order = sorted(parts, key=lambda part: (key(part), part.name))
        alone = [(part.name,) for part in order[: budget - 1]]
        rest = tuple(sorted(part.name for part in order[budget - 1 :]))
        return Plan((*alone, rest) if rest else tuple(alone))

    return plan


def _tiers(
    parts: Sequence[Component], history: History, budget: int, former: Plan | None, changed: Sequence[str]
) -> Plan:
    """Layers of about one size, filled in the order of how seldom their members changed."""
    order = sorted(parts, key=lambda part: (len(part.updates), part.name))
    share = sum(part.size for part in parts) / budget
    layers: list[list[str]] = [[]]
    filled = 0.0
    for part in order:
        if filled >= share and len(layers) < budget:
            layers.append([])
            filled = 0.0
        layers[-1].append(part.name)
        filled += part.size
    return Plan(tuple(tuple(sorted(layer)) for layer in layers))


def run(report: Report) -> None:
    sizes, updates = _machine()
    popular = _popularity()
    strategies: Mapping[str, Strategy] = {
        "largest first": _ranked(lambda part: -part.size),
        "popularity": _ranked(lambda part: -popular[part.name]),
        "stability": _tiers,
        "ours": ours,
    }
    names = sorted(sizes)
    chance = random.Random(2022)

    def some(count: int) -> dict[str, int]:
        return {name: sizes[name] for name in chance.sample(names, min(count, len(names)))}

    recent = max(day for days in updates.values() for day in days)
    # Two years in which all packages were under development, and one of a stable release.
    years = [date(2020, 1, 1), date(2022, 1, 1), recent - timedelta(days=545)]
    windows = [
        Window(f"{label}, {begin} and a year, {days} days", chosen, begin, begin + timedelta(days=365), days)
        for label, chosen in (("all", sizes), ("150", some(150)), ("60", some(60)))
        for begin in years
        for days in (14, 30)
    ]
    report.line(
        f"  {len(sizes)} components, {sum(sizes.values()) / 1e6:.0f} MB; per cent of the image per update"
    )
    lost = 0
    for window in windows:
        for budget in BUDGETS:
            shares = {name: _simulate(window, updates, budget, plan) for name, plan in strategies.items()}
            floor = _simulate(window, updates, len(window.sizes), strategies["largest first"])
            best = min(share for name, share in shares.items() if name != "ours")
            lost += shares["ours"] > best * 1.001
            told = ", ".join(f"{name} {share:.1f}" for name, share in shares.items())
            report.line(f"  {window.name}, {budget} layers: floor {floor:.1f}, {told}")
    report.line(
        f"  rows in which another order was better: {lost} of {len(windows) * len(BUDGETS)} (goal: 0)"
    )


def _simulate(
    window: Window, updates: Mapping[str, frozenset[date]], budget: int, strategy: Strategy
) -> float:
    """Per cent of the image that an update fetches, on average over the window."""

    def period(day: date) -> int:
        return (day - _BEGINNING).days // window.days

    changes = {
        name: frozenset(period(day) for day in updates[name] if day >= _BEGINNING) for name in window.sizes
    }
    former: Plan | None = None
    fetched = total = 0
    for now in range(period(window.begin), period(window.end)):
        changed = [name for name in window.sizes if now in changes[name]]
        parts = [
            Component(name, size, frozenset(at for at in changes[name] if at <= now))
            for name, size in window.sizes.items()
        ]
        plan = strategy(parts, History(now + 1, window.days / 7), budget, former, changed)
        if former is not None:
            fetched += refetched(plan, former, window.sizes, changed)
            total += sum(window.sizes.values())
        former = plan
    return 100 * fetched / total


def _popularity() -> Counter[str]:
    """How many installed packages depend on each source package."""
    paragraphs = Path("/var/lib/dpkg/status").read_text("utf-8", "replace").split("\n\n")
    fields = [dict(line.partition(": ")[::2] for line in text.splitlines()) for text in paragraphs]
    sources = {
        item["Package"]: item.get("Source", item["Package"]).partition(" ")[0]
        for item in fields
        if "Package" in item
    }
    found: Counter[str] = Counter()
    for item in fields:
        names = re.split(r"[,|]", item.get("Depends", "") + "," + item.get("Pre-Depends", ""))
        wanted = {sources.get(name.strip().partition(" ")[0].partition(":")[0], "") for name in names}
        found.update(wanted)
    return found


def _machine() -> tuple[dict[str, int], dict[str, frozenset[date]]]:
    """Installed bytes and days of updates of this machine's source packages."""
    tree = DirectoryTree(Path("/"))
    packages = read_packages(tree)
    dates = {name: days for name, days in update_dates(tree, packages).items() if name in packages.changelogs}
    sizes: dict[str, int] = {}
    for path, name in packages.owners.items():
        if dates.get(name) and (entry := tree.get(path)) is not None and entry.kind is Kind.FILE:
            sizes[name] = sizes.get(name, 0) + entry.size + 512
    return sizes, {name: dates[name] for name in sizes}
