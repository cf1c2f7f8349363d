"""Two image files that declare one prefix and begin with the same recipes share those recipes' layers.

They are built apart, with a cache each, as two teams would (bootstrap-vz#340).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import Bundle

from bundler.oci.compare import transfer
from bundler.oci.image import Image
from bundler.oci.read import open_image
from bundler.settings import cache_directory

pytestmark = pytest.mark.slow
PHASE = """\
name = "{name}"
version = "1"
summary = "a phase"
short = "phase"
compat = 1
requires = ["runtime"]
recipes = {recipes}
"""


def build(name: str, recipes: str, work: Path) -> Image:
    """Build with a cache that has nothing but the sources that are on this machine already."""
    home = work / name
    (home / "images").mkdir(parents=True)
    (home / "images" / f"{name}.toml").write_text(PHASE.format(name=name, recipes=recipes))
    sources = cache_directory() / "sources"
    if sources.is_dir():
        shutil.copytree(sources, home / "cache/sources", copy_function=shutil.copyfile, symlinks=True)
    bundle = Bundle(home / "out", {"BUNDLE_CACHE": str(home / "cache")})
    bundle("build", name, "--images", str(home / "images"), "--progress", "none")
    found = open_image(home / "out" / name)
    shutil.rmtree(home / "cache", ignore_errors=True)
    return found


def test_phases_share_their_first_layers(tmp_path: Path) -> None:
    first = build("first", '["zlib"]', tmp_path)
    second = build("second", '["zlib", "popt"]', tmp_path)
    assert [layer.comment.split()[0] for layer in second.layers] == ["zlib", "popt", "manifest"]
    assert second.layers[0].diff_id == first.layers[0].diff_id
    fetched = transfer(first, second)
    assert fetched.layers == tuple(layer.diff_id for layer in second.layers[1:])
