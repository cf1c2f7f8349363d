"""Paths left in the bytes of files: those of the build, and those of a host."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from bundler.closure.libc import is_libc
from bundler.closure.report import Scope, Violation, finding
from bundler.closure.rules import Rule, Severity, Where, rules

_BUILD_FILE = re.compile(r"(\.pc|\.cmake|\.prl|\.pri|-config|/Makefile|\.mk)\Z")
CHUNK = 1 << 20
"""Bytes read at once."""
_NAME = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+")


def literal_rules(path: str, *, is_elf: bool) -> tuple[Rule, ...]:
    """The rules that look for bytes in a file of that kind."""
    kind: Where | None = None
    if is_elf:
        kind = "libc" if is_libc(path) else "elf"
    elif _BUILD_FILE.search(path):
        kind = "build-file"
    return tuple(rule for rule in rules().values() if rule.strings and rule.where in ("any", kind))


def check_literals(path: str, stream: BinaryIO, wanted: Iterable[Rule], scope: Scope) -> Iterator[Violation]:
    """Judge the content of the file at the absolute ``path``: one finding a rule, naming what is there."""
    wanted = tuple(wanted)
    found = find_literals(stream, (text for rule in wanted for text in rule.strings))
    for rule in wanted:
        there = [text for text in rule.strings if text in found]
        limits = [text for text in there if scope.seed and text in rule.seed]
        rest = [text for text in there if text not in limits]
        if rest:
            yield finding(rule.name, path, f"holds {', '.join(rest)}")
        if limits:
            yield Violation(rule.name, path, f"holds {', '.join(limits)}", Severity.LIMIT)


def find_literals(stream: BinaryIO, texts: Iterable[str]) -> frozenset[str]:
    """Those of ``texts`` that the stream holds; a path only as one of its own or the beginning of one.

    ``/bin/sh`` is found neither in ``/.deps/rt/1/bin/sh`` nor in ``/bin/shred``; a list of directories, as
    ``/bin:/usr/bin``, not behind others: ours go first, the container's after them.
    """
    missing = {text: text.encode() for text in texts}
    keep = max(map(len, missing.values()), default=0) + 1
    found: set[str] = set()
    tail = b"\0"
    while missing:
        data = stream.read(CHUNK)
        window = tail + (data or b"\0")
        for text, needle in list(missing.items()):
            if _holds(window, needle):
                found.add(text)
                del missing[text]
        if not data:
            break
        tail = window[-keep:]
    return frozenset(found)


def _holds(window: bytes, needle: bytes) -> bool:
    """Whether ``needle`` stands in ``window``; the first and last byte are context alone."""
    at = window.find(needle, 1)
    while at >= 0:
        end = at + len(needle)
        if end >= len(window):
            return False  # the byte behind decides, and comes with the next window
        before = _NAME | ({ord(":")} if b":" in needle else frozenset())
        if (needle[:1] != b"/" or window[at - 1] not in before) and (
            needle.endswith(b"/") or window[end] not in _NAME
        ):
            return True
        at = window.find(needle, at + 1)
    return False
