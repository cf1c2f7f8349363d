"""A new version of one recipe changes its layer and the last one: on two real versions of xxHash."""

from __future__ import annotations

import re
from pathlib import Path

from command import Bundle

from bundler.cli.common import CHECKOUT
from bundler.oci.compare import transfer
from bundler.oci.image import Image
from bundler.oci.read import open_image

OLD = ("0.8.1", "3bb6b7d6f30c591dd65aaaff1c8b7a5b94d81687998ca9400082c739a690436c")
"""As Debian 12 has it; the recipe of today is newer."""
IMAGE = """\
name = "bumped"
version = "1"
summary = "two libraries"
short = "bumped"
compat = 1
requires = ["runtime"]
recipes = ["popt", "xxhash", "zlib"]
"""


def build(work: Path, *options: str) -> Image:
    (work / "images").mkdir(parents=True)
    (work / "images/bumped.toml").write_text(IMAGE)
    Bundle(work / "out", {})("build", "bumped", "--images", "images", "--progress", "none", *options)
    return open_image(work / "out/bumped")


def test_a_bump_changes_one_layer_and_the_last(tmp_path: Path) -> None:
    text = (CHECKOUT / "recipes/xxhash/recipe.toml").read_text()
    text = re.sub(r'^version = ".*"$', f'version = "{OLD[0]}"', text, flags=re.MULTILINE)
    text = re.sub(r'^sha256 = ".*"$', f'sha256 = "{OLD[1]}"', text, flags=re.MULTILINE)
    # Its makefile had one target for all, and its links among manual pages dangle.
    text = 'drop = ["bin/**", "share/man/**"]\n' + re.sub(r"install_libxxhash .*", "install", text)
    (tmp_path / "recipes/xxhash").mkdir(parents=True)
    (tmp_path / "recipes/xxhash/recipe.toml").write_text(text)
    old = build(tmp_path / "old", "--recipes", str(tmp_path / "recipes"))
    new = build(tmp_path / "new")
    names = [layer.comment.split()[0] for layer in new.layers]
    assert (
        names == [layer.comment.split()[0] for layer in old.layers] == ["popt", "xxhash", "zlib", "manifest"]
    )
    same = [one.diff_id == other.diff_id for one, other in zip(old.layers, new.layers, strict=True)]
    assert same == [True, False, True, False]
    assert transfer(old, new).layers == (new.layers[1].diff_id, new.layers[3].diff_id)
