"""The section header table, by columns: most questions are about one or two of them."""

from __future__ import annotations

from bundler.elf import format as f
from bundler.elf.format import Header, Layout

_MERGED = 16
"""Bytes between two ranges of code or data that are but padding."""


class Sections:
    """Section headers as they are in the file, and what they are to become."""

    def __init__(self, layout: Layout, header: Header, data: bytes) -> None:
        self._layout, self._header = layout, header
        self._data = data
        self._rows = list(layout.section.iter_unpack(data))
        columns: tuple[tuple[int, ...], ...] = tuple(zip(*self._rows, strict=True)) or ((),) * 10
        self.types, self.flags, self.addresses, self.offsets, self.sizes = columns[1:6]
        self.moved: dict[int, tuple[int, int, int]] = {}
        """New address, offset and size by the section's number."""

    def __len__(self) -> int:
        return len(self._rows)

    def extents(self) -> list[tuple[int, int]]:
        """Where sections lie in the file: start and end."""
        return [
            (offset, offset + size)
            for kind, offset, size in zip(self.types, self.offsets, self.sizes, strict=True)
            if size and kind != f.SHT_NOBITS
        ]

    def at(self, address: int, kind: int) -> int | None:
        """The size of the section of a type that begins at an address."""
        for this, start, size in zip(self.types, self.addresses, self.sizes, strict=True):
            if start == address and this == kind:
                return size
        return None

    def inside(self, start: int, end: int) -> list[int]:
        """Numbers of the sections that are loaded from a range of the file and lie in it wholly."""
        return [
            index
            for index, offset in enumerate(self.offsets)
            if start <= offset < end
            and 0 < self.sizes[index] <= end - offset
            and self.flags[index] & f.SHF_ALLOC
            and self.types[index] != f.SHT_NOBITS
        ]

    def program(self, but: int) -> list[tuple[int, int]]:
        """Where code and data lie in the file, merged and sorted, without the section at ``but``."""
        parts = [
            (offset, offset + size)
            for kind, offset, size in zip(self.types, self.offsets, self.sizes, strict=True)
            if kind == f.SHT_PROGBITS and size and offset != but
        ]
        parts.sort()
        merged: list[tuple[int, int]] = []
        first = last = -_MERGED
        for start, end in parts:
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
            row = self._rows[index]
            at = index * record.size - start
            record.pack_into(data, at, *row[:3], address, offset, size, *row[6:])
        return self._header.shoff + start, bytes(data)
