"""Search paths as the dynamic loaders split and expand them.  Pure text, no tree.

Source: glibc ``elf/dl-load.c`` (``fillin_rpath``, ``expand_dynamic_token``); musl ``ldso/dynlink.c``
(``fixup_rpath``, ``path_open``).
"""

from __future__ import annotations

import posixpath
import re
from enum import Enum
from typing import NamedTuple

MAX_ELEMENTS = 256
"""Elements of one list that are looked at: a hostile list costs no more."""

_TOKEN = re.compile(r"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM)(?![A-Za-z0-9_]))")
_MUSL_ORIGIN = re.compile(r"\$(?:\{ORIGIN\}|ORIGIN)")


class Form(Enum):
    ABSOLUTE = "absolute"
    TOKEN = "with a token"
    RELATIVE = "relative"
    """An empty element too: both mean the current directory."""


class Element(NamedTuple):
    """One element of a path list: as written, and the directory that the loader looks into."""

    text: str
    directory: str
    form: Form


def split_path(text: str, origin: str, lib: str = "lib", platform: str = "x86_64") -> tuple[Element, ...]:
    """The elements of a DT_RPATH or DT_RUNPATH as glibc searches them, each directory once.

    ``origin`` is the directory of the object that has the list; ``lib`` and ``platform`` are what
    ``$LIB`` and ``$PLATFORM`` stand for.  An unknown token stays as it is.
    """
    elements: dict[str, Element] = {}
    for part in text.split(":", MAX_ELEMENTS)[:MAX_ELEMENTS] if text else ():
        expanded = expand_tokens(part, origin, lib, platform)
        if part and not expanded:
            continue
        directory = expanded.rstrip("/") or expanded[:1]
        form = (
            Form.RELATIVE
            if not expanded.startswith("/")
            else Form.TOKEN
            if expanded != part
            else Form.ABSOLUTE
        )
        elements.setdefault(directory, Element(part, directory, form))
    return tuple(elements.values())


def expand_tokens(text: str, origin: str, lib: str, platform: str) -> str:
    """``$ORIGIN``, ``$LIB`` and ``$PLATFORM``, with or without braces; ``$ORIGINAL`` is none of them."""
    values = {"ORIGIN": origin, "LIB": lib, "PLATFORM": platform}
    return _TOKEN.sub(lambda match: values[match[1] or match[2]], text)


def split_musl_path(text: str, origin: str) -> tuple[Element, ...]:
    """The elements of a path list as musl searches them.

    musl knows ``$ORIGIN`` alone: any other dollar sign disables the whole list.  It separates at newlines
    too, and skips empty elements.
    """
    expanded = _MUSL_ORIGIN.sub(lambda _: origin, text)
    if "$" in _MUSL_ORIGIN.sub("", text):
        return ()
    form = Form.TOKEN if expanded != text else Form.ABSOLUTE
    return tuple(
        Element(part, part.rstrip("/") or "/", form if part.startswith("/") else Form.RELATIVE)
        for part in re.split("[:\n]", expanded, maxsplit=MAX_ELEMENTS)[:MAX_ELEMENTS]
        if part
    )


def directory_of(path: str) -> str:
    """``$ORIGIN`` of a file that was opened as the absolute ``path``."""
    return posixpath.dirname(path) or "/"
