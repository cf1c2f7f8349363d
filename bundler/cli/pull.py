"""``bundle pull``: images from a registry."""

from __future__ import annotations

import argparse
from pathlib import Path

from bundler.cli import common
from bundler.errors import ExitCode

NAME = "pull"
GROUP = "images"
SUMMARY = "fetch an image from a registry"
EPILOG = """\
The layout holds the very bytes that the registry has; each is compared with its digest.

example:
  bundle pull 127.0.0.1:5000/bundles/shell:0.1.0 out/shell
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", metavar="REFERENCE", help="HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]")
    parser.add_argument("directory", metavar="DIR", type=Path, help="OCI layout to write")
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH",
        default="linux/amd64",
        help="which of several images (default: %(default)s)",
    )
    parser.add_argument("--plain-http", action="store_true", help="speak http to a registry elsewhere, too")
    common.add_progress(parser)


def run(arguments: argparse.Namespace) -> int:
    from bundler.progress import renderer
    from bundler.registry.client import Repository
    from bundler.registry.reference import parse_reference
    from bundler.registry.transfer import pull

    repository = Repository(parse_reference(arguments.reference), plain_http=arguments.plain_http)
    with renderer(arguments.progress) as sink:
        image = pull(repository, arguments.directory.absolute(), platform=arguments.platform, sink=sink)
    print(image.digest)
    return ExitCode.DONE
