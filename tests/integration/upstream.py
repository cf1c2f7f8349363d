"""For tests that others wrote: a recipe's sources as its build has them, roots as containers have them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from foreign import GROUP, PASSWD
from mounted import CHECKOUT

from bundler.fetch import Fetcher
from bundler.recipe_file import read_recipe
from bundler.settings import cache_directory
from bundler.unpack import place

HOSTS = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"


def fixed_source(name: str, root: Path) -> Path:
    """Lay the sources of the recipe ``name`` down at ``root``, which must not exist, with the fixes since."""
    root.mkdir(parents=True)
    recipe = read_recipe(CHECKOUT / f"recipes/{name}/recipe.toml")
    fetcher = Fetcher(cache_directory())
    for source in recipe.sources:
        place(source, fetcher.fetch(source), root)
    (fixes,) = (step.script for step in recipe.steps if step.name == "fixes")
    subprocess.run(["sh", "-euc", fixes], cwd=root, check=True, capture_output=True)
    return root


def furnished(root: Path, work: Path) -> Path:
    """A copy of ``root`` that knows localhost, as engines see to, and user 0, as images do."""
    subprocess.run(["cp", "-a", root, work / root.name], check=True)
    etc = work / root.name / "etc"
    etc.mkdir(exist_ok=True)
    for name, text in {"hosts": HOSTS, "passwd": PASSWD, "group": GROUP}.items():
        if not (etc / name).exists():
            (etc / name).write_text(text)
    return etc.parent
