"""Which software a security advisory speaks of: by package URL, by CPE, or by name; and in which versions.

Pure.  The evaluation is that of OSV's schema ("Evaluation"): a version is affected if it is listed, or if it
lies in a range.  A range in a database's own numbering counts for the package of that database alone, so
Debian's for what came out of Debian, whose fixes are patches more often than releases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Literal
from urllib.parse import parse_qs, unquote

from bundler.osv import Advisory, Affected, Event, PackageUrl, Range, parse_purl
from bundler.versions import Order, compare, plain

By = Literal["purl", "cpe", "name"]

_BY_NAME = ("", "OSS-Fuzz", "Bitnami")
"""Ecosystems whose names are those of the projects themselves."""
_ANY = ("*", "-", "")


@dataclass(frozen=True, slots=True)
class Software:
    """One recipe's outcome, by the names that an advisory may have for it."""

    name: str
    version: str
    purls: tuple[str, ...] = ()
    cpe: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """An advisory that a piece of software is affected by.

    ``subject`` is what both name; ``fixed`` are the next versions that are said to be free of it, in the
    numbering of the advisory's own ecosystem.
    """

    advisory: Advisory
    software: Software
    by: By
    subject: str
    version: str
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Undecided:
    """An advisory that names a piece of software, but no versions that could be compared."""

    advisory: Advisory
    software: Software
    subject: str


@dataclass(frozen=True, slots=True)
class _Alias:
    """One name of a piece of software, and the version that it has under it."""

    software: Software
    by: By
    subject: str
    version: str
    native: Order
    """Order of the versions of the ecosystem that the name is of."""


class Index:
    """Software by all its names.  ``debian`` is the release whose advisories count, as in ``13``."""

    def __init__(self, software: Iterable[Software], debian: str) -> None:
        self._debian = debian
        self._aliases: dict[object, list[_Alias]] = {}
        for one in dict.fromkeys(software):
            for key, alias in _aliases(one):
                self._aliases.setdefault(key, []).append(alias)

    def judge(self, advisory: Advisory) -> list[Finding | Undecided]:
        """What the advisory means for each piece of software that it names; nothing for the others."""
        found: dict[Software, Finding] = {}
        undecided: dict[Software, Undecided] = {}
        if advisory.withdrawn:
            return []
        for affected in advisory.affected:
            for alias, cpe_version in self._named(affected):
                software = alias.software
                if software in found:
                    continue
                verdict = _verdict(alias, affected, cpe_version)
                if verdict is None:
                    undecided.setdefault(software, Undecided(advisory, software, alias.subject))
                elif verdict.affected:
                    found[software] = Finding(
                        advisory, software, alias.by, alias.subject, alias.version, verdict.fixed
                    )
        return [*found.values(), *(one for software, one in undecided.items() if software not in found)]

    def _named(self, affected: Affected) -> Iterator[tuple[_Alias, str]]:
        """The aliases that an entry names, each with the version that is part of the name itself."""
        ecosystem, _, release = affected.ecosystem.partition(":")
        if ecosystem == "Debian" and release not in ("", self._debian):
            return
        if affected.package:
            yield from ((alias, "") for alias in self._aliases.get(affected.package, ()))
        for cpe in affected.cpes:
            parts = cpe_parts(cpe)
            if parts:
                yield from ((alias, parts[2]) for alias in self._aliases.get(("cpe", *parts[:2]), ()))
        if ecosystem in _BY_NAME and affected.name:
            yield from ((alias, "") for alias in self._aliases.get(("name", affected.name.lower()), ()))


