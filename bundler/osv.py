"""Security advisories in OSV's format (ossf.github.io/osv-schema, 1.7), from files that nobody vouches for.

A file holds one record or an array of them; a directory or a zip archive, as osv.dev offers them for
download, holds many.  Records are read one by one, and only what is needed of them is kept.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from bundler.errors import InputError
from bundler.tree import shown
from bundler.wheel_lock import normalized

MAX_FILE = 256 << 20
"""Bytes of a file that holds records."""
MAX_RECORD = 16 << 20
"""Bytes of a record in an archive or a directory."""
MAX_RATIO = 100
"""How many times an archive's size its records may have together; osv.dev's have less than ten times."""
MAX_RECORDS = 2_000_000
_TEXT = 400
"""Characters of a text that are kept."""
_VERSION = re.compile(r"[!-~]{1,200}\Z")
_EVENTS = ("introduced", "fixed", "last_affected", "limit")


@dataclass(frozen=True, slots=True)
class PackageUrl:
    """A package URL without its version and qualifiers: type, namespace and name, as they compare."""

    type: str
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Event:
    """Where versions begin or cease to be affected: ``kind`` is the schema's word."""

    kind: str
    version: str


@dataclass(frozen=True, slots=True)
class Range:
    """``type`` is SEMVER, ECOSYSTEM or GIT; events of GIT are versions only where the database has them."""

    type: str
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Affected:
    """One package of a record.  ``ecosystem`` and ``name`` are empty where the record leaves them out."""

    ecosystem: str
    name: str
    package: PackageUrl | None
    cpes: tuple[str, ...]
    ranges: tuple[Range, ...]
    versions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Advisory:
    id: str
    aliases: tuple[str, ...]
    summary: str
    severity: tuple[str, ...]
    modified: str
    withdrawn: bool
    affected: tuple[Affected, ...]


def read_advisories(path: Path) -> Iterator[Advisory]:
    """The records of a file, a directory or a zip archive; raises InputError for what is none."""
    if path.is_dir():
        yield from _from_directory(path)
    elif not path.is_file():
        raise InputError("there is no such file or directory", where=str(path))
    elif zipfile.is_zipfile(path):
        yield from _from_zip(path)
    else:
        data = _bounded(path, MAX_FILE)
        found = _load(data, str(path))
        for number, record in enumerate(found if isinstance(found, list) else [found]):
            where = f"{path}[{number}]" if isinstance(found, list) else str(path)
            yield parse_advisory(record, where=where)


def _from_directory(path: Path) -> Iterator[Advisory]:
    count = 0
    for directory, names, files in os.walk(path):
        names.sort()
        for name in sorted(files):
            file = Path(directory, name)
            # Links may lead out of the directory, and pipes have no end.
            if not name.endswith(".json") or file.is_symlink() or not file.is_file():
                continue
            count += 1
            _not_more(count, str(path))
            yield parse_advisory(_load(_bounded(file, MAX_RECORD), str(file)), where=str(file))
    if not count:
        raise InputError("holds no advisories", where=str(path), why="there is no *.json in it")


def _from_zip(path: Path) -> Iterator[Advisory]:
    total = count = 0
    most = MAX_RECORD + MAX_RATIO * path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".json"):
                    continue
                where = f"{path}:{shown(member.filename)[:_TEXT]}"
                with archive.open(member) as stream:
                    data = stream.read(MAX_RECORD + 1)
                count, total = count + 1, total + len(data)
                _not_more(count, str(path))
                if len(data) > MAX_RECORD or total > most:
                    raise InputError("expands too far", where=where, why="it looks like a decompression bomb")
                yield parse_advisory(_load(data, where), where=where)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise InputError("cannot be unpacked", where=str(path), why=str(error)) from error
    if not count:
        raise InputError("holds no advisories", where=str(path), why="there is no *.json in it")


def _not_more(count: int, where: str) -> None:
    if count > MAX_RECORDS:
        raise InputError("holds too many advisories", where=where, why=f"the limit is {MAX_RECORDS}")


