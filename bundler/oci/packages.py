"""Which component each file of a root file system belongs to, and when components were updated.

Asked in this order: the attribute ``user.component`` of a file or a directory above it, the manifests of
our bundles, dpkg's and apk's databases.  What nobody claims goes by the directory that it is in.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from email.utils import parsedate_to_datetime

from bundler.errors import BundleError
from bundler.oci.manifest import MANIFEST, read_manifest
from bundler.tree import Entry, FileTree, Kind, parents, resolve

DATABASE = "package database"
"""Component of the files that change with every update of anything."""
_DATABASES = ("var/lib/dpkg/status", "var/lib/dpkg/status-old", "lib/apk/db/installed", "etc/ld.so.cache")
_COMPONENT = "user.component"
_LIMIT = 64 << 20
"""Bytes of a package database, or of an unpacked changelog."""
_SIGNATURE = re.compile(r"^ -- .*?>  (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Packages:
    """Component of every path that a package manager knows; changelogs by component."""

    owners: Mapping[str, str]
    changelogs: Mapping[str, str]


def read_packages(tree: FileTree) -> Packages:
    """What the databases in a tree say; damaged ones count as absent."""
    owners: dict[str, str] = {}
    changelogs: dict[str, str] = {}
    for names in (_bundles(tree), _dpkg(tree), _apk(tree)):
        for path, component in names:
            found = resolve(tree, path, follow_last=False)
            if found.error is None and found.entry is not None:
                owners.setdefault(found.path, component)
                if path.endswith(("/changelog.Debian.gz", "/changelog.gz")):
                    better = path.endswith("/changelog.Debian.gz")
                    if better or component not in changelogs:
                        changelogs[component] = found.path
    for path in _DATABASES:
        if tree.get(path) is not None:
            owners[path] = DATABASE
    return Packages(owners, changelogs)


def assign(entries: Sequence[Entry], packages: Packages) -> dict[str, str]:
    """The component of each entry; hard links go with their first name, since one layer must hold them."""
    found: dict[str, str] = {}
    inherited: dict[str, str] = {}
    for entry in entries:
        said = dict(entry.xattrs).get(_COMPONENT)
        above = entry.path.rpartition("/")[0]
        component = said.decode("utf-8", "replace") if said else inherited.get(above)
        if component and entry.kind is Kind.DIRECTORY:
            inherited[entry.path] = component
        if entry.hardlink is not None:
            component = found[entry.hardlink]
        found[entry.path] = component or packages.owners.get(entry.path) or _by_directory(entry.path)
    return found


def _by_directory(path: str) -> str:
    above = list(parents(path))[:2]
    return "files in /" + (above[-1] if above else "")


def update_dates(tree: FileTree, packages: Packages) -> dict[str, frozenset[date]]:
    """Days on which each component was updated, from the Debian changelogs that are in the tree."""
    found = {name: frozenset(_dates(tree, path)) for name, path in packages.changelogs.items()}
    return {**found, DATABASE: frozenset().union(*found.values())}


def _dates(tree: FileTree, path: str) -> Iterator[date]:
    try:
        with tree.open(path) as stream, gzip.GzipFile(fileobj=stream) as unpacked:
            text = unpacked.read(_LIMIT).decode("utf-8", "replace")
    except (BundleError, OSError, EOFError, zlib.error):
        return
    for match in _SIGNATURE.finditer(text):
        try:
            yield parsedate_to_datetime(match[1]).date()
        except (ValueError, TypeError, IndexError, OverflowError):
            continue


def _bundles(tree: FileTree) -> Iterator[tuple[str, str]]:
    for root in (".deps",):
        for name in tree.names(root):
            for compat in tree.names(f"{root}/{name}"):
                place = f"{root}/{name}/{compat}/{MANIFEST}"
                if (data := _read(tree, place)) is None:
                    continue
                try:
                    manifest = read_manifest(data, where=place)
                except BundleError:
                    continue
                for path, owner in manifest.owners.items():
                    yield path, f"{manifest.facts.name}/{owner}"


def _dpkg(tree: FileTree) -> Iterator[tuple[str, str]]:
    sources = {}
    for paragraph in _paragraphs(_read(tree, "var/lib/dpkg/status"), *_status_files(tree)):
        fields = _fields(paragraph)
        name = fields.get("Package", "")
        sources[name] = fields.get("Source", name).partition(" ")[0] or name
    for file in tree.names("var/lib/dpkg/info"):
        if not file.endswith((".list", ".conffiles", ".md5sums")):
            continue
        package = file.rpartition(".")[0].partition(":")[0]
        component = sources.get(package, package)
        yield f"var/lib/dpkg/info/{file}", component
        if file.endswith(".list"):
            data = _read(tree, f"var/lib/dpkg/info/{file}") or b""
            for line in data.decode("utf-8", "surrogateescape").splitlines():
                if len(line) > 1 and line.startswith("/"):
                    yield line[1:], component


def _status_files(tree: FileTree) -> list[bytes | None]:
    return [_read(tree, f"var/lib/dpkg/status.d/{name}") for name in tree.names("var/lib/dpkg/status.d")]


def _apk(tree: FileTree) -> Iterator[tuple[str, str]]:
    """apk's database (wiki.alpinelinux.org, "Apk spec"): F: a directory, R: a file in it, o: the origin."""
    for paragraph in _paragraphs(_read(tree, "lib/apk/db/installed")):
        lines = [line.partition(":") for line in paragraph.splitlines()]
        names = {key: value for key, _, value in lines if key in ("P", "o")}
        component = names.get("o") or names.get("P") or "apk"
        directory = ""
        for key, _, value in lines:
            if key == "F":
                directory = value
            elif key == "R":
                yield f"{directory}/{value}" if directory else value, component


def _paragraphs(*texts: bytes | None) -> Iterable[str]:
    for data in texts:
        if data:
            yield from data.decode("utf-8", "surrogateescape").split("\n\n")


def _fields(paragraph: str) -> dict[str, str]:
    pairs = (line.partition(": ") for line in paragraph.splitlines() if not line.startswith((" ", "\t")))
    return {key: value.strip() for key, _, value in pairs}


def _read(tree: FileTree, path: str) -> bytes | None:
    found = resolve(tree, path)
    if found.entry is None or found.entry.kind is not Kind.FILE:
        return None
    with tree.open(found.path) as stream:
        return stream.read(_LIMIT)
