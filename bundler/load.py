"""Bundles brought into an engine: found where they were built or are loaded already, sent where not.

Docker looks a layer up by its chain ID before it opens the layer's file (moby, image/tarexport/load.go), so
an archive may leave out what the engine has.  That is no promise: the outcome is checked, and the whole
archive sent where it is not as it must be.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from bundler import events
from bundler.digest import Digest
from bundler.engine import Engine, EngineError, EngineImage
from bundler.errors import InputError
from bundler.labels import NAME, Facts, read_facts, with_required
from bundler.oci.image import Image, full_name
from bundler.oci.layout import stream_archive
from bundler.oci.parse import load_object
from bundler.oci.read import is_image, open_image

How = Literal["present", "thin", "full"]


@dataclass(frozen=True, slots=True)
class Packed:
    """A bundle's image on disk (``image``), or in the engine alone (``image`` is None).

    ``id`` is the digest of its configuration, Docker's image ID; where it is in containerd's store alone,
    that of its manifest, and ``by_manifest`` says so.  ``command`` is the Cmd of its configuration.
    """

    facts: Facts
    reference: str
    id: Digest
    command: tuple[str, ...]
    image: Image | None = None
    by_manifest: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """A bundle that is in the engine, and whether that took nothing, some of its layers, or all."""

    bundle: Packed
    how: How


def find_packed(names: Iterable[str], out: Path, engine: Engine | None = None) -> list[Packed]:
    """The named bundles and all that they require, what is required first.

    A name is a path to a layout or archive, the name of a bundle in ``out``, or an image in the engine.
    Raises InputError for what is none of them.
    """
    return with_required(names, lambda name: _find(name, out, engine), lambda packed: packed.facts)


def _find(name: str, out: Path, engine: Engine | None) -> Packed:
    for path in (out / name, Path(name)):
        # A directory of that name in the working directory is none of ours unless it is a layout.
        if is_image(path):
            return packed_of(open_image(path), where=str(path))
    if engine is not None and (found := _in_engine(name, engine)) is not None:
        reference = next(iter(found.names), name)
        facts = read_facts(found.labels, where=reference)
        command = tuple(found.config.get("Cmd") or ())
        return Packed(facts, reference, found.id, command, by_manifest=found.by_manifest)
    raise InputError(
        f"the bundle {name!r} is not at hand",
        why=f"it is neither in {out}, nor a layout or archive, nor an image in the engine",
        hint=f"bundle build {name}",
    )


def _in_engine(name: str, engine: Engine) -> EngineImage | None:
    """The image of that name, or the only one whose label says that it is that bundle."""
    if ":" in name or "/" in name:
        return engine.image(name)
    fits = [image for image in engine.images() if image.labels.get(NAME) == name and image.names]
    if len(fits) > 1:
        names = ", ".join(sorted(image.names[0] for image in fits))
        raise InputError(f"the engine has several images of the bundle {name!r}", why=names, hint="name one")
    return fits[0] if fits else None


def packed_of(image: Image, *, where: str) -> Packed:
    """A bundle's image as it lies on disk; raises InputError if it is another's image."""
    facts = read_facts(image.labels, where=where)
    reference = _short(image.reference) if image.reference else f"{facts.name}:{facts.version}"
    return Packed(facts, reference, image.id, image.config.command, image)


def _short(reference: str) -> str:
    """A reference as Docker shows it."""
    return full_name(reference).removeprefix("docker.io/").removeprefix("library/")


def load(engine: Engine, bundles: Iterable[Packed], sink: events.Sink = events.ignore) -> list[Loaded]:
    """Bring bundles into the engine, in order; those that are there cost a look."""
    wanted, loaded = list(bundles), []
    for text in other_builds(wanted):
        sink(events.Message(text, "warning"))
    for bundle in wanted:
        how: How = "present"
        if bundle.image is not None and not have_image(engine, bundle.image, bundle.reference):
            task = f"load {bundle.reference}"
            sink(events.TaskStarted(task))
            how = load_image(engine, bundle.image, bundle.reference)
            sink(events.TaskFinished(task, note=how))
        loaded.append(Loaded(bundle, how))
    return loaded


def loaded_image(engine: Engine, bundle: Packed) -> EngineImage:
    """The engine's image of a bundle that was loaded: it may have another ID there."""
    found = engine.image(str(bundle.id)) or engine.image(bundle.reference)
    if found is None:
        raise EngineError(f"{engine.name} has no image {bundle.reference}", hint="bundle load")
    return found


