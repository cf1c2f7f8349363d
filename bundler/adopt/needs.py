"""Which libraries adopted programs load, and where those are: in their source, or in a bundle.  Pure.

A library that a bundle in reach has is used from there, if it defines every symbol version that is asked of
it: the run path of a bundle leads there first, and one process must not hold two copies.  The C library is
always the runtime's, since it must be of one build with the loader.  All else comes from the source, found
there as its own loader would find it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bundler.closure.builds import read_build
from bundler.closure.files import Files
from bundler.closure.loader import Build, Loader
from bundler.elf.read import ElfError, ElfFile
from bundler.target import Architecture
from bundler.tree import FileTree, Kind, sort_key


@dataclass(frozen=True, slots=True)
class Library:
    """A library of a bundle in reach: its absolute path, and the symbol versions that it defines."""

    path: str
    bundle: str
    versions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Missing:
    """A needed name that is nowhere, and a path in the source of what needs it."""

    name: str
    needed_by: str


@dataclass(frozen=True, slots=True)
class Unmet:
    """Symbol versions that a library in reach does not define."""

    name: str
    needed_by: str
    versions: tuple[str, ...]
    library: Library


@dataclass(frozen=True, slots=True)
class Needs:
    """The outcome: needed names that the source answers with a path in it, and those that bundles answer."""

    libraries: Mapping[str, str] = field(default_factory=dict)
    reached: Mapping[str, Library] = field(default_factory=dict)
    missing: tuple[Missing, ...] = ()
    unmet: tuple[Unmet, ...] = ()
    clashes: tuple[tuple[str, str, str], ...] = ()
    """Names that mean two different files of the source: the name, and the two paths."""
    objects: Mapping[str, ElfFile] = field(default_factory=dict)
    """Every ELF file that is adopted, by its path in the source: the wanted ones, and libraries."""


def libraries_in(tree: FileTree, directories: Sequence[tuple[str, str]]) -> dict[str, Library]:
    """Libraries by the names that a loader finds them by; ``directories`` are (bundle, absolute path)."""
    files = Files(tree)
    found: dict[str, Library] = {}
    for bundle, directory in directories:
        for name in sorted(files.names(directory)):
            hit = files.find(directory, name)
            facts = files.facts(hit.path) if hit is not None and hit.entry is not None else None
            if isinstance(facts, ElfFile) and facts.is_dynamic:
                versions = frozenset(version.name for version in facts.version_definitions)
                found.setdefault(name, Library(f"{directory}/{name}", bundle, versions))
    return found


def find_needs(
    tree: FileTree,
    wanted: Iterable[str],
    reach: Mapping[str, Library],
    architecture: Architecture,
    *,
    anywhere: bool = True,
) -> Needs:
    """What the ``wanted`` files of a source need, and what those libraries need in turn.

    What no search path leads to is looked for ``anywhere`` in the source: there it must be the only one.
    """
    return _Search(tree, reach, architecture, anywhere).run(wanted)


class _Search:
    def __init__(
        self, tree: FileTree, reach: Mapping[str, Library], architecture: Architecture, anywhere: bool
    ) -> None:
        self.tree = tree
        self.files = Files(tree)
        self.reach = reach
        self.architecture = architecture
        self.edges: dict[tuple[str, str], str] = {}
        self.libraries: dict[str, str] = {}
        self.reached: dict[str, Library] = {}
        self.missing: dict[str, Missing] = {}
        self.unmet: list[Unmet] = []
        self.clashes: dict[tuple[str, str, str], None] = {}
        self.objects: dict[str, ElfFile] = {}
        self._loader: Loader | None = None
        self._by_name: dict[str, list[str]] | None = None if anywhere else {}

    def run(self, wanted: Iterable[str]) -> Needs:
        found = [(path, facts) for path in wanted if (facts := self._facts(path)) is not None]
        # Programs first: what they load is looked for along their run paths, too.
        pending = [path for path, facts in sorted(found, key=lambda item: item[1].is_library)]
        self.objects.update(found)
        for path in pending:
            facts = self.objects[path]
            if not facts.is_dynamic or facts.is_static:
                continue
            self._load(path, facts)
            for name in facts.needed:
                target = self._take(path, facts, name)
                if target is not None and target not in self.objects:
                    self._add(target, pending)
            for note in facts.dlopen_notes:
                for name in note.sonames:
                    target = self._in_source(path, name) if name not in self.reach else None
                    if target is not None:
                        self._keep(name, target)
                        if target not in self.objects:
                            self._add(target, pending)
        return Needs(
            dict(sorted(self.libraries.items())),
            dict(sorted(self.reached.items())),
            tuple(self.missing.values()),
            tuple(self.unmet),
            tuple(self.clashes),
            self.objects,
        )

    def _add(self, path: str, pending: list[str]) -> None:
        facts = self._facts(path)
        if facts is not None:
            self.objects[path] = facts
            pending.append(path)

    def _facts(self, path: str) -> ElfFile | None:
        entry = self.tree.get(path)
        if entry is None or entry.kind is not Kind.FILE:
            return None
        facts = self.files.facts(path)
        if isinstance(facts, ElfError) or facts is None or facts.type not in (2, 3):
            return None
        return facts

    def _take(self, path: str, facts: ElfFile, needed: str) -> str | None:
        """The path in the source of a needed library, or None where it is a bundle's, or nobody's."""
        name = posixpath.basename(needed)
        library = self.reach.get(name)
        if library is not None:
            self.reached[name] = library
            wanted = [
                v.name
                for need in facts.version_needs
                if need.file == name
                for v in need.versions
                if not v.weak
            ]
            lacking = tuple(
                version for version in wanted if library.versions and version not in library.versions
            )
            if lacking:
                self.unmet.append(Unmet(name, path, lacking, library))
            return None
        if name == self.architecture.loader:
            return None
        target = self.edges.get((path, needed)) or self._in_source(path, name)
        if target is None:
            self.missing.setdefault(name, Missing(name, path))
            return None
        self._keep(name, target)
        return target

    def _keep(self, name: str, target: str) -> None:
        other = self.libraries.setdefault(name, target)
        if other != target and not self._same(other, target):
            self.clashes[name, other, target] = None

    def _same(self, one: str, other: str) -> bool:
        with self.tree.open(one) as first, self.tree.open(other) as second:
            return first.read() == second.read()

    def _load(self, path: str, facts: ElfFile) -> None:
        """Note what the source's own loader would find for each needed name, here and below."""
        if self._loader is None:
            self._loader = Loader(self.files, facts, self._build())
        closure = self._loader.load(path, facts=facts)
        for lookup in closure.lookups:
            if lookup.target is not None:
                key = (closure.objects[lookup.requester].path, lookup.needed)
                self.edges.setdefault(key, closure.objects[lookup.target].path)

    def _build(self) -> Build:
        """The loader of the source, if there is one, else one that looks into the usual directories."""
        triplet = self.architecture.triplet
        for directory in (
            f"/lib/{triplet}",
            f"/usr/lib/{triplet}",
            "/lib64",
            "/usr/lib64",
            "/lib",
            "/usr/lib",
        ):
            hit = self.files.find(directory, self.architecture.loader)
            if hit is not None and hit.entry is not None:
                build = read_build(self.files, hit.path)
                if build.directories:
                    return build
        places = (
            f"lib/{triplet}",
            f"usr/lib/{triplet}",
            "lib",
            "usr/lib",
            "lib64",
            "usr/lib64",
            "usr/local/lib",
        )
        return Build(directories=tuple(f"/{place}" for place in places))

    def _in_source(self, path: str, name: str) -> str | None:
        """The one library of that name anywhere in the source: beside what needs it, or the only one."""
        if self._by_name is None:
            self._by_name = {}
            for entry in self._walk():
                self._by_name.setdefault(posixpath.basename(entry), []).append(entry)
        found = []
        for candidate in self._by_name.get(name, ()):
            led = self.files.follow("/" + candidate)
            facts = self._facts(led.path) if led.error is None else None
            if facts is not None and facts.machine == self.architecture.elf_machine and facts.is_dynamic:
                found.append(led.path)
        beside = [one for one in found if posixpath.dirname(one) == posixpath.dirname(path)]
        distinct = sorted(set(beside or found), key=sort_key)
        return distinct[0] if len(distinct) == 1 else None

    def _walk(self) -> Iterator[str]:
        for entry in self.tree.walk():
            if entry.kind in (Kind.FILE, Kind.SYMLINK) and ".so" in entry.path:
                yield entry.path
