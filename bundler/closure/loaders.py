"""Which loader serves which object of a tree, and what it would do: one front for glibc's and musl's."""

from __future__ import annotations

from bundler.closure.builds import read_build
from bundler.closure.files import Files
from bundler.closure.loaded import Closure
from bundler.closure.loader import Build, Loader
from bundler.closure.musl import MuslLoader, is_musl
from bundler.closure.report import Scope
from bundler.elf.format import EM_X86_64
from bundler.elf.read import ElfFile

LEVELS = (1, 2, 3, 4)
"""x86-64 levels, each of which may choose other files below ``glibc-hwcaps``."""


class Loaders:
    """Loads objects by the loader that they name, or ``default`` (an absolute path) for libraries."""

    def __init__(self, files: Files, default: str | None = None) -> None:
        self._files = files
        self._default = default
        self._glibc: dict[tuple[str | None, bool, int], Loader] = {}
        self._builds: dict[str, Build] = {}
        self._musl = MuslLoader(files)

    def interpreter(self, facts: ElfFile) -> str | None:
        """The loader of an object: its own, or the default where that is for the same machine."""
        return facts.interpreter or self._default

    def load(self, path: str, facts: ElfFile, *, level: int = 1, as_if: ElfFile | None = None) -> Closure:
        """What the object at ``path`` loads on a processor of the x86-64 ``level``.

        With ``as_if``, the object is taken to have those facts.
        """
        interpreter = self.interpreter(facts)
        if interpreter is not None and is_musl(interpreter):
            return self._musl.load(path, interpreter=interpreter)
        return self.glibc(facts, level=level).load(path, facts=as_if, interpreter=interpreter)

    def glibc(self, facts: ElfFile, *, level: int = 1) -> Loader:
        """The emulation of glibc's loader for an object."""
        interpreter = self.interpreter(facts)
        key = (interpreter, facts.elf_class == 64, level)
        if key not in self._glibc:
            build = self._build(interpreter) if interpreter is not None else None
            self._glibc[key] = Loader(self._files, facts, build, level=level)
        return self._glibc[key]

    @property
    def probes(self) -> int:
        """Names looked up in directories so far."""
        return self._musl.probes + sum(loader.probes for loader in self._glibc.values())

    def levels(self, facts: ElfFile) -> tuple[int, ...]:
        """The levels that may differ: more than the first only where there are directories for them."""
        if facts.machine != EM_X86_64 or not self._files.has_hwcaps:
            return LEVELS[:1]
        return LEVELS

    def _build(self, interpreter: str) -> Build:
        if interpreter not in self._builds:
            found = self._files.follow(interpreter)
            there = found.entry is not None and found.error is None
            self._builds[interpreter] = read_build(self._files, found.path) if there else Build()
        return self._builds[interpreter]


def default_loader(files: Files, scope: Scope) -> str | None:
    """The loader that libraries, which name none, are judged with: that of the first prefix that has one."""
    for prefix in (scope.prefix, *scope.allowed):
        found = files.find(f"{prefix.rstrip('/')}/lib", scope.architecture.loader)
        if found is not None and found.entry is not None:
            return f"{prefix.rstrip('/')}/lib/{scope.architecture.loader}"
    return None
