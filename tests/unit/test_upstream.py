"""Newer versions: how they are told from names, tags and packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.debian_index import SourcePackage
from bundler.digest import digest_bytes
from bundler.download import NetworkSettings
from bundler.recipe import Recipe, Source
from bundler.upstream import fixes, matching, parse_tags, standing, upstream_version

NAMES = [
    "x-1.2.tar.gz",
    "x-1.10.tar.gz",
    "x-1.11rc1.tar.gz",
    "x-2.0-beta.tar.gz",
    "x-1.3.tar.xz",
    "y-9.tar.gz",
]


@pytest.mark.parametrize(
    ("file", "version", "expected"),
    [
        ("x-1.2.tar.gz", "1.2", ["1.10", "1.2"]),
        ("x-1.3.tar.xz", "1.3", ["1.3"]),
        ("x-latest.tar.gz", "1.2", []),
        ("y-9.tar.gz", "9", ["9"]),
    ],
)
def test_names_that_vary_in_the_version(file: str, version: str, expected: list[str]) -> None:
    assert matching(file, version, NAMES) == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("3.4.1+ds1-5+deb13u4", "3.4.1"),
        ("1:1.3.dfsg+really1.3.1-1+b1", "1.3"),
        ("2.41-12", "2.41"),
        ("6.5+20250216-2", "6.5+20250216"),
        ("1:8.2", "8.2"),
        ("0.5.12", "0.5.12"),
        ("1.2-rc-3", "1.2-rc"),
    ],
)
def test_upstreams_part_of_a_debian_version(version: str, expected: str) -> None:
    assert upstream_version(version) == expected


def test_tags() -> None:
    listed = "\n".join(
        f"{'a' * 40}\trefs/tags/{name}"
        for name in ("v1.2", "v1.2^{}", "1.3", "release-1.4", "curl_1.5", "v2.0-rc1", "nightly", "v2/x")
    )
    assert parse_tags(listed) == ["1.2", "1.3", "1.4", "1.5"]


def recipe(version: str, *urls: str) -> Recipe:
    source = Source(urls, digest_bytes(b""))
    return Recipe("x", version, "MIT", Path("x/recipe.toml"), sources=(source,) if urls else ())


def packages(names: list[str]) -> dict[str, SourcePackage]:
    return {name: SourcePackage(name, "1:2.0-3", "", ()) for name in names if name == "x"}


@pytest.mark.parametrize(
    ("version", "url", "newest", "outdated"),
    [
        ("1.9", "debian:pool/main/x/x/x_1.9.orig.tar.gz", "2.0", True),
        ("2.0", "debian:pool/main/x/x/x_2.0.orig.tar.gz", "2.0", False),
        ("2.1", "debian:pool/main/x/x/x_2.1.orig.tar.gz", "2.0", False),
        ("1", "debian:pool/main/y/y/y_1.orig.tar.gz", None, False),
        ("1", "file:///nonexistent/x-1.tar.gz", None, False),
    ],
)
def test_standing(version: str, url: str, newest: str | None, outdated: bool) -> None:
    found = standing(recipe(version, url), NetworkSettings(), packages)
    assert (found.newest, found.outdated) == (newest, outdated)


def test_a_directory_listing(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("".join(f'<a href="{name}">{name}</a>' for name in NAMES))
    found = standing(recipe("1.2", f"file://{tmp_path}/x-1.2.tar.gz"), NetworkSettings(), packages)
    assert (found.newest, found.outdated, found.said) == ("1.10", True, ())


@pytest.mark.parametrize(
    ("url", "pinned", "newest", "outdated"),
    [
        ("debian:pool/main/x/x/x_2.0-2+deb13u1.debian.tar.xz", "2.0-2+deb13u1", "2.0-3", True),
        ("debian:pool/main/x/x/x_2.0-3.debian.tar.gz", "2.0-3", "2.0-3", False),
        ("debian:pool/main/y/y/y_1-1.debian.tar.xz", "1-1", None, False),
    ],
)
def test_patches_of_debian(url: str, pinned: str, newest: str | None, outdated: bool) -> None:
    (found,) = fixes(recipe("2.0", "https://x.test/x-2.0.tar.gz", url), packages)
    assert (found.pinned, found.newest, found.outdated) == (pinned, newest, outdated)
    assert bool(found.said) == (newest is None)


def test_a_recipe_without_sources_has_no_standing() -> None:
    assert standing(recipe("1"), NetworkSettings(), packages).newest is None
