"""Which adopted files are commands, and which scripts need an interpreter that is not in reach.  Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from bundler.adopt.layout import Layout
from bundler.closure.scripts import HEAD, interpreter_of
from bundler.elf.read import ElfFile
from bundler.errors import InputError
from bundler.tree import FileTree

_ENV = re.compile(rb"#![ \t]*\S*/env[ \t]+(?:-S[ \t]*)?(?P<name>[^ \t\n=-][^ \t\n=]*)")


@dataclass(frozen=True, slots=True)
class Programs:
    """``commands`` are paths below the prefix; ``foreign`` are scripts with the program that runs them."""

    layout: Layout
    commands: tuple[str, ...]
    foreign: tuple[tuple[str, str], ...]


def find_programs(
    tree: FileTree,
    layout: Layout,
    objects: Mapping[str, ElfFile],
    interpreters: Collection[str],
    chosen: Collection[str] = (),
) -> Programs:
    """The commands of a layout: what can be run in ``bin``, or else in other directories of that name.

    ``objects`` are the ELF files by their path in the source, ``interpreters`` the names of programs that
    bundles in reach have.  Where there is no such directory every program is one.  With ``chosen`` these
    are the commands, by their name or their path below the prefix; raises InputError for one that is none.
    What is not in ``bin`` gets a link there.
    """
    scripts = {target: name for target, path in layout.files.items() if (name := _interpreter(tree, path))}
    programs = {
        target for target, path in layout.files.items() if path in objects and objects[path].is_executable
    }
    own = {
        posixpath.basename(path) for path in (*programs, *layout.links) if posixpath.dirname(path) == "bin"
    }
    foreign = {
        target: name
        for target, name in scripts.items()
        if posixpath.basename(name) not in {*interpreters, *own}
    }
    runnable = {*programs, *(target for target in scripts if target not in foreign)}
    for link, text in layout.links.items():
        if posixpath.normpath(posixpath.join(posixpath.dirname(link), text)) in runnable:
            runnable.add(link)
    links = dict(layout.links)
    commands = set()
    for path in sorted(_choose(runnable, chosen) if chosen else _usual(runnable, programs), key=_nearest):
        at = f"bin/{posixpath.basename(path)}"
        if at not in layout.files and at not in links:
            links[at] = posixpath.relpath(path, "bin")
        if at == path or links.get(at) == posixpath.relpath(path, "bin"):
            commands.add(at)
    return Programs(replace(layout, links=links), tuple(sorted(commands)), tuple(sorted(foreign.items())))


def _usual(runnable: Collection[str], programs: Collection[str]) -> Collection[str]:
    top = [path for path in runnable if posixpath.dirname(path) == "bin"]
    below = [path for path in runnable if posixpath.dirname(path).endswith("/bin")]
    return top or below or programs


def _nearest(path: str) -> tuple[bool, int, str]:
    """What is in ``bin`` goes before what only gets a link there."""
    return posixpath.dirname(path) != "bin", path.count("/"), path


def _choose(runnable: Collection[str], chosen: Collection[str]) -> list[str]:
    found = []
    for name in chosen:
        fitting = [path for path in runnable if path == name or posixpath.basename(path) == name]
        if not fitting:
            shown = ", ".join(sorted(runnable)[:20]) or "none at all"
            raise InputError(f"{name!r} is no program of the source", hint=f"there are {shown}")
        found.append(min(fitting, key=_nearest))
    return found


def _interpreter(tree: FileTree, path: str) -> str | None:
    """What runs an executable script: the program that its first line means, past ``env``."""
    entry = tree.get(path)
    if entry is None or not entry.mode & 0o111:
        return None
    with tree.open(path) as stream:
        head = stream.read(HEAD)
    if (match := _ENV.match(head)) is not None:
        return match["name"].decode("utf-8", "surrogateescape")
    return interpreter_of(head)
