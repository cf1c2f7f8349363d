"""Debian's indexes as values: packages, source packages, and the closure over what they depend on.

Pure: text in, values out.  Formats: deb822(5), deb-version(7); Debian policy, chapter 7 (relations).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from bundler import digest
from bundler.digest import Digest
from bundler.errors import InputError, raise_all
from bundler.recipe import LockedPackage
from bundler.tree import check_path

_NAME = re.compile(r"^Package: *(\S+)$", re.MULTILINE)
_RELATION = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]*)(?::\w+)?\s*(?:\((?P<operator><<|<=|=|>=|>>)\s*(?P<version>[^)\s]+)\s*\))?"
)
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Relation:
    """One alternative of a dependency: a name, and a bound on its version (empty: any)."""

    name: str
    operator: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source package: ``path`` below an archive's root, ``size`` in bytes."""

    path: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class SourcePackage:
    name: str
    version: str
    homepage: str
    files: tuple[SourceFile, ...]


class PackageIndex:
    """A ``Packages`` index.  Only the stanzas that are asked for are taken apart: the file is large."""

    def __init__(self, text: str, *, where: str | None = None) -> None:
        self._text = text
        self._where = where
        self._at: dict[str, list[int]] = {}
        for match in _NAME.finditer(text):
            self._at.setdefault(match[1], []).append(match.start())
        self._providers: dict[str, list[Relation]] | None = None

    def stanza(self, name: str) -> Mapping[str, str] | None:
        """The fields of the newest package of that name, or None."""
        found = [self._parse(at) for at in self._at.get(name, ())]
        return max(found, key=lambda fields: VersionKey(fields.get("Version", "")), default=None)

    def package(self, name: str) -> LockedPackage | None:
        """Where the package lies and what its bytes are; raises InputError for an unsound index."""
        fields = self.stanza(name)
        if fields is None:
            return None
        try:
            return LockedPackage(
                name,
                fields["Version"],
                fields["Architecture"],
                check_path(fields["Filename"]),
                digest.from_hex(fields["SHA256"]),
                int(fields["Size"]),
            )
        except (KeyError, ValueError) as error:
            raise InputError(
                f"the index entry of {name} is unsound", where=self._where, why=str(error)
            ) from error

    def providers(self, name: str) -> Sequence[Relation]:
        """Packages that say they provide ``name``, each with the version of it that they provide."""
        if self._providers is None:
            self._providers = {}
            for match in re.finditer(r"^Provides: (.*(?:\n .*)*)$", self._text, re.MULTILINE):
                at = self._text.rfind("\n\n", 0, match.start()) + 1
                owner = _NAME.search(self._text, at)
                if owner is None:
                    continue
                for group in parse_relations(match[1]):
                    for item in group:
                        provider = Relation(owner[1], item.operator, item.version)
                        self._providers.setdefault(item.name, []).append(provider)
        return self._providers.get(name, ())

    def _parse(self, at: int) -> Mapping[str, str]:
        end = self._text.find("\n\n", at)
        return next(stanzas(self._text[at : None if end < 0 else end], where=self._where))


def source_packages(
    text: str, names: Collection[str], *, where: str | None = None
) -> dict[str, SourcePackage]:
    """The newest source packages of these names in a ``Sources`` index."""
    found: dict[str, SourcePackage] = {}
    for match in _NAME.finditer(text):
        if match[1] not in names:
            continue
        start, end = text.rfind("\n\n", 0, match.start()), text.find("\n\n", match.start())
        fields = next(stanzas(text[start + 2 if start >= 0 else 0 : None if end < 0 else end], where=where))
        package = _source_package(fields, where)
        held = found.get(package.name)
        if held is None or VersionKey(held.version) < VersionKey(package.version):
            found[package.name] = package
    return found


def _source_package(fields: Mapping[str, str], where: str | None) -> SourcePackage:
    try:
        files = []
        for line in fields["Checksums-Sha256"].split("\n"):
            if line.strip():
                hexadecimal, size, name = line.split()
                path = check_path(f"{fields['Directory']}/{name}")
                files.append(SourceFile(path, digest.from_hex(hexadecimal), int(size)))
        return SourcePackage(fields["Package"], fields["Version"], fields.get("Homepage", ""), tuple(files))
    except (KeyError, ValueError) as error:
        raise _unsound(fields.get("Package", "a package"), where, error) from error


def _unsound(name: str, where: str | None, error: Exception) -> InputError:
    return InputError(f"the index entry of {name} is unsound", where=where, why=repr(error))


def pick(index: PackageIndex, names: Iterable[str]) -> list[LockedPackage]:
    """Just these packages, sorted by name; raises InputError naming every one that the suite lacks."""
    found = {name: index.package(name) for name in sorted(set(names))}
    raise_all(
        [InputError(f"the suite has no package {name!r}") for name, held in found.items() if held is None]
    )
    return [package for package in found.values() if package is not None]


