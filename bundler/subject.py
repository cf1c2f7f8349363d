"""What verify is pointed at, opened as a file tree: directories, images, volumes, bundles by name.

A subject knows its own prefix and what it requires from the manifest inside the prefix; what is no bundle
of ours needs the prefix said.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from bundler.closure.report import Scope
from bundler.digest import digest_stream
from bundler.engine import Engine
from bundler.errors import InputError
from bundler.labels import COMPAT, NAME, PREFIX, REQUIRES, VERSION, Facts, Required, read_facts
from bundler.oci.image import LAYER, Descriptor, FileBlob, Image, ImageConfig, Layer
from bundler.oci.manifest import MANIFEST
from bundler.oci.merged import ImageTree
from bundler.oci.read import is_image, open_image
from bundler.recipe import Accept
from bundler.target import ARCHITECTURES, Architecture
from bundler.tree import DirectoryTree, Entry, FileTree, Kind, UnionTree, parents, walk

MAX_LINE = 4 << 20
"""Bytes of one line of a manifest that are read."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A bundle's files at their prefix, and what is known of it.  ``digest`` is the image ID, if any."""

    name: str
    prefix: str
    tree: FileTree
    architecture: Architecture
    requires: tuple[Required, ...] = ()
    commands: tuple[str, ...] = ()
    seed: bool = False
    digest: str | None = None
    is_image: bool = False
    is_bundle: bool = False
    """Whether a manifest told what it requires; otherwise it may use whatever it was verified with."""


