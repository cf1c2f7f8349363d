"""Whether there is a newer version of what a recipe pins, asked of where its sources come from.

A source's URL says how files are named; the version in the name is what varies.  Versions are compared
as dpkg does (deb-version(7)); what looks like a pre-release does not count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from bundler import process
from bundler.debian_index import SourcePackage, VersionKey
from bundler.download import Failure, NetworkSettings, get_text, public, session
from bundler.errors import BundleError
from bundler.npm import releases
from bundler.pypi import file_names, parse_page
from bundler.recipe import Recipe

_PRE_RELEASE = re.compile(
    r"(?:^|[^a-z])(?:a|b|c|rc|alpha|beta|pre|preview|dev|test|snapshot)\d*(?:[^a-z]|$)", re.I
)
_REPACKED = re.compile(r"[+~.-](?:ds|dfsg|repack|really|debian)[0-9.]*.*\Z")
_PACKAGING = re.compile(r"debian:(?:.*/)?(?P<package>[^/]+)/[^/_]+_(?P<version>[^/_]+)\.debian\.tar\.\w+\Z")
"""Where Debian keeps its patches: fixes since upstream's release, with a version of their own."""
_NUMBERS = re.compile(r"\d+(?:[._-]?[A-Za-z0-9]+)*\Z")
_TAG = re.compile(r"refs/tags/(?:[A-Za-z_-]*[^0-9A-Za-z])?[vV]?(\d[^/^]*)(?:\^\{\})?\Z")

SourcePackages = Callable[[list[str]], Mapping[str, SourcePackage]]
"""Looks Debian source packages up by name."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A pinned version beside the newest found, and ``where``; ``said`` is what went wrong on the way.

    ``pinned`` is the recipe's own version, or that of Debian's patches that it takes.
    """

    recipe: Recipe
    pinned: str
    newest: str | None
    where: str = ""
    said: tuple[str, ...] = ()

    @property
    def outdated(self) -> bool:
        return self.newest is not None and VersionKey(self.pinned) < VersionKey(self.newest)


def standing(recipe: Recipe, settings: NetworkSettings, packages: SourcePackages) -> Standing:
    """Ask every place that a recipe's first source names."""
    found: list[tuple[str, str]] = []
    said: list[str] = []
    for url in recipe.sources[0].urls if recipe.sources else ():
        try:
            found += [(version, public(url)) for version in _versions(url, recipe, settings, packages)]
        except Failure as failure:
            said.append(f"{public(url)}: {failure.why}")
        except BundleError as error:
            said.append(f"{public(url)}: {error.why or error.message}")
    if not found:
        return Standing(recipe, recipe.version, None, said=tuple(said))
    newest, where = max(found, key=lambda item: VersionKey(item[0]))
    return Standing(recipe, recipe.version, newest, where, tuple(said))


def fixes(recipe: Recipe, packages: SourcePackages) -> Iterator[Standing]:
    """Ask whether Debian has newer patches than those that a recipe takes.

    Debian takes the older ones off its mirrors with the next point release.
    """
    for url in (url for source in recipe.sources for url in source.urls):
        if match := _PACKAGING.match(url):
            name = match["package"]
            found = [package.version.rpartition(":")[2] for package in packages([name]).values()]
            newest = max(found, key=VersionKey, default=None)
            said = () if newest else (f"Debian has no source package {name!r}",)
            yield Standing(recipe, match["version"], newest, public(url), said)


def _versions(url: str, recipe: Recipe, settings: NetworkSettings, packages: SourcePackages) -> Iterable[str]:
    scheme, _, rest = url.partition(":")
    if scheme == "debian":
        name = rest.split("/")[-2]
        return [upstream_version(package.version) for package in packages([name]).values()]
    if scheme == "npm":
        return releases(rest.rpartition("@")[0], session(), settings)
    if scheme == "pypi":
        project, _, file = rest.partition("/")
        return matching(file, recipe.version, file_names(project, session(), settings))
    if recipe.sources[0].commit is not None:
        return _tags(url.removeprefix("git+"))
    directory, _, file = url.rpartition("/")
    page, kind = get_text(f"{directory}/", session(), settings, accept="text/html")
    names = (unquote(urlsplit(link).path).rpartition("/")[2] for link in parse_page(page, kind, url))
    return matching(file, recipe.version, names)


def matching(file: str, version: str, names: Iterable[str]) -> list[str]:
    """Versions in ``names`` that are named as ``file`` is, ``version`` being its own; releases only."""
    if version not in file:
        return []
    before, _, after = file.rpartition(version)
    pattern = re.compile(rf"{re.escape(before)}(?P<version>\d.*?){re.escape(after)}\Z")
    found = {match["version"] for name in names if (match := pattern.match(name))}
    return sorted(v for v in found if _NUMBERS.match(v) and not _PRE_RELEASE.search(v))


def upstream_version(version: str) -> str:
    """Upstream's part of a Debian version, without what says that the tarball was repacked."""
    _, colon, rest = version.partition(":")
    rest = rest if colon else version
    return _REPACKED.sub("", rest.rpartition("-")[0] or rest)


def parse_tags(listed: str) -> list[str]:
    """Release versions among the tags that ``git ls-remote --tags`` prints."""
    found = {match[1] for line in listed.splitlines() if (match := _TAG.search(line))}
    return sorted(version for version in found if not _PRE_RELEASE.search(version))


def _tags(url: str) -> list[str]:
    argv = [process.find_tool("git"), "ls-remote", "--tags", "--", url]
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
    done = process.run(argv, environment=environment)
    if not done.ok:
        raise Failure(done.stderr.decode("utf-8", "replace").strip().replace("\n", "; ")[:300])
    return parse_tags(done.stdout.decode("utf-8", "replace"))
