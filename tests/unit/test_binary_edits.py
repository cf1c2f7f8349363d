"""Edits of equal length inside binaries: what fits, what is refused, which files they reach."""

from pathlib import Path

import pytest

from bundler.errors import InputError
from bundler.recipe import BinaryEdit
from bundler.relocate import Context, edit_binary, expand
from bundler.relocation import Place, relocate_tree
from bundler.tree import DirectoryTree

BUNDLES = {"runtime": "/.deps/rt/1"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        (b"/usr", b"/usr"),
        (b"{root}/b", b"/.deps/b"),
        (b"{bundle:runtime}/loc", b"/.deps/rt/1/loc"),
        (b"{other}{}", b"{other}{}"),
        (b"\xff{root}\0", b"\xff/.deps\0"),
    ],
)
def test_expand(text: bytes, expanded: bytes) -> None:
    assert expand(text, "/.deps", BUNDLES) == expanded


def test_expand_names_the_bundle_that_is_not_in_reach() -> None:
    with pytest.raises(InputError, match="'libs' is not in reach"):
        expand(b"{bundle:libs}", "/.deps", BUNDLES)


@pytest.mark.parametrize(
    ("data", "old", "new", "count", "pad", "after"),
    [
        (b"\0/usr/lib\0", b"/usr/lib", b"/.d/rt/1", 1, b"", b"\0/.d/rt/1\0"),
        (b"/a/b\0/a/b/c\0", b"/a/b", b"/x", 2, b"/", b"/x//\0/x///c\0"),
        (b'DIR("=/lib");', b'DIR("=/lib");', b"", 1, b" ", b"             "),
    ],
)
def test_edit(data: bytes, old: bytes, new: bytes, count: int, pad: bytes, after: bytes) -> None:
    assert edit_binary(data, old, new, count, "file", pad) == after


@pytest.mark.parametrize(
    ("old", "new", "count", "pad", "message"),
    [
        (b"/lib", b"/li", 1, b"", "cannot take the place"),
        (b"/lib", b"/libs", 1, b"/", "cannot take the place"),
        (b"/lib", b"/bin", 2, b"", "stands 1 times in the file, not 2"),
        (b"/opt", b"/bin", 1, b"", "stands 0 times"),
    ],
)
def test_refused_edits(old: bytes, new: bytes, count: int, pad: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        edit_binary(b"x/lib\0", old, new, count, "lib/libc.so.6", pad)
    assert caught.value.where == "lib/libc.so.6"


def edited(top: Path, *edits: BinaryEdit) -> None:
    context = Context("/.deps/rt/1/lib/ld.so", ("/.deps/rt/1/lib",), ("/.deps/rt/1",), {})
    relocate_tree(
        top, [Place("/.deps/rt/1", context)], edits=edits, bundles=BUNDLES, dependencies=DirectoryTree(top)
    )


def test_edits_reach_the_files_that_they_name(tmp_path: Path) -> None:
    prefix = tmp_path / ".deps/rt/1"
    (prefix / "bin").mkdir(parents=True)
    for name in ("one", "two", "three"):
        (prefix / "bin" / name).write_bytes(b"\0/usr/lib/locale\0")
    (prefix / "bin/link").symlink_to("three")
    edited(tmp_path, BinaryEdit(("bin/one", "bin/t[w]o"), b"/usr/lib/locale", b"{bundle:runtime}/loc", 1))
    contents = {file.name: file.read_bytes() for file in (prefix / "bin").iterdir() if not file.is_symlink()}
    moved, left = b"\0/.deps/rt/1/loc\0", b"\0/usr/lib/locale\0"
    assert contents == {"one": moved, "two": moved, "three": left}


@pytest.mark.parametrize("missing", ["bin/nothing", "bin/link"])
def test_an_edit_that_reaches_nothing_is_an_error(tmp_path: Path, missing: str) -> None:
    prefix = tmp_path / ".deps/rt/1"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/one").write_bytes(b"/lib\0")
    (prefix / "bin/link").symlink_to("one")
    with pytest.raises(InputError, match=missing):
        edited(tmp_path, BinaryEdit(("bin/one", missing), b"/lib", b"/bin", 1))
