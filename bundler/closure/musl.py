"""musl's dynamic loader, emulated over a file tree.

The rules are those of musl's ``ldso/dynlink.c`` (``load_library``, ``path_open``, ``fixup_rpath``).  They
differ from glibc's: RPATH and RUNPATH are one thing and inherited, sonames are not looked at, neither are
versions, and the libraries that musl consists of are the loader itself by whatever name they are asked for.
"""

from __future__ import annotations

import posixpath

from bundler.closure.files import Files, Found
from bundler.closure.loaded import (
    MAX_DIRECTORIES,
    MAX_LOOKUPS,
    MAX_OBJECTS,
    Closure,
    How,
    Loaded,
    Lookup,
    Problem,
)
from bundler.closure.paths import Form, directory_of, split_musl_path
from bundler.elf.format import ET_DYN, ET_EXEC
from bundler.elf.read import ElfError, ElfFile
from bundler.errors import InputError
from bundler.tree import Kind

DEFAULT_PATH = "/lib:/usr/local/lib:/usr/lib"
_RESERVED = frozenset({"c", "pthread", "rt", "m", "dl", "util", "xnet"})
_MAX_PATH_FILE = 1 << 16


def is_musl(interpreter: str) -> bool:
    """Whether a program interpreter is musl's, by its name."""
    return posixpath.basename(interpreter).startswith("ld-musl-")


