"""glibc's dynamic loader, emulated over a file tree: which file answers which needed name, and why.

The rules are those of glibc's ``elf/dl-load.c``, ``dl-deps.c`` and ``dl-version.c``; the comments name
the places.  Nothing is run.  :class:`Loader` keeps its look-ups, so one serves all programs of a tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

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
from bundler.closure.paths import Form, directory_of, expand_tokens, split_path
from bundler.closure.versions import check_versions
from bundler.elf.format import DF_1_PIE, DT_AUXILIARY, DT_FILTER, DT_NEEDED, ET_DYN, ET_EXEC, PT_LOAD
from bundler.elf.read import ElfError, ElfFile
from bundler.tree import FileTree, Kind

_SHOWN = 6
"""Directories named in a message."""
_OSABI_OK = frozenset({0, 3})
"""ELFOSABI_SYSV and ELFOSABI_GNU (``VALID_ELF_OSABI``)."""


@dataclass(frozen=True, slots=True)
class Build:
    """What is compiled into a loader, or read by it before all else.

    The default of every field is that of a loader whose own directories hold nothing of interest, which
    is all that matters where DF_1_NODEFLIB is set throughout.
    """

    directories: tuple[str, ...] = ()
    """Default directories, in the order of search."""
    cache: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Loader cache: paths by soname, the best first."""
    lib: str = "lib"
    platform: str = "x86_64"
    legacy: bool = False
    """Up to glibc 2.36 the loader looked into ``tls`` and platform directories as well."""


class _Hit(NamedTuple):
    name: str
    found: Found
    elf: ElfFile
    how: How


class _Unfit(NamedTuple):
    """The loader stops here: what it found first, and what is wrong with that."""

    name: str
    message: str


_Answer = _Hit | _Unfit | None
_Lists = tuple[tuple[How, tuple[str, ...]], ...]


