"""``bundle mount``: how to mount bundles, for other tools."""

from __future__ import annotations

import argparse
import sys

from bundler.cli import common
from bundler.errors import BundleError, ExitCode
from bundler.mount import RUNTIMES

NAME = "mount"
GROUP = "use"
SUMMARY = "print how to mount bundles, for docker, podman, buildkit, compose or kubernetes"
EPILOG = """\
examples:
  bundle mount shell --for docker
  bundle mount gitartifact --for kubernetes --repository registry.example.com/tools
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", help="bundle, layout, archive or image")
    parser.add_argument(
        "--for", dest="runtime", choices=sorted(RUNTIMES), default="docker", help="default: %(default)s"
    )
    parser.add_argument(
        "--repository", metavar="PREFIX", default="", help="what stands before the images' names"
    )
    common.add_use(parser)


def run(arguments: argparse.Namespace) -> int:
    from bundler.engine import Engine
    from bundler.labels import volume_name
    from bundler.load import find_packed, other_builds
    from bundler.mount import Mounted, mount_recipe

    # Built bundles need no engine to be told of; others are looked for in one.
    engine: Engine | None = None
    try:
        packed = find_packed(arguments.bundles, arguments.out)
    except BundleError as missing:
        try:
            engine = common.engine(arguments)
        except BundleError:
            raise missing from None
        packed = find_packed(arguments.bundles, arguments.out, engine)
    for text in other_builds(packed):
        print(f"warning: {text}", file=sys.stderr)
    before = arguments.repository.rstrip("/") + "/" if arguments.repository else ""
    mounted = [Mounted(one.facts, before + one.reference, volume_name(one.facts, one.id)) for one in packed]
    print(mount_recipe(arguments.runtime, mounted))
    return ExitCode.DONE