def _bounded(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise InputError("cannot be read", where=str(path), why=error.strerror) from error
    if len(data) > limit:
        raise InputError("is too large", where=str(path), why=f"the limit is {limit} bytes")
    return data


def _load(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError("is no JSON", where=where, why=str(error)) from error


def parse_advisory(record: Any, *, where: str) -> Advisory:
    """A record as JSON gives it; raises InputError for one that OSV's schema does not allow."""
    reader = _Reader(where)
    top = reader.table(record, "the record")
    identity = reader.text(top, "id")
    if not identity:
        raise InputError(
            "is no advisory: it has no 'id'", where=where, hint="OSV's JSON is what is read here"
        )
    own = reader.table(top.get("database_specific"), "database_specific")
    severity = [reader.table(item, "severity") for item in reader.items(top, "severity")]
    named = own.get("severity")
    return Advisory(
        id=identity,
        aliases=reader.texts(top, "aliases") + reader.texts(top, "upstream"),
        summary=reader.text(top, "summary") or reader.text(top, "details").partition("\n")[0],
        severity=tuple(filter(None, (reader.text(item, "score") for item in severity)))
        or ((named[:_TEXT],) if isinstance(named, str) else ()),
        modified=reader.text(top, "modified"),
        withdrawn=bool(reader.text(top, "withdrawn")),
        affected=tuple(reader.affected(item, own) for item in reader.items(top, "affected")),
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Takes values out of a record, each of the type that the schema gives it, or raises InputError."""

    where: str

    def wrong(self, what: str, why: str) -> InputError:
        return InputError(f"is no sound advisory: {what} {why}", where=self.where)

    def table(self, value: Any, what: str) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(what, "is no object")
        return cast("dict[str, Any]", value)

    def items(self, table: Mapping[str, Any], key: str) -> list[Any]:
        value = table.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(f"'{key}'", "is no array")
        return value

    def text(self, table: Mapping[str, Any], key: str) -> str:
        value = table.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.wrong(f"'{key}'", "is no string")
        return value[:_TEXT]

    def texts(self, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
        found = self.items(table, key)
        if not all(isinstance(item, str) for item in found):
            raise self.wrong(f"'{key}'", "holds what is no string")
        return tuple(item[:_TEXT] for item in found)

    def affected(self, value: Any, database: Mapping[str, Any]) -> Affected:
        table = self.table(value, "'affected'")
        package = self.table(table.get("package"), "'package'")
        ecosystem = self.text(package, "ecosystem")
        # curl's own records name no package but here.
        name = self.text(package, "name") or ("" if package else self.text(database, "package"))
        purl = self.text(package, "purl")
        ranges = [self.table(item, "'ranges'") for item in self.items(table, "ranges")]
        extra = [
            self.table(holder.get(key), f"'{key}'")
            for holder in (table, *ranges)
            for key in ("database_specific", "ecosystem_specific")
        ]
        return Affected(
            ecosystem=ecosystem,
            name=name,
            package=parse_purl(purl) if purl else purl_of(ecosystem, name),
            cpes=tuple(dict.fromkeys(cpe for item in extra for cpe in _cpes(item))),
            ranges=tuple(self.range(item) for item in ranges),
            versions=self.texts(table, "versions"),
        )

    def range(self, table: Mapping[str, Any]) -> Range:
        """A range; of GIT's, what the database says of versions (osv.dev does for what it has from NVD)."""
        kind = self.text(table, "type")
        events = self.items(table, "events")
        if kind == "GIT":
            said = self.table(table.get("database_specific"), "'database_specific'")
            events = next((said[key] for key in _CONVERTED if isinstance(said.get(key), list)), [])
        found = []
        for item in events:
            for name, version in self.table(item, "'events'").items():
                if name in _EVENTS:
                    if not isinstance(version, str) or not _VERSION.match(version):
                        raise self.wrong(f"'{name}'", f"is no version: {str(version)[:60]!r}")
                    found.append(Event(name, version))
        return Range(kind, tuple(found))


_CONVERTED = ("extracted_events", "versions")


def _cpes(table: Mapping[str, Any]) -> list[str]:
    values = [table.get("cpe"), *(table["cpes"] if isinstance(table.get("cpes"), list) else [])]
    return [value for value in values if isinstance(value, str) and value.startswith("cpe:")]


_TYPES = {
    "Debian": ("deb", "debian"),
    "PyPI": ("pypi", ""),
    "RubyGems": ("gem", ""),
    "npm": ("npm", ""),
    "crates.io": ("cargo", ""),
}


def purl_of(ecosystem: str, name: str) -> PackageUrl | None:
    """The package URL of a name in an ecosystem, where records of it need not say one."""
    found = _TYPES.get(ecosystem.partition(":")[0])
    return _comparable(*found, name) if found and name else None


def parse_purl(text: str) -> PackageUrl | None:
    """What a package URL (github.com/package-url/purl-spec) is of; None for what is none."""
    scheme, _, rest = text.partition(":")
    path = rest.partition("#")[0].partition("?")[0].strip("/")
    at = path.rfind("@")
    if at > path.rfind("/"):
        path = path[:at]
    kind, *middle = path.split("/")
    if scheme != "pkg" or not kind or not middle or not middle[-1]:
        return None
    *namespace, name = (unquote(part) for part in middle)
    return _comparable(kind.lower(), "/".join(namespace), name)


def _comparable(kind: str, namespace: str, name: str) -> PackageUrl:
    if kind == "pypi":
        name = normalized(name)
    elif kind == "deb":
        namespace, name = namespace.lower(), name.lower()
    return PackageUrl(kind, namespace, name)