class Loader:
    """Emulates the loader for objects of one ABI.

    ``level`` is the x86-64 level of the processor (1 to 4).  With ``search``, every object is taken to
    have exactly these directories as its DT_RPATH and DF_1_NODEFLIB, whatever it says: so a tree can be
    judged as it will be after relocation.
    """

    def __init__(
        self,
        files: Files,
        abi: ElfFile,
        build: Build | None = None,
        *,
        level: int = 1,
        search: tuple[str, ...] | None = None,
    ) -> None:
        self._files = files
        self._abi = abi
        self._build = build or Build()
        self._search_override = search
        hwcaps = [f"glibc-hwcaps/x86-64-v{n}" for n in range(level, 1, -1)] if abi.machine == 62 else []
        legacy = ["tls/x86_64/x86_64", "tls/x86_64", "tls", "x86_64/x86_64", "x86_64"]
        self._subdirectories = (*hwcaps, *(legacy if self._build.legacy else ()))
        self._places: dict[str, tuple[str, ...]] = {}
        self._answers: dict[_Lists, dict[str, _Answer]] = {}
        self._paths: dict[tuple[str, str], tuple[str, ...]] = {}
        self.probes = 0
        """Names looked up in directories so far."""
        self.memo: dict[object, object] = {}
        """Room for the version checks of pairs of files."""

    def load(
        self, path: str, *, facts: ElfFile | ElfError | None = None, interpreter: str | None = None
    ) -> Closure:
        """Load the ELF file at ``path`` in the tree, links followed, as the main program.

        With ``facts``, these are taken instead of the file's own.  ``interpreter`` is the absolute path
        of the loader for a library, which names none itself.
        """
        facts = facts or self._files.facts(path)
        if not isinstance(facts, ElfFile):
            raise facts or ElfError("is not an ELF file", where="/" + path)
        return _Load(self, path, facts, interpreter or facts.interpreter).run()

    def lists(self, objects: list[Loaded], index: int) -> _Lists:
        """The directories that a needed name of one object is searched in (``_dl_map_object``)."""
        if self._search_override is not None:
            return ((How.RPATH, self._search_override),)
        own = objects[index].elf
        lists: dict[tuple[How, tuple[str, ...]], None] = {}
        total = 0
        if own.runpath is None:
            # DT_RPATH of the requester, of what loaded it, and so on up to the program; an object with a
            # DT_RUNPATH has its DT_RPATH ignored (elf_get_dynamic_info).
            at: int | None = index
            while at is not None and total <= MAX_DIRECTORIES:
                item = objects[at]
                if item.elf.rpath and item.elf.runpath is None:
                    # A list that was searched before has nothing new.
                    directories = self.directories(item.elf.rpath, item.name)
                    total += len(directories)
                    lists[How.RPATH, directories] = None
                at = item.loader
        else:
            lists[How.RUNPATH, self.directories(own.runpath, objects[index].name)] = None
        if self._build.cache:
            # With DF_1_NODEFLIB, cache entries below the default directories do not count.
            lists[How.CACHE, self._build.directories if own.nodeflib else ()] = None
        if not own.nodeflib and self._build.directories:
            lists[How.DEFAULT, self._build.directories] = None
        return tuple(lists)

    def directories(self, text: str, name: str) -> tuple[str, ...]:
        """The absolute directories of a path list of the object that was opened as ``name``."""
        origin = directory_of(name) if "$" in text else ""
        key = (text, origin)
        if key not in self._paths:
            elements = split_path(text, origin, self._build.lib, self._build.platform)
            # What is relative to a current directory that nobody knows is reported by a rule of its own.
            self._paths[key] = tuple(e.directory for e in elements if e.form is not Form.RELATIVE)
        return self._paths[key]

    def expand(self, name: str, opened: str) -> str:
        """A needed name of the object that was opened as ``opened``, with its tokens replaced."""
        return expand_tokens(name, directory_of(opened), self._build.lib, self._build.platform)

    def answers(self, lists: _Lists) -> dict[str, _Answer]:
        return self._answers.setdefault(lists, {})

    def open(self, name: str) -> _Answer:
        """A name that holds a slash is opened as it is."""
        found = self._files.follow(name)
        if found.error is not None or found.entry is None:
            return None
        verdict = self._judge(found)
        return None if verdict is None else self._answer(name, found, verdict, How.PATH)

    def search(self, lists: _Lists, name: str) -> _Answer:
        """The first file in the lists that the loader would take, or stop at (``open_path``)."""
        for how, directories in lists:
            if how is How.CACHE:
                answer = self._from_cache(name, refused=directories)
                if answer is not None:
                    return answer
                continue
            for place in (place for directory in directories for place in self._expand(directory)):
                self.probes += 1
                found = self._files.find(place, name)
                if found is None or found.error not in (None, "ELOOP"):
                    continue
                if found.error == "ELOOP":
                    break  # open_path gives the list up for any errno but ENOENT and EACCES
                verdict = self._judge(found)
                if verdict is not None:
                    return self._answer(f"{place if place != '/' else ''}/{name}", found, verdict, how)
        return None

    def finds(self, lists: _Lists, name: str) -> bool:
        """Whether dlopen of ``name`` would find a file that can be loaded."""
        return isinstance(self.open(name) if "/" in name else self.search(lists, name), _Hit)

    def _from_cache(self, name: str, refused: tuple[str, ...]) -> _Answer:
        for path in self._build.cache.get(name, ()):
            if any(path.startswith(directory + "/") for directory in refused):
                continue
            answer = self.open(path)
            if answer is not None:
                return answer._replace(how=How.CACHE) if isinstance(answer, _Hit) else answer
        return None

    def _expand(self, directory: str) -> tuple[str, ...]:
        """The directory and those of its subdirectories that are searched before it and exist."""
        places = self._places.get(directory)
        if places is None:
            names = self._files.names(directory)
            places = self._places[directory] = (
                *(
                    f"{directory}/{sub}"
                    for sub in self._subdirectories
                    if sub.partition("/")[0] in names and self._files.has_directory(f"{directory}/{sub}")
                ),
                directory,
            )
        return places

    def _answer(self, name: str, found: Found, verdict: ElfFile | str, how: How) -> _Answer:
        return _Unfit(name, verdict) if isinstance(verdict, str) else _Hit(name, found, verdict, how)

    def _judge(self, found: Found) -> ElfFile | str | None:
        """The file's facts, None to look further, or why the loader stops (``open_verify``)."""
        assert found.entry is not None
        if found.entry.kind is Kind.DIRECTORY:
            return "is a directory"
        if found.entry.kind is not Kind.FILE:
            return f"is a {found.entry.kind}"
        facts = self._files.facts(found.path)
        if facts is None:
            return "is no ELF file (invalid ELF header, or file too short)"
        if isinstance(facts, ElfError):
            return facts.message
        if not facts.same_abi(self._abi):
            return None
        if facts.osabi not in _OSABI_OK:
            return f"has the OS ABI {facts.osabi}, which the loader does not know"
        if facts.type == ET_EXEC or facts.flags_1 & DF_1_PIE:
            return "is a program, which cannot be loaded as a library"
        if facts.type != ET_DYN:
            return "is no shared object"
        if not any(segment.type == PT_LOAD for segment in facts.segments):
            return "has no loadable segments"
        if not facts.is_dynamic:
            return "has no dynamic section"
        return facts


