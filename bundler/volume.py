"""Data containers: what ``--volumes-from`` takes bundles from.

One per bundle and image ID, never started, with a volume of the same name that holds the bundle's prefix.
It pins the image, and it is mounted read-only, which containers that take it over inherit.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bundler.digest import Digest, hex_of
from bundler.engine import ContainerSpec, Engine, EngineContainer, EngineImage, EngineInfo, Mount
from bundler.errors import EnvironmentLacks
from bundler.labels import NAME, NO_COMMAND, PREFIX, VERSION, volume_labels, volume_name
from bundler.load import Packed, loaded_image

WRITABLE = "bundle.writable"
"""Label of a data container whose volume may be written to."""
_UNFINISHED = "-new"
"""What the name of a data container ends in while its volume is filled."""
MOUNT_DATA = 4095
"""Bytes that the options of one mount(2) can have: a page, less the final zero."""


@dataclass(frozen=True, slots=True)
class DataContainer:
    name: str
    bundle: str
    version: str
    prefix: str
    image: Digest

    @property
    def short_id(self) -> str:
        return hex_of(self.image)[:12]


def create(
    engine: Engine, bundles: Iterable[Packed], *, copy: bool = True, writable: bool = False
) -> list[str]:
    """The names of the bundles' data containers, each made unless it is there.

    A volume whose container was pruned is filled anew: nobody knows whether it ever was whole.  Without
    ``copy``, the volume is an overlay of the image's layers as they lie in the engine.  Raises
    EnvironmentLacks where the engine cannot do that.
    """
    info = None if copy else engine.info()
    return [_create(engine, bundle, info, writable) for bundle in bundles]


def _create(engine: Engine, bundle: Packed, info: EngineInfo | None, writable: bool) -> str:
    name = volume_name(bundle.facts, bundle.id)
    name += "-rw" if writable else ""
    with _one_at_a_time():
        if any(container.name == name for container in engine.containers(NAME)):
            return name
        # What a process that was killed left behind: nobody has seen it.
        engine.remove(name + _UNFINISHED)
        image = loaded_image(engine, bundle)
        labels = {**volume_labels(bundle.facts), **({WRITABLE: "yes"} if writable else {})}
        # A volume that is in use cannot be removed, and was whole when its first user came.
        engine.remove_volume(name)
        if not engine.has_volume(name):
            options = _overlay_options(image, bundle, info) if info is not None else {}
            engine.create_volume(name, labels, options)
        mount = Mount(name, bundle.facts.prefix, read_only=not writable, copy=info is None)
        # The final name comes last: whatever has it is whole.
        spec = ContainerSpec(
            str(image.id),
            (NO_COMMAND,),
            name=name + _UNFINISHED,
            entrypoint=(),
            labels=labels,
            mounts=(mount,),
        )
        container = engine.create(spec)
        try:
            engine.rename(container, name)
        except BaseException:
            engine.remove(container)
            raise
    return name


def existing(engine: Engine) -> list[DataContainer]:
    """The data containers of the engine, by name."""
    found = [_data_container(container) for container in engine.containers(PREFIX)]
    return sorted((one for one in found if one is not None), key=lambda one: one.name)


def _data_container(container: EngineContainer) -> DataContainer | None:
    labels = container.labels
    if not _is_ours(container.name) or container.name.endswith(_UNFINISHED) or NAME not in labels:
        return None
    prefix = labels.get(PREFIX, "")
    return DataContainer(container.name, labels[NAME], labels.get(VERSION, ""), prefix, container.image)


def remove(engine: Engine, names: Sequence[str] | None) -> list[str]:
    """Remove data containers, by their names or their bundles' (None: all), with their volumes.

    Returns their names.  Volumes whose containers are gone already are among them.  Removing what is not
    there is no error.  A volume that a container still uses stays until that is gone.
    """
    bundles = {one.name: one.bundle for one in existing(engine)}
    bundles |= {name: bundle for name, bundle in engine.volumes(NAME).items() if _is_ours(name)}
    gone = sorted(name for name, bundle in bundles.items() if names is None or {name, bundle} & set(names))
    for name in gone:
        for container in (name, name + _UNFINISHED):
            engine.remove(container)
        engine.remove_volume(name)
    return gone


def _is_ours(name: str) -> bool:
    return name.startswith("bundle-")


def _overlay_options(image: EngineImage, bundle: Packed, info: EngineInfo) -> dict[str, str]:
    """Options of a volume that shows an image's layers without copying them."""
    hint = "leave out --no-copy"
    if not image.directories:
        raise EnvironmentLacks(
            "a volume without a copy needs Docker with overlay2",
            why=f"this is {info.name} with {info.storage or 'a store of its own'}",
            hint=hint,
        )
    if not info.local or not os.access(image.directories[0], os.X_OK):
        raise EnvironmentLacks(
            "a volume without a copy needs the engine's files at hand",
            why=f"{info.root} is not readable here",
            hint=f"be root on the engine's machine, or {hint}",
        )
    inside = bundle.facts.prefix.lstrip("/")
    lower = [short / inside for short in map(_short_path, image.directories) if (short / inside).is_dir()]
    if len(lower) == 1:
        # An overlay of one directory is refused by the kernel.
        return {"type": "none", "o": "bind,ro", "device": str(lower[0])}
    data = "lowerdir=" + ":".join(str(path) for path in reversed(lower))
    if len(data) > MOUNT_DATA:
        raise EnvironmentLacks(
            f"the image has too many layers for a volume without a copy: {len(lower)}",
            why=f"the kernel takes {MOUNT_DATA} bytes of options, and these are {len(data)}",
            hint=hint,
        )
    return {"type": "overlay", "o": data, "device": "overlay"}


def _short_path(directory: Path) -> Path:
    """The same directory by the short link that overlay2 keeps for it, to fit more into one page.

    The driver has ``<root>/l/<26 letters>`` for its own mounts, for this very reason, and names it in
    ``<layer>/link``.
    """
    try:
        link = directory.parent.parent / "l" / (directory.parent / "link").read_text("ascii").strip()
        return link if link.samefile(directory) else directory
    except (OSError, ValueError):
        return directory


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two processes that make data containers take turns: they would fill one volume at once."""
    file = Path(tempfile.gettempdir()) / f"bundle-volumes-{os.getuid()}.lock"
    descriptor = os.open(file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
