"""``bundle rechunk``: a root file system or image cut into layers that updates leave alone."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from bundler.cli import common
from bundler.errors import ExitCode, InputError
from bundler.oci.image import Image, ImageConfig
from bundler.oci.layout import write_image
from bundler.oci.merged import ImageTree
from bundler.oci.read import find_image, is_image
from bundler.oci.rechunk import BUDGET, Memory, cut, examine, make_plan, memory_from_json, memory_of, prove
from bundler.oci.rootfs import RootTree, parse_attributes
from bundler.tree import FileTree

NAME = "rechunk"
GROUP = "images"
SUMMARY = "cut a root file system or image into layers by what updates will cost"
EPILOG = """\
Components come from the attribute user.component, from our bundles' manifests, and from dpkg's and apk's
databases; how often they change, from the Debian changelogs that are there.  With --plan the layers of the
former image are kept where that is worth it.  What comes out is compared with what went in.

examples:
  bundle rechunk /mnt/rootfs -o out/base --tag base:1 --layers 32
  bundle rechunk docker:debian:12 -o out/base --plan out/former
  bundle rechunk / --xattrs attributes.txt --push registry.example/base:1
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SOURCE", help="directory, layout, archive, bundle's name, or docker:IMAGE"
    )
    parser.add_argument("-o", "--output", metavar="PATH", type=Path, help="OCI layout to write, or FILE.tar")
    parser.add_argument("--push", metavar="REFERENCE", help="store it in a registry, compressed, instead")
    parser.add_argument("--tag", metavar="NAME", default="", help="name of the image")
    parser.add_argument(
        "--layers",
        metavar="N",
        type=int,
        default=BUDGET,
        help="at most so many layers (default: %(default)s)",
    )
    parser.add_argument("--plan", metavar="PATH", help="former image, or file that --save-plan wrote")
    parser.add_argument("--save-plan", metavar="FILE", type=Path, help="write the plan to a file, too")
    parser.add_argument(
        "--xattrs", metavar="FILE", type=Path, help="attributes that the source lost, as getfattr dumps them"
    )
    parser.add_argument(
        "--arch", metavar="ARCH", default="amd64", help="architecture of a directory (default: %(default)s)"
    )
    common.add_use(parser)
    common.add_progress(parser)


def run(arguments: argparse.Namespace) -> int:
    if bool(arguments.output) == bool(arguments.push):
        raise InputError("say where the image goes: --output PATH or --push REFERENCE")
    attributes = None
    if arguments.xattrs:
        text = arguments.xattrs.read_text("utf-8", "surrogateescape")
        attributes = parse_attributes(text, where=str(arguments.xattrs))
    former = _former(arguments)
    # Layers are linked from there into the layout: they must lie on the same disk.
    near = arguments.output.absolute().parent if arguments.output else None
    if near is not None:
        near.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        tree, config = stack.enter_context(_source(arguments))
        found = examine(tree, attributes)
        memory = make_plan(found, arguments.layers, former)
        blobs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".rechunk-", dir=near)))
        codec = "none" if arguments.output else "gzip"
        made = cut(tree, found, memory, config, blobs, codec=codec)  # type: ignore[arg-type]
        prove(made, found)
        image = replace(made.image, reference=arguments.tag)
        digest = _deliver(arguments, image)
    if arguments.save_plan:
        common.write_text(arguments.save_plan, memory.to_json().decode("utf-8", "surrogateescape") + "\n")
    print(digest)
    count = f"{len(found.components)} components in {len(image.layers)} layers"
    print(f"{count}, {sum(layer.descriptor.size for layer in image.layers)} bytes")
    return ExitCode.DONE


def _deliver(arguments: argparse.Namespace, image: Image) -> str:
    if arguments.push:
        from bundler.progress import renderer
        from bundler.registry.client import Repository
        from bundler.registry.reference import parse_reference
        from bundler.registry.transfer import push

        with renderer(arguments.progress) as sink:
            return push(image, Repository(parse_reference(arguments.push)), sink=sink).descriptor.digest
    write_image(arguments.output.absolute(), image)
    return image.digest


def _former(arguments: argparse.Namespace) -> Memory | None:
    if arguments.plan is None:
        return None
    path = Path(arguments.plan)
    if path.is_file() and path.suffix != ".tar":
        return memory_from_json(path.read_bytes(), where=arguments.plan)
    return memory_of(find_image(arguments.plan, arguments.out), arguments.plan)


@contextmanager
def _source(arguments: argparse.Namespace) -> Iterator[tuple[FileTree, ImageConfig]]:
    """The file system to cut, and the configuration that it keeps."""
    name: str = arguments.source
    path = Path(name)
    if path.is_dir() and not is_image(path):
        yield RootTree(path), ImageConfig(arguments.arch, command=("/bin/sh",))
        return
    with ExitStack() as stack:
        image = common.image_of(name, arguments, stack)
        yield stack.enter_context(ImageTree(image)), image.config
