"""What loading tells: every program and library of a prefix is loaded in emulation, and judged."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from itertools import zip_longest

from bundler.closure.files import Files
from bundler.closure.loaded import Closure, How
from bundler.closure.loader import Loader
from bundler.closure.report import Scope, Violation, finding
from bundler.elf.read import ElfFile

_LIBRARY = re.compile(rb"(?<=\0)lib[\w+.-]{1,100}\.so(?:\.\d{1,8}){1,4}(?=\0)")
_SHOWN = 5

Key = tuple[str, str, str]
"""Path of the requester, rule, subject: what many programs have in common is reported once."""


def check_closure(
    closure: Closure, scope: Scope, seen: set[Key], found: set[tuple[str, str]]
) -> Iterator[Violation]:
    """Judge what one object loads; findings whose key is in ``seen`` are left out, new ones added to it.

    ``found`` collects who finds which needed name: a library that finds it in the programs that load it,
    and not by itself, works by accident.
    """
    objects = closure.objects
    for problem in closure.problems:
        requester = objects[problem.requester]
        if problem.rule == "needed-missing" and (requester.path, problem.subject) in found:
            if _new(seen, requester.path, "needed-by-accident", problem.subject):
                message = f"{problem.subject} is found only by way of the programs that load this library"
                yield finding("needed-by-accident", "/" + requester.path, message)
        elif _new(seen, requester.path, problem.rule, problem.subject):
            chain = (*closure.chain(problem.requester), problem.subject)
            rule, message = problem.rule, problem.message
            if (
                rule == "needed-missing"
                and problem.subject.startswith("/")
                and not scope.allows(problem.subject)
            ):
                rule, message = (
                    "needed-outside",
                    f"needs {problem.subject}: the container decides what is there",
                )
            yield finding(rule, "/" + requester.path, message, chain)
    for lookup in closure.lookups:
        if lookup.target is None:
            continue
        requester, target = objects[lookup.requester], objects[lookup.target]
        found.add((requester.path, lookup.needed))
        if lookup.accident and _new(seen, requester.path, "needed-by-accident", lookup.needed):
            message = f"{lookup.needed} is found only because {target.name} was loaded before"
            chain = (*closure.chain(lookup.requester), lookup.needed)
            yield finding("needed-by-accident", "/" + requester.path, message, chain)
        if target.elf.soname not in (None, posixpath.basename(lookup.needed)) and _new(
            seen, requester.path, "soname-mismatch", lookup.needed
        ):
            message = f"needs {lookup.needed}, and {target.name} has the soname {target.elf.soname}"
            chain = (*closure.chain(lookup.requester), target.name)
            yield finding("soname-mismatch", "/" + requester.path, message, chain)
    yield from _check_places(closure, scope, seen)
    yield from _check_sonames(closure, seen)
    yield from _check_libc(closure, seen)


def by_search(facts: ElfFile) -> ElfFile:
    """The facts of a program before its needed names were made absolute, as far as loading goes."""
    return facts._replace(needed=tuple(map(posixpath.basename, facts.needed)), version_needs=())


def check_order(absolute: Closure, searched: Closure) -> Iterator[Violation]:
    """Absolute needed names must load what a search would have loaded, in the same order."""
    if absolute.order == searched.order:
        return
    pairs = zip_longest(absolute.order, searched.order)
    here, there = next(pair for pair in pairs if pair[0] != pair[1])
    message = f"loads {here or 'nothing more'} where a search by name would load {there or 'nothing more'}"
    yield finding("order-changed", "/" + absolute.objects[0].path, message)


def check_dlopen(loader: Loader, closure: Closure) -> Iterator[Violation]:
    """Judge the libraries that the file's own dlopen notes name, found as its own dlopen would."""
    own = closure.objects[0]
    loaded = {name for item in closure.objects for name in (item.elf.soname, item.name) if name}
    lists = loader.lists([own], 0)
    for note in own.elf.dlopen_notes:
        if loaded.intersection(note.sonames) or any(loader.finds(lists, name) for name in note.sonames):
            continue
        rule = {"required": "dlopen-missing", "recommended": "dlopen-absent"}.get(note.priority)
        if rule is not None:
            what = f" for {note.feature}" if note.feature else ""
            message = f"asks for {' or '.join(note.sonames)}{what}, which is not found"
            yield finding(rule, "/" + own.path, message, ("/" + own.path, note.sonames[0]))


def check_names(files: Files, loader: Loader, closure: Closure) -> Iterator[Violation]:
    """Names of libraries that lie in a file which calls dlopen, as far as they are not to be found."""
    own = closure.objects[0]
    loaded = {name for item in closure.objects for name in (item.elf.soname, *item.elf.needed) if name}
    lists = loader.lists([own], 0)
    names = library_names(files, own.path) - loaded
    missing = sorted(name for name in names if not loader.finds(lists, name))
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        message = f"calls dlopen, and names {', '.join(missing[:_SHOWN])}{more}"
        yield finding("dlopen-named", "/" + own.path, message)


def library_names(files: Files, path: str) -> set[str]:
    """Strings in a file that are names of libraries with a version, as ``libz.so.1``."""
    found: set[str] = set()
    with files.tree.open(path) as stream:
        tail = b""
        while data := stream.read(1 << 20):
            found.update(match.decode() for match in _LIBRARY.findall(tail + data))
            tail = data[-256:]
    return found


def _check_places(closure: Closure, scope: Scope, seen: set[Key]) -> Iterator[Violation]:
    for index, item in enumerate(closure.objects):
        if item.how in (How.MAIN, How.INTERPRETER):
            continue
        places = ("/" + item.path, item.name, *("/" + hop for hop in item.hops))
        outside = next((place for place in places if not scope.allows(posixpath.normpath(place))), None)
        requester = closure.objects[item.loader or 0]
        if outside is not None and _new(seen, requester.path, "needed-outside", item.path):
            message = f"{posixpath.basename(item.name)} is found at {outside} (by {item.how})"
            yield finding("needed-outside", "/" + requester.path, message, closure.chain(index))


def _check_sonames(closure: Closure, seen: set[Key]) -> Iterator[Violation]:
    first: dict[str, int] = {}
    for index, item in enumerate(closure.objects):
        if item.elf.soname is None:
            continue
        other = first.setdefault(item.elf.soname, index)
        if item.path == closure.objects[other].path:
            continue  # the loader itself, looked at as a program
        if _new(seen, closure.objects[other].path, "soname-twice", item.path):
            message = f"{item.name} and {closure.objects[other].name} both are {item.elf.soname}"
            yield finding("soname-twice", "/" + closure.objects[0].path, message, closure.chain(index))


def _check_libc(closure: Closure, seen: set[Key]) -> Iterator[Violation]:
    loader = next((item for item in closure.objects if item.how is How.INTERPRETER), None)
    libc = next((item for item in closure.objects if item.elf.soname == "libc.so.6"), None)
    if loader is None or libc is None:
        return
    if posixpath.dirname(loader.path) != posixpath.dirname(libc.path) and _new(
        seen, closure.objects[0].path, "interpreter-mismatch", libc.path
    ):
        message = f"is started by {loader.name} and loads {libc.name}"
        yield finding("interpreter-mismatch", "/" + closure.objects[0].path, message)


def _new(seen: set[Key], *key: str) -> bool:
    path, rule, subject = key
    if (path, rule, subject) in seen:
        return False
    seen.add((path, rule, subject))
    return True
