"""The verbs new, fetch, outdated and sources, from the command line on."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from bundler.catalogue import Catalogue
from bundler.cli.main import main
from bundler.digest import digest_file, hex_of


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options for directories of one's own; the working directory is an empty one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUNDLE_CACHE", str(tmp_path / "cache"))
    return ["--recipes", "recipes", "--images", "images"]


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    file = tmp_path / "hello-2.10.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        info = tarfile.TarInfo("hello-2.10/configure")
        archive.addfile(info, io.BytesIO())
    return file


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(list(words))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_from_new_to_fetched(inputs: list[str], tarball: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = ["new", "hello", "--url", tarball.as_uri(), "--license", "GPL-3.0-or-later", "--bundle", *inputs]
    assert run(*new, capsys=capsys) == (0, "recipes/hello/recipe.toml\nimages/hello.toml\n", "")
    assert run(*new, capsys=capsys)[2] == "recipes/hello/recipe.toml: error: is there already\n"
    quiet = ["--progress", "none", *inputs]
    status, _, told = run("fetch", "hello", *quiet, capsys=capsys)
    assert status == 2
    assert told.startswith("recipes/hello/recipe.toml:11:10: error: 'sha256' is empty\n   11 | sha256 = \"\"")
    sha = hex_of(digest_file(tarball))
    pinned = f"recipes/hello/recipe.toml: hello-2.10.tar.gz is {{}} {sha}\n"
    assert run("fetch", "--update-hash", "hello", *quiet, capsys=capsys) == (0, pinned.format("now"), "")
    assert run("fetch", "--update-hash", "hello", *quiet, capsys=capsys) == (0, pinned.format("still"), "")
    recipe = Catalogue(recipes=[Path("recipes")], images=[], toolchains=Path("x")).recipe("hello")
    assert (recipe.version, recipe.license) == ("2.10", "GPL-3.0-or-later")
    assert hex_of(recipe.sources[0].digest) == sha
    assert [step.name for step in recipe.steps] == ["configure", "build", "install"]


def test_fetch_prints_where_things_lie(
    inputs: list[str], tarball: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["new", "hello", "--url", tarball.as_uri(), *inputs])
    main(["fetch", "--update-hash", "hello", "--progress", "none", *inputs])
    capsys.readouterr()
    sha = hex_of(digest_file(tarball))
    status, printed, told = run("fetch", "hello", "--offline", "--progress", "none", *inputs, capsys=capsys)
    assert (status, told) == (0, "")
    assert printed == f"{sha}  hello-2.10.tar.gz  {tmp_path}/cache/sources/{sha}\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fetch", "hallo"], "error: there is neither a bundle nor a recipe 'hallo'"),
        (["fetch", "--update-hash", "hallo"], "error: there is no recipe 'hallo'"),
        (["new", "Hello"], "error: 'Hello' is not a name (lower-case letters"),
        (["new", "x", "--license", "not a licence"], "the new recipe:4:11: error: 'license' is not an SPDX"),
        (["new", "x", "--url", "gopher://x.org/x-1.tar.gz"], "the new recipe:10:9: error: 'gopher:"),
        (["new", "x", "--summary", 'a "quoted\\" one'], ""),
        (["outdated", "hallo"], "error: there is no recipe 'hallo'"),
        (["sources", "hallo"], "error: there is no bundle 'hallo'"),
    ],
)
def test_what_is_wrong_is_said(
    words: list[str], expected: str, inputs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, told = run(*words, *inputs, capsys=capsys)
    assert told.startswith(expected)
    assert status == (2 if expected else 0)


def test_outdated(inputs: list[str], tarball: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["new", "hello", "--url", tarball.as_uri(), *inputs])
    main(["fetch", "--update-hash", "hello", "--progress", "none", *inputs])
    Path("index.html").write_text('<a href="hello-2.10.tar.gz"></a> <a href="hello-2.12.3.tar.gz"></a>')
    capsys.readouterr()
    status, printed, told = run("outdated", "hello", *inputs, capsys=capsys)
    assert (status, printed, told) == (0, f"hello 2.10 → 2.12.3  ({tarball.as_uri()})\n", "")
    assert run("outdated", "--check", "hello", *inputs, capsys=capsys)[0] == 1
    (record,) = json.loads(run("outdated", "--format", "json", "hello", *inputs, capsys=capsys)[1])
    assert (record["newest"], record["outdated"]) == ("2.12.3", True)
    Path("index.html").unlink()
    status, printed, told = run("outdated", "--check", "hello", *inputs, capsys=capsys)
    assert (status, printed) == (0, "") and told.startswith("hello: unknown; file://")
