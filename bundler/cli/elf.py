"""``bundle elf show|patch``: the ELF reader and patcher by themselves."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bundler.elf.edits import Edits
from bundler.elf.format import ElfError
from bundler.elf.read import ElfFile, read_file
from bundler.errors import BundleError, ExitCode, InputError, raise_all

NAME = "elf"
GROUP = "tools"
SUMMARY = "show or patch what the loader reads in ELF files"
EPILOG = """\
examples:
  bundle elf show /bin/ls
  bundle elf show --field needed --format json lib/*.so
  bundle elf patch --set-rpath /.deps/shell/1/lib --no-default-lib bin/bash
  bundle elf patch --replace-needed libz.so.1 /.deps/shell/1/lib/libz.so.1 --output new old

Files are replaced by rename, or left as they were where an edit is refused.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="show|patch", required=True)
    show = actions.add_parser("show", help="print what files say", description="Print what files say.")
    show.add_argument("files", metavar="FILE", nargs="+")
    show.add_argument(
        "--field", metavar="NAME", choices=tuple(FIELDS), help="print only this: " + ", ".join(FIELDS)
    )
    show.add_argument("--format", choices=("text", "json"), default="text", help="default: %(default)s")
    show.set_defaults(action=_show)

    patch = actions.add_parser("patch", help="change files", description="Change files.")
    patch.add_argument("files", metavar="FILE", nargs="+")
    patch.add_argument(
        "--set-interpreter", metavar="PATH", help="set the program interpreter, where there is one"
    )
    patch.add_argument("--set-rpath", metavar="PATHS", help="set DT_RPATH, remove DT_RUNPATH")
    patch.add_argument("--set-runpath", metavar="PATHS", help="set DT_RUNPATH, remove DT_RPATH")
    patch.add_argument("--remove-rpath", action="store_true", help="remove both")
    patch.add_argument("--add-rpath", metavar="DIR", action="append", default=[], help="append a directory")
    patch.add_argument(
        "--shrink-rpath", action="store_true", help="keep only directories where a needed library is found"
    )
    patch.add_argument(
        "--add-needed", metavar="NAME", action="append", default=[], help="need another library"
    )
    patch.add_argument(
        "--remove-needed", metavar="NAME", action="append", default=[], help="need a library no longer"
    )
    patch.add_argument(
        "--replace-needed",
        metavar=("OLD", "NEW"),
        nargs=2,
        action="append",
        default=[],
        help="need another library in its place, symbol versions included",
    )
    patch.add_argument("--set-soname", metavar="NAME", help="set DT_SONAME")
    patch.add_argument(
        "--no-default-lib", action="store_true", help="refuse default directories and the loader's cache"
    )
    patch.add_argument("--core", action="store_true", help="edit a C library or a loader, too")
    patch.add_argument(
        "--overlay", action="store_true", help="let files grow that have a payload behind them"
    )
    patch.add_argument("--keep-strings", action="store_true", help="leave the old strings in the file")
    patch.add_argument("--output", metavar="FILE", help="write there, and leave the (one) file as it is")
    patch.set_defaults(action=_patch)


def run(arguments: argparse.Namespace) -> int:
    action: Callable[[argparse.Namespace], int] = arguments.action
    return action(arguments)


def _show(arguments: argparse.Namespace) -> int:
    fields = [arguments.field] if arguments.field else list(FIELDS)
    problems: list[BundleError] = []
    records = []
    for file in arguments.files:
        try:
            facts = read_file(file)
        except ElfError as error:
            problems.append(error)
            continue
        values = {name: FIELDS[name](facts) for name in fields}
        if arguments.format == "json":
            records.append({"file": file, **values})
            continue
        if len(arguments.files) > 1 or not arguments.field:
            print(f"{file}:")
        for name, value in values.items():
            _print_field(name if not arguments.field else None, value)
    if arguments.format == "json":
        print(json.dumps(records, indent=2))
    raise_all(problems)
    return ExitCode.DONE


def _print_field(name: str | None, value: Any) -> None:
    lines = value if isinstance(value, list) else [] if value is None else [value]
    if name is None:
        print(*map(_text, lines), sep="\n", end="\n" if lines else "")
    elif lines:
        print(f"  {name:<16}{_text(lines[0])}")
        for line in lines[1:]:
            print(f"  {'':<16}{_text(line)}")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).encode("utf-8", "backslashreplace").decode()


def _patch(arguments: argparse.Namespace) -> int:
    from bundler.elf.patch import PatchResult, patch_file, patch_files

    if arguments.output is not None and len(arguments.files) > 1:
        raise InputError("--output takes one file", why=f"{len(arguments.files)} are given")
    edits = Edits(
        interpreter=arguments.set_interpreter,
        rpath=arguments.set_rpath,
        runpath=arguments.set_runpath,
        remove_rpath=arguments.remove_rpath,
        add_rpath=tuple(arguments.add_rpath),
        add_needed=tuple(arguments.add_needed),
        remove_needed=tuple(arguments.remove_needed),
        replace_needed=dict(arguments.replace_needed),
        soname=arguments.set_soname,
        no_default_lib=True if arguments.no_default_lib else None,
        core=arguments.core,
        keep_strings=arguments.keep_strings,
        overlay=arguments.overlay,
    )
    if edits == replace(
        Edits(), core=edits.core, keep_strings=edits.keep_strings, overlay=edits.overlay
    ) and (not arguments.shrink_rpath):
        raise InputError("no edit is given", hint="as in --set-rpath /.deps/shell/1/lib")
    problems: list[BundleError] = []
    pairs = []
    for file in arguments.files:
        try:
            pairs.append((file, _shrunk(file, edits) if arguments.shrink_rpath else edits))
        except ElfError as error:
            problems.append(error)

    def report(result: PatchResult) -> None:
        if not result.changed:
            what = "already right"
        else:
            grown = result.size_after - result.size_before
            how = result.tier.name.lower().replace("_", " ")
            what = f"patched ({how}, {f'{grown} bytes more' if grown else 'same size'})"
        print(f"{result.path}: {what}")

    if arguments.output is not None and pairs:
        report(patch_file(pairs[0][0], pairs[0][1], arguments.output))
    else:
        patch_files(pairs, workers=len(os.sched_getaffinity(0)), done=report, problems=problems)
    raise_all(problems)
    return ExitCode.DONE


def _shrunk(file: str, edits: Edits) -> Edits:
    from bundler.elf.shrink import used_directories

    facts = read_file(file)
    present = edits.runpath or edits.rpath or facts.runpath or facts.rpath or ""
    directories = [part for part in (*present.split(":"), *edits.add_rpath) if part]
    kept = used_directories(facts, os.path.abspath(file), directories)
    if edits.rpath is not None:
        return replace(edits, add_rpath=(), rpath=":".join(kept))
    if edits.runpath is not None:
        return replace(edits, add_rpath=(), runpath=":".join(kept))
    return replace(edits, keep_rpath=kept)


def _versions(facts: ElfFile) -> list[str]:
    needs = [
        f"{need.file}: {version.name}{' (weak)' if version.weak else ''}"
        for need in facts.version_needs
        for version in need.versions
    ]
    return needs + [f"defines {version.name}" for version in facts.version_definitions if not version.base]


def _kind(facts: ElfFile) -> str:
    if facts.is_static:
        return "static-pie executable" if facts.pie else "static executable"
    if facts.is_executable:
        return "position-independent executable" if facts.pie else "executable"
    if facts.is_library:
        return "library"
    return {1: "object file", 4: "core dump"}.get(facts.type, "not loadable")


FIELDS: dict[str, Callable[[ElfFile], Any]] = {
    "kind": _kind,
    "machine": lambda facts: f"{facts.machine} ({facts.elf_class}-bit, {facts.byte_order}-endian)",
    "interpreter": lambda facts: facts.interpreter,
    "soname": lambda facts: facts.soname,
    "rpath": lambda facts: facts.rpath,
    "runpath": lambda facts: facts.runpath,
    "needed": lambda facts: list(facts.needed),
    "no-default-lib": lambda facts: facts.nodeflib,
    "versions": _versions,
    "kernel": lambda facts: facts.kernel and ".".join(map(str, facts.kernel)),
    "isa": lambda facts: f"x86-64-v{facts.isa_needed.bit_length()}" if facts.isa_needed else None,
    "build-id": lambda facts: facts.build_id and facts.build_id.hex(),
    "dlopen": lambda facts: [f"{' or '.join(note.sonames)} ({note.priority})" for note in facts.dlopen_notes],
    "relro": lambda facts: facts.relro,
    "exec-stack": lambda facts: facts.exec_stack,
    "text-relocs": lambda facts: facts.text_relocations,
}
