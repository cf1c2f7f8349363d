"""What has to change in an installed tree so that it runs from its prefix alone.  Pure decisions.

Scripts get an interpreter inside the prefixes, absolute links become relative, traces of the build's
install directory go, and each ELF file gets the interpreter, the DT_RPATH and the flags that
``docs/architecture.md`` explains under "Loading".  ``relocation.py`` carries the decisions out.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bundler.errors import InputError
from bundler.tree import inside

if TYPE_CHECKING:
    from bundler.elf.edits import Edits
    from bundler.elf.read import ElfFile

DESTINATION = "/build/dest"
"""Where a recipe installs to inside the sandbox: DESTDIR."""

SOURCE = "/build/src"

TEXT_LIMIT = 4 << 20
"""Text above this many bytes is data, and is not searched for the install directory."""

_SHEBANG = re.compile(rb"#![ \t]*(/[^ \t\n]*)(?:[ \t]+([^\n]*?))?[ \t]*\n")


@dataclass(frozen=True, slots=True)
class Context:
    """What relocation knows about where things are.

    ``commands`` maps a command's name to its absolute path inside the prefixes in reach, ``prefixes``
    are those prefixes, ``rpath`` the library directories in the order in which they are searched.
    """

    loader: str
    rpath: tuple[str, ...]
    prefixes: tuple[str, ...]
    commands: Mapping[str, str]


def relocate_text(data: bytes, context: Context) -> bytes:
    """Text with its first line and its paths set right; binary data comes back unchanged."""
    if b"\0" in data[:8192]:
        return data
    return relocate_shebang(data, context).replace(DESTINATION.encode(), b"")


def relocate_shebang(data: bytes, context: Context) -> bytes:
    """A script whose interpreter lies inside the prefixes, where one of that name is in reach.

    ``#!/usr/bin/env NAME`` names the program directly: the kernel then needs no env, and a PATH that
    the container sets cannot choose another.  What is not in reach stays, for the verifier to name.
    """
    match = _SHEBANG.match(data)
    if match is None:
        return data
    interpreter = match[1].decode("utf-8", "surrogateescape")
    argument = (match[2] or b"").decode("utf-8", "surrogateescape")
    if any(inside(interpreter, prefix) for prefix in context.prefixes):
        return data
    name = posixpath.basename(interpreter)
    if name == "env":
        words = argument.removeprefix("-S").split()
        if not words or "=" in words[0] or words[0].startswith("-"):
            return data
        name, argument = posixpath.basename(words[0]), " ".join(words[1:])
    found = context.commands.get(name)
    if found is None:
        return data
    line = f"#!{found} {argument}".rstrip()
    return line.encode("utf-8", "surrogateescape") + b"\n" + data[match.end() :]


def relocate_link(path: str, target: str, context: Context) -> str:
    """The text for a symbolic link at absolute ``path``: relative where it stays inside one prefix.

    A relative link also holds when a bundle's directory is looked at elsewhere; a link into another
    bundle stays absolute, since the two need not lie side by side then.
    """
    if target == DESTINATION or target.startswith(DESTINATION + "/"):
        target = target[len(DESTINATION) :] or "/"
    if not target.startswith("/"):
        return target
    target = posixpath.normpath(target)
    home = next((prefix for prefix in context.prefixes if inside(path, prefix)), None)
    if home is None or not inside(target, home):
        return target
    return posixpath.relpath(target, posixpath.dirname(path))


def elf_edits(
    elf: ElfFile, name: str, context: Context, needed: Mapping[str, str], *, core: bool = False
) -> Edits | None:
    """The edits that an ELF file needs, or None for one that is not loaded dynamically.

    ``needed`` maps the names that it needs to absolute paths: nothing is searched at start-up, neither
    for a program nor for the libraries of a library.  The loader itself is left alone: it searches for
    nothing.  ``core`` lets the C library be edited.
    """
    from bundler.elf.edits import Edits

    if not elf.is_dynamic or elf.is_static or name == posixpath.basename(context.loader):
        return None
    return Edits(
        interpreter=context.loader if elf.interpreter is not None else None,
        rpath=":".join(context.rpath),
        replace_needed=needed,
        no_default_lib=True,
        core=core,
    )


def expand(text: bytes, root: str, bundles: Mapping[str, str]) -> bytes:
    """Fill ``{root}`` and ``{bundle:NAME}`` in; raises InputError for a bundle that is not in reach."""

    def value(match: re.Match[bytes]) -> bytes:
        name = match[1].decode()
        if name == "root":
            return root.encode()
        bundle = name.removeprefix("bundle:")
        if bundle not in bundles:
            raise InputError(
                f"the bundle {bundle!r} is not in reach here", hint="known: " + ", ".join(bundles)
            )
        return bundles[bundle].encode()

    return re.sub(rb"\{(root|bundle:[a-z0-9-]+)\}", value, text)


def edit_binary(data: bytes, old: bytes, new: bytes, count: int, where: str, pad: bytes = b"") -> bytes:
    """Replace text inside a binary by text of equal length; raises InputError.

    NULs never pad: code that knows a string's length (std::string, Rust, Go) would read them
    (conda-build#2524).  ``pad`` is what the recipe says is harmless there.
    """
    if pad:
        new = new.ljust(len(old), pad)
    if len(old) != len(new):
        raise InputError(
            f"{new.decode(errors='replace')!r} ({len(new)} bytes) cannot take the place of "
            f"{old.decode(errors='replace')!r} ({len(old)} bytes)",
            where=where,
            why="an edit inside a binary keeps the length",
            hint="choose a prefix of the right length, or build from source",
        )
    found = data.count(old)
    if found != count:
        raise InputError(
            f"{old.decode(errors='replace')!r} stands {found} times in the file, not {count}",
            where=where,
            hint="look at the file again: another version of it may keep the text elsewhere",
        )
    return data.replace(old, new)