def close(index: PackageIndex, names: Sequence[str], without: Collection[str] = ()) -> list[LockedPackage]:
    """The packages with all that they need (Pre-Depends and Depends), sorted by name.

    Of alternatives, one that is there already is taken, else the first that the suite has.  Those in
    ``without`` are left out, with what only they need.  Raises InputError naming every relation that
    the suite cannot meet.
    """
    chosen: dict[str, LockedPackage] = {}
    problems: list[InputError] = []
    pending = [(name, "the list of packages") for name in names]
    while pending:
        name, wanted_by = pending.pop(0)
        if name in chosen or name in without:
            continue
        fields, package = index.stanza(name), index.package(name)
        if fields is None or package is None:
            problems.append(InputError(f"the suite has no package {name!r}", why=f"{wanted_by} names it"))
            continue
        chosen[name] = package
        for kind in ("Pre-Depends", "Depends"):
            for group in parse_relations(fields.get(kind, "")):
                taken = _choose(index, group, chosen, without)
                if taken is None:
                    wanted = " | ".join(item.name for item in group)
                    problems.append(
                        InputError(f"nothing in the suite meets {wanted!r}", why=f"{name} needs it")
                    )
                else:
                    pending.append((taken, name))
    raise_all(problems)
    return sorted(chosen.values(), key=lambda package: package.name)


def direct(index: PackageIndex, name: str, chosen: Collection[str]) -> list[str]:
    """Names of the packages that a package itself asks for; relations that nothing meets are passed over."""
    fields = index.stanza(name) or {}
    groups = [group for kind in ("Pre-Depends", "Depends") for group in parse_relations(fields.get(kind, ""))]
    found = (_choose(index, group, chosen, ()) for group in groups)
    return list(dict.fromkeys(name for name in found if name is not None))


def _choose(
    index: PackageIndex, group: Sequence[Relation], chosen: Collection[str], without: Collection[str]
) -> str | None:
    candidates: list[str] = []
    for item in group:
        if item.name in without:
            return item.name
        fields = index.stanza(item.name)
        if fields is not None and satisfies(fields.get("Version", ""), item):
            candidates.append(item.name)
        for provider in index.providers(item.name):
            if not item.operator or (provider.version and satisfies(provider.version, item)):
                candidates.append(provider.name)
    there = [name for name in candidates if name in chosen or name in without]
    return next(iter(there or candidates), None)


def parse_relations(text: str) -> list[tuple[Relation, ...]]:
    """A relationship field: groups joined by commas, each with its alternatives; raises InputError."""
    groups = []
    for group in filter(None, (part.strip() for part in text.split(","))):
        alternatives = []
        for part in group.split("|"):
            match = _RELATION.fullmatch(part.strip())
            if match is None:
                raise InputError(f"not a relation between packages: {part.strip()!r}")
            alternatives.append(Relation(match["name"], match["operator"] or "", match["version"] or ""))
        groups.append(tuple(alternatives))
    return groups


def satisfies(version: str, relation: Relation) -> bool:
    """Whether a package of that version is within the relation's bound."""
    have, bound = VersionKey(version), VersionKey(relation.version)
    match relation.operator:
        case "<<":
            return have < bound
        case "<=":
            return not bound < have
        case "=":
            return not have < bound and not bound < have
        case ">=":
            return not have < bound
        case ">>":
            return bound < have
    return True


class VersionKey:
    """Sorts versions as dpkg does: deb-version(7), "Sorting algorithm"."""

    __slots__ = ("_parts",)

    def __init__(self, version: str) -> None:
        epoch, colon, rest = version.partition(":")
        if not colon:
            epoch, rest = "0", version
        upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "")
        self._parts = (int(epoch) if epoch.isdigit() else 0, upstream, revision)

    def __lt__(self, other: VersionKey) -> bool:
        if self._parts[0] != other._parts[0]:
            return self._parts[0] < other._parts[0]
        for mine, theirs in zip(self._parts[1:], other._parts[1:], strict=True):
            order = _compare(str(mine), str(theirs))
            if order:
                return order < 0
        return False


def _compare(left: str, right: str) -> int:
    """Runs of other characters and runs of digits by turns; a missing number is 0."""
    for number, (mine, theirs) in enumerate(
        zip_longest(_DIGITS.split(left), _DIGITS.split(right), fillvalue="")
    ):
        if number % 2:
            difference = int(mine or 0) - int(theirs or 0)
        else:
            difference = _compare_text(mine, theirs)
        if difference:
            return difference
    return 0


def _compare_text(left: str, right: str) -> int:
    for mine, theirs in zip_longest(left, right, fillvalue=""):
        if mine != theirs:
            return _weight(mine) - _weight(theirs)
    return 0


def _weight(character: str) -> int:
    """``~`` sorts before the end, the end before letters, letters before all else."""
    if character == "~":
        return -1
    if not character:
        return 0
    return ord(character) if character.isalpha() else ord(character) + 256


def stanzas(text: str, *, where: str | None = None) -> Iterator[Mapping[str, str]]:
    """The paragraphs of a control file, field by field as written; raises InputError for what is none.

    Lines of a folded or multi-line value are joined by newlines, without their leading blank.
    """
    fields: dict[str, str] = {}
    name = ""
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0] in " \t":
            if not name:
                raise InputError("a continuation line without a field", where=f"{where}:{number}")
            fields[name] += "\n" + line[1:]
        else:
            name, colon, value = line.partition(":")
            if not colon or not name:
                raise InputError(f"not a field: {line[:60]!r}", where=f"{where}:{number}")
            fields[name] = value.strip()
    if fields:
        yield fields