def _aliases(software: Software) -> Iterator[tuple[object, _Alias]]:
    """Keys of the index, those first that tell the most."""
    for text in software.purls:
        package = parse_purl(text)
        if package is None:
            continue
        body, _, query = text.partition("?")
        qualifiers = {name: values[0] for name, values in parse_qs(query.partition("#")[0]).items()}
        version = unquote(body.rpartition("@")[2]) if "@" in body else software.version
        native = {"deb": Order.DEBIAN, "pypi": Order.PYPI}.get(package.type, Order.UPSTREAM)
        if native is Order.DEBIAN:
            # Advisories name source packages; a rebuild without a change of the source adds "+b1".
            package = PackageUrl("deb", package.namespace, qualifiers.get("upstream", package.name))
            head, plus, count = version.rpartition("+b")
            version = head if plus and count.isdigit() else version
            native = Order.DEBIAN_SOURCE if qualifiers.get("arch") == "source" else native
        yield package, _Alias(software, "purl", text, version, native)
    if parts := cpe_parts(software.cpe):
        vendor, product, _ = parts
        alias = _Alias(software, "cpe", f"{vendor}:{product}", software.version, Order.UPSTREAM)
        yield ("cpe", vendor, product), alias
    named = ("name", software.name.lower())
    yield named, _Alias(software, "name", software.name, software.version, Order.UPSTREAM)


def cpe_parts(text: str) -> tuple[str, str, str] | None:
    """Vendor, product and version of a CPE, 2.3's formatted string or 2.2's URI; None for what is none."""
    text = text.replace("\\:", "\0")
    for start in ("cpe:2.3:", "cpe:/"):
        if text.startswith(start):
            parts = [part.replace("\0", ":") for part in text[len(start) :].split(":")]
            if len(parts) >= 3 and parts[1] and parts[2]:
                return parts[1].lower(), parts[2].lower(), parts[3] if len(parts) > 3 else ""
    return None


@dataclass(frozen=True, slots=True)
class _Verdict:
    affected: bool
    fixed: tuple[str, ...] = ()


def _verdict(alias: _Alias, affected: Affected, cpe_version: str) -> _Verdict | None:
    """Whether the version is affected; None where nothing says which versions are."""
    ranges = [item for item in affected.ranges if item.events]
    hit = False
    fixed: list[str] = []
    for item in ranges:
        order = _order(item, alias)
        if within(alias.version, item.events, order):
            hit = True
            fixed += _next_fixed(alias.version, item.events, order)
    if hit or _listed(alias, affected.versions):
        return _Verdict(True, tuple(dict.fromkeys(fixed)))
    if cpe_version not in _ANY:
        return _Verdict(plain(cpe_version) == plain(alias.version))
    return _Verdict(False) if ranges or affected.versions else None


def _order(item: Range, alias: _Alias) -> Order:
    return Order.SEMANTIC if item.type == "SEMVER" else alias.native


def _listed(alias: _Alias, versions: Sequence[str]) -> bool:
    if alias.native is Order.UPSTREAM:
        return plain(alias.version) in map(plain, versions)
    return alias.version in versions


def within(version: str, events: Sequence[Event], order: Order) -> bool:
    """Whether a version lies in a range, by the events of OSV's schema; without a beginning, from the first.

    ``0`` is before every version, and ``*`` as a limit after every one.
    """
    limits = [event.version for event in events if event.kind == "limit"]
    if limits and not any(limit == "*" or compare(version, limit, order) < 0 for limit in limits):
        return False
    inside = not any(event.kind == "introduced" for event in events)
    for event in _sorted(events, order):
        at = 1 if event.version == "0" else compare(version, event.version, order)
        if event.kind == "introduced" and at >= 0:
            inside = True
        elif (event.kind == "fixed" and at >= 0) or (event.kind == "last_affected" and at > 0):
            inside = False
    return inside


def _sorted(events: Sequence[Event], order: Order) -> list[Event]:
    # Bounds are versions of Debian's even where what is compared with them is not.
    own = Order.DEBIAN if order is Order.DEBIAN_SOURCE else order

    def by_version(one: Event, other: Event) -> int:
        zeros = (other.version == "0") - (one.version == "0")
        return zeros or compare(one.version, other.version, own)

    return sorted(events, key=cmp_to_key(by_version))


def _next_fixed(version: str, events: Sequence[Event], order: Order) -> list[str]:
    """The first version after this one that is said to be fixed, if there is one."""
    return [
        event.version
        for event in _sorted(events, order)
        if event.kind == "fixed" and compare(version, event.version, order) < 0
    ][:1]
