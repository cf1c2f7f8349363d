import os
from pathlib import Path

import pytest

from bundler.errors import InputError
from bundler.tree import (
    DirectoryTree,
    Entry,
    Kind,
    UnionTree,
    check_path,
    entry_from_dict,
    resolve,
    scan,
    tree_digest,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    (top / "bin").mkdir(parents=True)
    (top / "bin/bash").write_bytes(b"#!/x\n")
    (top / "bin/bash").chmod(0o755)
    (top / "bin/sh").symlink_to("bash")
    os.link(top / "bin/bash", top / "bin/rbash")
    (top / "loop").symlink_to("loop")
    (top / "up").symlink_to("../../../bin/sh")
    (top / "abs").symlink_to("/bin")
    return top


def test_scan_is_sorted_bytewise_and_knows_hard_links(root: Path) -> None:
    (root / "bin.d").mkdir()
    entries = {entry.path: entry for entry in scan(root)}
    assert list(entries) == ["abs", "bin", "bin.d", "bin/bash", "bin/rbash", "bin/sh", "loop", "up"]
    assert entries["bin/rbash"].hardlink == "bin/bash"
    assert entries["bin/bash"].hardlink is None
    assert entries["bin/bash"].digest is not None
    assert entries["bin/sh"].target == "bash"


def test_digest_is_of_content_not_of_times_or_owners(root: Path) -> None:
    before = tree_digest(scan(root))
    os.utime(root / "bin/bash", (1, 1))
    assert tree_digest(scan(root)) == before
    (root / "bin/bash").chmod(0o700)
    assert tree_digest(scan(root)) != before


@pytest.mark.parametrize(
    ("path", "found", "error"),
    [
        ("bin/sh", "bin/bash", None),
        ("abs/sh", "bin/bash", None),
        ("up", "bin/bash", None),
        ("bin/../bin/./sh", "bin/bash", None),
        ("loop", "loop", "ELOOP"),
        ("bin/bash/x", "bin/bash", "ENOTDIR"),
        ("bin/bash/..", "bin/bash", "ENOTDIR"),
        ("bin/none", "bin/none", "ENOENT"),
        ("bin/../" * 501, "", "ELOOP"),
        ("", "", None),
    ],
)
def test_resolve_walks_as_the_kernel_does(root: Path, path: str, found: str, error: str | None) -> None:
    result = resolve(DirectoryTree(root), path)
    assert (result.path, result.error) == (found, error)


def test_a_directory_placed_at_a_prefix(root: Path) -> None:
    tree = DirectoryTree(root, at=".deps/shell/1")
    assert tree.names("") == (".deps",)
    assert tree.names(".deps/shell") == ("1",)
    assert resolve(tree, "/.deps/shell/1/bin/sh").path == ".deps/shell/1/bin/bash"
    assert tree.get("bin") is None
    with tree.open(".deps/shell/1/bin/bash") as stream:
        assert stream.read() == b"#!/x\n"


def test_union_shows_the_first_and_merges_directories(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    (other / "bin/bash").write_text("other")
    (other / "bin/tree").write_text("tree")
    union = UnionTree([DirectoryTree(root), DirectoryTree(other)])
    assert list(union.names("bin")) == ["bash", "rbash", "sh", "tree"]
    with union.open("bin/bash") as stream:
        assert stream.read() == b"#!/x\n"


@pytest.mark.parametrize("path", ["/x", "../x", "a//b", "a/./b", "", "a\0b", "a/.."])
def test_paths_that_climb_are_refused(path: str) -> None:
    with pytest.raises(InputError):
        check_path(path)


def test_only_regular_files_open(root: Path) -> None:
    os.mkfifo(root / "fifo")
    for path in ("fifo", "bin", "bin/sh", "none"):
        with pytest.raises(InputError):
            DirectoryTree(root).open(path)


@pytest.mark.parametrize(
    "entry",
    [
        Entry("a", Kind.FILE, 0o4755, 3, None, None, None, 5, 6, 7, (("user.x", b"\0\n"),)),
        Entry("b\udcff", Kind.SYMLINK, 0o777, target="x y"),
        Entry("c", Kind.BLOCK, 0o600, device=(8, 1)),
        Entry("d", Kind.FILE, 0o644, hardlink="a"),
    ],
)
def test_entries_travel_as_json(entry: Entry) -> None:
    assert entry_from_dict(entry.to_dict()) == entry


@pytest.mark.parametrize(
    "record", [{}, {"path": "../x", "kind": "file", "mode": "0644"}, {"path": "x", "kind": "y", "mode": "1"}]
)
def test_records_that_no_entry_gives(record: dict[str, str]) -> None:
    with pytest.raises(InputError):
        entry_from_dict(record)
