"""Where a key stands in a TOML text that ``tomllib`` has accepted (grammar: TOML 1.0.0).

Imported only when there is an error to point at.  The text is known to be sound, so the scanner reads
no more of the grammar than it needs to find the ends of keys and values.
"""

from __future__ import annotations

import re
import tomllib
from typing import Literal

Key = tuple[str | int, ...]
Span = tuple[int, int]
"""Start and end of something in the text, in characters."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'", re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}\n#]*[^,\]}\s#]")


def locate(text: str, key: Key, on: Literal["key", "value"] = "key") -> Span:
    """The span of a key or of its value; where it is not written out, that of the nearest around it."""
    scanner = _Scanner(text)
    scanner.document()
    spans = scanner.keys if on == "key" else scanner.values
    while key:
        if key in spans:
            return spans[key]
        if key in scanner.values:
            return scanner.values[key]
        key = key[:-1]
    return 0, len(text.split("\n", 1)[0].rstrip())


class _Scanner:
    """One pass over the text that remembers the first span of every key and value."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.keys: dict[Key, Span] = {}
        self.values: dict[Key, Span] = {}
        self._elements: dict[Key, int] = {}
        """Arrays of tables, with the number of elements so far."""

    def document(self) -> None:
        table: Key = ()
        while self._skip(_BLANK):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Pass what matches; False at the end of the text."""
        match = pattern.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at < len(self.text)

    def _header(self) -> Key:
        start = self.at
        is_array = self.text.startswith("[[", start)
        self.at += 2 if is_array else 1
        table: Key = ()
        parts = self._dotted()
        for number, (part, span) in enumerate(parts, 1):
            table = (*table, part)
            self.keys.setdefault(table, span)
            if is_array and number == len(parts):
                self._elements[table] = self._elements.get(table, 0) + 1
            if table in self._elements:
                table = (*table, self._elements[table] - 1)
        self.at += 2 if is_array else 1
        self.keys.setdefault(table, (start, self.at))
        self.values.setdefault(table, (start, self.at))
        return table

    def _dotted(self) -> list[tuple[str, Span]]:
        parts = []
        while True:
            self._skip(_SPACE)
            start = self.at
            if self.text[start] in "\"'":
                self._skip(_STRING)
                name = tomllib.loads("key = " + self.text[start : self.at])["key"]
            else:
                self._skip(_BARE_KEY)
                name = self.text[start : self.at]
            parts.append((name, (start, self.at)))
            self._skip(_SPACE)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def _pair(self, table: Key) -> None:
        for part, span in self._dotted():
            table = (*table, part)
            self.keys.setdefault(table, span)
        self.at += 1  # the "="
        self._skip(_SPACE)
        self._value(table)

    def _value(self, key: Key) -> None:
        start = self.at
        opening = self.text[start]
        if opening in "[{":
            closing, index = ("]" if opening == "[" else "}"), 0
            self.at += 1
            while self._skip(_BLANK) and self.text[self.at] != closing:
                if opening == "[":
                    self._value((*key, index))
                    index += 1
                else:
                    self._pair(key)
                self._skip(_BLANK)
                if self.text[self.at] == ",":
                    self.at += 1
            self.at += 1
        elif opening in "\"'":
            self._skip(_STRING)
        else:
            self._skip(_SCALAR)
        self.values.setdefault(key, (start, self.at))
