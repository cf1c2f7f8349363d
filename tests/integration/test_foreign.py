"""The harness itself: a daemon that runs containers, and roots that are what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dockerd import Dockerd

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    ("name", "command", "expected"),
    [
        ("musl", "readlink -f /bin/sh; [ ! -e /lib64 ] && echo none", "/bin/busybox\nnone"),
        ("debian", "cd /lib64 && ls ld-linux-*", "ld-linux-x86-64.so.2"),
    ],
)
def test_foreign_images_run(
    dockerd: Dockerd, foreign_image: Callable[[str], str], name: str, command: str, expected: str
) -> None:
    assert dockerd.docker("run", "--rm", foreign_image(name), "sh", "-c", command) == expected


def test_scratch_is_empty(dockerd: Dockerd, foreign_root: Callable[[str], Path]) -> None:
    assert list(foreign_root("scratch").iterdir()) == []


def test_musl_knows_no_glibc(foreign_root: Callable[[str], Path]) -> None:
    root = foreign_root("musl")
    assert b"/lib/ld-musl-x86_64.so.1" in (root / "bin/busybox").read_bytes()
    assert not [path for path in root.rglob("*") if "libc.so.6" in path.name]
