"""``bundle diff``: what differs between two images, in files or in bytes to fetch."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from dataclasses import asdict

from bundler.cli import common
from bundler.errors import ExitCode
from bundler.oci.compare import Change, changes, transfer
from bundler.oci.image import Image
from bundler.oci.merged import ImageTree
from bundler.tree import shown

NAME = "diff"
GROUP = "look"
SUMMARY = "compare two images by their files, or by what a client fetches"
EPILOG = """\
Exit status 1 says that the images differ.

examples:
  bundle diff old.tar out/shell
  bundle diff --transfer old.tar out/shell      bytes that a client with the old one fetches
"""
_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("before", metavar="A", help=common.IMAGE_HELP)
    parser.add_argument("after", metavar="B", help="image to compare it with")
    parser.add_argument("--transfer", action="store_true", help="say how many bytes lead from A to B")
    common.add_use(parser)
    common.add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    with ExitStack() as stack:
        before = common.image_of(arguments.before, arguments, stack)
        after = common.image_of(arguments.after, arguments, stack)
        if arguments.transfer:
            return _transfer(before, after, arguments.format)
        one, other = (stack.enter_context(ImageTree(image)) for image in (before, after))
        found = list(changes(one, other))
    if arguments.format == "json":
        print(json.dumps([asdict(change) for change in found], indent=1))
    else:
        for change in found:
            print(_line(change))
    same = not found and before.id == after.id
    if not found and before.id != after.id and arguments.format == "text":
        print("the files are the same; layers or configuration differ")
    return ExitCode.DONE if same else ExitCode.NOT_IN_ORDER


def _line(change: Change) -> str:
    what = f"  ({', '.join(change.what)})" if change.what else ""
    return f"{_SIGNS[change.kind]} /{shown(change.path)}{what}"


def _transfer(before: Image, after: Image, form: str) -> int:
    found = transfer(before, after)
    if form == "json":
        print(json.dumps(asdict(found), indent=1))
    else:
        share = 100 * found.fetched / found.total if found.total else 0
        count = f"{len(found.layers)} of {len(after.layers)} layers"
        print(f"{found.fetched} of {found.total} bytes ({share:.1f} %), {count}")
        named = {layer.diff_id: layer for layer in after.layers}
        for diff_id in found.layers:
            layer = named[diff_id]
            print(f"  {layer.descriptor.size:>12}  {layer.comment or diff_id}")
    return ExitCode.DONE