class _Load:
    """One run of the loader: the state that glibc keeps in its link maps."""

    def __init__(self, loader: Loader, path: str, facts: ElfFile, interpreter: str | None) -> None:
        self._loader = loader
        self._files = loader._files
        self.objects = [Loaded(path, "/" + path, facts, None, How.MAIN)]
        self.lookups: list[Lookup] = []
        self.problems: list[Problem] = []
        # Every name that finds an object: what it was asked for by, its path, and its soname.
        self._known: dict[str, int] = {}
        # The same without sonames that nobody has asked for yet: what version needs are compared with.
        self.named: dict[str, int] = {}
        self._identities: dict[str, int] = {path: 0}
        # Objects in the order in which symbols are searched, and the set of those in it.
        self._sequence = [0]
        self._placed = {0}
        if facts.soname is not None:
            self._known.setdefault(facts.soname, 0)
        if interpreter is not None:
            self._map_interpreter(interpreter)

    def _map_interpreter(self, interpreter: str) -> None:
        """The kernel has mapped the loader already: it answers its own path and soname (rtld.c)."""
        found = self._files.follow(interpreter) if interpreter.startswith("/") else None
        if found is None or found.error is not None or found.entry is None:
            return
        facts = self._files.facts(found.path)
        if not isinstance(facts, ElfFile) or not facts.same_abi(self.objects[0].elf):
            return
        index = self._add(Loaded(found.path, interpreter, facts, None, How.INTERPRETER, found.hops), found)
        if facts.soname is not None:
            self.named.setdefault(facts.soname, index)

    def run(self) -> Closure:
        """Breadth first, in the order of the tags (``_dl_map_object_deps``)."""
        at = 0
        mapped: set[int] = set()
        while at < len(self._sequence):
            index = self._sequence[at]
            if index in mapped:
                at += 1
                continue
            mapped.add(index)
            # A filtee, put in front of what names it, is the next one to be looked at.
            self._map_dependencies(index)
            if len(self.objects) > MAX_OBJECTS or len(self.lookups) > MAX_LOOKUPS:
                message = f"more than {len(self.objects) - 1} objects or {len(self.lookups) - 1} look-ups"
                self.problems.append(Problem(0, "closure-too-large", self.objects[0].name, message))
                break
        check_versions(self.objects, self.named, self.problems, self._loader.memo)
        return Closure(tuple(self.objects), tuple(self.lookups), tuple(self.problems), tuple(self._sequence))

    def _map_dependencies(self, index: int) -> None:
        elf = self.objects[index].elf
        lists = self._loader.lists(self.objects, index)
        answers = self._loader.answers(lists)
        for tag, written in dependencies(elf):
            name = self._loader.expand(written, self.objects[index].name) if "$" in written else written
            target = self._known.get(name)
            if target is not None:
                if tag == DT_NEEDED:
                    self._reuse(index, name, target, lists, answers)
            else:
                answer = self._ask(name, lists, answers)
                if isinstance(answer, _Hit):
                    target = self._take(index, name, answer)
                elif tag != DT_AUXILIARY:
                    self._fail(index, name, answer, lists)
            if target is None:
                continue
            if tag == DT_NEEDED:
                if target not in self._placed:
                    self._sequence.append(target)
            else:
                self._put_before(index, target)
            self._placed.add(target)

    def _put_before(self, index: int, filtee: int) -> None:
        """A filtee is searched before the object that names it, moved there if it stood behind."""
        place = self._sequence.index(index)
        if filtee in self._placed:
            if self._sequence.index(filtee) < place:
                return
            self._sequence.remove(filtee)
        self._sequence.insert(place, filtee)

    def _fail(self, index: int, name: str, answer: _Answer, lists: _Lists) -> None:
        self.lookups.append(Lookup(index, name, None, None))
        if isinstance(answer, _Unfit):
            message = f"{answer.name}, found first for {name}, {answer.message}"
            self.problems.append(Problem(index, "needed-unfit", answer.name, message))
        else:
            self.problems.append(Problem(index, "needed-missing", name, _missing(name, lists)))

    def _ask(self, name: str, lists: _Lists, answers: dict[str, _Answer]) -> _Answer:
        if name not in answers:
            if "/" in name:
                answers[name] = self._loader.open(name) if name.startswith("/") else None
            else:
                answers[name] = self._loader.search(lists, name)
        return answers[name]

    def _reuse(self, index: int, name: str, known: int, lists: _Lists, answers: dict[str, _Answer]) -> None:
        target = self.objects[known]
        accident = False
        if "/" not in name and target.how is not How.INTERPRETER:
            own = self._ask(name, lists, answers)
            accident = not isinstance(own, _Hit)
        self.named.setdefault(name, known)
        self.lookups.append(Lookup(index, name, known, How.LOADED, accident))

    def _take(self, index: int, name: str, hit: _Hit) -> int:
        same = self._identities.get(hit.found.identity)
        if same is None:
            same = self._add(
                Loaded(hit.found.path, hit.name, hit.elf, index, hit.how, hit.found.hops), hit.found
            )
        # The same file by a new name is not loaded again; the name is remembered (add_name_to_object).
        self._known.setdefault(name, same)
        self.named.setdefault(name, same)
        self.lookups.append(Lookup(index, name, same, hit.how))
        return same

    def _add(self, item: Loaded, found: Found) -> int:
        index = len(self.objects)
        self.objects.append(item)
        self._identities.setdefault(found.identity, index)
        self._known.setdefault(item.name, index)
        self.named.setdefault(item.name, index)
        if item.elf.soname is not None:
            self._known.setdefault(item.elf.soname, index)
        return index


