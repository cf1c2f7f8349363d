"""What a loader would load, as frozen facts: objects in their order, look-ups, and what went wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from bundler.elf.read import ElfFile

MAX_OBJECTS = 2048
"""Objects of one program, several times what the largest have; beyond it emulation stops."""
MAX_LOOKUPS = 1 << 16
"""Look-ups of one program."""


MAX_DIRECTORIES = 512
"""Directories that one needed name is looked for in, those inherited included."""
MAX_PROBES = 20_000_000
"""Names looked up in directories in one verification: some seconds' work, and a hundred large bundles."""


class How(StrEnum):
    """By what a needed name was found."""

    MAIN = "main program"
    INTERPRETER = "interpreter"
    PATH = "path in the name"
    LOADED = "loaded before"
    RPATH = "DT_RPATH"
    RUNPATH = "DT_RUNPATH"
    CACHE = "loader cache"
    DEFAULT = "default directory"


class Loaded(NamedTuple):
    """An object in memory."""

    path: str
    """Of the file in the tree, symbolic links followed."""
    name: str
    """The absolute path that it was opened by; the loader prints this one."""
    elf: ElfFile
    loader: int | None
    """Index of the object that asked for it first; None for the program and the interpreter."""
    how: How
    hops: tuple[str, ...] = ()
    """Symbolic links between ``name`` and ``path``, as paths in the tree."""


class Lookup(NamedTuple):
    """One needed name of one object, and the index of the object that answers it."""

    requester: int
    needed: str
    target: int | None
    how: How | None
    accident: bool = False
    """Only an earlier load made it succeed: the requester's own search would not find the file."""


class Problem(NamedTuple):
    """Why loading fails, or what the loader complains of; ``rule`` is a rule's name."""

    requester: int
    rule: str
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class Closure:
    """All that one program or library loads; ``objects`` are in the order of loading, itself first."""

    objects: tuple[Loaded, ...]
    lookups: tuple[Lookup, ...]
    problems: tuple[Problem, ...]
    sequence: tuple[int, ...] = ()
    """Indices of the objects in the order in which symbols are searched; empty: the order of loading."""

    def chain(self, index: int) -> tuple[str, ...]:
        """Absolute names from the main program to the object at ``index``."""
        names: list[str] = []
        at: int | None = index
        while at is not None:
            names.append(self.objects[at].name)
            at = self.objects[at].loader if at else None
        if self.objects[index].loader is None and index:
            names.append(self.objects[0].name)
        return tuple(reversed(names))

    @property
    def order(self) -> tuple[str, ...]:
        """Paths in the order in which symbols are searched, without the interpreter."""
        places = self.sequence or range(len(self.objects))
        return tuple(
            self.objects[place].path for place in places if self.objects[place].how is not How.INTERPRETER
        )
