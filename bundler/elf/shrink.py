"""Which directories of a search path a file uses: those where a library that it needs is found."""

from __future__ import annotations

import os
from collections.abc import Iterable

from bundler.elf.format import ElfError
from bundler.elf.read import ElfFile, read_file


def used_directories(facts: ElfFile, path: str, directories: Iterable[str]) -> tuple[str, ...]:
    """The directories in which a needed library is found first, as the loader searches them, in order.

    ``path`` is where the file lies, for ``$ORIGIN``.  Libraries that the file opens by itself are not
    known here: a shrunk path may lack where its plugins lie.
    """
    used = []
    missing = {name for name in facts.needed if "/" not in name}
    for directory in directories:
        found = {name for name in missing if _is_library(facts, _expand(directory, path), name)}
        if found:
            used.append(directory)
            missing -= found
    return tuple(used)


def _expand(directory: str, path: str) -> str:
    origin = os.path.dirname(os.path.realpath(path))
    return directory.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)


def _is_library(facts: ElfFile, directory: str, name: str) -> bool:
    try:
        return read_file(os.path.join(directory, name)).same_abi(facts)
    except ElfError:
        return False
