"""``bundle sources``: the corresponding source of bundles, in one directory."""

from __future__ import annotations

import argparse
from pathlib import Path

from bundler.cli import common
from bundler.errors import ExitCode, InputError
from bundler.plan import required
from bundler.progress import renderer
from bundler.recipe import LockedPackage, lock_of, packages_of

NAME = "sources"
GROUP = "tools"
SUMMARY = "collect the source code that a bundle was made of, as licences ask for"
EPILOG = """\
For each recipe of the bundles, and of those that they require: what it fetches, its recipe and patches,
the scripts that were run; for binary packages of the seed toolchain, Debian's source packages.  The file
SHA256SUMS lists them all ('sha256sum -c SHA256SUMS').

examples:
  bundle sources shell --to shell-sources
  bundle sources --only shell --to shell-sources    not what it requires
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", help="bundle whose source is wanted")
    parser.add_argument(
        "--to", metavar="DIR", type=Path, help="new directory to write (default: BUNDLE-sources)"
    )
    parser.add_argument("--only", action="store_true", help="leave out the bundles that these require")
    common.add_work(parser)
    common.add_inputs(parser)


def run(arguments: argparse.Namespace) -> int:
    from bundler.corresponding import collect, part_of, source_packages
    from bundler.debian import open_archive
    from bundler.debian_index import SourcePackage
    from bundler.fetch import Fetcher

    settings = common.settings(arguments)
    known = common.catalogue(settings)
    toolchain = known.toolchain(settings.toolchain)
    out = arguments.to or Path(f"{arguments.bundles[0]}-sources")
    if out.exists():
        raise InputError("is there already", where=str(out), hint="name a new directory with --to")
    common.store(settings).open()  # so that nobody clears the cache meanwhile
    plan = common.plan(settings, known, arguments.bundles)
    chosen = dict.fromkeys(arguments.bundles)
    if not arguments.only:
        chosen |= {other: None for name in arguments.bundles for other in required(name, known.bundles)}
    nodes = dict.fromkeys(node for name in chosen for node in plan.bundles[name].nodes)
    recipes = {plan.nodes[node].recipe.name: plan.nodes[node].recipe for node in nodes}
    taken = {name: packages_of(recipe, toolchain) for name, recipe in recipes.items()}
    suites: dict[str, dict[LockedPackage, None]] = {}
    for name, recipe in recipes.items():
        suites.setdefault(lock_of(recipe, toolchain).suite, {}).update(dict.fromkeys(taken[name]))
    with renderer(arguments.progress) as sink:
        found: dict[LockedPackage, SourcePackage] = {}
        for suite, wanted in suites.items():
            if wanted:
                archive = open_archive(suite, settings.target.architecture, settings.cache / "debian" / suite)
                found |= source_packages(list(wanted), archive, settings.target.architecture)
        parts = [part_of(recipe, taken[name], found) for name, recipe in sorted(recipes.items())]
        files = collect(parts, Fetcher(settings.cache, offline=settings.offline, sink=sink), out)
    print(f"{len(files)} files of {len(parts)} recipes in {out}")
    return ExitCode.DONE
