"""``bundle delta``: an image on top of another, without what that has already."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from bundler.cli import common
from bundler.errors import ExitCode
from bundler.oci.compose import Part, compose
from bundler.oci.delta import delta
from bundler.oci.layout import write_image
from bundler.oci.merged import ImageTree
from bundler.settings import cache_directory

NAME = "delta"
GROUP = "images"
SUMMARY = "put an image on top of another, adding only what that lacks"
EPILOG = """\
The layers of BASE stay as they are.  A file that BASE has with other content is refused, and a program
whose libraries are neither in the images nor in BASE.

example:
  bundle delta runtime shell --on debian.tar -o out/debian-shell --tag debian-shell:1
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="IMAGE", nargs="+", help=common.IMAGE_HELP)
    parser.add_argument("--on", metavar="BASE", required=True, help="image to put it on")
    parser.add_argument(
        "-o", "--output", metavar="PATH", type=Path, required=True, help="OCI layout to write, or FILE.tar"
    )
    parser.add_argument("--tag", metavar="NAME", default="", help="name of the image")
    common.add_use(parser)


def run(arguments: argparse.Namespace) -> int:
    with ExitStack() as stack:
        base = Part(arguments.on, common.image_of(arguments.on, arguments, stack))
        parts = [Part(name, common.image_of(name, arguments, stack)) for name in arguments.images]
        want = parts[0] if len(parts) == 1 else Part(" ".join(arguments.images), compose(parts, closed=False))
        tree = stack.enter_context(ImageTree(want.image))
        made = delta(want, base, tree, cache=cache_directory() / "inventories", reference=arguments.tag)
        write_image(arguments.output.absolute(), made.image)
    print(made.image.id)
    print(f"added {made.added[0]} files, {made.added[1]} bytes")
    print(f"shared {made.shared[0]} files, {made.shared[1]} bytes")
    return ExitCode.DONE
