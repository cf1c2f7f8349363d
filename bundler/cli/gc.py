"""``bundle gc``: make the cache smaller."""

from __future__ import annotations

import argparse

from bundler.cli import common
from bundler.errors import ExitCode

NAME = "gc"
GROUP = "tools"
SUMMARY = "remove from the cache what was not used for longest"
EPILOG = """\
What the bundles that were built are made of stays, whatever the limit: the toolchain, too.

examples:
  bundle gc                    down to 20 GiB
  bundle gc --limit 500M
  bundle gc --limit 0          everything but what the built bundles are made of
  bundle gc --all --limit 0    everything
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit",
        metavar="SIZE",
        default="20G",
        help="bytes that may stay, with K, M, G or T (default: %(default)s)",
    )
    parser.add_argument("--all", action="store_true", help="let go of the bundles that were built, too")
    common.add_inputs(parser)


def run(arguments: argparse.Namespace) -> int:
    from bundler.errors import InputError
    from bundler.gc import collect, parse_size, release

    try:
        limit = parse_size(arguments.limit)
    except ValueError as error:
        raise InputError(f"--limit {arguments.limit}: not a size", hint="as in 500M or 20G") from error
    store = common.store(common.settings(arguments))
    try:
        if arguments.all:
            release(store)
        done = collect(store, limit)
    finally:
        store.close()
    print(f"{store.root}: {_size(done.before)} before, {_size(done.after)} now, {done.removed} removed")
    return ExitCode.DONE


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
