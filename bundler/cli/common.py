"""Options that several verbs share, and the settings behind them."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.engine import ENGINES, Engine, connect
from bundler.engine import VARIABLE as ENGINE_VARIABLE
from bundler.errors import InputError
from bundler.settings import Settings, cache_directory
from bundler.target import DEFAULT_ROOT, parse_target

if TYPE_CHECKING:
    from bundler.catalogue import Catalogue
    from bundler.oci.image import Image
    from bundler.plan import Plan
    from bundler.store import Store

IMAGE_HELP = "a layout, an archive, docker:IMAGE, or the name of a bundle that was built"
"""What :func:`image` takes."""
CHECKOUT = Path(__file__).resolve().parents[2]
"""Where our own recipes, images and toolchains lie."""


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Options that say which recipes, images and toolchain to work with."""
    group = parser.add_argument_group("inputs")
    group.add_argument(
        "--recipes",
        metavar="DIR",
        action="append",
        default=[],
        type=Path,
        help="further recipes, before ours",
    )
    group.add_argument(
        "--images", metavar="DIR", action="append", default=[], type=Path, help="further bundle files"
    )
    group.add_argument(
        "--toolchain",
        metavar="NAME",
        default=os.environ.get("BUNDLE_TOOLCHAIN", "seed"),
        help="toolchain to build with: seed, source (default: %(default)s)",
    )
    group.add_argument(
        "--arch", metavar="ARCH", default="x86_64", help="target machine (default: %(default)s)"
    )
    group.add_argument(
        "--root", metavar="PATH", default=DEFAULT_ROOT, help="root of all prefixes (default: %(default)s)"
    )
    group.add_argument(
        "--cache",
        metavar="DIR",
        type=Path,
        default=None,
        help="cache directory (default: $BUNDLE_CACHE, ~/.cache/bundle)",
    )
    group.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("out"), help="where images go (default: out)"
    )


def add_work(parser: argparse.ArgumentParser) -> None:
    """Options of verbs that fetch or build."""
    group = parser.add_argument_group("work")
    group.add_argument(
        "-j",
        "--jobs",
        metavar="N",
        type=int,
        default=0,
        help="processes at once (default: one per processor)",
    )
    group.add_argument("--offline", action="store_true", help="use nothing but what is cached")
    add_progress(parser)


def add_progress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--progress",
        choices=("auto", "plain", "tty", "json", "none"),
        default="auto",
        help="how to show what is going on, on standard error (default: %(default)s)",
    )


def add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="form of the output (default: %(default)s)"
    )


def settings(arguments: argparse.Namespace) -> Settings:
    """Settings from options of :func:`add_inputs` and, where the verb has them, :func:`add_work`."""
    jobs = getattr(arguments, "jobs", 0)
    if jobs < 0:
        raise InputError(f"--jobs {jobs}: the number of processes must be positive")
    cache = arguments.cache.absolute() if arguments.cache else cache_directory()
    return Settings(
        cache=cache,
        recipes=(*(path.absolute() for path in arguments.recipes), CHECKOUT / "recipes"),
        images=(*(path.absolute() for path in arguments.images), CHECKOUT / "images"),
        toolchains=CHECKOUT / "toolchain",
        toolchain=arguments.toolchain,
        target=parse_target(arguments.arch, arguments.root),
        out=arguments.out.absolute(),
        jobs=jobs or len(os.sched_getaffinity(0)),
        offline=getattr(arguments, "offline", False) or bool(os.environ.get("BUNDLE_OFFLINE")),
        keep_failed=getattr(arguments, "keep_failed", False),
        debug_shell=getattr(arguments, "debug_shell", False),
        cache_from=tuple(getattr(arguments, "cache_from", ())),
        cache_to=tuple(getattr(arguments, "cache_to", ())),
        sandbox=getattr(arguments, "sandbox", "auto"),
    )


def catalogue(settings: Settings) -> Catalogue:
    from bundler.catalogue import Catalogue

    return Catalogue(recipes=settings.recipes, images=settings.images, toolchains=settings.toolchains)


def store(settings: Settings) -> Store:
    from bundler.store import Store

    return Store(settings.cache)


def plan(settings: Settings, known: Catalogue, bundles: Sequence[str]) -> Plan:
    """The plan for bundles by name; raises InputError for what is wrong in their files."""
    from bundler.plan import make_plan

    return make_plan(
        bundles, known.bundles, known.recipes, known.toolchain(settings.toolchain), settings.target
    )


def write_text(path: Path, text: str) -> None:
    """Write a result that the user asked for, whole or not at all."""
    from bundler.store import write_file

    if not path.parent.is_dir():
        raise InputError("there is no such directory", where=str(path.parent))
    write_file(path.absolute(), text.encode("utf-8", "surrogateescape"))


def add_use(parser: argparse.ArgumentParser) -> None:
    """Options of verbs that use bundles in an engine."""
    group = parser.add_argument_group("engine and bundles")
    add_engine(group)
    group.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("out"), help="where built images lie (default: out)"
    )


def add_engine(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--engine",
        choices=("auto", *ENGINES),
        default=None,
        help=f"container engine (default: ${ENGINE_VARIABLE}, else the first that answers)",
    )


def engine(arguments: argparse.Namespace) -> Engine:
    """The engine that options of :func:`add_use` choose; raises EnvironmentLacks where none answers."""
    return connect(arguments.engine)


def image(name: str, out: Path, stack: ExitStack, engine: Callable[[], Engine]) -> Image:
    """The image that a user means: ``docker:IMAGE``, a path, or the name of a bundle that was built.

    What is taken out of the engine for it is removed with ``stack``.
    """
    from bundler.oci.read import find_image, open_image

    kind, colon, reference = name.partition(":")
    if not colon or kind not in ENGINES:
        return find_image(name, out)
    file = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bundle-"))) / "image.tar"
    found = engine()
    if found.image(reference) is None:
        raise InputError(f"{found.name} has no image {reference!r}")
    found.save(reference, file)
    return open_image(file)


def image_of(name: str, arguments: argparse.Namespace, stack: ExitStack) -> Image:
    """As :func:`image`, with the engine and the directory that options of :func:`add_use` choose."""
    return image(name, arguments.out, stack, lambda: engine(arguments))


def connector(arguments: argparse.Namespace) -> Callable[[str | None], Engine]:
    """Connects to an engine when it is called: the one that it is asked for, else that of the options."""
    return lambda name: connect(name or arguments.engine)
