"""``bundle compose``: one image out of several, their layers untouched."""

from __future__ import annotations

import argparse
from pathlib import Path

from bundler.errors import ExitCode, InputError
from bundler.oci.compose import Part, compose, rebase
from bundler.oci.layout import write_archive, write_layout
from bundler.oci.read import find_image

NAME = "compose"
GROUP = "images"
SUMMARY = "put images together, or an image onto another base"
EPILOG = """\
Layers are neither changed nor copied (they are linked), so their digests and signatures hold.  Two images
that have different files at one path are refused, as is a file whose libraries no image has.

examples:
  bundle compose runtime shell gitartifact -o out/tools --tag tools:1
  bundle compose --rebase debian-12.0.tar debian-12.1.tar app.tar -o app
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="a layout, an archive, or a bundle's name")
    parser.add_argument(
        "-o", "--output", metavar="PATH", type=Path, required=True, help="OCI layout to write, or FILE.tar"
    )
    parser.add_argument("--tag", metavar="NAME", default="", help="name of the image, as in tools:1")
    parser.add_argument(
        "--rebase",
        metavar=("OLD", "NEW", "IMAGE"),
        nargs=3,
        help="replace the layers of the base image OLD in IMAGE by those of NEW",
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("out"), help="where built images lie (default: out)"
    )


def run(arguments: argparse.Namespace) -> int:
    if bool(arguments.images) == bool(arguments.rebase):
        raise InputError("name the images to put together, or --rebase OLD NEW IMAGE")
    names = arguments.rebase or arguments.images
    parts = [Part(name, find_image(name, arguments.out)) for name in names]
    if arguments.rebase:
        old, new, part = parts
        image = rebase(part, old, new, reference=arguments.tag)
    else:
        image = compose(parts, reference=arguments.tag)
    if arguments.output.suffix == ".tar":
        write_archive(arguments.output.absolute(), image)
    else:
        write_layout(arguments.output.absolute(), image)
    print(image.id)
    return ExitCode.DONE
