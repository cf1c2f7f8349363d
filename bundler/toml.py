"""TOML files read strictly, with errors that point at the place.

``tomllib`` parses; it keeps no positions, so :mod:`bundler.toml_positions` finds a key in the text, and
only when there is an error to report.  A :class:`Table` hands out typed values and collects what is
wrong with them, so that all problems of a file are reported at once.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bundler.errors import BundleError, InputError, Problems, raise_all

MAX_SIZE = 1 << 20
"""Bytes that a file may have: a recipe is a page, not a book."""

Key = tuple[str | int, ...]
On = Literal["key", "value"]

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)\Z")
_SHOWN = 100
"""Characters of a source line that an error shows."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a text must look like, and the words that say so."""

    pattern: re.Pattern[str]
    words: str


def form(pattern: str, words: str) -> Form:
    """The whole text must match ``pattern``."""
    return Form(re.compile(rf"(?:{pattern})\Z"), words)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint that names the nearest known word, or None."""
    near = nearest(word, known)
    return _meant(near) if near else None


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` was probably meant to be."""
    import difflib

    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def _meant(word: str) -> str:
    return f"did you mean {word!r}?"


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: ``name`` is how errors call it."""

    name: str
    text: str
    data: dict[str, Any]

    def error(
        self, message: str, at: Key = (), on: On = "key", *, why: str | None = None, hint: str | None = None
    ) -> InputError:
        """An error that points at the key ``at`` or at its value, or at the nearest table around it."""
        from bundler.toml_positions import locate

        start, end = locate(self.text, at, on)
        return error_at(self.name, self.text, start, end, message, why=why, hint=hint)


def error_at(
    name: str,
    text: str,
    start: int,
    end: int,
    message: str,
    *,
    why: str | None = None,
    hint: str | None = None,
) -> InputError:
    """An error about ``text[start:end]``, with the line and a caret below; lines and columns count from 1."""
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", start)
    line_end = len(text) if line_end < 0 else line_end
    number, column = text.count("\n", 0, start) + 1, start - line_start + 1
    shown_from = line_start if end - line_start <= _SHOWN else max(line_start, start - _SHOWN // 2)
    shown = text[shown_from : min(line_end, shown_from + _SHOWN)].rstrip("\r")
    width = max(1, min(end, line_end, shown_from + len(shown)) - start)
    padding = "".join("\t" if character == "\t" else " " for character in text[shown_from:start])
    detail = f"{number:5} | {_visible(shown)}\n      | {padding}{'^' * width}"
    return InputError(message, where=f"{name}:{number}:{column}", detail=detail, why=why, hint=hint)


def located(error: BundleError) -> BundleError:
    """The error with the line that it is about, where it names a file and the way to a key or word in it."""
    if isinstance(error, Problems):
        return Problems([located(problem) for problem in error.problems])
    if error.at and error.where and not error.detail:
        with contextlib.suppress(BundleError):
            document = load(Path(error.where))
            placed = document.error(error.message, _position(document.data, error.at), "value")
            error.where, error.detail = placed.where, placed.detail
    return error


def _position(data: Any, way: tuple[str, ...]) -> Key:
    """The way with a word of a list replaced by its place there, as far as it leads."""
    found: list[str | int] = []
    for step in way:
        if isinstance(data, list) and step in data:
            found.append(data.index(step))
            break
        if not isinstance(data, dict) or step not in data:
            break
        data = data[step]
        found.append(step)
    return tuple(found)


def _visible(line: str) -> str:
    """The line without control characters, which a terminal would obey; one character stays one."""
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line)


def display_name(path: Path) -> str:
    """The path relative to the working directory where it lies below it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def load(path: Path) -> Document:
    """Read and parse a file; raises InputError."""
    name = display_name(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_SIZE + 1)
    except OSError as error:
        raise InputError("cannot be read", where=name, why=error.strerror or str(error)) from error
    if len(data) > MAX_SIZE:
        raise InputError(f"the file is larger than {MAX_SIZE} bytes", where=name)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        sound = data.decode("utf-8", "replace")
        at = len(data[: error.start].decode("utf-8"))
        raise error_at(name, sound, at, at + 1, "not UTF-8, which TOML must be") from error
    return parse(text, name)


