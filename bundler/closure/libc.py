"""Which files are the C library and its loader: those for which nothing is ever accepted."""

from __future__ import annotations

import posixpath
import re

_LIBC = re.compile(
    r"(ld-linux[\w-]*\.so\.\d+|ld-musl-[\w-]+\.so\.1|ld64?\.so\.\d|ld-\d[\d.]*\.so|"
    r"lib(c|m|mvec|pthread|rt|dl|util|resolv|anl|nss_\w+|thread_db|BrokenLocale)(\.musl-\w+)?(\.so[\d.]*|-\d[\d.]*\.so))"
)


def is_libc(path: str) -> bool:
    """Whether the file's name is that of a part of glibc or musl."""
    return _LIBC.fullmatch(posixpath.basename(path)) is not None
