"""The words that make a namespace of a directory, and bundles unpacked once."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.errors import InputError
from bundler.namespace import Room, command_line, run_in_namespace


def test_an_empty_root() -> None:
    room = Room(None, [("/.deps/rt/1", Path("/cache/rt"))], directory="/x", user="12:34")
    assert command_line("bwrap", room, ["sh", "-c", "true"]) == [
        *("bwrap", "--unshare-all", "--die-with-parent", "--uid", "12", "--gid", "34"),
        *("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),
        *("--ro-bind", "/cache/rt", "/.deps/rt/1", "--chdir", "/x", "--", "sh", "-c", "true"),
    ]


def test_a_directory_is_bound_entry_by_entry(tmp_path: Path) -> None:
    for name in ("usr", "proc", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin").symlink_to("usr/bin")
    room = Room(tmp_path, [], network=True, binds=("/h:/c:ro", "/w:/d"))
    words = command_line("bwrap", room, ["true"])
    assert words[7:] == [
        *("--share-net", "--symlink", "usr/bin", "/bin", "--ro-bind", f"{tmp_path}/usr", "/usr"),
        *("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"),
        *("--ro-bind", "/h", "/c", "--bind", "/w", "/d", "--chdir", "/", "--", "true"),
    ]


def test_users_are_numbers() -> None:
    with pytest.raises(InputError, match="users are numbers"):
        run_in_namespace(Room(None, [], user="root"), ["true"])
