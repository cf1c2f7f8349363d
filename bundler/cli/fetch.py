"""``bundle fetch``: sources into the cache, and their digests into recipes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from bundler.catalogue import Catalogue
from bundler.cli import common
from bundler.digest import hex_of
from bundler.errors import ExitCode, InputError
from bundler.fetch import Fetcher
from bundler.node_request import package_source
from bundler.progress import renderer
from bundler.recipe import Source, packages_of
from bundler.settings import Settings
from bundler.toml import did_you_mean, display_name, load

NAME = "fetch"
GROUP = "tools"
SUMMARY = "fetch the sources of bundles or recipes into the cache"
EPILOG = """\
For a bundle, all that building it needs is fetched: its sources, those of what it requires, and the
packages of the toolchain and the build root; then 'bundle build --offline' works.  Prints the digest, name
and place of each file.

examples:
  bundle fetch shell
  bundle fetch --update-hash zlib     take what the URL gives now, and write its digest into the recipe
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help="bundle or recipe")
    parser.add_argument(
        "--update-hash", action="store_true", help="NAMEs are recipes: write the digests of what comes"
    )
    common.add_work(parser)
    common.add_inputs(parser)


def run(arguments: argparse.Namespace) -> int:
    settings = common.settings(arguments)
    known = common.catalogue(settings)
    common.store(settings).open()  # so that nobody clears the cache meanwhile
    with renderer(arguments.progress) as sink:
        fetcher = Fetcher(settings.cache, offline=settings.offline, sink=sink)
        if arguments.update_hash:
            for name in arguments.names:
                _update(known, name, fetcher)
            return ExitCode.DONE
        sources = list(dict.fromkeys(wanted(settings, known, arguments.names)))
        paths = fetcher.fetch_all(sources)
    for source, path in zip(sources, paths, strict=True):
        print(f"{hex_of(source.digest)}  {source.file_name}  {path}")
    return ExitCode.DONE


def wanted(settings: Settings, known: Catalogue, names: Sequence[str]) -> Iterator[Source]:
    """Sources that bundles need in all, and those of recipes; raises InputError for unknown names."""
    toolchain = known.toolchain(settings.toolchain)
    bundles = [name for name in names if name in known.bundles]
    if bundles:
        yield from (package_source(package) for package in toolchain.buildroot.packages)
        for node in common.plan(settings, known, bundles).nodes.values():
            yield from map(package_source, packages_of(node.recipe, toolchain))
            yield from node.recipe.sources
    for name in names:
        if name in known.recipes:
            yield from known.recipe(name).sources
        elif name not in bundles:
            near = did_you_mean(name, [*known.bundles, *known.recipes])
            raise InputError(f"there is neither a bundle nor a recipe {name!r}", hint=near)


def _update(known: Catalogue, name: str, fetcher: Fetcher) -> None:
    """Fetch what a recipe's URLs give now, and pin it."""
    from bundler.pin import parse_unpinned, write_pins

    path = known.recipes.path(name)
    if path is None:
        raise InputError(f"there is no recipe {name!r}", hint=did_you_mean(name, known.recipes))
    document = load(path)
    recipe = parse_unpinned(document, path)
    digests = {index: fetcher.learn(source)[1] for index, source in enumerate(recipe.sources)}
    changed = {i: digest for i, digest in digests.items() if digest != recipe.sources[i].digest}
    if changed:
        common.write_text(path, write_pins(document, changed))
    for index, digest in digests.items():
        state = "now" if index in changed else "still"
        print(f"{display_name(path)}: {recipe.sources[index].file_name} is {state} {hex_of(digest)}")
