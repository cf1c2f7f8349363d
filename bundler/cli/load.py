"""``bundle load``: bundles into Docker or podman."""

from __future__ import annotations

import argparse

from bundler.cli import common
from bundler.errors import ExitCode

NAME = "load"
GROUP = "use"
SUMMARY = "load bundles and what they require into Docker or podman"
EPILOG = """\
Prints the names of the images.  Layers that Docker has are not sent again.

examples:
  bundle load shell
  bundle load --engine podman out/gitartifact
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", help="bundle, layout or archive to load")
    common.add_use(parser)
    common.add_progress(parser)


def run(arguments: argparse.Namespace) -> int:
    from bundler.load import find_packed, load
    from bundler.progress import renderer

    engine = common.engine(arguments)
    packed = find_packed(arguments.bundles, arguments.out, engine)
    with renderer(arguments.progress) as sink:
        loaded = load(engine, packed, sink)
    for one in loaded:
        print(one.bundle.reference)
    return ExitCode.DONE
