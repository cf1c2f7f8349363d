"""``bundle why``: what brings a file or a library into a bundle, and who loads it."""

from __future__ import annotations

import argparse
import json
import posixpath
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bundler.cli import common
from bundler.closure.users import Use, uses
from bundler.errors import ExitCode, InputError
from bundler.oci.manifest import MANIFEST, read_manifest
from bundler.oci.read import is_image
from bundler.subject import Judged, Opener, gather
from bundler.tree import shown

NAME = "why"
GROUP = "look"
SUMMARY = "explain why a file or library is in a bundle: its recipe, and who loads or runs it"
EPILOG = """\
WHAT is a path, absolute or relative to the prefix, or a soname.  Each line is one way from a program or
script to it: what loads what.

examples:
  bundle why libtinfo.so.6 shell
  bundle why bin/bash shell base
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="WHAT", help="file or soname")
    parser.add_argument(
        "bundles",
        metavar="BUNDLE",
        nargs="*",
        help="where to look, as for verify (default: all that were built)",
    )
    parser.add_argument("--prefix", metavar="PATH", help="prefix of a directory that does not know its own")
    parser.add_argument(
        "--limit", metavar="N", type=int, default=20, help="ways shown of each bundle (default: %(default)s)"
    )
    common.add_format(parser)
    common.add_use(parser)


def run(arguments: argparse.Namespace) -> int:
    names = arguments.bundles or _built(arguments.out)
    records = []
    with ExitStack() as stack:
        opener = Opener(stack, arguments.out, common.connector(arguments), prefix=arguments.prefix)
        subjects = [opener.open(name) for name in names]
        for subject in subjects:
            judged = gather(subject, opener, subjects, ())
            found = uses(judged.tree, judged.scope, arguments.what)
            if found.paths or found.ways:
                owners = {path: owner for path in found.paths if (owner := _owner(judged, path))}
                records.append((subject.name, found, owners))
    if not records:
        raise InputError(
            f"none of {', '.join(names)}, nor what they require, has or needs {arguments.what!r}",
            hint="a path relative to the prefix, an absolute one, or a soname such as libz.so.1",
        )
    if arguments.format == "json":
        print(json.dumps([_record(*record) for record in records], indent=2))
    else:
        for name, found, owners in records:
            _print(name, found, owners, arguments.limit)
    return ExitCode.DONE


def _built(out: Path) -> list[str]:
    names = sorted(path.name for path in out.iterdir() if is_image(path)) if out.is_dir() else []
    if not names:
        raise InputError(f"there are no bundles in {out}", hint="name one, or build one: bundle build shell")
    return names


def _owner(judged: Judged, path: str) -> str | None:
    """Bundle and recipe of an absolute path, from the manifest in its prefix."""
    for subject in (judged.subject, *judged.required):
        place = posixpath.join(subject.prefix.strip("/"), MANIFEST)
        if path.startswith(subject.prefix + "/") and subject.tree.get(place) is not None:
            with subject.tree.open(place) as stream:
                recipe = read_manifest(stream.read(), where="/" + place).owners.get(path[1:])
            return f"{subject.name}: {recipe}" if recipe else subject.name
    return None


def _record(name: str, found: Use, owners: dict[str, str]) -> dict[str, Any]:
    return {
        "bundle": name,
        "files": [{"path": path, "from": owners.get(path)} for path in found.paths],
        "ways": [list(way) for way in found.ways],
    }


def _print(name: str, found: Use, owners: dict[str, str], limit: int) -> None:
    print(f"{name}:")
    for path in found.paths:
        print(shown(f"  {path} (from {owners[path]})" if path in owners else f"  {path}"))
    for way in found.ways[:limit]:
        print(shown("    " + " → ".join(way)))
    if len(found.ways) > limit:
        print(f"    and {len(found.ways) - limit} more: --limit {len(found.ways)}")
    if not found.ways:
        print("    nothing loads or runs it by name: a command, data, or a library for dlopen")
