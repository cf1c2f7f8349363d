"""``bundle compose``: one image out of several, their layers untouched."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bundler.cli import common
from bundler.engine import ENGINES
from bundler.errors import ExitCode, InputError
from bundler.oci.compose import Part, compose, rebase
from bundler.oci.layout import write_image
from bundler.oci.read import find_path

NAME = "compose"
GROUP = "images"
SUMMARY = "put images together, or an image onto another base"
EPILOG = """\
Layers are neither changed nor copied (they are linked), so their digests and signatures hold.  Two images
that have different files at one path are refused, as is a file whose libraries no image has.

examples:
  bundle compose runtime shell gitartifact -o out/tools --tag tools:1
  bundle compose --policy policy.json runtime ./curl -o out/curl
  bundle compose --rebase debian-12.0.tar debian-12.1.tar app.tar -o app
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="IMAGE", nargs="*", help=common.IMAGE_HELP)
    parser.add_argument(
        "-o", "--output", metavar="PATH", type=Path, required=True, help="OCI layout to write, or FILE.tar"
    )
    parser.add_argument("--tag", metavar="NAME", default="", help="name of the image, as in tools:1")
    parser.add_argument(
        "--policy", metavar="FILE", type=Path, help="signature policy that every image must meet"
    )
    parser.add_argument(
        "--rebase",
        metavar=("OLD", "NEW", "IMAGE"),
        nargs=3,
        help="replace the layers of the base image OLD in IMAGE by those of NEW",
    )
    common.add_use(parser)


def run(arguments: argparse.Namespace) -> int:
    if bool(arguments.images) == bool(arguments.rebase):
        raise InputError("name the images to put together, or --rebase OLD NEW IMAGE")
    names = arguments.rebase or arguments.images
    with ExitStack() as stack:
        parts = [Part(name, common.image_of(name, arguments, stack)) for name in names]
        if arguments.policy:
            _admit(parts, arguments)
        if arguments.rebase:
            old, new, part = parts
            image = rebase(part, old, new, reference=arguments.tag)
        else:
            image = compose(parts, reference=arguments.tag)
        write_image(arguments.output.absolute(), image)
    print(image.id)
    return ExitCode.DONE


def _admit(parts: Sequence[Part], arguments: argparse.Namespace) -> None:
    """Hold the images to the policy; what comes out of an engine lies in no file of its own."""
    from bundler.admission import admit, read_policy

    policy = read_policy(arguments.policy)
    for part in parts:
        in_engine = part.name.partition(":")[0] in ENGINES and ":" in part.name
        admit(part.image, None if in_engine else find_path(part.name, arguments.out), policy, part.name)
