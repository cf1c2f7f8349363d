"""``bundle run``: a command in an image that has none of its tools."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.cli import common
from bundler.errors import InputError

if TYPE_CHECKING:
    from bundler.load import Packed

NAME = "run"
GROUP = "use"
SUMMARY = "run a command in an image with bundles mounted"
EPILOG = """\
The exit status is the command's; 125 and above as in Docker.  With --commit, an image is made if the
command ends with 0: it has the configuration and the layers of IMAGE and one more layer, in which nothing
tells of the bundles.  Where IMAGE is a directory, or `scratch` for an empty one, no engine is needed: a
namespace is the container, and the directory is seen read-only.

examples:
  bundle run --from alpine --with shell -- bash -c 'rsync --version'
  bundle run --from debian:13 --with ansible --commit web:1 --volume $PWD:/play:ro -- \\
      ansible-playbook -i localhost, -c local /play/site.yml
  bundle run --from app:1 --with shell,base        # what the bundle runs by itself: bash
  bundle run --from scratch --with shell -- bash -c 'tree -d -L 3 /'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="image", metavar="IMAGE", required=True, help="image or directory to run in"
    )
    parser.add_argument(
        "--with",
        dest="bundles",
        metavar="BUNDLE",
        action="append",
        required=True,
        help="bundle to mount, with what it requires; repeat, or separate by commas",
    )
    parser.add_argument("--commit", metavar="TAG", help="name the image that the command leaves")
    parser.add_argument(
        "--path",
        choices=("append", "prepend", "none"),
        default="append",
        help="where the bundles' programs stand in the container's PATH (default: %(default)s)",
    )
    parser.add_argument(
        "-e",
        "--env",
        metavar="NAME[=VALUE]",
        action="append",
        default=[],
        help="set a variable; without a value, to the one that it has here",
    )
    parser.add_argument("-w", "--workdir", metavar="DIR", help="directory to run in (default: the image's)")
    parser.add_argument("-u", "--user", metavar="USER[:GROUP]", help="user to run as (default: the image's)")
    parser.add_argument(
        "-v", "--volume", metavar="HOST:PATH[:ro]", action="append", default=[], help="mount a directory"
    )
    parser.add_argument("--network", metavar="NAME", help="network of the container (default: the engine's)")
    parser.add_argument("--read-only", action="store_true", help="make the image's own files read-only")
    parser.add_argument("--no-copy", action="store_true", help="as in `bundle volume create`")
    parser.add_argument("--writable", action="store_true", help="let the command write to the bundles")
    common.add_use(parser)
    common.add_progress(parser)
    parser.add_argument("command", metavar="CMD", nargs="*", help="command and arguments, after --")


def run(arguments: argparse.Namespace) -> int:
    if arguments.commit and arguments.read_only:
        raise InputError("--read-only and --commit exclude each other: nothing would be changed")
    if arguments.image == "scratch" or os.path.isdir(arguments.image):
        return _run_in_directory(arguments)
    return _run_in_engine(arguments)


def _run_in_engine(arguments: argparse.Namespace) -> int:
    from bundler import volume
    from bundler.load import find_packed, load
    from bundler.progress import renderer
    from bundler.run import Request, base_image, run_with

    engine = common.engine(arguments)
    base_image(engine, arguments.image)
    packed = find_packed(_names(arguments), arguments.out, engine)
    command = _command(arguments, packed)
    with renderer(arguments.progress) as sink:
        load(engine, packed, sink)
    volumes = volume.create(engine, packed, copy=not arguments.no_copy, writable=arguments.writable)
    interactive = _has_input()
    request = Request(
        image=arguments.image,
        command=command,
        path=arguments.path,
        environment=tuple(_variable(text) for text in arguments.env),
        directory=arguments.workdir,
        user=arguments.user,
        network=arguments.network,
        read_only=arguments.read_only,
        binds=tuple(_bind(text) for text in arguments.volume),
        interactive=interactive,
        terminal=interactive and sys.stdin.isatty() and sys.stdout.isatty(),
        commit=arguments.commit,
    )
    return run_with(engine, request, packed, volumes)


def _run_in_directory(arguments: argparse.Namespace) -> int:
    from bundler.load import find_packed
    from bundler.namespace import SCRATCH, Room, run_in_namespace, unpacked
    from bundler.run import extend_path
    from bundler.settings import cache_directory
    from bundler.store import Store

    for option in ("commit", "no_copy", "writable"):
        if getattr(arguments, option):
            name = option.replace("_", "-")
            raise InputError(f"--{name} needs an image to run in", why=f"{arguments.image} is a directory")
    packed = find_packed(_names(arguments), arguments.out)
    command = _command(arguments, packed)
    path = extend_path([], packed, arguments.path)
    own = [f"TERM={os.environ.get('TERM', 'dumb')}", "HOME=/", *([f"PATH={path}"] if path else [])]
    room = Room(
        root=None if arguments.image == SCRATCH else Path(arguments.image).absolute(),
        bundles=unpacked(Store(cache_directory()), packed),
        environment=(*own, *(_variable(text) for text in arguments.env)),
        directory=arguments.workdir or "/",
        user=arguments.user or "0:0",
        binds=tuple(_bind(text) for text in arguments.volume),
        network=arguments.network == "host",
    )
    return run_in_namespace(room, command)


def _names(arguments: argparse.Namespace) -> list[str]:
    return [name for words in arguments.bundles for name in words.split(",") if name]


def _command(arguments: argparse.Namespace, packed: list[Packed]) -> tuple[str, ...]:
    """The command that was given, else the one of the bundle that was named last."""
    own = (one.command for one in reversed(packed) if one.command and one.command != ("/nop",))
    command = tuple(arguments.command) or next(own, ())
    if not command:
        raise InputError("there is no command to run", hint="name one after --")
    return command


def _variable(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not name:
        raise InputError(f"--env {text!r} has no name")
    return text if equals else f"{name}={os.environ.get(name, '')}"


def _bind(text: str) -> str:
    """A mount whose host part may be relative."""
    host, colon, rest = text.partition(":")
    if not colon or not rest.startswith("/"):
        raise InputError(f"--volume {text!r} is not HOST:PATH", hint="as in --volume .:/work:ro")
    if not os.path.exists(host):
        raise InputError("there is no such directory to mount", where=host)
    return f"{os.path.abspath(host)}:{rest}"


def _has_input() -> bool:
    """Whether standard input may hold something: it is neither closed nor the null device."""
    try:
        status = os.fstat(0)
    except OSError:
        return False
    return not (stat.S_ISCHR(status.st_mode) and status.st_rdev == os.stat(os.devnull).st_rdev)
