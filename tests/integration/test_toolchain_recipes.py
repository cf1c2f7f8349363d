"""The recipes of the source toolchain as far as seconds allow; ``make toolchain`` builds them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from bundler.fetch import Fetcher
from bundler.recipe import Recipe
from bundler.recipe_file import read_toolchain
from bundler.settings import cache_directory

CHECKOUT = Path(__file__).parents[2]
RECIPES = read_toolchain(CHECKOUT / "toolchain/source.toml").recipes
PATCHED = [recipe for recipe in RECIPES.values() if recipe.patches]


def unpack_only(archive: Path, to: Path, *names: str, strip: int = 1) -> None:
    words = [f"--strip-components={strip}", "--wildcards", "--no-anchored", *names]
    subprocess.run(["tar", "-xf", str(archive), "-C", str(to), *words], check=True)


@pytest.mark.parametrize("recipe", PATCHED, ids=lambda recipe: recipe.name)
def test_patches_fit(recipe: Recipe, tmp_path: Path) -> None:
    """Without fuzz: a new version whose context moved is to be looked at."""
    source = recipe.sources[0]
    archive = Fetcher(cache_directory()).fetch(source)
    if source.unpack == "nested":
        unpack_only(archive, tmp_path, f"*/{source.member}")
        (archive,) = tmp_path.iterdir()
    texts = [path.read_text() for path in recipe.patches]
    names = sorted({name for text in texts for name in re.findall(r"^\+\+\+ b/(\S+)", text, re.MULTILINE)})
    tree = tmp_path / "source"
    tree.mkdir()
    unpack_only(archive, tree, *(f"*/{name}" for name in names))
    for path in recipe.patches:
        words = ["patch", "-p1", "--batch", "--forward", "--fuzz=0", "-d", str(tree), "-i", str(path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_the_c_library_is_configured_for_the_prefix(tmp_path: Path) -> None:
    """The seed is moved to where it builds, the kernel's headers are built with it, and glibc finds both."""
    script = """
    for step in /build/steps/*-prefix /build/steps/*-configure; do sh -eu "$step" >/build/said 2>&1; done
    cd build
    make -s csu/subdir_lib >>/build/said 2>&1
    grep -Ex '(prefix|slibdir|sysconfdir) = .*' config.make | sort
    readelf -n csu/abi-note.o | grep -o 'ABI: .*'
    grep -o '/.*bin.*"' ../sysdeps/unix/confstr.h
    exit
    """
    words = [
        str(CHECKOUT / ".venv/bin/bundle"),
        "shell",
        "glibc",
        "--toolchain",
        "stage",
        "--root",
        "/.stage",
    ]
    words += ["--progress", "none"]
    done = subprocess.run(words, input=script, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "prefix = /.stage/rt/1",
        "slibdir = /.stage/rt/1/lib",
        "sysconfdir = ${prefix}/etc",
        "ABI: 3.10.0",
        '/.stage/rt/1/bin:/bin:/usr/bin"',
    ], done
