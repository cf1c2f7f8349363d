"""The section header table, by columns: most questions are about one or two of them."""

from __future__ import annotations

from collections.abc import Iterator

from bundler.elf import format as f
from bundler.elf.format import Header, Layout

_MERGED = 16
"""Bytes between two ranges of code or data that are but padding."""


class Sections:
    """Section headers as they are in the file, and what they are to become."""

    def __init__(self, layout: Layout, header: Header, data: bytes) -> None:
        self._layout, self._header = layout, header
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

    def inside(self, start: int, end: int) -> Iterator[int]:
        """Numbers of the sections that are loaded from a range of the file and lie in it wholly."""
        for index, (offset, size) in enumerate(zip(self.offsets, self.sizes, strict=True)):
            if (
                start <= offset
                and offset + size <= end
                and size
                and self.flags[index] & f.SHF_ALLOC
                and self.types[index] != f.SHT_NOBITS
            ):
                yield index

    def program(self, but: int) -> list[tuple[int, int]]:
        """Where code and data lie in the file, merged and sorted, without the section at ``but``."""
        merged: list[tuple[int, int]] = []
        for offset, kind, size in sorted(zip(self.offsets, self.types, self.sizes, strict=True)):
            if kind == f.SHT_PROGBITS and size and offset != but:
                if merged and offset - merged[-1][1] < _MERGED:
                    start, end = merged.pop()
                    merged.append((start, max(end, offset + size)))
                else:
                    merged.append((offset, offset + size))
        return merged

    def place(self, index: int, address: int, offset: int, size: int) -> None:
        self.moved[index] = (address, offset, size)

    def headers(self) -> Iterator[tuple[int, bytes]]:
        """Offset and new content of each header that changes."""
        record = self._layout.section
        for index, (address, offset, size) in sorted(self.moved.items()):
            row = self._rows[index]
            yield (
                self._header.shoff + index * record.size,
                record.pack(*row[:3], address, offset, size, *row[6:]),
            )