def parse(text: str, name: str) -> Document:
    """Parse the text of the file called ``name``; raises InputError."""
    try:
        return Document(name, text, tomllib.loads(text))
    except RecursionError as error:
        raise InputError("arrays or tables are nested too deeply", where=name) from error
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _PLACE.search(message)
        # tomllib reads "\r\n" as "\n", so its columns hold in the text as it stands all the same.
        start = _offset(text, place) if place else 0
        told = message[: place.start()] if place else message
        raise error_at(name, text, start, start + 1, told[:1].lower() + told[1:]) from error


def _offset(text: str, place: re.Match[str]) -> int:
    if place[1] is None:
        return max(0, len(text.rstrip()))
    start = 0
    for _ in range(int(place[1]) - 1):
        start = text.index("\n", start) + 1
    return min(len(text), start + int(place[2]) - 1)


class Table:
    """A table of a document while it is read.

    Getters return a harmless value after noting a problem, so reading goes on; :meth:`finish` raises
    whatever was noted.  Every key must be asked for: those that were not are unknown.
    """

    def __init__(self, document: Document) -> None:
        self.document = document
        self.at: Key = ()
        self._data: dict[str, Any] = document.data
        self._problems: list[BundleError] = []
        self._asked: dict[str, None] = {}
        self._missing: dict[str, BundleError] = {}
        self._children: list[Table] = []

    @property
    def title(self) -> str:
        """The table as its header is written, ``[[source]]``; empty for the root."""
        dotted = ".".join(str(part) for part in self.at if isinstance(part, str))
        if not self.at:
            return ""
        return f"[[{dotted}]]" if isinstance(self.at[-1], int) else f"[{dotted}]"

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def problem(
        self, message: str, *at: str | int, on: On = "value", why: str | None = None, hint: str | None = None
    ) -> None:
        """Note something wrong at a key of this table (without a key: at the table itself)."""
        self._problems.append(self.document.error(message, (*self.at, *at), on, why=why, hint=hint))

    def finish(self) -> None:
        """Note the unknown keys, then raise all problems of the document in the order of its lines."""
        self._close()
        raise_all(sorted(self._problems, key=_line_and_column))

    def all_keys(self) -> tuple[str, ...]:
        """All keys, taken as known: for tables whose keys are names, or cannot be judged."""
        self._asked.update(dict.fromkeys(self._data))
        return tuple(self._data)

    def text(self, key: str, *, default: str | None = None, form: Form | None = None) -> str:
        """A string; without ``default`` it must be there, and not empty."""
        value = self._get(key, str, "a string", required=default is None)
        if value is None:
            return default or ""
        if not value and default is None:
            self.problem(f"{key!r} is empty", key)
        elif form is not None and value and not form.pattern.match(value):
            self.problem(f"{key!r} is not {form.words}: {value[:80]!r}", key)
        return str(value)

    def optional(self, key: str, *, form: Form | None = None) -> str | None:
        """A string, or None where the key is absent."""
        value = self.text(key, default="", form=form)
        return value if key in self._data else None

    def choice(self, key: str, choices: Collection[str], *, default: str) -> str:
        value = self.text(key, default=default)
        if value in choices:
            return value
        if key in self._data and isinstance(self._data[key], str):
            hint = did_you_mean(value, choices) or "one of " + ", ".join(choices)
            self.problem(f"{key!r} has no choice {value[:80]!r}", key, hint=hint)
        return default

    def integer(self, key: str, *, default: int | None = None, least: int = 0) -> int:
        value = self._get(key, int, "a whole number", required=default is None)
        if value is None:
            return least if default is None else default
        if value < least:
            self.problem(f"{key!r} is less than {least}", key)
        return int(value)

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self._get(key, bool, "true or false", required=False)
        return default if value is None else bool(value)

    def words(self, key: str, *, required: bool = False, form: Form | None = None) -> tuple[str, ...]:
        """A list of strings, each of the form, none twice."""
        value = self._get(key, list, "a list of strings", required=required)
        if value is None:
            return ()
        if required and not value:
            self.problem(f"{key!r} is empty", key)
        found: dict[str, None] = {}
        for index, word in enumerate(value):
            if not isinstance(word, str):
                self.problem(f"{key!r} holds {_kind(word)} where strings belong", key, index)
            elif form is not None and not form.pattern.match(word):
                self.problem(f"{word[:80]!r} in {key!r} is not {form.words}", key, index)
            elif form is not None and word in found:
                self.problem(f"{word!r} is listed twice in {key!r}", key, index)
            found[str(word)] = None
        return tuple(word for word in value if isinstance(word, str)) if form is None else tuple(found)

    def strings(self, key: str, *, names: Form) -> dict[str, str]:
        """A table of strings, its keys of the form."""
        table = self.table(key)
        if table is None:
            return {}
        for name in table.all_keys():
            if not names.pattern.match(name):
                table.problem(f"the key {name[:80]!r} is not {names.words}", name, on="key")
        return {name: table.text(name, default="") for name in table.all_keys()}

    def pairs(self, key: str) -> tuple[tuple[str, str], ...]:
        """A list of pairs of strings."""
        found = []
        for index, item in enumerate(self._get(key, list, "a list of pairs", required=False) or ()):
            match item:
                case [str(first), str(second)]:
                    found.append((first, second))
                case _:
                    self.problem(f"{key!r} holds {_kind(item)} where a pair of strings belongs", key, index)
        return tuple(found)

    def table(self, key: str) -> Table | None:
        value = self._get(key, dict, f"a table, [{key}]", required=False)
        return None if value is None else self._child(value, key)

    def tables(self, key: str) -> Iterator[Table]:
        """The tables of ``[[key]]``."""
        value = self._get(key, list, f"a list of tables, [[{key}]]", required=False)
        for index, item in enumerate(value or ()):
            if isinstance(item, dict):
                yield self._child(item, key, index)
            else:
                self.problem(f"{key!r} holds {_kind(item)} where tables belong", key, index)

    def _child(self, data: dict[str, Any], *at: str | int) -> Table:
        child = Table(self.document)
        child.at, child._data, child._problems = (*self.at, *at), data, self._problems
        self._children.append(child)
        return child

    def _get(self, key: str, kind: type, words: str, *, required: bool) -> Any:
        self._asked[key] = None
        if key not in self._data:
            if required:
                within = f" in {self.title}" if self.at else ""
                self._missing[key] = self.document.error(f"the key {key!r} is missing{within}", self.at)
            return None
        value = self._data[key]
        # A bool is an int to Python, not to TOML.
        if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return value
        self.problem(f"{key!r} must be {words}, not {_kind(value)}", key)
        return None

    def _close(self) -> None:
        within = f" in {self.title}" if self.at else ""
        for key in self._data:
            if key not in self._asked:
                unused = [known for known in self._asked if known not in self._data]
                near = nearest(key, unused)
                hint = _meant(near) if near else "known keys: " + ", ".join(sorted(self._asked))
                self.problem(f"unknown key {key[:80]!r}{within}", key, on="key", hint=hint)
                self._missing.pop(near or "", None)  # one slip of the pen is one problem
        self._problems += self._missing.values()
        for child in self._children:
            child._close()


def _line_and_column(error: BundleError) -> tuple[int, int]:
    line, column = (error.where or ":0:0").rsplit(":", 2)[1:]
    return int(line), int(column)


def _kind(value: object) -> str:
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
        dict: "a table",
    }
    return names.get(type(value), "a date or time")
