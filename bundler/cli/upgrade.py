"""``bundle upgrade``: an image replaced by a newer one, of which only what is new is written."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from bundler.errors import ExitCode
from bundler.oci.compare import changes, transfer
from bundler.oci.image import TITLE, VERSION, Image
from bundler.oci.layout import write_layout
from bundler.oci.merged import ImageTree
from bundler.oci.read import find_image, open_image

NAME = "upgrade"
GROUP = "images"
SUMMARY = "replace an image by a newer one, or say what that would change"
EPILOG = """\
examples:
  bundle upgrade --plan deployed/shell shell
  bundle upgrade deployed/shell shell
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", metavar="LAYOUT", type=Path, help="OCI layout to replace")
    parser.add_argument("new", metavar="IMAGE", help="a layout, an archive, or a bundle's name")
    parser.add_argument("--plan", action="store_true", help="only say what would change, in files and bytes")
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("out"), help="where built images lie (default: out)"
    )


def run(arguments: argparse.Namespace) -> int:
    old, new = open_image(arguments.old), find_image(arguments.new, arguments.out)
    _print_plan(old, new)
    if not arguments.plan:
        write_layout(arguments.old.absolute(), new)
    return ExitCode.DONE


def _print_plan(old: Image, new: Image) -> None:
    before, after = _versions(old), _versions(new)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            print(f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}")
    with ImageTree(old) as one, ImageTree(new) as other:
        found = list(changes(one, other))
    counts = Counter(change.kind for change in found)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in ("added", "changed", "removed"))
    print(f"files: {told}; {sum(change.size for change in found)} bytes")
    fetched = transfer(old, new)
    count = f"{len(fetched.layers)} of {len(new.layers)} layers"
    print(f"layers: {count} are new, {fetched.fetched} of {fetched.total} bytes")


def _versions(image: Image) -> dict[str, str]:
    """Versions by component, as the layers' annotations have them."""
    notes = [dict(layer.descriptor.annotations) for layer in image.layers]
    return {note[TITLE]: note[VERSION] for note in notes if TITLE in note and VERSION in note}
