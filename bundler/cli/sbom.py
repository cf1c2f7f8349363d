"""``bundle sbom``: the bill of materials, manifest or package list that lies in a bundle's image."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bundler.errors import ExitCode
from bundler.labels import read_facts
from bundler.oci.manifest import MANIFEST
from bundler.oci.merged import ImageTree
from bundler.oci.read import find_image
from bundler.oci.sbom import CYCLONEDX, SPDX

NAME = "sbom"
GROUP = "images"
SUMMARY = "print a bundle's software bill of materials"
EPILOG = """\
examples:
  bundle sbom shell > shell.spdx.json
  bundle sbom --format cyclonedx out/shell
"""
_FILES = {"spdx": SPDX, "cyclonedx": CYCLONEDX, "manifest": MANIFEST}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a layout, an archive, or a bundle's name")
    parser.add_argument(
        "--format", choices=tuple(_FILES), default="spdx", help="what to print (default: %(default)s)"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("out"), help="where built images lie (default: out)"
    )


def run(arguments: argparse.Namespace) -> int:
    image = find_image(arguments.image, arguments.out)
    prefix = read_facts(image.labels, where=arguments.image).prefix.strip("/")
    with ImageTree(image) as tree, tree.open(f"{prefix}/{_FILES[arguments.format]}") as stream:
        sys.stdout.buffer.write(stream.read())
    return ExitCode.DONE
