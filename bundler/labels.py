"""What a bundle's image says of itself, in the labels of its configuration.

The packer writes them, and whatever mounts or checks a bundle reads them: an image that came from
elsewhere (a registry, an archive) needs nothing beside it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from bundler.digest import Digest, hex_of, parse_digest
from bundler.errors import BundleError, InputError, raise_all

NAME = "bundle.name"
VERSION = "bundle.version"
PREFIX = "bundle.prefix"
COMPAT = "bundle.compat"
REQUIRES = "bundle.requires"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,100}\Z")
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+~-]{0,100}\Z")
_PREFIX = re.compile(r"(/[A-Za-z0-9._+-]+){2,}\Z")

NO_COMMAND = "no-such-cmd"
"""What data containers would run, were they started."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Required:
    """A bundle that another one needs, and the image ID that it was built with."""

    name: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class Facts:
    """One packed bundle.  ``compat`` is the last part of the prefix."""

    name: str
    version: str
    prefix: str
    compat: int
    requires: tuple[Required, ...] = ()

    def to_labels(self) -> dict[str, str]:
        """The labels that :func:`read_facts` reads back."""
        return {
            NAME: self.name,
            VERSION: self.version,
            PREFIX: self.prefix,
            COMPAT: str(self.compat),
            REQUIRES: " ".join(f"{required.name}={required.digest}" for required in self.requires),
        }


def read_facts(labels: Mapping[str, str], *, where: str) -> Facts:
    """The facts in an image's labels; raises InputError if they are not a bundle's."""
    missing = [label for label in (NAME, VERSION, PREFIX, COMPAT) if not labels.get(label)]
    if missing:
        raise InputError(
            "is no bundle: its image has no label " + ", ".join(missing),
            where=where,
            hint="'bundle build' makes bundles",
        )
    problems: list[BundleError] = []
    for label, form in ((NAME, _NAME), (VERSION, _VERSION)):
        if not form.match(labels[label]):
            problems.append(
                InputError(f"its label {label} is not plain: {labels[label][:80]!r}", where=where)
            )
    prefix, compat = labels[PREFIX], labels[COMPAT]
    parts = prefix.split("/")
    if not _PREFIX.match(prefix) or {".", ".."} & set(parts):
        problems.append(InputError(f"its prefix is no plain absolute path: {prefix!r}", where=where))
    elif parts[-1] != compat or not (compat.isascii() and compat.isdigit()):
        problems.append(InputError(f"its prefix {prefix} does not end in its compat {compat!r}", where=where))
    requires = []
    for word in labels.get(REQUIRES, "").split():
        name, equals, digest = word.partition("=")
        try:
            requires.append(Required(name, parse_digest(digest, where=where)))
        except InputError as error:
            problems.append(error)
        if not equals or not name:
            problems.append(InputError(f"its label {REQUIRES} has no name: {word[:80]!r}", where=where))
    raise_all(problems)
    return Facts(labels[NAME], labels[VERSION], prefix, int(compat), tuple(requires))


def with_required(names: Iterable[str], find: Callable[[str], T], facts_of: Callable[[T], Facts]) -> list[T]:
    """The named bundles and all that they require, each once, what is required first.

    ``find`` raises for a name that is not at hand; what it finds may go by another name there (a path).
    Raises InputError where bundles require each other in a circle, or two have one prefix.
    """
    done: dict[str, T] = {}
    above: list[str] = []

    def visit(name: str) -> None:
        found = find(name)
        facts = facts_of(found)
        if facts.name in above:
            circle = " → ".join([*above[above.index(facts.name) :], facts.name])
            raise InputError(f"bundles require each other in a circle: {circle}")
        if facts.name in done:
            return
        above.append(facts.name)
        for required in facts.requires:
            visit(required.name)
        above.pop()
        for other in map(facts_of, done.values()):
            if other.prefix == facts.prefix:
                raise InputError(f"{other.name} and {facts.name} have one prefix, {facts.prefix}")
        done[facts.name] = found

    for name in names:
        visit(name)
    return list(done.values())


def volume_name(facts: Facts, image: Digest) -> str:
    """``bundle-<name>-<first 12 digits of the image ID>``: a data container and its volume."""
    return f"bundle-{facts.name}-{hex_of(image)[:12]}"


def volume_labels(facts: Facts) -> dict[str, str]:
    """The labels of a data container and its volume."""
    return {NAME: facts.name, VERSION: facts.version, PREFIX: facts.prefix}
