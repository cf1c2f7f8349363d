"""What an ELF file alone tells: its interpreter, search path, flags, segments, notes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bundler.closure.files import Files
from bundler.closure.paths import Form, directory_of, split_path
from bundler.closure.report import Scope, Violation, finding
from bundler.elf.format import EM_X86_64, ET_DYN, ET_EXEC, PT_GNU_STACK, PT_LOAD
from bundler.elf.read import ElfError, ElfFile
from bundler.target import Architecture
from bundler.tree import Kind

_HWCAPS = re.compile(r"/glibc-hwcaps/x86-64-v([2-4])/")


def is_loadable(facts: ElfFile) -> bool:
    """Whether the kernel or a loader maps the file: no object file, core or detached debug information."""
    return facts.type in (ET_EXEC, ET_DYN) and (facts.is_dynamic or facts.is_static)


def fits(facts: ElfFile, architecture: Architecture) -> bool:
    """Whether the file is for the architecture: machine, class and byte order (ours are little-endian)."""
    return (facts.machine, facts.elf_class, facts.byte_order) == (
        architecture.elf_machine,
        architecture.elf_class,
        "little",
    )


def check_object(files: Files, path: str, facts: ElfFile, scope: Scope) -> Iterator[Violation]:
    """Judge one mapped ELF file of the scope's architecture; ``path`` is absolute."""
    is_loader = facts.soname == scope.architecture.loader
    if facts.interpreter is not None:
        yield from check_interpreter(files, path, facts, scope)
    if facts.is_dynamic:
        yield from _check_search(files, path, facts, scope)
        if not (facts.nodeflib or is_loader or facts.is_static):
            yield finding("default-directories", path, "does not refuse the loader's default directories")
        for name in filter(None, (facts.audit, facts.depaudit)):
            yield finding("audit", path, f"names the audit library {name}")
        for name in facts.needed:
            if "/" in name and not name.startswith("/"):
                yield finding("needed-relative", path, f"needs {name}")
        if facts.text_relocations:
            yield finding("text-relocations", path, "has text relocations (DT_TEXTREL)")
        if facts.relro == "none" and not is_loader:
            yield finding("relro", path, "has no PT_GNU_RELRO")
    yield from _check_process(path, facts, scope)


def check_interpreter(files: Files, path: str, facts: ElfFile, scope: Scope) -> Iterator[Violation]:
    """Judge PT_INTERP as the kernel takes it (``fs/binfmt_elf.c``)."""
    name = facts.interpreter or ""
    if not name.startswith("/"):
        yield finding("interpreter-unfit", path, f"names the interpreter {name!r}, which is not absolute")
        return
    found = files.follow(name)
    chain = (path, name, *("/" + hop for hop in found.hops))
    outside = next((p for p in (*chain[1:], "/" + found.path) if not scope.allows(p)), None)
    if outside is not None:
        beyond = "" if outside == name else f", which leads to {outside}"
        yield finding("interpreter-outside", path, f"is started by {name}{beyond}", chain)
        return
    if found.entry is None:
        yield finding("interpreter-missing", path, f"is started by {name}, which does not exist", chain)
        return
    loader = files.facts(found.path) if found.entry.kind is Kind.FILE else None
    reason = None
    if not isinstance(loader, ElfFile):
        reason = loader.message if isinstance(loader, ElfError) else "is no ELF file"
    elif not loader.same_abi(facts):
        reason = "is for another machine"
    elif not found.entry.mode & 0o001:
        reason = f"has mode {found.entry.mode:04o}"
    elif loader.interpreter is not None:
        reason = f"has an interpreter itself, {loader.interpreter}"
    if reason is not None:
        yield finding("interpreter-unfit", path, f"is started by {name}, which {reason}", chain)


def _check_search(files: Files, path: str, facts: ElfFile, scope: Scope) -> Iterator[Violation]:
    if facts.runpath is not None:
        yield finding("runpath", path, f"has the DT_RUNPATH {facts.runpath}")
    text = facts.rpath if facts.runpath is None else facts.runpath
    for element in split_path(text or "", directory_of(path)):
        if element.form is Form.RELATIVE:
            yield finding(
                "rpath-relative", path, f"searches {element.text!r}, relative to the current directory"
            )
            continue
        if element.form is Form.TOKEN:
            yield finding("rpath-token", path, f"searches {element.text}, here {element.directory}")
        found = files.follow(element.directory)
        # An entry may leave the prefix by '..' or by a link: what it leads to counts, and what it says.
        places = (element.directory, *("/" + hop for hop in found.hops), "/" + found.path)
        if "/../" in element.directory + "/":
            places = places[1:]
        if not all(map(scope.allows, places)):
            yield finding("rpath-outside", path, f"searches {element.text}")
        elif found.entry is None:
            yield finding("rpath-missing-directory", path, f"searches {element.text}, which does not exist")


def _check_process(path: str, facts: ElfFile, scope: Scope) -> Iterator[Violation]:
    if facts.exec_stack:
        absent = not any(segment.type == PT_GNU_STACK for segment in facts.segments)
        yield finding(
            "executable-stack", path, "has no PT_GNU_STACK" if absent else "asks for an executable stack"
        )
    if facts.kernel is not None and facts.kernel > scope.kernel:
        needs, promised = (".".join(map(str, version)) for version in (facts.kernel, scope.kernel))
        yield finding("kernel-floor", path, f"needs Linux {needs}, and {promised} is promised")
    if facts.machine == EM_X86_64:
        level = facts.isa_needed.bit_length()
        chosen = _HWCAPS.search(path)
        allowed = max(scope.isa_level, int(chosen[1]) if chosen else 1)
        if level > allowed:
            yield finding("isa-level", path, f"needs x86-64-v{level}, and level {allowed} is promised")
    smallest = min((s.align for s in facts.segments if s.type == PT_LOAD and s.memsz), default=None)
    if smallest is not None and smallest < scope.architecture.page_size:
        yield finding("page-size", path, f"has segments aligned to {smallest} bytes")
