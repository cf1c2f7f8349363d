"""``bundle scrub``: takes out of an image what mounting bundles left in it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bundler.cli import common
from bundler.errors import ExitCode, InputError
from bundler.target import DEFAULT_ROOT

NAME = "scrub"
GROUP = "images"
SUMMARY = "take out of an image what mounting bundles left in it"
EPILOG = """\
`docker commit` and the builder of old Docker leave empty directories where bundles were mounted, and the
container's command, environment and working directory in the configuration.  Layers without such traces
keep their digests, and so do those of the base image.  What is taken out is told on standard error.

examples:
  bundle scrub myapp:1                               # under the same name
  bundle scrub myapp:1 --tag myapp:clean --base debian:13
  bundle scrub image.tar --output clean.tar
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="image in the engine, or a layout or archive")
    parser.add_argument("--tag", metavar="TAG", help="name of the outcome in the engine (default: IMAGE)")
    parser.add_argument(
        "--output", metavar="FILE", type=Path, help="where the outcome of a layout or archive goes"
    )
    parser.add_argument(
        "--base",
        metavar="IMAGE",
        help="image that it was made from, whose configuration it shall have (default: found by its layers,"
        " and its configuration taken only after a commit)",
    )
    parser.add_argument(
        "--root", metavar="PATH", default=DEFAULT_ROOT, help="root of all prefixes (default: %(default)s)"
    )
    common.add_use(parser)


def run(arguments: argparse.Namespace) -> int:
    from bundler.oci.read import is_image

    path = Path(arguments.image)
    changes = _scrub_file(arguments, path) if is_image(path) else _scrub_image(arguments)
    for change in changes:
        print(change, file=sys.stderr)
    if not changes:
        print("no traces found", file=sys.stderr)
    return ExitCode.DONE


def _scrub_image(arguments: argparse.Namespace) -> tuple[str, ...]:
    from bundler.run import base_image, find_base, scrub_in_engine

    if arguments.output is not None:
        raise InputError("--output is for layouts and archives", hint="an engine's image gets a --tag")
    engine = common.engine(arguments)
    image = base_image(engine, arguments.image)
    base = base_image(engine, arguments.base) if arguments.base else find_base(engine, image)
    if base is not None and image.diff_ids[: len(base.diff_ids)] != base.diff_ids:
        raise InputError(f"{arguments.image} was not made from {arguments.base}: its layers are others")
    # The very name as it was given: an ID names nothing that could be moved.
    reference = arguments.tag or (arguments.image if not _is_id(arguments.image, image.id) else "")
    if not reference:
        raise InputError(f"{arguments.image} is no name", hint="give the outcome one with --tag")
    restore = True if arguments.base else None
    return scrub_in_engine(
        engine, str(image.id), reference, arguments.root, base=base, restore=restore
    ).changes


def _is_id(text: str, image: str) -> bool:
    return image.removeprefix("sha256:").startswith(text.removeprefix("sha256:"))


def _scrub_file(arguments: argparse.Namespace, path: Path) -> tuple[str, ...]:
    from bundler.oci.layout import write_archive, write_layout
    from bundler.oci.parse import load_object
    from bundler.oci.read import is_image, open_image
    from bundler.scrub import Base, scrub

    if arguments.output is None:
        raise InputError("say where the outcome goes", hint="--output FILE, or a directory for a layout")
    if arguments.tag:
        raise InputError("--tag is for images in an engine", hint="a layout or archive goes to --output")
    image = open_image(path)
    base = None
    if arguments.base:
        if not is_image(Path(arguments.base)):
            raise InputError("the base must be a layout or archive, too", where=arguments.base)
        below = open_image(Path(arguments.base))
        config = load_object(below.config_bytes, arguments.base).get("config") or {}
        base = Base(len(below.layers), config)
    done = scrub(image, root=arguments.root, base=base, restore=True if base else None)
    if path.is_dir():
        write_layout(arguments.output, done.image)
    else:
        write_archive(arguments.output, done.image)
    return done.changes
