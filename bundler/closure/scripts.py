"""First lines of scripts, followed as the kernel follows them (``fs/binfmt_script.c``, ``fs/exec.c``)."""

from __future__ import annotations

from collections.abc import Iterator

from bundler.closure.files import Files
from bundler.closure.report import Scope, Violation, finding
from bundler.errors import InputError
from bundler.tree import Entry, Kind

HEAD = 256
"""Bytes that Linux reads of a file to be executed (BINPRM_BUF_SIZE) since 5.1."""
MAX_CHAIN = 5
"""Interpreters that the kernel follows before it answers ELOOP."""


def interpreter_of(head: bytes) -> str | None:
    """The interpreter that the first line names, or None if ``head`` starts no script."""
    if not head.startswith(b"#!"):
        return None
    line = head[2:].partition(b"\n")[0].partition(b"\0")[0]
    words = line.replace(b"\t", b" ").strip(b" ").split(b" ", 1)
    return words[0].decode("utf-8", "surrogateescape")


def check_script(files: Files, entry: Entry, head: bytes, scope: Scope) -> Iterator[Violation]:
    """Judge the script at ``entry``, of which ``head`` are the first bytes, and all its interpreters."""
    path = "/" + entry.path
    if not entry.mode & 0o111:
        dormant = interpreter_of(head) or ""
        if dormant.startswith("/") and not scope.allows(dormant):
            yield finding("shebang-dormant", path, f"names {dormant}, and is not executable")
        return
    chain = [path]
    while (name := interpreter_of(head)) is not None:
        line = head.partition(b"\n")[0]
        if len(chain) > MAX_CHAIN:
            yield finding("shebang-loop", path, f"has more than {MAX_CHAIN} interpreters", tuple(chain))
            return
        if len(line) >= HEAD:
            yield finding(
                "shebang-long", path, f"{chain[-1]}: the first line has {HEAD} bytes and more", tuple(chain)
            )
        if not name.startswith("/"):
            yield finding("shebang-relative", path, f"names the interpreter {name!r}", tuple(chain))
            return
        chain.append(name)
        found = files.follow(name)
        places = (name, *("/" + hop for hop in found.hops), "/" + found.path)
        outside = next((place for place in places if not scope.allows(place)), None)
        if outside is not None:
            beyond = "" if outside == name else f", which leads to {outside}"
            yield finding("shebang-outside", path, f"is run by {name}{beyond}", tuple(chain))
            return
        if found.entry is None or found.entry.kind is not Kind.FILE:
            yield finding("shebang-missing", path, f"is run by {name}, which does not exist", tuple(chain))
            return
        if not found.entry.mode & 0o001:
            yield finding("shebang-missing", path, f"is run by {name}, which is not executable", tuple(chain))
            return
        head = read_head(files, found.path)


def read_head(files: Files, path: str) -> bytes:
    """What the kernel reads of a file, and one byte more; empty where it cannot be read."""
    try:
        with files.tree.open(path) as stream:
            return stream.read(HEAD + 1)
    except InputError:
        return b""
