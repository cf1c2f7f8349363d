"""What loading tells: every program and library of a prefix is loaded in emulation, and judged."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from bundler.closure.loaded import Closure, How
from bundler.closure.report import Scope, Violation, finding

Key = tuple[str, str, str]
"""Path of the requester, rule, subject: what many programs have in common is reported once."""


def check_closure(closure: Closure, scope: Scope, seen: set[Key]) -> Iterator[Violation]:
    """Judge what one object loads; findings whose key is in ``seen`` are left out, new ones added to it."""
    objects = closure.objects
    for problem in closure.problems:
        requester = objects[problem.requester]
        if _new(seen, requester.path, problem.rule, problem.subject):
            chain = (*closure.chain(problem.requester), problem.subject)
            yield finding(problem.rule, "/" + requester.path, problem.message, chain)
    for lookup in closure.lookups:
        if lookup.target is None:
            continue
        requester, target = objects[lookup.requester], objects[lookup.target]
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
        if other != index and _new(seen, closure.objects[other].path, "soname-twice", item.path):
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
