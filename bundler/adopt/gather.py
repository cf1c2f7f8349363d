"""Sources of adopted binaries, fetched, unpacked and described.  Effects: the network, a work directory."""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email import message_from_bytes
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from bundler.adopt.files import Described
from bundler.adopt.layout import Layout, Place, place_in_root, place_in_wheel
from bundler.adopt.needs import Missing
from bundler.debian import Archive
from bundler.debian_index import PackageIndex, direct
from bundler.digest import digest_bytes
from bundler.download import Failure, network_settings, session
from bundler.errors import EnvironmentLacks, InputError
from bundler.fetch import Fetcher
from bundler.npm import release
from bundler.oci.layer import LayerSource, layer_entries, write_layer
from bundler.pypi import file_names, normalized
from bundler.recipe import Lock, LockedPackage, Source
from bundler.recipe_file import VERSION
from bundler.target import Architecture
from bundler.tree import DirectoryTree, Entry, FileTree, Kind, resolve, walk
from bundler.unpack import place as unpack_source
from bundler.unpack import unpack_deb

COPYRIGHT = "usr/share/doc/*/copyright"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a recipe says of where its files come from; ``beside`` are files that lie beside the recipe."""

    about: Described
    sources: tuple[Source, ...] = ()
    lock: Lock | None = None
    license_files: tuple[str, ...] = ()
    beside: Mapping[str, Path] = field(default_factory=dict)


class Gathered(Protocol):
    """A source that can be looked into."""

    tree: FileTree
    wanted: tuple[str, ...]
    """Paths of the files and links to adopt."""
    place: Place
    anywhere: bool
    """Whether a library may be looked for in all of it."""

    def more(self, missing: Sequence[Missing]) -> bool:
        """Bring what may have the missing libraries; False where there is nothing more to bring."""

    def owner(self, path: str) -> str | None:
        """How to adopt the path, too, for what was left behind."""

    def origin(self, layout: Layout) -> Origin:
        """What the recipe says, once it is known what is taken."""

    def present(self, layout: Layout) -> dict[str, str | None]:
        """What will lie in the recipe's source directory: files (None), and links with their texts."""


def _contents(tree: FileTree) -> dict[str, str | None]:
    return {
        entry.path: entry.target if entry.kind is Kind.SYMLINK else None
        for entry in walk(tree)
        if entry.kind in (Kind.FILE, Kind.SYMLINK)
    }


# ---- archives: tarballs, wheels, npm packages -------------------------------------------------------------

_HOST_DIRECTORIES = frozenset(
    {"bin", "sbin", "lib", "lib64", "libexec", "share", "etc", "usr", "opt", "include"}
)
_VERSIONED = re.compile(r"(?P<name>.+?)[-_]v?(?P<version>\d[A-Za-z0-9.+~]*)")
_SUFFIX = re.compile(r"(\.(tar|tgz|zip|whl|deb|gz|bz2|xz|zst|txz))+\Z")


class Unpacked:
    """One archive, adopted whole."""

    anywhere = True

    def __init__(self, root: Path, origin: Origin, place: Place, skip: frozenset[str] = frozenset()) -> None:
        self.tree: FileTree = DirectoryTree(root)
        self.place = place
        self._origin = origin
        self._contents = _contents(self.tree)
        self.wanted = tuple(path for path in self._contents if path.partition("/")[0] not in skip)

    def more(self, missing: Sequence[Missing]) -> bool:
        return False

    def owner(self, path: str) -> str | None:
        return None

    def origin(self, layout: Layout) -> Origin:
        return self._origin

    def present(self, layout: Layout) -> dict[str, str | None]:
        return self._contents


def gather_archive(
    where: str, name: str, fetcher: Fetcher, work: Path, architecture: Architecture
) -> Gathered:
    """A tarball, zip or wheel, at a URL or on this machine, where it is then kept beside the recipe.

    Raises InputError for what is no archive, and as the fetcher does.
    """
    local = None if where.startswith(("http://", "https://")) else Path(where)
    file_name = local.name if local else posixpath.basename(unquote(urlsplit(where).path))
    if local is not None and not re.fullmatch(r"[A-Za-z0-9][^\s/]*", file_name):
        raise InputError(f"the archive's name {file_name!r} cannot be written down", hint="rename the file")
    url = local.absolute().as_uri() if local else where
    source = Source((url,), digest_bytes(b""), strip=0)
    _, digest = fetcher.learn(source)
    if file_name.endswith(".whl"):
        source = replace(source, digest=digest, urls=(f"file:{file_name}" if local else url,))
        return _wheel(source, fetcher, work, name, file_name, local)
    return _archive(replace(source, digest=digest), fetcher, work, name, local, architecture)


