"""Who uses a file: the ways from programs and scripts over what they load and run."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bundler.closure.files import Files
from bundler.closure.loaders import Loaders, default_loader
from bundler.closure.objects import fits, is_loadable
from bundler.closure.report import Scope
from bundler.closure.scripts import interpreter_of, read_head
from bundler.elf.read import ElfFile
from bundler.tree import Entry, FileTree, Kind, walk


@dataclass(frozen=True, slots=True)
class Use:
    """``paths`` are the absolute paths of the files that were meant; ``ways`` lead to them."""

    paths: tuple[str, ...]
    ways: tuple[tuple[str, ...], ...]


def uses(tree: FileTree, scope: Scope, what: str) -> Use:
    """Each program, library and script below the scope's prefix that leads to ``what``, and how.

    ``what`` is an absolute path, a path relative to one of the prefixes, or a soname.
    """
    files = Files(tree)
    loaders = Loaders(files, default_loader(files, scope))
    paths = _meant(files, scope, what)
    wanted = {path[1:] for path in paths} | {files.follow(path).path for path in paths}
    name = posixpath.basename(what)
    ways: list[tuple[str, ...]] = []
    for entry in walk(tree, scope.prefix.strip("/")):
        if entry.kind is not Kind.FILE or entry.path in wanted:
            continue
        facts = files.facts(entry.path)
        if isinstance(facts, ElfFile):
            if is_loadable(facts) and facts.is_dynamic and fits(facts, scope.architecture):
                ways += _loading(loaders, entry, facts, wanted, name)
        elif entry.mode & 0o111 and (way := _running(files, entry, wanted)) is not None:
            ways.append(way)
    return Use(paths, tuple(ways))


@dataclass(frozen=True, slots=True)
class LibraryGraph:
    """Objects by absolute path, what is needed before what needs it, and what each one needs.

    Of a circle, one edge is left out.
    """

    objects: tuple[str, ...]
    needs: Mapping[str, tuple[str, ...]]


def library_graph(tree: FileTree, scope: Scope) -> LibraryGraph:
    """Which objects of the prefix load which others, there and in the prefixes that it may reach."""
    files = Files(tree)
    loaders = Loaders(files, default_loader(files, scope))
    edges: dict[str, dict[str, None]] = {}
    for entry in walk(tree, scope.prefix.strip("/")):
        facts = files.facts(entry.path) if entry.kind is Kind.FILE else None
        if not isinstance(facts, ElfFile) or not is_loadable(facts) or not fits(facts, scope.architecture):
            continue
        edges.setdefault("/" + entry.path, {})
        if facts.is_dynamic:
            closure = loaders.load(entry.path, facts)
            for lookup in closure.lookups:
                if lookup.target is not None:
                    needs = edges.setdefault("/" + closure.objects[lookup.requester].path, {})
                    needs["/" + closure.objects[lookup.target].path] = None
    order = _needed_first(edges)
    place = {path: number for number, path in enumerate(order)}
    return LibraryGraph(
        order,
        {path: tuple(other for other in edges.get(path, ()) if place[other] < place[path]) for path in order},
    )


def _needed_first(edges: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Depth first, without recursion: a hostile file may make a chain of any length."""
    done: dict[str, None] = {}
    entered: set[str] = set()
    for start in edges:
        pending = [(start, False)]
        while pending:
            path, left = pending.pop()
            if left:
                done.setdefault(path)
            elif path not in entered:
                entered.add(path)
                pending.append((path, True))
                pending += [(other, False) for other in edges.get(path, ())]
    return tuple(done)


def _loading(
    loaders: Loaders, entry: Entry, facts: ElfFile, wanted: set[str], name: str
) -> list[tuple[str, ...]]:
    closure = loaders.load(entry.path, facts)
    missing = [lookup for lookup in closure.lookups if lookup.target is None and lookup.needed == name]
    ways = [(*closure.chain(lookup.requester), f"{name} (not found)") for lookup in missing[:1]]
    for index, item in enumerate(closure.objects):
        if index and item.path in wanted:
            ways.append(closure.chain(index))
    return ways


def _running(files: Files, entry: Entry, wanted: set[str]) -> tuple[str, ...] | None:
    interpreter = interpreter_of(read_head(files, entry.path))
    if interpreter and interpreter.startswith("/") and files.follow(interpreter).path in wanted:
        return ("/" + entry.path, interpreter)
    return None


def _meant(files: Files, scope: Scope, what: str) -> tuple[str, ...]:
    """The files that exist under what was said, by path or by the library's name in a prefix's ``lib``."""
    if what.startswith("/"):
        places = [what]
    else:
        prefixes = (scope.prefix, *scope.allowed)
        places = [f"{prefix}/{what}" for prefix in prefixes]
        places += [f"{prefix}/lib/{what}" for prefix in prefixes if "/" not in what]
    return tuple(dict.fromkeys(place for place in places if files.tree.get(place.strip("/")) is not None))
