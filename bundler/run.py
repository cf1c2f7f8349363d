"""A command run in an image with bundles mounted, and the image that it leaves, without a trace of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bundler.digest import Digest
from bundler.engine import ContainerSpec, Engine, EngineImage
from bundler.errors import InputError
from bundler.load import Packed, load_image
from bundler.oci.read import open_image
from bundler.scrub import Base, Scrubbed, scrub
from bundler.target import DEFAULT_ROOT
from bundler.traces import DEFAULT_PATH

PathMode = Literal["append", "prepend", "none"]


@dataclass(frozen=True, slots=True)
class Request:
    """What to run.  ``environment`` is ``NAME=value``; ``binds`` are ``HOST:PATH[:ro]``."""

    image: str
    command: tuple[str, ...]
    path: PathMode = "append"
    environment: tuple[str, ...] = ()
    directory: str | None = None
    user: str | None = None
    network: str | None = None
    read_only: bool = False
    binds: tuple[str, ...] = ()
    interactive: bool = False
    terminal: bool = False
    commit: str | None = None


def base_image(engine: Engine, reference: str) -> EngineImage:
    """The image to run in; raises InputError where the engine lacks it."""
    found = engine.image(reference)
    if found is None:
        raise InputError(f"{engine.name} has no image {reference!r}", hint=f"{engine.name} pull {reference}")
    return found


def extend_path(environment: Iterable[str], bundles: Iterable[Packed], mode: PathMode) -> str | None:
    """The value of PATH with the bundles' programs, those that are required last; None to leave it.

    ``environment`` is that of the image, ``NAME=value``.
    """
    if mode == "none":
        return None
    own = next((text for text in environment if text.startswith("PATH=")), DEFAULT_PATH)
    ours = [f"{bundle.facts.prefix}/bin" for bundle in reversed(list(bundles))]
    value = own.removeprefix("PATH=")
    return ":".join([*ours, value] if mode == "prepend" else [value, *ours])


def run_with(engine: Engine, request: Request, bundles: Sequence[Packed], volumes: Sequence[str]) -> int:
    """Run the command and return its exit status; with ``commit``, name the image if that is 0.

    ``volumes`` are the bundles' data containers.  The container is gone afterwards, whatever happens.
    """
    base = base_image(engine, request.image)
    path = extend_path(map(str, base.config.get("Env") or ()), bundles, request.path)
    spec = ContainerSpec(
        image=str(base.id),
        command=request.command,
        # The command is to run, and not to become an argument of the image's own.
        entrypoint=(),
        environment=(*([f"PATH={path}"] if path else []), *request.environment),
        directory=request.directory,
        user=request.user,
        network=request.network,
        read_only=request.read_only,
        interactive=request.interactive,
        terminal=request.terminal,
        volumes_from=tuple(volumes),
        binds=request.binds,
    )
    container = engine.create(spec)
    try:
        status = engine.attach(container, interactive=request.interactive)
        if status == 0 and request.commit is not None:
            binds = [bind.split(":")[1] for bind in request.binds]
            commit_without_trace(engine, container, base, request.commit, further=binds)
        return status
    finally:
        engine.remove(container)


def commit_without_trace(
    engine: Engine,
    container: str,
    base: EngineImage,
    reference: str,
    *,
    root: str = DEFAULT_ROOT,
    further: Iterable[str] = (),
) -> Digest:
    """Make an image of a container with the configuration and layers of its base, and return its ID.

    ``further`` are mount points besides those of bundles, which lie below ``root``.
    """
    committed = engine.commit(container)
    try:
        done = scrub_in_engine(
            engine, str(committed), reference, root, base=base, restore=True, further=further
        )
    finally:
        kept = engine.image(reference)
        if kept is None or kept.id != committed:
            engine.remove_image(str(committed))
    return done.image.id


def scrub_in_engine(
    engine: Engine,
    image: str,
    reference: str,
    root: str,
    *,
    base: EngineImage | None = None,
    restore: bool | None = None,
    further: Iterable[str] = (),
) -> Scrubbed:
    """Scrub an image of the engine, and name the outcome ``reference``."""
    with tempfile.TemporaryDirectory(prefix="bundle-") as work:
        file = Path(work) / "image.tar"
        engine.save(image, file)
        found = engine.image(image)
        platform = found.platform if found is not None else None
        below = None if base is None else Base(len(base.diff_ids), _said(base))
        done = scrub(
            open_image(file, platform=platform), root=root, base=below, restore=restore, further=further
        )
        if done.changes:
            load_image(engine, done.image, reference)
        else:
            engine.tag(image, reference)
    return done


def find_base(engine: Engine, image: EngineImage) -> EngineImage | None:
    """The image that another one was made from: its recorded parent, else the one it shares most with."""
    if image.parent is not None and (parent := engine.image(str(image.parent))) is not None:
        return parent
    below = [
        other
        for other in engine.images()
        if other.id != image.id
        and other.diff_ids
        and other.names
        and len(other.diff_ids) < len(image.diff_ids)
        and image.diff_ids[: len(other.diff_ids)] == other.diff_ids
    ]
    return max(below, key=lambda other: len(other.diff_ids), default=None)


def _said(image: EngineImage) -> dict[str, object]:
    """The inner configuration without what the engine's answer fills in."""
    return {key: value for key, value in image.config.items() if value not in (None, "", False)}
