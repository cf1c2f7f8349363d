"""Judge all files of one prefix.  Nothing is run, and nothing but the tree is read."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator

from bundler.closure.files import Files
from bundler.closure.libc import is_libc
from bundler.closure.literals import check_literals, literal_rules
from bundler.closure.loaded import MAX_PROBES
from bundler.closure.loaders import Loaders, default_loader
from bundler.closure.names import check_commands, check_entry
from bundler.closure.objects import check_object, fits, is_loadable
from bundler.closure.programs import Key, by_search, check_closure, check_dlopen, check_names, check_order
from bundler.closure.report import Report, Scope, Violation, finding
from bundler.closure.rules import Severity, rules
from bundler.closure.scripts import HEAD, check_script
from bundler.closure.symbols import SymbolChecker
from bundler.closure.versions import highest_versions
from bundler.elf.read import ElfError, ElfFile, is_elf
from bundler.errors import BundleError, InputError, raise_all
from bundler.globs import matches
from bundler.tree import Entry, FileTree, Kind, join, walk

MAX_LOOKUPS_IN_ALL = 8_000_000
"""Needed names that are looked up in one verification: about a minute's work, and 100 large bundles."""


class MissingBundle(InputError):
    """A prefix that the scope allows is not in the tree: nothing can be said about what is in it."""


def verify(tree: FileTree, scope: Scope, *, image: FileTree | None = None) -> Report:
    """Judge the files below ``scope.prefix`` in ``tree``, which shows all allowed prefixes at their places.

    ``image`` is the bundle's own image, if it is in one: it must hold nothing but the prefix.  Raises
    MissingBundle where an allowed prefix is absent, and InputError for an accept that no bundle may have.
    What is wrong with the files is in the report.
    """
    _check_scope(tree, scope)
    run = _Run(tree, scope)
    found = [*run.findings(), *(_check_image(image, scope) if image is not None else ())]
    return _report(scope, found, run)


class _Run:
    """One verification; what it has seen so far."""

    def __init__(self, tree: FileTree, scope: Scope) -> None:
        self.files = Files(tree)
        self.scope = scope
        self.counts: Counter[str] = Counter(
            dict.fromkeys(("files", "links", "scripts", "programs", "libraries", "look-ups"), 0)
        )
        self.objects: dict[str, ElfFile] = {}
        """Facts of the mapped files by path in the tree, in order."""

    def findings(self) -> Iterator[Violation]:
        for entry in walk(self.files.tree, self.scope.prefix.strip("/")):
            yield from check_entry(self.files, entry, self.scope)
            if entry.kind is Kind.SYMLINK:
                self.counts["links"] += 1
            elif entry.kind is Kind.FILE:
                self.counts["files"] += 1
                yield from self._check_file(entry)
        yield from check_commands(self.files, self.scope)
        yield from self._check_loading()

    def _check_file(self, entry: Entry) -> Iterator[Violation]:
        path = "/" + entry.path
        with self.files.tree.open(entry.path) as stream:
            head = stream.read(HEAD + 1)
            elf = is_elf(head)
            wanted = literal_rules(path, is_elf=elf)
            stream.seek(0)
            yield from check_literals(path, stream, wanted, self.scope)
        if elf:
            yield from self._check_elf(entry, path)
        elif head.startswith(b"#!"):
            self.counts["scripts"] += 1
            yield from check_script(self.files, entry, head, self.scope)

    def _check_elf(self, entry: Entry, path: str) -> Iterator[Violation]:
        facts = self.files.facts(entry.path)
        if isinstance(facts, ElfError):
            yield finding("elf-damaged", path, facts.message)
        elif facts is None or not is_loadable(facts):
            return
        elif not fits(facts, self.scope.architecture):
            message = f"is for machine {facts.machine} of {facts.elf_class} bits"
            yield finding("machine-foreign", path, message)
        else:
            self.objects[entry.path] = facts
            self.counts["programs" if facts.is_executable else "libraries"] += 1
            yield from check_object(self.files, path, facts, self.scope)

    def _check_loading(self) -> Iterator[Violation]:
        seen: set[Key] = set()
        found: set[tuple[str, str]] = set()
        symbols = SymbolChecker(self.files)
        loaders = Loaders(self.files, default_loader(self.files, self.scope))
        # Programs first: the chain of a finding then begins where somebody starts something.
        for path, facts in sorted(self.objects.items(), key=lambda item: item[1].is_library):
            if not facts.is_dynamic or facts.is_static:
                continue
            closure = loaders.load(path, facts)
            self.counts["look-ups"] += len(closure.lookups)
            if self.counts["look-ups"] > MAX_LOOKUPS_IN_ALL or loaders.probes > MAX_PROBES:
                message = f"takes more look-ups than any bundle: none was done after /{path}"
                yield finding("closure-too-large", self.scope.prefix, message)
                return
            yield from check_closure(closure, self.scope, seen, found)
            for level in loaders.levels(facts)[1:]:
                yield from check_closure(loaders.load(path, facts, level=level), self.scope, seen, found)
            if any(name.startswith("/") for name in facts.needed):
                yield from check_order(closure, loaders.load(path, facts, as_if=by_search(facts)))
            if self.scope.deep and facts.is_executable:
                yield from symbols.check(closure)
            if self.scope.deep and symbols.loads_by_name(path, facts):
                yield from check_names(self.files, loaders.glibc(facts), closure)
            if facts.dlopen_notes:
                yield from check_dlopen(loaders.glibc(facts), closure)