class MuslLoader:
    """Emulates musl's loader for the programs of a tree."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.probes = 0
        """Names looked up in directories so far."""
        self._system: dict[str, tuple[str, ...]] = {}

    def load(self, path: str, *, interpreter: str | None = None) -> Closure:
        """Load the ELF file at ``path`` in the tree as the main program; raises ElfError."""
        facts = self.files.facts(path)
        if not isinstance(facts, ElfFile):
            raise facts or ElfError("is not an ELF file", where="/" + path)
        return _Load(self, path, facts, interpreter or facts.interpreter or "").run()

    def system_path(self, interpreter: str) -> tuple[str, ...]:
        """The default directories, which a file two directories above the loader may replace."""
        if interpreter not in self._system:
            text = DEFAULT_PATH
            prefix = posixpath.dirname(posixpath.dirname(interpreter)).rstrip("/")
            name = posixpath.basename(interpreter).removesuffix(".so.1") + ".path"
            found = self.files.find(f"{prefix}/etc", name)
            if found is not None and found.entry is not None:
                try:
                    with self.files.tree.open(found.path) as stream:
                        text = stream.read(_MAX_PATH_FILE).decode("utf-8", "surrogateescape")
                except InputError:
                    text = DEFAULT_PATH
            self._system[interpreter] = tuple(element.directory for element in split_musl_path(text, ""))
        return self._system[interpreter]


class _Load:
    def __init__(self, loader: MuslLoader, path: str, facts: ElfFile, interpreter: str) -> None:
        self._loader = loader
        self._files = loader.files
        self._interpreter = interpreter
        self._objects = [Loaded(path, "/" + path, facts, None, How.MAIN)]
        self._lookups: list[Lookup] = []
        self._problems: list[Problem] = []
        self._short: dict[str, int] = {}
        self._identities: dict[str, int] = {path: 0}
        self._self: int | None = None
        found = self._files.follow(interpreter) if interpreter else None
        if found is not None and found.entry is not None:
            own = self._files.facts(found.path)
            if isinstance(own, ElfFile):
                self._self = self._add(
                    Loaded(found.path, interpreter, own, None, How.INTERPRETER, found.hops)
                )
                self._identities[found.identity] = self._self

    def run(self) -> Closure:
        at = 0
        while at < len(self._objects):
            for name in self._objects[at].elf.needed[:MAX_LOOKUPS]:
                self._load_library(at, name)
            at += 1
            if len(self._objects) > MAX_OBJECTS or len(self._lookups) > MAX_LOOKUPS:
                message = "more objects or look-ups than any program has"
                self._problems.append(Problem(0, "closure-too-large", self._objects[0].name, message))
                break
        return Closure(tuple(self._objects), tuple(self._lookups), tuple(self._problems))

    def _load_library(self, index: int, name: str) -> None:
        if self._self is not None and (is_reserved(name) or name == self._interpreter):
            self._lookups.append(Lookup(index, name, self._self, How.LOADED))
            return
        if "/" in name:
            found = self._files.follow(name) if name.startswith("/") else None
            self._take(index, name, name, found, How.PATH)
            return
        if name in self._short:
            self._lookups.append(Lookup(index, name, self._short[name], How.LOADED))
            return
        places: list[str] = []
        for how, directories in self._lists(index):
            for directory in directories:
                places.append(directory)
                self._loader.probes += 1
                found = self._files.find(directory, name)
                if found is None or found.error in ("ENOENT", "ENOTDIR"):
                    continue
                # The first that opens is taken, whatever it is; any other error ends the whole search.
                self._take(index, name, f"{directory}/{name}", found, how)
                return
        self._lookups.append(Lookup(index, name, None, None))
        message = f"{name} is not found in {', '.join(dict.fromkeys(places))}"
        self._problems.append(Problem(index, "needed-missing", name, message))

    def _lists(self, index: int) -> list[tuple[How, tuple[str, ...]]]:
        """Path lists of the requester, of what needed it, and so on; then the default directories."""
        lists: list[tuple[How, tuple[str, ...]]] = []
        at: int | None = index
        while at is not None and sum(len(directories) for _, directories in lists) <= MAX_DIRECTORIES:
            item = self._objects[at]
            text = item.elf.rpath if item.elf.runpath is None else item.elf.runpath
            if text:
                elements = split_musl_path(text, directory_of(item.name))
                lists.append((How.RPATH, tuple(e.directory for e in elements if e.form is not Form.RELATIVE)))
            at = item.loader
        if self._interpreter:
            lists.append((How.DEFAULT, self._loader.system_path(self._interpreter)))
        return lists

    def _take(self, index: int, name: str, opened: str, found: Found | None, how: How) -> None:
        message = None
        facts = None
        if found is None or found.entry is None:
            error = None if found is None else found.error
            rule = "needed-unfit" if error == "ELOOP" else "needed-missing"
            message = f"{opened} {'is a loop of links' if error == 'ELOOP' else 'is not found'}"
            self._problems.append(Problem(index, rule, opened if rule == "needed-unfit" else name, message))
        else:
            facts = self._files.facts(found.path) if found.entry.kind is Kind.FILE else None
            if not isinstance(facts, ElfFile):
                what = facts.message if isinstance(facts, ElfError) else "is no ELF file"
                message = f"{opened}, found first for {name}, {what}"
            elif not facts.same_abi(self._objects[0].elf):
                message = f"{opened}, found first for {name}, is for another machine"
            elif facts.type not in (ET_DYN, ET_EXEC) or not facts.is_dynamic:
                message = f"{opened}, found first for {name}, is no shared object"
            if message is not None:
                self._problems.append(Problem(index, "needed-unfit", opened, message))
        if message is not None or found is None or not isinstance(facts, ElfFile):
            self._lookups.append(Lookup(index, name, None, None))
            return
        same = self._identities.get(found.identity)
        if same is None:
            same = self._add(Loaded(found.path, opened, facts, index, how, found.hops))
            self._identities[found.identity] = same
        if "/" not in name:
            self._short.setdefault(name, same)
        self._lookups.append(Lookup(index, name, same, how))

    def _add(self, item: Loaded) -> int:
        self._objects.append(item)
        return len(self._objects) - 1


def is_reserved(name: str) -> bool:
    """Whether musl answers the name itself: ``libc.so``, ``libm.so.6``, ``libpthread.so.0`` and so on."""
    stem, dot, _ = name.partition(".")
    return bool(dot) and stem.startswith("lib") and stem[3:] in _RESERVED
