from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from bundler import installed
from bundler.build_request import OutputSpec
from bundler.errors import BundleError
from bundler.recipe import Recipe
from bundler.target import ARCHITECTURES

RECIPE = Recipe("x", "1", "MIT", Path("x/recipe.toml"))
X = "/.deps/x/1"


def lay(top: Path, paths: Sequence[str]) -> None:
    """Files; ``a -> b`` is a link, a trailing slash a directory."""
    for path in paths:
        name, _, target = path.partition(" -> ")
        file = top / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if target:
            file.symlink_to(target)
        elif name.endswith("/"):
            file.mkdir(exist_ok=True)
        else:
            file.write_text(name)


def left(top: Path) -> list[str]:
    return sorted(
        path.relative_to(top).as_posix() + ("/" if path.is_dir() and not path.is_symlink() else "")
        for path in top.rglob("*")
        if path.is_symlink() or not path.is_dir() or not any(path.iterdir())
    )


@pytest.mark.parametrize(
    ("before", "drop", "keep", "after"),
    [
        (["lib/a.la", "lib/a.so"], [], [], ["lib/a.la", "lib/a.so"]),
        (["lib/a.la", "lib/a.so"], ["**/*.la"], [], ["lib/a.so"]),
        (["lib/a.la", "lib/a.so"], ["**/*.la"], ["lib/a.la"], ["lib/a.la", "lib/a.so"]),
        (["share/doc/a/b", "bin/x"], ["share/doc/**"], [], ["bin/x"]),
        (["share/doc/a/b", "bin/x"], ["share/doc"], [], ["bin/x"]),
        (["a/link -> ../b/", "b/x"], ["a/link"], [], ["b/x"]),
        (["a/link -> ../b/", "b/x"], ["a"], [], ["b/x"]),
        (["empty/", "a/x"], ["a/x"], [], ["empty/"]),
        (["a/b/x", "a/c"], ["a/b/x"], [], ["a/c"]),
    ],
)
def test_drop(tmp_path: Path, before: list[str], drop: list[str], keep: list[str], after: list[str]) -> None:
    lay(tmp_path, before)
    installed.drop(tmp_path, drop, keep)
    assert left(tmp_path) == after


@pytest.mark.parametrize(
    ("path", "dropped"),
    [
        ("lib/liba.la", True),
        ("share/info/dir", True),
        ("share/info/a.info", False),
        ("share/man/cat1/x.1", True),
        ("share/man/de/cat1/x.1", True),
        ("share/man/man1/cat.1", False),
        ("share/man/whatis", True),
        ("lib/perl5/5.40/perllocal.pod", True),
        ("lib/perl5/auto/X/.packlist", True),
        ("share/locale/de/LC_MESSAGES/x.mo", False),
    ],
)
def test_default_drops(tmp_path: Path, path: str, dropped: bool) -> None:
    lay(tmp_path, [path])
    assert bool(installed.drop(tmp_path, installed.DROPPED, ())) is dropped


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        ([".deps/x/1/a"], []),
        ([".deps/x/1/a", ".deps/y/1/b"], ["/.deps/y"]),
        ([".deps/x/1/a", "usr/b"], ["/usr"]),
        ([".deps/x/1/a", ".deps/x/file"], ["/.deps/x/file"]),
        ([".deps/x/1 -> /etc"], ["/.deps/x/1"]),
        ([".deps -> /etc", "usr -> /etc"], ["/.deps", "/usr"]),
    ],
)
def test_place(tmp_path: Path, paths: list[str], named: list[str]) -> None:
    lay(tmp_path, paths)
    try:
        installed.check_place(tmp_path, (OutputSpec("x", X),), RECIPE)
        found = ""
    except BundleError as error:
        found = str(error)
    assert [path for path in named if f"installs {path}, which is outside" in found] == named
    assert found.count("error:") == len(named)


