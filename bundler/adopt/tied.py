"""What an adopted program still expects of the container that it runs in.  Pure: bytes in, findings out.

Paths that were compiled in are found as whole strings.  One that names what is itself in the bundle is moved
there by an edit of equal length, if the new path is no longer than the old one; slashes fill it up where the
prefix ends, so that whatever shares the string's end keeps it (linkers merge strings by their tails).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from bundler.target import ARCHITECTURES

SHELL = frozenset({"system", "popen", "wordexp"})
"""Functions of the C library that run ``/bin/sh``."""
USERS = frozenset({"getpwuid", "getpwuid_r", "getpwnam", "getpwnam_r"})
DLOPEN = frozenset({"dlopen", "dlmopen"})

_LIBRARY = re.compile(rb"(?<=\0)lib[\w+.-]{1,100}\.so(?:\.\d{1,8}){1,4}(?=\0)")
_PATH = re.compile(
    rb"(?<![\x21-\xff])(/(?:usr|etc|var|opt|lib|lib64|run|srv|snap|sbin|bin)/[\w.+@:~-]+(?:/[\w.+@:~-]*)*)\0"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the bytes of one file say; ``paths`` are absolute paths of a host that stand there as strings."""

    paths: frozenset[str]
    libraries: frozenset[str]
    variables: frozenset[str]
    """Environment variables of the table of settings whose names stand there."""
    calls: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tied:
    """A path of the host, the files below the prefix that name it, and the variables that change it."""

    path: str
    files: tuple[str, ...]
    variables: tuple[str, ...] = ()
    held: str | None = None
    """Where what it names is in the bundle, if it is there."""
    owner: str | None = None
    """The part of the source (a package) that has it, where that was not adopted."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A replacement of equal length for ``[[edit]]``: in ``files``, ``count`` times each."""

    files: tuple[str, ...]
    old: str
    new: str
    count: int


@cache
def settings() -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """The table: path prefixes, and the variables that change them."""
    text = resources.files("bundler.adopt").joinpath("tied.toml").read_text(encoding="utf-8")
    return tuple((tuple(one["paths"]), tuple(one["variables"])) for one in tomllib.loads(text)["setting"])


def variables_for(path: str) -> tuple[str, ...]:
    """Variables of the settings whose paths are ``path`` or lie above it, the nearest first."""
    found = [
        (len(prefix), variables)
        for prefixes, variables in settings()
        for prefix in prefixes
        if path == prefix or path.startswith(prefix + "/")
    ]
    longest = max((length for length, _ in found), default=0)
    return tuple(dict.fromkeys(name for length, names in found if length == longest for name in names))


def look_into(data: bytes, calls: Iterable[str] = ()) -> Facts:
    """The facts of a file's bytes; ``calls`` are the functions that it imports."""
    paths = {match[1].decode() for match in _PATH.finditer(data)}
    names = {name for _, names in settings() for name in names}
    return Facts(
        paths=frozenset(paths),
        libraries=frozenset(match.decode() for match in _LIBRARY.findall(data)),
        variables=frozenset(name for name in names if name.encode() + b"\0" in data),
        calls=frozenset(calls),
    )


def tie(facts: Mapping[str, Facts], held: Mapping[str, str], owners: Mapping[str, str]) -> list[Tied]:
    """Paths of the host by the files below the prefix that name them.

    ``held`` maps absolute paths of the source, directories too, to absolute paths in the bundle; ``owners``
    maps those that were left behind to who has them.
    """
    named: dict[str, list[str]] = {}
    for file, one in facts.items():
        for path in one.paths:
            named.setdefault(path.rstrip("/"), []).append(file)
    found = []
    for path, files in sorted(named.items()):
        known = {name for file in files for name in facts[file].variables}
        variables = tuple(name for name in variables_for(path) if name in known)
        found.append(Tied(path, tuple(sorted(files)), variables, held.get(path), owners.get(path)))
    return found


GENERIC = frozenset(
    {
        *("/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib64", "/usr/libexec", "/usr/share"),
        *("/usr/include", "/usr/local", "/usr/local/bin", "/usr/local/lib", "/usr/local/share"),
        *("/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt", "/var", "/var/lib"),
        *(f"{above}/{one.triplet}" for one in ARCHITECTURES.values() for above in ("/lib", "/usr/lib")),
    }
)
"""Directories of everybody: who names one means whatever the container has there."""


def moved(path: str, target: str, prefix: str) -> tuple[str, tuple[str, str] | None] | None:
    """What can stand in the place of ``path`` so that it leads to the absolute ``target``: no longer than it.

    Data that would be too far down gets a shorter way: a link at the prefix itself, given as its path below
    the prefix and its text.  ``None`` where nothing is short enough.
    """
    for candidate, link in ((target, None), _shortcut(target, prefix)):
        gap = len(path.encode()) - len(candidate.encode())
        if gap >= 0:
            return prefix + "/" * gap + candidate[len(prefix) :], link
    return None


def _shortcut(target: str, prefix: str) -> tuple[str, tuple[str, str] | None]:
    below = target.removeprefix(f"{prefix}/share/")
    if below == target:
        return target, None
    first = below.partition("/")[0]
    return f"{prefix}/{below}", (first, f"share/{first}")


def edits_for(path: str, new: str, files: Mapping[str, bytes]) -> list[Edit]:
    """Edits that put ``new``, of equal length, in the place of ``path`` in these files.

    A file in which the string is the end of another one is left alone.
    """
    by_count: dict[int, list[str]] = {}
    old = path.encode() + b"\0"
    for file, data in files.items():
        count = data.count(old)
        whole = len(re.findall(rb"(?<![\x21-\xff])" + re.escape(old), data))
        if count and count == whole:
            by_count.setdefault(count, []).append(file)
    return [Edit(tuple(sorted(names)), path, new, count) for count, names in sorted(by_count.items())]
