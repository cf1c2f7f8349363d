"""Who uses a file: the ways from programs and scripts over what they load and run."""

from __future__ import annotations

import posixpath
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
