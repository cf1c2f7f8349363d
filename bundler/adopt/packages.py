"""Debian's packages as a source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bundler.adopt.files import Described
from bundler.adopt.layout import Layout, place_in_root
from bundler.adopt.needs import Missing
from bundler.adopt.source import Origin, contents, line
from bundler.debian import Archive
from bundler.debian_index import PackageIndex, direct, pick
from bundler.errors import InputError
from bundler.fetch import Fetcher
from bundler.node_request import package_source
from bundler.recipe import Lock, LockedPackage
from bundler.target import Architecture
from bundler.tree import DirectoryTree, Entry, FileTree, Kind, parents, walk
from bundler.unpack import unpack_deb

COPYRIGHT = "usr/share/doc/*/copyright"


class Packages:
    """Packages that are adopted whole, and of those that they depend on the libraries that are needed."""

    anywhere = True

    def __init__(
        self,
        named: Sequence[str],
        name: str,
        archive: Archive,
        fetcher: Fetcher,
        work: Path,
        architecture: Architecture,
    ) -> None:
        """Raises InputError for a package that the suite lacks, and as the fetcher does."""
        self.place = place_in_root(architecture.triplet)
        self._named = tuple(named)
        self._name = name
        self._archive = archive
        self._index: PackageIndex = archive.packages(architecture)
        self._fetcher = fetcher
        self._work = work
        self._root = work / "src"
        self._root.mkdir()
        self.tree: FileTree = DirectoryTree(self._root)
        self._packages: dict[str, LockedPackage] = {}
        self._asked: set[str] = set()
        self._owners: dict[str, str] = {}
        self._links: set[str] = set()
        self._bring(self._named)
        self.wanted = tuple(path for path, owner in self._owners.items() if owner in self._named)

    def _bring(self, names: Iterable[str]) -> None:
        packages = pick(self._index, names)
        files = self._fetcher.fetch_all([package_source(package) for package in packages])
        for package, file in zip(packages, files, strict=True):
            self._packages[package.name] = package
            scratch = self._work / f"package-{len(self._packages)}"
            unpack_deb(file, scratch)
            for entry in list(walk(DirectoryTree(scratch))):
                self._take(package.name, scratch, entry)

    def _take(self, package: str, scratch: Path, entry: Entry) -> None:
        """Move one entry of an unpacked package beside those of the others; the first one stays."""
        if above := next((path for path in parents(entry.path) if path in self._links), None):
            raise InputError(
                f"/{entry.path} of {package} lies below a link of {self._owners[above]}, /{above}",
                hint="adopt them apart",
            )
        target = self._root / entry.path
        if entry.kind is Kind.DIRECTORY:
            if entry.path not in self._owners:
                target.mkdir(exist_ok=True)
        elif entry.path not in self._owners and not target.is_dir():
            (scratch / entry.path).rename(target)
            self._owners[entry.path] = package
            if entry.kind is Kind.SYMLINK:
                self._links.add(entry.path)

    def more(self, missing: Sequence[Missing]) -> bool:
        """The packages that those of the needing files depend on, as Debian's policy (8.6) has it."""
        asking = {
            self._owners[one.needed_by] for one in missing if one.needed_by in self._owners
        } - self._asked
        self._asked |= asking
        wanted = {other for name in asking for other in direct(self._index, name, self._packages)}
        self._bring(sorted(wanted - self._packages.keys()))
        return bool(asking)

    def owner(self, path: str) -> str | None:
        package = self._owners.get(path)
        if package is None:
            below = {owner for known, owner in self._owners.items() if known.startswith(path + "/")}
            package = min(below, default=None)
        return f"debian:{package}" if package is not None else None

    def _taken(self, layout: Layout) -> list[str]:
        return sorted({*self._named, *(self._owners[path] for path in layout.files.values())})

    def origin(self, layout: Layout) -> Origin:
        fields = self._index.stanza(self._named[0]) or {}
        version = fields.get("Version", "1")
        about = Described(
            self._name,
            version.partition(":")[2] or version,
            "LicenseRef-Debian-copyright",
            line(fields.get("Description", "").partition("\n")[0]),
            fields.get("Homepage", ""),
        )
        packages = tuple(self._packages[name] for name in self._taken(layout))
        lock = Lock(self._archive.suite, self._archive.date, packages)
        return Origin(about, lock=lock, license_files=(COPYRIGHT,))

    def present(self, layout: Layout) -> dict[str, str | None]:
        taken = set(self._taken(layout))
        return {path: text for path, text in contents(self.tree).items() if self._owners.get(path) in taken}
