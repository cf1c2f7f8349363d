from __future__ import annotations

import pytest

from bundler.globs import matches


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("**", "a", True),
        ("**", "a/b/c", True),
        ("lib/**", "lib/a/b", True),
        ("lib/**", "lib", False),
        ("**/*.la", "x.la", True),
        ("**/*.la", "lib/deep/x.la", True),
        ("*.la", "lib/x.la", False),
        ("lib/*.so*", "lib/libz.so.1", True),
        ("lib/*.so*", "lib/a/libz.so.1", False),
        ("lib/**/x", "lib/x", True),
        ("lib/**/x", "lib/a/b/x", True),
        ("lib/**/x", "libx", False),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[ab]*", "bee", True),
        ("[!ab]*", "bee", False),
        ("[!ab]*", "see", True),
        ("a+b(c).d", "a+b(c).d", True),
        ("a.c", "abc", False),
        ("[x", "[x", True),
        ("share/man/cat?/**", "share/man/cat1/a.1", True),
        ("bin/sh", "bin/sh", True),
        ("/bin/sh", "bin/sh", True),
    ],
)
def test_match(pattern: str, path: str, expected: bool) -> None:
    assert matches(path, [pattern]) is expected
