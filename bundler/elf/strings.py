"""The dynamic string table while it is edited: who refers to which string, and where a new one fits.

Linkers let strings share their tails, so a string may only be overwritten or blanked when no reference
lands in it, neither in it nor in a longer one that it ends.
"""

from __future__ import annotations

from collections.abc import Iterable

from bundler.elf.format import ElfError

_PADDING = bytes(16)


class StringTable:
    """A copy of the table; offsets of strings that stay never change."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self._given = len(data)
        self.changed: list[tuple[int, int]] = []
        """Ranges (start, end) in which bytes differ from what was given."""
        self._free: list[tuple[int, int]] = []

    @property
    def is_padded(self) -> bool:
        """Whether there is room behind the last string's end, more than what aligns the next section."""
        return self.data.endswith(_PADDING)

    @property
    def growth(self) -> int:
        """Bytes by which the table became longer."""
        return len(self.data) - self._given

    def pad(self, growth: int) -> None:
        """Make the table ``growth`` bytes longer than it was, for later edits."""
        self.data.extend(bytes(growth - self.growth))
        self.changed.append((self._given, len(self.data)))

    def text(self, at: int) -> bytes:
        """The string at ``at``; raises ElfError."""
        end = self.data.find(b"\0", at)
        if at >= len(self.data) or end < 0:
            raise ElfError("a string of the dynamic string table has no end")
        return bytes(self.data[at:end])

    def blank(self, abandoned: Iterable[int], kept: set[int]) -> None:
        """Zero the abandoned strings that no kept reference touches."""
        for at in sorted(abandoned):
            length = len(self.text(at))
            owner = self.data.rfind(b"\0", 0, at) + 1
            if length and kept.isdisjoint(range(owner, at + length)):
                self.data[at : at + length] = bytes(length)
                self._free.append((at, length))
                self.changed.append((at, at + length))

    def open_padding(self, kept: set[int]) -> None:
        """Use the zeros behind the last string, unless a reference lands there."""
        used = len(self.data.rstrip(b"\0")) + 1
        if used < len(self.data) and max(kept, default=0) < used:
            # Blanked strings at the end are part of it.
            self._free = [slot for slot in self._free if slot[0] < used]
            self._free.append((used, len(self.data) - used - 1))

    def place(self, text: bytes) -> int:
        """Offset of ``text``: an equal string or tail, a free slot, or new room at the end."""
        found = self.data.find(text + b"\0")
        if found >= 0:
            return found
        for index, (at, room) in enumerate(self._free):
            if len(text) <= room:
                self.data[at : at + len(text)] = text
                self.changed.append((at, at + len(text)))
                rest = room - len(text) - 1
                self._free[index : index + 1] = [(at + len(text) + 1, rest)] if rest > 0 else []
                return at
        at = len(self.data)
        self.data += text + b"\0"
        self.changed.append((at, len(self.data)))
        return at
