"""Where the files of a source go below the prefix.  Pure: paths in, paths out.

Programs go to ``bin``, libraries to ``lib``, data to ``share``, whatever the source calls these; what lies
elsewhere keeps its path.  Directories keep their distance from one another, since many programs find their
data from where they are themselves.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from bundler.tree import FileTree, Kind, parents, resolve, sort_key

Place = Callable[[str], str | None]
"""From a path in a source to one below the prefix; None for what is left out."""

_ROOT = (
    ("usr/share/doc", None),
    ("usr/share/doc-base", None),
    ("usr/share/lintian", None),
    ("usr/share/bug", None),
    ("usr/lib/systemd", None),
    ("lib/systemd", None),
    ("etc/init.d", None),
    ("usr/local/sbin", "bin"),
    ("usr/local", ""),
    ("usr/sbin", "bin"),
    ("usr/games", "bin"),
    ("usr/lib64", "lib"),
    ("usr", ""),
    ("sbin", "bin"),
    ("lib64", "lib"),
)
"""Directories of a root file system and where they go; the first that fits counts."""


def place_in_root(triplet: str) -> Place:
    """The places of a root file system whose libraries lie in directories named ``triplet``."""
    rules = (
        (f"usr/local/lib/{triplet}", "lib"),
        (f"usr/lib/{triplet}", "lib"),
        (f"usr/include/{triplet}", "include"),
        (f"lib/{triplet}", "lib"),
        *_ROOT,
    )

    def place(path: str) -> str | None:
        if path.endswith(".la"):
            return None
        for directory, target in rules:
            if path == directory or path.startswith(directory + "/"):
                rest = path[len(directory) :].lstrip("/")
                return None if target is None else posixpath.join(target, rest) if rest else target
        return path

    return place


_DATA = re.compile(r"[^/]+\.data(?:/(?P<kind>[^/]+)(?:/(?P<rest>.+))?)?\Z")
_INFO = re.compile(r"[^/]+\.dist-info(?:/|\Z)")


def place_in_wheel(path: str) -> str | None:
    """The places of a wheel's files (packaging.python.org, "Binary distribution format").

    Scripts and data go where an installer puts them; a package's directory goes below ``lib``.
    """
    if _INFO.match(path):
        return None
    if match := _DATA.match(path):
        rest = match["rest"] or ""
        match match["kind"]:
            case "scripts":
                return posixpath.join("bin", rest) if rest else "bin"
            case "data":
                return rest
        return None
    return f"lib/{path}"


@dataclass(frozen=True, slots=True)
class Layout:
    """What a bundle holds, by path below the prefix: files by their path in the source, and links' texts."""

    files: Mapping[str, str]
    links: Mapping[str, str]
    left_out: tuple[tuple[str, str], ...] = ()
    """Paths in the source, and why they have no place."""

    @property
    def sources(self) -> dict[str, str]:
        """The inverse of ``files``: the first place of each path in the source."""
        found: dict[str, str] = {}
        for target, source in self.files.items():
            found.setdefault(source, target)
        return found


def lay_out(tree: FileTree, wanted: Iterable[str], libraries: Mapping[str, str], place: Place) -> Layout:
    """The layout of the ``wanted`` paths of a source, and of ``libraries`` by the name they are needed by.

    A library that is wanted itself, but lies outside ``lib``, gets a link there: that is where the loader
    looks.  Links lead to where their targets went; one whose target stays behind is left out.
    """
    files: dict[str, str] = {}
    pending: list[tuple[str, str, str]] = []
    left_out: list[tuple[str, str]] = []
    for path in sorted(wanted, key=sort_key):
        entry, target = tree.get(path), place(path)
        if entry is None or target is None:
            continue
        if entry.kind is Kind.SYMLINK:
            pending.append((path, target, entry.target or ""))
        elif entry.kind is Kind.FILE and target not in files:
            files[target] = path
        elif entry.kind is Kind.FILE:
            left_out.append((path, f"{files[target]} takes its place"))
    links: dict[str, str] = {}
    sources = {source: target for target, source in files.items()}
    directories = {parent for target in files for parent in parents(target)}
    for path, target, text in pending:
        if target in files:
            continue
        leads = resolve(tree, path)
        there = sources.get(leads.path)
        if there is None and leads.entry is not None and leads.entry.kind is Kind.DIRECTORY:
            there = place(leads.path)
            there = there if there in directories else None
        if there is None or leads.error is not None:
            left_out.append((path, f"it leads to {text}, which is not adopted"))
        elif there != target:
            links[target] = posixpath.relpath(there, posixpath.dirname(target))
    for name, source in sorted(libraries.items()):
        target = f"lib/{name}"
        if target in links or files.get(target) == source:
            continue
        if source in sources:
            links[target] = posixpath.relpath(sources[source], "lib")
        else:
            files[target] = source
            sources[source] = target
    return Layout(files, links, tuple(left_out))


@dataclass(frozen=True, slots=True)
class Words:
    """A layout in the words of the style ``adopt``."""

    install: tuple[str, ...]
    link: tuple[str, ...]


def to_words(layout: Layout, place: Place, present: Mapping[str, str | None]) -> Words:
    """The layout in few words: whole directories where all that is in them goes along.

    ``present`` has the paths of all files in the source, and of its symbolic links with their texts.
    """
    moved: dict[str, list[str]] = {}
    for target, source in layout.files.items():
        moved.setdefault(source, []).append(target)
    broken: set[str] = set()
    for path, text in present.items():
        goes = place(path)
        stays = layout.links.get(goes or "") == text if text is not None else moved.get(path) == [goes]
        for above in ("", *parents(path)):
            at = place(above)
            if not stays or at is None or posixpath.join(at, path[len(above) :].lstrip("/")) != goes:
                broken.add(above)

    def whole(source: str) -> str | None:
        return next((above for above in ("", *parents(source)) if above not in broken), None)

    pairs: set[tuple[str, str]] = set()
    for source, targets in moved.items():
        directory = whole(source)
        if directory is None:
            pairs.update((target, source) for target in targets)
        else:
            pairs.add((place(directory) or ".", directory or "."))
    along = {place(path) for path, text in present.items() if text is not None and whole(path) is not None}
    links = {target: text for target, text in layout.links.items() if target not in along}
    return Words(
        tuple(f"{source} => {target}" for target, source in sorted(pairs, key=_bytes)),
        tuple(f"{target} => {text}" for target, text in sorted(links.items(), key=_bytes)),
    )


def _bytes(pair: tuple[str, str]) -> tuple[bytes, bytes]:
    return sort_key(pair[0]), sort_key(pair[1])
