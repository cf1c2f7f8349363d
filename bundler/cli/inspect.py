"""``bundle inspect``: what an image is and holds."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from typing import Any

from bundler.cli import common
from bundler.errors import ExitCode
from bundler.oci.image import Image
from bundler.oci.merged import ImageTree
from bundler.tree import Entry, Kind, shown

NAME = "inspect"
GROUP = "look"
SUMMARY = "show what an image is: configuration, layers, files"
EPILOG = """\
examples:
  bundle inspect shell
  bundle inspect --files out/shell
  bundle inspect --format json saved-by-docker.tar
"""
_LETTERS = {
    Kind.FILE: "-",
    Kind.DIRECTORY: "d",
    Kind.SYMLINK: "l",
    Kind.CHARACTER: "c",
    Kind.BLOCK: "b",
    Kind.FIFO: "p",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help=common.IMAGE_HELP)
    parser.add_argument("--files", action="store_true", help="list all files, each with its layer")
    common.add_use(parser)
    common.add_format(parser)


def run(arguments: argparse.Namespace) -> int:
    with ExitStack() as stack:
        image = common.image_of(arguments.image, arguments, stack)
        if arguments.files:
            _print_files(image, arguments.format)
        elif arguments.format == "json":
            print(json.dumps(describe(image), indent=1))
        else:
            _print_text(image)
    return ExitCode.DONE


def describe(image: Image) -> dict[str, Any]:
    """The image as JSON takes it; sizes in bytes."""
    return {
        "reference": image.reference,
        "digest": image.digest,
        "id": image.id,
        "platform": f"{image.config.os}/{image.config.architecture}",
        "created": image.config.created,
        "command": list(image.config.command),
        "entrypoint": list(image.config.entrypoint),
        "environment": list(image.config.environment),
        "labels": image.labels,
        "annotations": dict(image.annotations),
        "layers": [
            {
                "diff_id": layer.diff_id,
                "digest": layer.descriptor.digest,
                "media_type": layer.descriptor.media_type,
                "size": layer.descriptor.size,
                "made_by": layer.comment,
            }
            for layer in image.layers
        ],
    }


def _print_text(image: Image) -> None:
    config = image.config
    rows = [
        ("name", image.reference),
        ("image id", image.id),
        ("digest", image.digest),
        ("platform", f"{config.os}/{config.architecture}"),
        ("created", config.created),
        ("entrypoint", " ".join(config.entrypoint)),
        ("command", " ".join(config.command)),
        *(("environment", text) for text in config.environment),
        *(("label", f"{name}={value}") for name, value in config.labels),
    ]
    for name, text in rows:
        if text:
            print(f"{name:<12} {text}")
    total = sum(layer.descriptor.size for layer in image.layers)
    print(f"{'layers':<12} {len(image.layers)}, {total} bytes")
    for layer in image.layers:
        print(f"  {layer.descriptor.size:>12}  {layer.diff_id[7:19]}  {layer.comment[:70]}")


def _print_files(image: Image, form: str) -> None:
    with ImageTree(image) as tree:
        for entry in tree.walk():
            number = tree.layer_of(entry.path)
            if form == "json":
                print(json.dumps({"layer": number, **entry.to_dict()}, sort_keys=True))
            else:
                print(f"{number:>3} {_file_line(entry)}")


def _file_line(entry: Entry) -> str:
    letter = "h" if entry.hardlink else _LETTERS.get(entry.kind, "?")
    target = entry.target if entry.target is not None else entry.hardlink and "/" + entry.hardlink
    owner = f"{entry.uid}:{entry.gid}"
    line = f"{letter}{entry.mode:04o} {owner:>7} {entry.size:>10} /{shown(entry.path)}"
    return line + (f" -> {shown(target)}" if target else "")
