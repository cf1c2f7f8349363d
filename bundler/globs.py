"""Globs over tree paths, as recipes and image files write them.

``*`` and ``?`` stay within one part of a path, ``**`` as a whole part matches any number of parts, none
included, ``[a-z]`` and ``[!a-z]`` are character classes.  A pattern is relative and matches whole paths;
one that matches a directory matches all below it only when it says so (``lib/**``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns matches ``path``, which has neither a leading nor a trailing slash."""
    return any(_compiled(pattern).fullmatch(path) for pattern in patterns)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = pattern.strip("/").split("/")
    if parts == ["**"]:
        return re.compile(".*", re.DOTALL)
    expression = ""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            expression += ".+" if last else "(?:[^/]+/)*"
        else:
            expression += _part(part) + ("" if last else "/")
    return re.compile(expression, re.DOTALL)


def _part(part: str) -> str:
    expression, at = "", 0
    while at < len(part):
        character = part[at]
        at += 1
        if character == "*":
            expression += "[^/]*"
        elif character == "?":
            expression += "[^/]"
        elif character == "[" and (end := part.find("]", at + 2 if part[at : at + 1] == "!" else at + 1)) > 0:
            body = part[at:end]
            negated = body.startswith("!")
            body = re.sub(r"([\\\[\]^&|~])", r"\\\1", body[1:] if negated else body)
            expression += f"[{'^/' if negated else ''}{body}]"
            at = end + 1
        else:
            expression += re.escape(character)
    return expression
