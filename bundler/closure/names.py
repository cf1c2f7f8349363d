"""What an entry alone tells: modes, owners, kinds, symbolic links."""

from __future__ import annotations

from collections.abc import Iterator

from bundler.closure.files import Files
from bundler.closure.report import Scope, Violation, finding
from bundler.tree import Entry, Kind

SETUID, SETGID, WORLD_WRITABLE = 0o4000, 0o2000, 0o002


def check_entry(files: Files, entry: Entry, scope: Scope) -> Iterator[Violation]:
    """Judge one entry of the prefix by the rules for names and modes."""
    path = "/" + entry.path
    if entry.kind is Kind.SYMLINK:
        yield from _check_link(files, entry, scope)
        return
    if entry.kind not in (Kind.FILE, Kind.DIRECTORY):
        yield finding("special-file", path, f"is a {entry.kind} device or pipe")
        return
    if entry.mode & (SETUID | SETGID) and not (entry.kind is Kind.DIRECTORY and not entry.mode & SETUID):
        yield finding("setuid", path, f"has mode {entry.mode:04o}")
    if entry.mode & WORLD_WRITABLE:
        yield finding("world-writable", path, f"has mode {entry.mode:04o}")
    wanted = 0o005 if entry.kind is Kind.DIRECTORY else 0o004
    if entry.mode & wanted != wanted:
        yield finding("unreadable", path, f"has mode {entry.mode:04o}")
    if any(name == "security.capability" for name, _ in entry.xattrs):
        yield finding("capabilities", path, "has file capabilities")
    if entry.uid or entry.gid:
        yield finding("owner", path, f"belongs to {entry.uid}:{entry.gid}")
    if entry.kind is Kind.FILE and path.endswith(".la"):
        yield finding("libtool-archive", path, "is a libtool archive")


def check_commands(files: Files, scope: Scope) -> Iterator[Violation]:
    """Judge the commands that the bundle exports: each must lead to a file that everybody can execute."""
    for command in scope.commands:
        path = f"{scope.prefix.rstrip('/')}/{command}"
        found = files.follow(path)
        if found.error is not None or found.entry is None:
            yield finding("command-missing", path, "is exported, and does not exist")
        elif found.entry.kind is not Kind.FILE or found.entry.mode & 0o001 == 0:
            yield finding("command-missing", path, f"is exported, and has mode {found.entry.mode:04o}")


def _check_link(files: Files, entry: Entry, scope: Scope) -> Iterator[Violation]:
    path, target = "/" + entry.path, entry.target or ""
    found = files.follow(path)
    chain = tuple("/" + hop for hop in found.hops)
    stop = "/" + found.path
    outside = next((place for place in (*chain, stop) if not scope.allows(place)), None)
    if found.error == "ELOOP":
        yield finding("link-loop", path, f"leads to {target}, and back", chain[:4])
    elif outside is not None:
        yield finding("link-outside", path, f"leads to {target}: outside at {outside}", chain)
    elif found.entry is None:
        yield finding("link-dangling", path, f"leads to {target}: there is no {stop}", chain)
    if target.startswith("/"):
        yield finding("link-absolute", path, f"leads to {target}")
