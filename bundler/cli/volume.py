"""``bundle volume``: data containers for ``--volumes-from``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from bundler.cli import common
from bundler.errors import ExitCode, InputError

NAME = "volume"
GROUP = "use"
SUMMARY = "make, list and remove data containers for --volumes-from"
EPILOG = """\
A data container is made once per bundle and image, and holds the bundle's prefix, read-only.
`docker container prune` removes it; the next `bundle volume create` or `bundle run` brings it back.

examples:
  docker run $(bundle volume create shell | sed s/^/--volumes-from=/) alpine bash -c 'tree /etc'
  bundle volume list
  bundle volume remove --all
"""


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", metavar="create|list|remove", required=True)

    create = verbs.add_parser("create", help="make those that are missing; prints a name a line")
    create.add_argument("bundles", metavar="BUNDLE", nargs="+", help="bundle, layout, archive or image")
    create.add_argument(
        "--no-copy",
        action="store_true",
        help="show the image's layers instead of a copy (local engine with overlay2, as root)",
    )
    create.add_argument("--writable", action="store_true", help="let containers write to it, and see it")
    common.add_use(create)
    common.add_progress(create)

    listing = verbs.add_parser("list", help="list them")
    common.add_format(listing)
    common.add_use(listing)

    remove = verbs.add_parser("remove", help="remove them, and their volumes; prints their names")
    remove.add_argument("names", metavar="NAME", nargs="*", help="data container, or bundle: all of its")
    remove.add_argument("--all", action="store_true", help="remove all of them")
    common.add_use(remove)


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "create":
        return _create(arguments)
    return _list(arguments) if arguments.action == "list" else _remove(arguments)


def _create(arguments: argparse.Namespace) -> int:
    from bundler.load import find_packed, load
    from bundler.progress import renderer
    from bundler.volume import create

    engine = common.engine(arguments)
    packed = find_packed(arguments.bundles, arguments.out, engine)
    with renderer(arguments.progress) as sink:
        load(engine, packed, sink)
    for name in create(engine, packed, copy=not arguments.no_copy, writable=arguments.writable):
        print(name)
    return ExitCode.DONE


def _list(arguments: argparse.Namespace) -> int:
    from bundler.volume import existing

    found = existing(common.engine(arguments))
    if arguments.format == "json":
        print(json.dumps([asdict(one) for one in found], indent=1))
        return ExitCode.DONE
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        print(f"{one.name:<{width}}  {one.bundle} {one.version}  {one.prefix}")
    return ExitCode.DONE


def _remove(arguments: argparse.Namespace) -> int:
    from bundler.volume import remove

    if bool(arguments.names) == arguments.all:
        raise InputError("name data containers or bundles to remove, or say --all, not both")
    for name in remove(common.engine(arguments), None if arguments.all else arguments.names):
        print(name)
    return ExitCode.DONE
