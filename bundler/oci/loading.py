"""Whether the programs in a file system find their interpreters and libraries there, whoever put it together.

Unlike ``closure.verify`` this judges no rules of ours: default directories and loader caches count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from bundler.closure.files import Files
from bundler.closure.loaded import Closure
from bundler.closure.loader import Build, Loader
from bundler.closure.loaders import Loaders
from bundler.closure.objects import is_loadable
from bundler.elf.read import ElfFile
from bundler.errors import BundleError, InputError
from bundler.tree import FileTree, Kind, shown

_USUAL = Build(
    directories=tuple(
        f"{above}/{below}"
        for below in ("lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "lib64", "lib")
        for above in ("", "/usr")
    )
)
"""Where loaders look by default, for judging files whose own loader is not there."""
_SHOWN = 4
"""Files named for each library that is missing."""


@dataclass(frozen=True, slots=True)
class Unloadable:
    """A file that cannot be loaded, and what it lacks."""

    path: str
    lack: str
    """A sentence that is the same for all files that lack the same."""


def unloadable(tree: FileTree, only: Collection[str] | None = None) -> Iterator[Unloadable]:
    """Every file that lacks an interpreter, a library or a symbol version, each lack once per file.

    With ``only``, the files at those paths alone are judged, and others read as far as these load them.
    A library is held to less than a program: what it needs may be loaded by the program already, so a
    name that any file of the tree has is not missed.
    """
    files = Files(tree)
    objects: dict[str, ElfFile] = {}
    names: set[str] = set()
    for entry in tree.walk():
        names.add(entry.path.rpartition("/")[2])
        if entry.kind is Kind.FILE and entry.hardlink is None and (only is None or entry.path in only):
            facts = files.facts(entry.path)
            if isinstance(facts, ElfFile) and is_loadable(facts) and facts.is_dynamic:
                objects[entry.path] = facts
    interpreters = Counter(facts.interpreter for facts in objects.values() if facts.interpreter)
    default = interpreters.most_common(1)[0][0] if interpreters else None
    loaders = Loaders(files, default)
    seen: set[tuple[str, str]] = set()
    for path, facts in objects.items():
        if facts.is_static:
            continue
        interpreter = loaders.interpreter(facts)
        there = interpreter is not None and files.follow(interpreter).entry is not None
        if facts.interpreter is not None and not there:
            yield Unloadable(path, f"no layer has the loader {facts.interpreter}")
        closure = loaders.load(path, facts) if there else Loader(files, facts, _USUAL).load(path)
        for found in _lacks(closure, names, program=facts.interpreter is not None):
            if (found.path, found.lack) not in seen:
                seen.add((found.path, found.lack))
                yield found


def missing(found: Iterable[Unloadable], owner: Callable[[str], str], hint: str) -> list[BundleError]:
    """An error for each lack, which names the first files that have it and what they are from."""
    needed: dict[str, list[str]] = {}
    for one in found:
        needed.setdefault(one.lack, []).append(f"/{shown(one.path)} ({owner(one.path)})")
    return [
        InputError(
            lack,
            why="needed by " + ", ".join(files[:_SHOWN]) + (f" and {rest} more" if rest > 0 else ""),
            hint=hint,
        )
        for lack, files in needed.items()
        for rest in (len(files) - _SHOWN,)
    ]


def _lacks(closure: Closure, names: set[str], *, program: bool) -> Iterator[Unloadable]:
    for problem in closure.problems:
        path = closure.objects[problem.requester].path
        if problem.rule == "needed-missing":
            base = problem.subject.rpartition("/")[2]
            if program or base not in names:
                yield Unloadable(path, f"no layer has {problem.subject} where it is looked for")
        elif program:
            yield Unloadable(path, problem.message)