def dependencies(elf: ElfFile) -> Iterator[tuple[int, str]]:
    """Tag and name of what an object loads, in the order of its dynamic section."""
    if not (elf.filter or elf.auxiliary):
        for name in elf.needed:
            yield DT_NEEDED, name
        return
    names = {DT_NEEDED: iter(elf.needed), DT_FILTER: iter(elf.filter), DT_AUXILIARY: iter(elf.auxiliary)}
    for tag, _ in elf.dynamic:
        if tag in names:
            yield tag, next(names[tag])


def _missing(name: str, lists: _Lists) -> str:
    if "/" in name:
        return f"{name} is not found"
    found = dict.fromkeys(d for how, directories in lists if how is not How.CACHE for d in directories)
    places = [*found][:_SHOWN]
    if len(found) > _SHOWN:
        places.append(f"{len(found) - _SHOWN} more directories")
    return f"{name} is not found in {', '.join(places) or 'any directory: there is no RPATH'}"


def resolve_needed(
    tree: FileTree | Files, path: str, elf: ElfFile, *, search: tuple[str, ...]
) -> tuple[tuple[str, str], ...]:
    """The needed names of a program and the absolute paths that glibc's loader would open for them.

    ``path`` is the program's own place in the tree, where it need not lie yet; ``search`` are the
    directories that every object's DT_RPATH will hold.  Names with a slash, the loader itself, which the
    kernel has mapped, and names that are not found are left out: verify names the latter.
    """
    files = tree if isinstance(tree, Files) else Files(tree)
    loader = Loader(files, elf, search=search)
    closure = loader.load(path.lstrip("/"), facts=elf)
    return tuple(
        (lookup.needed, closure.objects[lookup.target].name)
        for lookup in closure.lookups
        if lookup.requester == 0
        and lookup.target is not None
        and "/" not in lookup.needed
        and closure.objects[lookup.target].how is not How.INTERPRETER
    )
