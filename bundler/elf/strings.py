"""The dynamic string table while it is edited: who refers to which string, and where a new one fits.

Linkers let strings share their tails, so a string may only be overwritten or blanked when no reference
lands in it, neither in it nor in a longer one that it ends.
"""

from __future__ import annotations

from collections.abc import Iterable

from bundler.elf.format import ElfError

_PADDING = bytes(16)
_BLOCK = 1 << 12
"""Bytes looked at at once."""


class StringTable:
    """A table and what it becomes; offsets of strings that stay never change.

    Tables have megabytes at times, so it is copied only where something inside it changes.
    """

    def __init__(self, given: bytes) -> None:
        self._given: bytes | bytearray = given
        self._changed: list[tuple[int, int]] = []
        """Ranges (start, end) of what was given in which bytes differ."""
        self._more = bytearray()
        """What the table has behind what was given."""
        self._free: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._given) + len(self._more)

    @property
    def data(self) -> bytes:
        """The whole table as it became."""
        return b"".join((self._given, self._more))

    @property
    def is_padded(self) -> bool:
        """Whether there is room behind the last string's end, more than what aligns the next section."""
        return self._given.endswith(_PADDING)

    @property
    def growth(self) -> int:
        """Bytes by which the table became longer."""
        return len(self._more)

    def changes(self) -> list[tuple[int, bytes]]:
        """Where in the table bytes differ from what was given, and what they are."""
        changes = [(start, bytes(self._given[start:end])) for start, end in self._changed]
        return [*changes, (len(self._given), bytes(self._more))]

    def pad(self, growth: int) -> None:
        """Make the table ``growth`` bytes longer than it was, for later edits."""
        self._more.extend(bytes(growth - self.growth))

    def text(self, at: int) -> bytes:
        """The string at ``at``; raises ElfError."""
        end = self._given.find(b"\0", at)
        if at >= len(self._given) or end < 0:
            raise ElfError("a string of the dynamic string table has no end")
        return bytes(self._given[at:end])

    def blank(self, abandoned: Iterable[int], kept: set[int]) -> None:
        """Zero the abandoned strings that no kept reference touches."""
        for at in sorted(abandoned):
            length = len(self.text(at))
            owner = self._given.rfind(b"\0", 0, at) + 1
            if length and kept.isdisjoint(range(owner, at + length)):
                self._overwrite(at, bytes(length))
                self._free.append((at, length))

    def open_padding(self, kept: set[int]) -> None:
        """Use the zeros behind the last string, unless a reference lands there."""
        used = self._end_of_strings() + 1
        if used < len(self._given) and max(kept, default=0) < used:
            # Blanked strings at the end are part of it.
            self._free = [slot for slot in self._free if slot[0] < used]
            self._free.append((used, len(self._given) - used - 1))

    def place(self, text: bytes) -> int:
        """Offset of ``text``: an equal string or tail, a free slot, or new room at the end."""
        string = text + b"\0"
        if (found := self._given.find(string)) >= 0:
            return found
        if (found := self._more.find(string)) >= 0:
            return len(self._given) + found
        for index, (at, room) in enumerate(self._free):
            if len(text) <= room:
                self._overwrite(at, text)
                rest = room - len(text) - 1
                self._free[index : index + 1] = [(at + len(text) + 1, rest)] if rest > 0 else []
                return at
        self._more += string
        return len(self) - len(string)

    def _overwrite(self, at: int, text: bytes) -> None:
        if isinstance(self._given, bytes):
            self._given = bytearray(self._given)
        self._given[at : at + len(text)] = text
        self._changed.append((at, at + len(text)))

    def _end_of_strings(self) -> int:
        """Where the zeros at the end begin."""
        end = len(self._given)
        while end and not (block := self._given[max(0, end - _BLOCK) : end].rstrip(b"\0")):
            end = max(0, end - _BLOCK)
        return max(0, end - _BLOCK) + len(block) if end else 0