@dataclass(slots=True)
class Opener:
    """Opens subjects; what they hold open is closed with ``stack``.

    ``prefix`` is for what does not say where it belongs; ``engine`` connects to an engine when one is
    needed, by its name or (None) to the one that was chosen.
    """

    stack: ExitStack
    out: Path
    engine: Callable[[str | None], Engine]
    prefix: str | None = None
    architecture: Architecture = ARCHITECTURES["x86_64"]

    def open(self, target: str) -> Subject:
        """The subject that ``target`` names; raises InputError with the forms that there are."""
        kind, colon, name = target.partition(":")
        if colon and kind in ("docker", "podman"):
            return self._saved(name, self.engine("podman" if kind == "podman" else None))
        if colon and kind == "volume":
            return self._volume(name)
        path = Path(target)
        for candidate in (self.out / target, path) if "/" not in target else (path,):
            if is_image(candidate):
                return self._image(open_image(candidate), target)
        if path.is_dir():
            return self._directory(path, target)
        raise InputError(
            f"there is nothing to verify at {target!r}",
            why=f"it is no directory, layout or archive, and no bundle in {self.out}",
            hint="a directory, an OCI layout, an archive, docker:IMAGE, volume:NAME, or a bundle's name",
        )

    def _saved(self, reference: str, engine: Engine) -> Subject:
        if engine.image(reference) is None:
            raise InputError(f"{engine.name} has no image {reference!r}")
        file = (
            Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="bundle-verify-"))) / "image.tar"
        )
        engine.save(reference, file)
        return self._image(open_image(file), reference)

    def _volume(self, name: str) -> Subject:
        from bundler.volume import existing

        engine = self.engine(None)
        data = next((one for one in existing(engine) if one.name == name), None)
        if data is None:
            raise InputError(
                f"{engine.name} has no data container {name!r}",
                hint="'bundle volume list' names those it has",
            )
        file = (
            Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="bundle-verify-")))
            / "volume.tar"
        )
        engine.export_volume(name, data.prefix, file)
        with file.open("rb") as stream:
            digest = digest_stream(stream)
        size = file.stat().st_size
        layer = Layer(Descriptor(LAYER, digest, size), digest, FileBlob(file, size))
        image = Image((layer,), ImageConfig(architecture=self.architecture.oci))
        tree = PlacedTree(self.stack.enter_context(ImageTree(image)), data.prefix.strip("/"))
        return self._described(Subject(data.bundle, data.prefix, tree, self.architecture, digest=data.image))

    def _image(self, image: Image, name: str) -> Subject:
        tree = self.stack.enter_context(ImageTree(image))
        fits = (known for known in ARCHITECTURES.values() if known.oci == image.config.architecture)
        architecture = next(fits, None)
        if architecture is None:
            raise InputError(f"its architecture {image.config.architecture!r} is none of ours", where=name)
        try:
            facts = read_facts(image.labels, where=name)
        except InputError:
            if self.prefix is None:
                raise
            return self._described(Subject(name, self.prefix, tree, architecture, digest=image.id))
        subject = Subject(facts.name, facts.prefix, tree, architecture, facts.requires, digest=image.id)
        return self._described(replace(subject, is_bundle=True, is_image=True))

    def _directory(self, path: Path, name: str) -> Subject:
        """A root file system, or the content of a prefix, which its manifest or ``--prefix`` places."""
        prefix = self.prefix or _own_prefix(path / MANIFEST)
        if prefix is None:
            raise InputError(
                "it is not known at which prefix this directory belongs",
                where=name,
                hint="say so: --prefix /.deps/…; a root file system is one that has this prefix in it",
            )
        inside = prefix.strip("/")
        tree = DirectoryTree(path) if (path / inside).is_dir() else DirectoryTree(path, at=inside)
        return self._described(Subject(name, prefix, tree, self.architecture))

    def _described(self, subject: Subject) -> Subject:
        """The subject with what the manifest inside its prefix tells, if there is one."""
        bundle: Mapping[str, Any] | None = None
        for record in _records(subject.tree, f"{subject.prefix.strip('/')}/{MANIFEST}"):
            if record.get("type") == "bundle":
                bundle = record
                break
        if bundle is None:
            return subject
        facts = _facts(bundle, f"{subject.prefix}/{MANIFEST}")
        chain = bundle.get("toolchain")
        commands = tuple(map(str, bundle.get("commands") or ()))
        return replace(
            subject,
            name=facts.name,
            requires=subject.requires or facts.requires,
            commands=commands,
            # A toolchain that none built is one of binary packages, with what these cannot do.
            seed=isinstance(chain, list) and len(chain) == 1,
            is_bundle=True,
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """A subject with all that it requires in one tree, and the scope to judge it in."""

    subject: Subject
    tree: FileTree
    scope: Scope
    required: tuple[Subject, ...]
    """What it requires, directly or through others, in the order of finding."""

    @property
    def image(self) -> FileTree | None:
        """The bundle's own image, if that is what was opened."""
        return self.subject.tree if self.subject.is_image else None

    @property
    def others(self) -> tuple[str, ...]:
        """A line for each required bundle that is another build than the one recorded."""
        ids = {one.name: one.digest for one in self.required}
        return tuple(
            f"{self.subject.name} was built with another {required.name} than the one it is verified with"
            for required in self.subject.requires
            if ids.get(required.name) not in (None, required.digest)
        )


def gather(
    subject: Subject,
    opener: Opener,
    at_hand: Sequence[Subject],
    accepts: tuple[Accept, ...],
    *,
    deep: bool = False,
) -> Judged:
    """Find what the subject requires among ``at_hand``, in the directory of built images, or in the engine.

    Raises InputError for a required bundle that is nowhere.  What is no bundle of ours does not say what it
    requires: it is taken to require all that is at hand.
    """
    by_name = {one.name: one for one in at_hand}
    required: dict[str, Subject] = {}
    pending = [one.name for one in (subject.requires if subject.is_bundle else at_hand)]
    while pending:
        name = pending.pop(0)
        if name in required or name == subject.name:
            continue
        found = by_name.get(name) or _built(name, opener)
        if found is None:
            raise InputError(
                f"the required bundle {name!r} is not at hand",
                where=subject.name,
                why="its files must be looked at, too",
                hint=f"name it: --with TARGET; or 'bundle build {name}'",
            )
        required[name] = found
        pending += [one.name for one in found.requires]
    others = tuple(required.values())
    scope = Scope(
        prefix=subject.prefix,
        allowed=tuple(one.prefix for one in others),
        architecture=subject.architecture,
        accepts=accepts,
        seed=any(one.seed for one in (subject, *others)),
        deep=deep,
        commands=subject.commands,
    )
    tree = UnionTree([subject.tree, *(one.tree for one in others)]) if others else subject.tree
    return Judged(subject, tree, scope, others)


def _built(name: str, opener: Opener) -> Subject | None:
    return opener.open(name) if is_image(opener.out / name) else None


class PlacedTree:
    """A tree seen below a path, as a volume is mounted there."""

    def __init__(self, tree: FileTree, at: str) -> None:
        self._tree = tree
        self._at = at
        above = ["", *parents(at)]
        self._above = dict(zip(above, at.split("/"), strict=True))

    def get(self, path: str) -> Entry | None:
        if path in self._above:
            return Entry(path, Kind.DIRECTORY)
        inner = self._inner(path)
        entry = self._tree.get(inner) if inner is not None else None
        if entry is None:
            return None
        first = entry.hardlink if entry.hardlink is None else f"{self._at}/{entry.hardlink}"
        return replace(entry, path=path, hardlink=first)

    def names(self, path: str) -> Sequence[str]:
        if path in self._above:
            return (self._above[path],)
        inner = self._inner(path)
        return self._tree.names(inner) if inner is not None else ()

    def walk(self) -> Iterator[Entry]:
        return walk(self)

    def open(self, path: str) -> BinaryIO:
        inner = self._inner(path)
        if inner is None:
            raise InputError("no such file", where="/" + path)
        return self._tree.open(inner)

    def _inner(self, path: str) -> str | None:
        if path == self._at:
            return ""
        return path[len(self._at) + 1 :] if path.startswith(self._at + "/") else None


def _own_prefix(manifest: Path) -> str | None:
    records = _records(DirectoryTree(manifest.parent), manifest.name)
    found = next((record for record in records if record.get("type") == "bundle"), None)
    return None if found is None else _facts(found, str(manifest)).prefix


def _facts(record: Mapping[str, Any], where: str) -> Facts:
    """The facts of a manifest's first line, held to what labels are held to; raises InputError."""
    requires = record.get("requires")
    pairs = requires.items() if isinstance(requires, dict) else ()
    labels = {
        name: str(record.get(name.removeprefix("bundle."), "")) for name in (NAME, VERSION, PREFIX, COMPAT)
    }
    return read_facts(
        {**labels, REQUIRES: " ".join(f"{name}={digest}" for name, digest in pairs)}, where=where
    )


def _records(tree: FileTree, path: str) -> Iterator[dict[str, Any]]:
    """Lines of a manifest up to its entries; a file that is no manifest has none."""
    try:
        stream = tree.open(path)
    except InputError:
        return
    with stream:
        while line := stream.readline(MAX_LINE):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not isinstance(record, dict) or record.get("type") not in ("bundle", "recipe"):
                return
            yield record
