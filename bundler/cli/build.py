"""``bundle build``: the whole way from recipes to verified images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bundler.assemble import Packed
from bundler.cli import common
from bundler.errors import ExitCode, InputError
from bundler.pipeline import Outcome, Pipeline
from bundler.progress import duration, renderer

NAME = "build"
GROUP = "build"
SUMMARY = "build bundles and all they need, verify them, and write their images"
EPILOG = """\
Each image is written as an OCI layout to out/BUNDLE. What the cache holds is not built again. A failing
build leaves a log: 'bundle log RECIPE'.

examples:
  bundle build shell
  bundle build gitartifact --jobs 8 --archive gitartifact.tar
  bundle build mytools --recipes ./recipes --images ./images
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", help="bundle to build")
    parser.add_argument(
        "--archive", metavar="FILE", type=Path, help="also write one file that is an OCI and a Docker archive"
    )
    parser.add_argument("--keep-failed", action="store_true", help="keep the build directory of what fails")
    parser.add_argument("--debug-shell", action="store_true", help="open a shell where a step fails")
    parser.add_argument(
        "--sandbox",
        choices=("auto", "bubblewrap", "docker"),
        default="auto",
        help="how builds are kept apart from the machine (default: %(default)s)",
    )
    shared = parser.add_argument_group("shared cache")
    shared.add_argument(
        "--cache-from",
        metavar="REPOSITORY",
        action="append",
        default=[],
        help="take what other machines built from a registry, HOST[:PORT]/REPOSITORY",
    )
    shared.add_argument(
        "--cache-to",
        metavar="REPOSITORY",
        action="append",
        default=[],
        help="store there what this build gave",
    )
    common.add_format(parser)
    common.add_work(parser)
    common.add_inputs(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.archive and len(arguments.bundles) > 1:
        raise InputError("--archive takes one bundle at a time")
    settings = common.settings(arguments)
    with renderer(arguments.progress) as sink:
        outcome = Pipeline(settings, arguments.bundles, sink).build()
        if arguments.archive:
            from bundler.oci.layout import write_archive
            from bundler.oci.read import open_image

            write_archive(arguments.archive, open_image(settings.out / arguments.bundles[0]))
    if arguments.format == "json":
        print(json.dumps(_record(outcome), indent=1))
    else:
        print(_summary(outcome), end="")
    return ExitCode.DONE


def _summary(outcome: Outcome) -> str:
    rows = [
        (packed.reference, packed.prefix, f"{packed.layers} layers", size(packed.size), _place(packed))
        for packed in outcome.packed
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]) for row in rows]
    work = f"{len(outcome.built)} built, {len(outcome.cached)} from the cache"
    return "\n".join([*lines, f"{work}, in {duration(outcome.seconds)}"]) + "\n"


def _place(packed: Packed) -> str:
    try:
        return str(packed.layout.relative_to(Path.cwd()))
    except ValueError:
        return str(packed.layout)


def size(count: int) -> str:
    """Bytes in the form that a person reads, in powers of ten: ``12.3 MB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def _record(outcome: Outcome) -> dict[str, object]:
    return {
        "bundles": [
            {
                "name": packed.name,
                "version": packed.version,
                "prefix": packed.prefix,
                "image": packed.image,
                "manifest": packed.manifest,
                "layout": str(packed.layout),
                "layers": packed.layers,
                "files": packed.files,
                "size": packed.size,
                "cached": packed.cached,
            }
            for packed in outcome.packed
        ],
        "built": list(outcome.built),
        "cached": list(outcome.cached),
    }
