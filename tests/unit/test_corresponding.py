"""The corresponding source of recipes and of binary packages."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from bundler.corresponding import collect, part_of, source_packages
from bundler.debian import Archive
from bundler.digest import digest_bytes
from bundler.errors import EnvironmentLacks
from bundler.fetch import Fetcher
from bundler.recipe import LockedPackage, Recipe, Source, Step
from bundler.target import ARCHITECTURES

AMD64 = ARCHITECTURES["x86_64"]


def archive(lists: Path) -> Archive:
    sha = hashlib.sha256(b"").hexdigest()
    indexes = {
        "main/binary-amd64/Packages": (
            "Package: libc6\nSource: glibc\nVersion: 2.41-12\n\n"
            "Package: libgcc-s1\nSource: gcc-14 (14.2.0-19)\nVersion: 14.2.0-19+b1\n\n"
            "Package: dash\nVersion: 0.5.13-1\n"
        ),
        "main/source/Sources": "\n".join(
            f"Package: {name}\nVersion: {version}\nDirectory: pool/{name}\n"
            f"Checksums-Sha256:\n {sha} 0 {name}.dsc\n {sha} 0 {name}.orig.tar.xz\n"
            for name, version in (("glibc", "2.41-12"), ("gcc-14", "14.2.0-19"), ("dash", "0.5.13-1"))
        ),
    }
    digests = {}
    for name, text in indexes.items():
        (lists / f"mirror_dists_trixie_{name.replace('/', '_')}").write_text(text)
        digests[name] = hashlib.sha256(text.encode()).hexdigest()
    return Archive("trixie", "now", lists, digests)


def package(name: str, version: str) -> LockedPackage:
    return LockedPackage(name, version, "amd64", f"pool/{name}.deb", digest_bytes(b""), 0)


def test_source_packages_of_binary_ones(tmp_path: Path) -> None:
    packages = [package("libgcc-s1", "14.2.0-19+b1"), package("libc6", "2.41-12")]
    found = source_packages(packages, archive(tmp_path), AMD64)
    names = {held.name: source.name for held, source in found.items()}
    assert names == {"libc6": "glibc", "libgcc-s1": "gcc-14"}
    recipe = Recipe("gcc", "14", "MIT", Path("gcc/recipe.toml"), packages=("libgcc-s1", "libc6"))
    assert [name for name, _ in part_of(recipe, packages, found).files] == [
        "gcc-14.dsc",
        "gcc-14.orig.tar.xz",
        "glibc.dsc",
        "glibc.orig.tar.xz",
    ]


def test_an_archive_that_has_gone_on(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacks) as caught:
        source_packages([package("dash", "0.5.12-1")], archive(tmp_path), AMD64)
    assert str(caught.value) == (
        "error: the source of dash 0.5.12-1 is not in trixie any more\n"
        "  why: it has 0.5.13-1 of dash\n"
        "  hint: run 'bundle lock', build again, and collect then"
    )


def test_collect(tmp_path: Path) -> None:
    home = tmp_path / "recipes/x"
    home.mkdir(parents=True)
    (home / "recipe.toml").write_text("recipe")
    (home / "0001-a.patch").write_text("patch")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.tar").write_text(name)
    sources = tuple(
        Source(((tmp_path / name / "x.tar").as_uri(),), digest_bytes(name.encode())) for name in ("a", "b")
    )
    recipe = Recipe(
        "x",
        "1",
        "MIT",
        home / "recipe.toml",
        sources=sources,
        patches=(home / "0001-a.patch",),
        steps=(Step("build", "make\n"),),
    )
    out = tmp_path / "out"
    files = collect([part_of(recipe, (), {})], Fetcher(tmp_path / "cache"), out)
    assert [str(file) for file in files] == [
        "x-1/0001-a.patch",
        "x-1/3e23e8160039-x.tar",
        "x-1/recipe.toml",
        "x-1/steps/1-build.sh",
        "x-1/x.tar",
        "SHA256SUMS",
    ]
    assert subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=out).returncode == 0
    with pytest.raises(EnvironmentLacks, match="cannot be written"):
        collect([part_of(recipe, (), {})], Fetcher(tmp_path / "cache"), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "cache", "out", "recipes"]
