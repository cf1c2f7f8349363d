"""``bundle delta``: an image on top of another, without what that has already."""

from __future__ import annotations

import argparse
from pathlib import Path

from bundler.errors import ExitCode
from bundler.oci.compose import Part
from bundler.oci.delta import delta
from bundler.oci.layout import write_archive, write_layout
from bundler.oci.merged import ImageTree
from bundler.oci.read import find_image
from bundler.settings import cache_directory

NAME = "delta"
GROUP = "images"
SUMMARY = "put an image on top of another, adding only what that lacks"
EPILOG = """\
The layers of BASE stay as they are.  A file that BASE has with other content is refused.

example:
  bundle delta shell --on debian.tar -o out/debian-shell --tag debian-shell:1
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a layout, an archive, or a bundle's name")
    parser.add_argument("--on", metavar="BASE", required=True, help="image to put it on")
    parser.add_argument(
        "-o", "--output", metavar="PATH", type=Path, required=True, help="OCI layout to write, or FILE.tar"
    )
    parser.add_argument("--tag", metavar="NAME", default="", help="name of the image")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("out"), help="where built images lie (default: out)"
    )


def run(arguments: argparse.Namespace) -> int:
    want = Part(arguments.image, find_image(arguments.image, arguments.out))
    base = Part(arguments.on, find_image(arguments.on, arguments.out))
    with ImageTree(want.image) as tree:
        made = delta(want, base, tree, cache=cache_directory() / "inventories", reference=arguments.tag)
        if arguments.output.suffix == ".tar":
            write_archive(arguments.output.absolute(), made.image)
        else:
            write_layout(arguments.output.absolute(), made.image)
    print(made.image.id)
    print(f"added {made.added[0]} files, {made.added[1]} bytes")
    print(f"shared {made.shared[0]} files, {made.shared[1]} bytes")
    return ExitCode.DONE
