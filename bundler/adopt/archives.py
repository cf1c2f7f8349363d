"""Archives as sources: tarballs, zips, wheels and npm packages, from this machine or the network."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from email import message_from_bytes
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bundler.adopt.files import Described
from bundler.adopt.layout import Layout, Place, place_in_root, place_in_wheel
from bundler.adopt.needs import Missing
from bundler.adopt.source import Gathered, Origin, contents, line, spdx
from bundler.digest import digest_bytes
from bundler.download import Failure, network_settings, session
from bundler.errors import EnvironmentLacks, InputError
from bundler.fetch import Fetcher
from bundler.npm import release
from bundler.pypi import file_names
from bundler.recipe import Source
from bundler.target import Architecture
from bundler.tree import DirectoryTree, FileTree, Kind
from bundler.unpack import place as unpack_source
from bundler.wheel_lock import normalized

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
        self._contents = contents(self.tree)
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
        line(str(headers.get("Summary", ""))),
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
    tops = {path.partition("/")[0] for path in contents(tree) if _is_elf(tree, path)}
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
            summary=line(str(record.get("description", ""))),
            homepage=str(record.get("homepage") or ""),
        )
    except (InputError, ValueError, AttributeError):
        pass  # it only describes
    return Unpacked(
        root, Origin(about, (source,)), place_in_root(architecture.triplet), frozenset({"package.json"})
    )