def _archive(
    source: Source, fetcher: Fetcher, work: Path, name: str, local: Path | None, architecture: Architecture
) -> Gathered:
    root = work / "src"
    unpack_source(source, fetcher.fetch(source), root)
    inside = list(root.iterdir())
    strip = 0
    only = inside[0] if len(inside) == 1 and inside[0].name not in _HOST_DIRECTORIES else None
    if only is not None and only.is_dir() and not only.is_symlink():
        root, strip = only, 1
    file_name = source.file_name
    found = _VERSIONED.match(_SUFFIX.sub("", file_name))
    about = Described(name, found["version"] if found else "1")
    urls = (f"file:{file_name}",) if local else source.urls
    kept = replace(source, urls=urls, strip=strip)
    origin = Origin(about, (kept,), beside={file_name: fetcher.path(source.digest)} if local else {})
    return Unpacked(root, origin, place_in_root(architecture.triplet))


def gather_wheel(
    project: str, version: str, name: str, fetcher: Fetcher, work: Path, architecture: Architecture
) -> Gathered:
    """A wheel of the Python package index; raises InputError where it has none that fits."""
    names = file_names(project, session(), network_settings())
    file_name = choose_wheel(project, names, version, architecture)
    source = Source((f"pypi:{project}/{file_name}",), digest_bytes(b""), strip=0)
    _, digest = fetcher.learn(source)
    return _wheel(replace(source, digest=digest), fetcher, work, name, file_name, None)


def choose_wheel(project: str, names: Iterable[str], version: str, architecture: Architecture) -> str:
    """The newest release's wheel for glibc on this architecture, best of those that need no certain Python.

    Raises InputError where there is none.
    """
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename
    from packaging.version import InvalidVersion

    found = []
    others = set()
    for file_name in set(names):
        try:
            own, release_version, _, tags = parse_wheel_filename(file_name)
        except (InvalidWheelFilename, InvalidVersion):
            continue
        if own != normalized(project):
            continue  # a directory of links holds whatever it holds
        others.add(str(release_version))
        fits = [tag for tag in tags if re.fullmatch(rf"(many)?linux[\d_]*_{architecture.name}", tag.platform)]
        if not fits or (version and str(release_version) != version):
            continue
        if not version and release_version.is_prerelease:
            continue
        any_python = any(tag.interpreter.startswith("py") for tag in fits)
        found.append((release_version, any_python, file_name))
    if not found:
        asked = f"{project}=={version}" if version else project
        raise InputError(
            f"{asked} has no wheel for {architecture.name} and glibc",
            why=f"there are the versions {', '.join(sorted(others)[-8:])}"
            if others
            else "there is no wheel at all",
        )
    return max(found)[2]


def _wheel(
    source: Source, fetcher: Fetcher, work: Path, name: str, file_name: str, local: Path | None
) -> Gathered:
    root = work / "src"
    unpack_source(source, fetcher.path(source.digest), root)
    tree = DirectoryTree(root)
    metadata = next((p for p in root.glob("*.dist-info/METADATA") if not p.is_symlink()), None)
    if metadata is None:
        raise InputError("is no wheel: it has no METADATA", where=file_name)
    headers = message_from_bytes(metadata.read_bytes())
    about = Described(
        name,
        str(headers.get("Version", "1")),
        spdx(str(headers.get("License-Expression") or headers.get("License") or "")),
        _line(str(headers.get("Summary", ""))),
        str(headers.get("Home-page", "") or ""),
    )
    licenses = (
        "*.dist-info/LICEN[SC]E*",
        "*.dist-info/licenses/**",
        "*.dist-info/license_files/**",
        "*.dist-info/COPYING*",
    )
    origin = Origin(
        about,
        (source,),
        license_files=licenses,
        beside={file_name: fetcher.path(source.digest)} if local else {},
    )
    # A package of Python code alone is of no use without Python, and that has its own way to install it.
    tops = {path.partition("/")[0] for path in _contents(tree) if _is_elf(tree, path)}
    skip = frozenset(top for top in tree.names("") if not top.endswith(".data") and top not in tops)
    return Unpacked(root, origin, place_in_wheel, skip)


def _is_elf(tree: FileTree, path: str) -> bool:
    entry = tree.get(path)
    if entry is None or entry.kind is not Kind.FILE:
        return False
    with tree.open(path) as stream:
        return stream.read(4) == b"\x7fELF"


def gather_npm(
    package: str, version: str, name: str, fetcher: Fetcher, work: Path, architecture: Architecture
) -> Gathered:
    """A package of the npm registry; raises EnvironmentLacks where there is none, or no such version."""
    try:
        chosen = release(package, version or "latest", session(), network_settings())
    except Failure as failure:
        raise EnvironmentLacks(f"cannot find {package} in the npm registry", why=failure.why) from failure
    source = Source((f"npm:{package}@{chosen.version}",), digest_bytes(b""))
    _, digest = fetcher.learn(source)
    source = replace(source, digest=digest)
    root = work / "src"
    unpack_source(source, fetcher.path(digest), root)
    about = Described(name, chosen.version, purl=f"pkg:npm/{package.replace('@', '%40')}@{{version}}")
    try:
        with DirectoryTree(root).open("package.json") as stream:
            record = json.loads(stream.read(1 << 20))
        about = replace(
            about,
            license=spdx(str(record.get("license", ""))),
            summary=_line(str(record.get("description", ""))),
            homepage=str(record.get("homepage") or ""),
        )
    except (InputError, ValueError, AttributeError):
        pass  # it only describes
    return Unpacked(
        root, Origin(about, (source,)), place_in_root(architecture.triplet), frozenset({"package.json"})
    )


