"""What a source of adopted binaries is to the rest: a tree, what of it is wanted, and where it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bundler.adopt.files import Described
from bundler.adopt.layout import Layout, Place
from bundler.adopt.needs import Missing
from bundler.recipe import Lock, Source
from bundler.recipe_file import VERSION
from bundler.tree import FileTree, Kind, walk


@dataclass(frozen=True, slots=True)
class Origin:
    """What a recipe says of where its files come from; ``beside`` are files that lie beside the recipe."""

    about: Described
    sources: tuple[Source, ...] = ()
    lock: Lock | None = None
    license_files: tuple[str, ...] = ()
    beside: Mapping[str, Path] = field(default_factory=dict)


class Gathered(Protocol):
    """A source that can be looked into."""

    tree: FileTree
    wanted: tuple[str, ...]
    """Paths of the files and links to adopt."""
    place: Place
    anywhere: bool
    """Whether a library may be looked for in all of it."""

    def more(self, missing: Sequence[Missing]) -> bool:
        """Bring what may have the missing libraries; False where there is nothing more to bring."""

    def owner(self, path: str) -> str | None:
        """How to adopt the path, too, for what was left behind."""

    def origin(self, layout: Layout) -> Origin:
        """What the recipe says, once it is known what is taken."""

    def present(self, layout: Layout) -> dict[str, str | None]:
        """What will lie in the recipe's source directory: files (None), and links with their texts."""


def contents(tree: FileTree) -> dict[str, str | None]:
    """All files of a tree (None), and its symbolic links with their texts."""
    return {
        entry.path: entry.target if entry.kind is Kind.SYMLINK else None
        for entry in walk(tree)
        if entry.kind in (Kind.FILE, Kind.SYMLINK)
    }


def spdx(text: str) -> str:
    """A licence's name as an SPDX expression; what is none refers to the texts that come along."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(text.strip()))
    except (InvalidLicenseExpression, ValueError):
        return "LicenseRef-unknown"


def as_version(text: str) -> str:
    """The text as recipes can have it for a version."""
    plain = re.sub(r"[^A-Za-z0-9+.~_-]", "-", text).lstrip("+.~_-")
    return plain if VERSION.pattern.match(plain) else "1"


def line(text: str) -> str:
    """The first line, as a summary is written."""
    line = " ".join(text.split("\n")[0].split()).rstrip(".")
    return "".join(character for character in line if character.isprintable())[:120]
