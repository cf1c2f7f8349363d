"""Symbols of sections that moved follow them.

Nothing that runs looks at the full symbol table, but debuggers and ``eu-elflint`` do: ``_DYNAMIC`` is such
a symbol.  Dynamic symbols are in sections that move only where a library has an interpreter and names
it, as libcap does.
"""

from __future__ import annotations

from array import array

from bundler.elf import format as f
from bundler.elf.image import Image
from bundler.elf.pieces import MAX_TABLE
from bundler.elf.read import ElfFile
from bundler.elf.refuse import is_core


def follow(image: Image) -> None:
    """Give symbols in sections that moved their new addresses."""
    sections = image.sections
    shifts = {index: moved[0] - sections.addresses[index] for index, moved in sections.moved.items()}
    shifts = {index: shift for index, shift in shifts.items() if shift}
    if not shifts:
        return
    kinds = (f.SHT_SYMTAB, f.SHT_DYNSYM) if has_named_interpreter(image.facts) else (f.SHT_SYMTAB,)
    for index in (number for kind in kinds for number in sections.of(kind)):
        offset = sections.moved[index][1] if index in sections.moved else sections.offsets[index]
        if sections.sizes[index] <= MAX_TABLE and offset < image.size:
            _follow(image, image.read_now(offset, sections.sizes[index]), offset, shifts)


def has_named_interpreter(facts: ElfFile) -> bool:
    """Whether symbols may name the interpreter's place, and code may read it there."""
    return facts.is_library and facts.interpreter is not None and not is_core(facts)


def _dynamic_shift(image: Image) -> tuple[int, int]:
    """Old address of the dynamic section, and how far it moved: on some machines ``_DYNAMIC`` is absolute."""
    old = next(segment.vaddr for segment in image.facts.segments if segment.type == f.PT_DYNAMIC)
    return old, image.dynamic_at[1] - old


def _follow(image: Image, data: bytes, offset: int, shifts: dict[int, int]) -> None:
    # Elf64_Sym has st_shndx at 6 and st_value at 8 of 24 bytes, Elf32_Sym at 14 and 4 of 16.
    step, index_at, value_at = (24, 6, 8) if image.layout.bits == 64 else (16, 14, 4)
    word = image.layout.word
    halves = image.layout.numbers("H", data[: len(data) - len(data) % step])
    dynamic, dynamic_shift = _dynamic_shift(image)
    owners = halves[index_at // 2 :: step // 2]
    if dynamic_shift:
        shifts = {**shifts, _SHN_ABS: 0}
    for section, by_section in shifts.items():
        number = -1
        # The search runs in C: a browser has a million symbols, of which three move.
        while (number := _next(owners, section, number + 1)) >= 0:
            at = number * step + value_at
            (value,) = word.unpack_from(data, at)
            shift = dynamic_shift if section == _SHN_ABS and value == dynamic else by_section
            if value and shift:
                image.write(offset + at, word.pack((value + shift) % (1 << image.layout.bits)))


def _next(owners: array[int], section: int, start: int) -> int:
    try:
        return owners.index(section, start)
    except ValueError:
        return -1


_SHN_ABS = 0xFFF1
