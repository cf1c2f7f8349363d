"""The section header table, by columns: most questions are about one or two of them."""

from __future__ import annotations

from bisect import bisect_left

from bundler.elf import format as f
from bundler.elf.format import Header, Layout

_MERGED = 16
"""Bytes between two ranges of code or data that are but padding."""


class Sections:
    """Section headers as they are in the file, and what they are to become."""

    def __init__(self, layout: Layout, header: Header, data: bytes) -> None:
        self._layout, self._header = layout, header
        self._data = data
        # A header is two numbers of 32 bits, the name and the type, and then words.
        code, step, first = ("Q", 8, 1) if layout.bits == 64 else ("I", 10, 2)
        words = layout.numbers(code, data)
        self.types = layout.numbers("I", data)[1 :: layout.section.size // 4]
        self.flags, self.addresses, self.offsets, self.sizes = [
            words[column::step] for column in range(first, first + 4)
        ]
        places = zip(self.types, self.offsets, self.sizes, strict=True)
        self.extents = sorted(
            [
                (offset, offset + size, index)
                for index, (kind, offset, size) in enumerate(places)
                if size and kind != f.SHT_NOBITS
            ]
        )
        """Where sections lie in the file: start, end and the section's number, in file order."""
        self.moved: dict[int, tuple[int, int, int]] = {}
        """New address, offset and size by the section's number."""

    def __len__(self) -> int:
        return len(self.types)

    def at(self, address: int, kind: int) -> int | None:
        """The size of the section of a type that begins at an address."""
        for index in self.of(kind):
            if self.addresses[index] == address:
                return self.sizes[index]
        return None

    def of(self, kind: int) -> list[int]:
        """Numbers of the sections of a type."""
        return [index for index, this in enumerate(self.types) if this == kind] if kind in self.types else []

    def inside(self, start: int, end: int) -> list[int]:
        """Numbers of the sections that are loaded from a range of the file and lie in it wholly."""
        first, last = (bisect_left(self.extents, (offset,)) for offset in (start, end))
        return [
            index
            for _, stop, index in self.extents[first:last]
            if stop <= end and self.flags[index] & f.SHF_ALLOC
        ]

    def program(self, but: int) -> list[tuple[int, int]]:
        """Where code and data lie in the file, merged and sorted, without the section at ``but``."""
        merged: list[tuple[int, int]] = []
        first = last = -_MERGED
        for start, end, index in self.extents:
            if self.types[index] != f.SHT_PROGBITS or start == but:
                continue
            if start - last >= _MERGED:
                merged.append((first, last))
                first, last = start, end
            elif end > last:
                last = end
        merged.append((first, last))
        return merged[1:]

    def place(self, index: int, address: int, offset: int, size: int) -> None:
        self.moved[index] = (address, offset, size)

    def headers(self) -> tuple[int, bytes]:
        """Offset and new content of the headers that change, from the first to the last of them."""
        if not self.moved:
            return 0, b""
        record = self._layout.section
        start, end = min(self.moved) * record.size, (max(self.moved) + 1) * record.size
        data = bytearray(self._data[start:end])
        for index, (address, offset, size) in self.moved.items():
            at = index * record.size - start
            row = record.unpack_from(data, at)
            record.pack_into(data, at, *row[:3], address, offset, size, *row[6:])
        return self._header.shoff + start, bytes(data)