# ---- Debian's packages ------------------------------------------------------------------------------------


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
        self._bring(self._named)
        self.wanted = tuple(path for path, owner in self._owners.items() if owner in self._named)

    def _bring(self, names: Iterable[str]) -> None:
        from bundler.debian_index import pick
        from bundler.node_request import package_source

        packages = pick(self._index, names)
        files = self._fetcher.fetch_all([package_source(package) for package in packages])
        for package, file in zip(packages, files, strict=True):
            self._packages[package.name] = package
            scratch = self._work / f"package-{len(self._packages)}"
            unpack_deb(file, scratch)
            for entry in list(walk(DirectoryTree(scratch))):
                target = self._root / entry.path
                if entry.kind is Kind.DIRECTORY:
                    if not target.is_symlink():
                        target.mkdir(exist_ok=True)
                elif not os.path.lexists(target):
                    (scratch / entry.path).rename(target)
                    self._owners[entry.path] = package.name

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
            _line(fields.get("Description", "").partition("\n")[0]),
            fields.get("Homepage", ""),
        )
        packages = tuple(self._packages[name] for name in self._taken(layout))
        lock = Lock(self._archive.suite, self._archive.date, packages)
        return Origin(about, lock=lock, license_files=(COPYRIGHT,))

    def present(self, layout: Layout) -> dict[str, str | None]:
        taken = set(self._taken(layout))
        return {path: text for path, text in _contents(self.tree).items() if self._owners.get(path) in taken}


# ---- files of an image, or of this machine ----------------------------------------------------------------


class Picked:
    """Chosen files of a root file system, and the libraries that they need; kept as one tarball."""

    anywhere = False

    def __init__(
        self, tree: FileTree, chosen: Sequence[str], name: str, work: Path, architecture: Architecture
    ) -> None:
        """Raises InputError for a path that is not there."""
        self.tree = tree
        self.place = place_in_root(architecture.triplet)
        self._name = name
        self._work = work
        wanted: dict[str, None] = {}
        for path in chosen:
            led = resolve(tree, path)
            if led.error is not None or led.entry is None:
                raise InputError(f"there is no {path}", where=name, why=led.error)
            if led.entry.kind is Kind.DIRECTORY:
                wanted.update(dict.fromkeys(entry.path for entry in walk(tree, led.path)))
            else:
                # By the name that was asked for, too, where that is a link.
                named = resolve(tree, path, follow_last=False)
                wanted.update({led.path: None, named.path: None})
        self.wanted = tuple(wanted)

    def more(self, missing: Sequence[Missing]) -> bool:
        return False

    def owner(self, path: str) -> str | None:
        # Settings are the container's own affair, data are not.
        is_data = path.startswith(("usr/", "opt/")) and self.tree.get(path) is not None
        return f"--file /{path}" if is_data else None

    def origin(self, layout: Layout) -> Origin:
        file = self._work / f"{self._name}.tar"
        entries = layer_entries(self._entry(path) for path in sorted(set(layout.files.values())))
        with file.open("wb") as out:
            written = write_layer(LayerSource(self._name, "1", self.tree, entries), out)
        source = Source((f"file:{file.name}",), written.diff_id, strip=0)
        return Origin(Described(self._name, "1"), (source,), beside={file.name: file})

    def _entry(self, path: str) -> Entry:
        found = self.tree.get(path)
        assert found is not None
        size = found.size
        if found.hardlink is not None and (first := self.tree.get(found.hardlink)) is not None:
            size = first.size
        return Entry(path, Kind.FILE, 0o755 if found.mode & 0o111 else 0o644, size)

    def present(self, layout: Layout) -> dict[str, str | None]:
        return dict.fromkeys(layout.files.values())


def spdx(text: str) -> str:
    """A licence's name as an SPDX expression; what is none refers to the texts that come along."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(text.strip()))
    except (InvalidLicenseExpression, ValueError):
        return "LicenseRef-unknown"


def as_version(text: str) -> str:
    """The text as recipes can have it for a version."""
    plain = re.sub(r"[^A-Za-z0-9+.~_-]", "-", text).lstrip("+.~_-")
    return plain if VERSION.pattern.match(plain) else "1"


def _line(text: str) -> str:
    """The first line, as a summary is written."""
    line = " ".join(text.split("\n")[0].split()).rstrip(".")
    return "".join(character for character in line if character.isprintable())[:120]