@pytest.mark.parametrize(
    ("paths", "globs", "message"),
    [
        (["a", "lib/b"], ["**"], None),
        (["a", "lib/b"], ["a", "lib/*"], None),
        (["a", "lib/b"], ["a"], f"installs {X}/lib/b, which is in no output"),
        (["a", "empty/"], ["a"], f"installs {X}/empty, which is in no output"),
        (["lib/link -> x"], ["lib/*"], None),
        ([], ["**"], "installs nothing for the bundle 'x'"),
    ],
)
def test_outputs(tmp_path: Path, paths: list[str], globs: list[str], message: str | None) -> None:
    lay(tmp_path / X.strip("/"), paths)
    outputs = (OutputSpec("x", X, tuple(globs)),)
    if message is None:
        installed.check_outputs(tmp_path, outputs, RECIPE)
    else:
        with pytest.raises(BundleError, match=message):
            installed.check_outputs(tmp_path, outputs, RECIPE)


@pytest.mark.parametrize(
    ("paths", "globs", "names"),
    [
        (["COPYING", "copying.lib", "License.txt", "LICENCE", "NOTICE", "README", "src/COPYING"], [],
         ["COPYING", "LICENCE", "License.txt", "NOTICE", "copying.lib"]),
        (["COPYING", "src/COPYING", "doc/x"], ["src/COPYING", "doc/*"], ["doc-x", "src-COPYING"]),
        (["usr/share/doc/libc6/copyright", "usr/share/doc/libc6/x"], [], ["libc6-copyright"]),
        (["LICENSE/", "LICENSE/MIT"], [], []),
        (["COPYING -> doc/real", "doc/real"], [], ["COPYING"]),
        (["COPYING -> /etc/passwd", "LICENSE -> ../../../etc/passwd", "NOTICE -> NOTICE"], [], []),
    ],
)  # fmt: skip
def test_licenses(tmp_path: Path, paths: list[str], globs: list[str], names: list[str]) -> None:
    lay(tmp_path, paths)
    assert sorted(installed.licenses(tmp_path, globs)) == names


def test_licenses_are_added_and_replace_nothing(tmp_path: Path) -> None:
    lay(tmp_path, ["share/licenses/x/COPYING"])
    installed.add_licenses(tmp_path, "x", {"COPYING": b"other", "NOTICE": b"new"})
    assert (tmp_path / "share/licenses/x/COPYING").read_text() == "share/licenses/x/COPYING"
    assert (tmp_path / "share/licenses/x/NOTICE").read_text() == "new"
    installed.add_licenses(tmp_path, "y", {})
    assert not (tmp_path / "share/licenses/y").exists()


def elf(kind: int, machine: int = 62, order: str = "little") -> bytes:
    mark = b"\x01" if order == "little" else b"\x02"
    head = b"\x7fELF\x02" + mark + b"\x01" + bytes(9)
    return head + kind.to_bytes(2, order) + machine.to_bytes(2, order)  # type: ignore[arg-type]


def test_strippable(tmp_path: Path) -> None:
    files = {
        "bin/program": elf(2),
        "lib/a.so": elf(3),
        "lib/kept.so": elf(3),
        "lib/crt1.o": elf(1),
        "lib/a.a": b"!<arch>\n" + bytes(60),
        "lib/other.so": elf(3, machine=183),
        "lib/big.so": elf(3, order="big"),
        "lib/core": elf(4),
        "lib/short": b"\x7fELF",
        "bin/script": b"#!/bin/sh\n",
    }
    for path, data in files.items():
        (tmp_path / "p" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "p" / path).write_bytes(data)
    os.link(tmp_path / "p/bin/program", tmp_path / "p/bin/same")
    (tmp_path / "p/bin/link").symlink_to("program")
    found = installed.strippable(tmp_path, ["p"], ["lib/kept.so"], ARCHITECTURES["x86_64"])
    assert found.programs == ("p/bin/program", "p/lib/a.so", "p/lib/big.so")
    assert found.objects == ("p/lib/a.a", "p/lib/crt1.o")