def other_builds(bundles: Sequence[Packed]) -> list[str]:
    """A line for each bundle that was built with another image of one that it requires.

    They may well fit together, since the prefix has the compat; nobody has checked these two.
    """
    ids = {bundle.facts.name: bundle.id for bundle in bundles if not bundle.by_manifest}
    return [
        f"{bundle.reference} was built with another {required.name}: 'bundle verify' tells whether they fit"
        for bundle in bundles
        for required in bundle.facts.requires
        if ids.get(required.name, required.digest) != required.digest
    ]


def have_image(engine: Engine, image: Image, reference: str) -> bool:
    """Whether the engine has ``image``; if so, it goes by that name afterwards."""
    there = _present(engine, image, reference)
    if there is None:
        return False
    if reference not in there.names and f"localhost/{reference}" not in there.names:
        engine.tag(there.id, reference)
    return True


def load_image(engine: Engine, image: Image, reference: str) -> How:
    """Have ``image`` in the engine under that name, by sending as little as it takes."""
    image = replace(image, reference=reference)
    if have_image(engine, image, reference):
        return "present"
    if engine.loads_thin and (known := _common_layers(image, engine.images())):
        with contextlib.suppress(EngineError):  # it wants what was left out: below, it gets it
            _send(engine, image, known)
        if _present(engine, image, reference) is not None:
            return "thin"
    _send(engine, image, frozenset())
    if _present(engine, image, reference) is None:
        raise EngineError(f"{engine.name} took the image {reference}, but has it not")
    return "full"


def _send(engine: Engine, image: Image, omit: frozenset[Digest]) -> None:
    def feed(out: IO[bytes]) -> None:
        stream_archive(out, image, omit=omit)

    engine.load(feed)


def _present(engine: Engine, image: Image, reference: str) -> EngineImage | None:
    """The engine's image if it is this one, whatever it goes by there.

    An engine with containerd's store knows images by the digest of their manifest, so another ID proves
    nothing: layers and configuration do.
    """
    for name in (str(image.id), reference):
        found = engine.image(name)
        if found is not None and _facts(found.diff_ids, found.config) == _facts(
            tuple(layer.diff_id for layer in image.layers),
            load_object(image.config_bytes, reference).get("config") or {},
        ):
            return found
    return None


def _facts(diff_ids: tuple[Digest, ...], config: Mapping[str, Any]) -> list[Any]:
    keys = ("Cmd", "Entrypoint", "Env", "Labels", "User", "WorkingDir", "Volumes", "ExposedPorts")
    # podman says "/" where nothing is said.
    said = [None if (value := config.get(key)) in ("/", "") else value or None for key in keys]
    return [diff_ids, *said]


def _common_layers(image: Image, others: Sequence[EngineImage]) -> frozenset[Digest]:
    """The layers from the lowest up that some image in the engine begins with, too.

    Only those: a chain ID depends on all layers below.
    """
    ours = [layer.diff_id for layer in image.layers]
    longest = 0
    for other in others:
        count = 0
        for mine, theirs in zip(ours, other.diff_ids, strict=False):
            if mine != theirs:
                break
            count += 1
        longest = max(longest, count)
    known = set(ours[:longest])
    # A layer that comes twice must be there for its second place.
    return frozenset(known.difference(ours[longest:]))