def _check_image(image: FileTree, scope: Scope) -> Iterator[Violation]:
    """What lies beside the prefix, named where it branches off the way there."""
    here = ""
    for part in scope.prefix.strip("/").split("/"):
        for name in image.names(here):
            if name != part:
                path = "/" + join(here, name)
                yield finding("beside-prefix", path, f"is not in {scope.prefix}")
        here = join(here, part)


def _check_scope(tree: FileTree, scope: Scope) -> None:
    problems: list[BundleError] = []
    for prefix in dict.fromkeys((scope.prefix, *scope.allowed)):
        entry = tree.get(prefix.strip("/"))
        if entry is None or entry.kind is not Kind.DIRECTORY:
            problems.append(
                MissingBundle(
                    f"the bundle at {prefix} is not at hand",
                    why=f"{scope.prefix} may use it, so its files must be looked at too",
                    hint="name it: --with TARGET",
                )
            )
    for accept in scope.accepts:
        if accept.rule not in rules():
            problems.append(InputError(f"there is no rule {accept.rule!r} to accept", where=accept.path))
        if not accept.reason.strip():
            problems.append(InputError(f"the accept of {accept.rule} has no reason", where=accept.path))
    raise_all(problems)


def _report(scope: Scope, found: list[Violation], run: _Run) -> Report:
    accepted: list[tuple[Violation, str]] = []
    rest: list[Violation] = []
    used: set[int] = set()
    for item in found:
        index = _accepting(scope, item)
        if index is None:
            rest.append(item)
        else:
            used.add(index)
            accepted.append((item, scope.accepts[index].reason))
    for index, accept in enumerate(scope.accepts):
        if index not in used:
            place = posixpath.join(scope.prefix, accept.path.lstrip("/"))
            rest.append(finding("accept-unused", place, f"{accept.rule} is accepted: {accept.reason}"))
    if scope.seed:
        rest += [
            Violation(rule.name, scope.prefix, rule.summary, Severity.LIMIT)
            for rule in rules().values()
            if rule.severity is Severity.LIMIT
        ]
    order = {name: index for index, name in enumerate(rules())}
    rest.sort(key=lambda item: (order[item.rule], item.path, item.message))
    return Report(
        prefix=scope.prefix,
        violations=tuple(item for item in rest if item.severity is Severity.ERROR),
        notes=tuple(item for item in rest if item.severity in (Severity.WARNING, Severity.INFORMATION)),
        limits=tuple(item for item in rest if item.severity is Severity.LIMIT),
        accepted=tuple(accepted),
        counts=dict(run.counts),
        versions=highest_versions(tuple(run.objects.values())),
    )


def _accepting(scope: Scope, item: Violation) -> int | None:
    """Index of the accept that covers a finding; nothing covers one in the C library."""
    if item.severity is Severity.LIMIT or is_libc(item.path):
        return None
    relative = item.path[len(scope.prefix.rstrip("/")) + 1 :]
    for index, accept in enumerate(scope.accepts):
        if accept.rule == item.rule and matches(relative, (accept.path,)):
            return index
    return None
