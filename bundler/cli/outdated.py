"""``bundle outdated``: what upstream has that is newer."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

from bundler.cli import common
from bundler.debian_index import SourcePackage
from bundler.errors import ExitCode, InputError
from bundler.settings import Settings
from bundler.upstream import Standing, fixes, standing

NAME = "outdated"
GROUP = "tools"
SUMMARY = "list recipes of which there is a newer version"
EPILOG = """\
Asks the places that a recipe's sources come from: Debian's source index, the Python package index, tags of
git repositories, upstream's directory listings; and for newer patches where a recipe takes those of Debian.
Places that do not answer are named on standard error.

examples:
  bundle outdated
  bundle outdated --check openssl curl    exit status 1 if one of them is outdated
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipes_asked", metavar="RECIPE", nargs="*", help="recipe (default: all)")
    parser.add_argument("--suite", metavar="SUITE", default="trixie", help="of Debian (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit status 1 if one is outdated")
    common.add_format(parser)
    common.add_inputs(parser)


class _Packages:
    """Debian's source packages, the index fetched when the first is asked for."""

    def __init__(self, settings: Settings, suite: str, names: list[str]) -> None:
        self._settings, self._suite, self._names = settings, suite, names

    def __call__(self, names: list[str]) -> Mapping[str, SourcePackage]:
        return {name: self._all[name] for name in names if name in self._all}

    @cached_property
    def _all(self) -> Mapping[str, SourcePackage]:
        from bundler.debian import open_archive

        state = self._settings.cache / "debian" / self._suite
        archive = open_archive(self._suite, self._settings.target.architecture, state)
        return archive.sources(self._names)


def run(arguments: argparse.Namespace) -> int:
    from bundler.download import network_settings

    settings = common.settings(arguments)
    known = common.catalogue(settings)
    if settings.offline:
        raise InputError("what is outdated cannot be known offline")
    recipes = [known.recipe(name) for name in arguments.recipes_asked or known.recipes]
    urls = [url for recipe in recipes for source in recipe.sources for url in source.urls]
    names = sorted({url.split("/")[-2] for url in urls if url.startswith("debian:")})
    packages = _Packages(settings, arguments.suite, names)
    if names:
        packages(names)
    with ThreadPoolExecutor(8) as pool:
        standings = list(pool.map(lambda r: standing(r, network_settings(), packages), recipes))
    standings += [item for recipe in recipes for item in fixes(recipe, packages)]
    if arguments.format == "json":
        print(json.dumps([_record(item) for item in standings], indent=1))
    else:
        for item in standings:
            if item.outdated:
                print(f"{item.recipe.name} {item.pinned} → {item.newest}  ({item.where})")
    for item in standings:
        if item.newest is None and item.recipe.sources:
            print(
                f"{item.recipe.name}: unknown; " + ("; ".join(item.said) or "no version in its URL"),
                file=sys.stderr,
            )
    outdated = any(item.outdated for item in standings)
    return ExitCode.NOT_IN_ORDER if outdated and arguments.check else ExitCode.DONE


def _record(item: Standing) -> dict[str, object]:
    return {
        "recipe": item.recipe.name,
        "version": item.pinned,
        "newest": item.newest,
        "outdated": item.outdated,
        "where": item.where,
        "said": list(item.said),
    }
