"""What is compiled into a loader: its default directories, read from the bytes of the file itself.

glibc keeps them as consecutive strings, each with a slash at its end (``system_dirs`` in ``elf/dl-load.c``),
and the cache's name as one string.  Where DF_1_NODEFLIB is set throughout they do not matter; where it is
not, they tell what a program would load from its container.
"""

from __future__ import annotations

import re
import struct

from bundler.closure.files import Files
from bundler.closure.loader import Build
from bundler.elf.read import ElfFile
from bundler.errors import InputError

MAX_LOADER = 8 << 20
"""Bytes of a loader that are looked at; glibc's has about 200 KB."""
MAX_CACHE = 16 << 20
_DIRECTORIES = re.compile(rb"\0((?:/[\w.+-]+(?:/[\w.+-]+)*/\0){2,16})")
_CACHE = re.compile(rb"\0(/[\w./+-]*/ld\.so\.cache)\0")
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"
_LAST_LEGACY = (2, 36)


def read_build(files: Files, loader: str) -> Build:
    """The build of the loader at a ``path`` in the tree; of what is no glibc loader, an empty one."""
    data = _read(files, loader, MAX_LOADER)
    match = _DIRECTORIES.search(data)
    if match is None:
        return Build()
    directories = tuple(part.decode().rstrip("/") for part in match[1].split(b"\0") if part)
    first = directories[0].lstrip("/").removeprefix("usr/")
    cache = _CACHE.search(data)
    return Build(
        directories=directories,
        cache=read_cache(files, cache[1].decode()) if cache else {},
        lib=first if first.startswith("lib") else "lib",
        platform="aarch64" if "aarch64" in loader else "x86_64",
        legacy=_version(files, loader) <= _LAST_LEGACY,
    )


def read_cache(files: Files, path: str) -> dict[str, tuple[str, ...]]:
    """Paths by soname in the loader cache at the absolute ``path`` (``cache_file_new`` in ``dl-cache.h``).

    Entries for subdirectories of glibc-hwcaps are left out: the baseline is what every processor takes.
    A file that is no such cache has no entries.
    """
    found = files.follow(path)
    data = _read(files, found.path, MAX_CACHE) if found.entry is not None else b""
    start = data.find(_CACHE_MAGIC)
    if start < 0 or len(data) < start + 48:
        return {}
    (count,) = struct.unpack_from("<I", data, start + len(_CACHE_MAGIC))
    entries: dict[str, tuple[str, ...]] = {}
    for index in range(min(count, (len(data) - start - 48) // 24)):
        _, key, value, _, hwcap = struct.unpack_from("<iIIIQ", data, start + 48 + 24 * index)
        name, target = _string(data, start + key), _string(data, start + value)
        if not hwcap and name and target.startswith("/"):
            entries[name] = (*entries.get(name, ()), target)
    return entries


def _version(files: Files, loader: str) -> tuple[int, int]:
    """glibc's version, from the highest one that the libc beside the loader defines."""
    directory = "/" + loader.rpartition("/")[0]
    found = files.find(directory, "libc.so.6")
    facts = files.facts(found.path) if found is not None and found.entry is not None else None
    if not isinstance(facts, ElfFile):
        return (2, 37)
    found_versions = (re.fullmatch(r"GLIBC_(\d+)\.(\d+)", v.name) for v in facts.version_definitions)
    return max(((int(m[1]), int(m[2])) for m in found_versions if m), default=(2, 37))


def _read(files: Files, path: str, limit: int) -> bytes:
    try:
        with files.tree.open(path) as stream:
            return stream.read(limit)
    except InputError:
        return b""


def _string(data: bytes, at: int) -> str:
    end = data.find(b"\0", at, at + 4096)
    return data[at:end].decode("utf-8", "surrogateescape") if end > at else ""
