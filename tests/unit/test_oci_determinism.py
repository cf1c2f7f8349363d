"""The same image whatever the environment of the process that packs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bundler.cli.common import CHECKOUT

PACK = """
import os, sys
from pathlib import Path
from bundler.labels import Facts
from bundler.oci.image import layer_of
from bundler.oci.layer import source_of_tree
from bundler.oci.layout import write_archive, write_layout
from bundler.oci.manifest import BundleFacts, component_of
from bundler.oci.pack import bundle_image
from bundler.recipe import Recipe
from bundler.tree import scan
os.umask(int(os.environ["PACK_UMASK"], 8))
root, out = map(Path, sys.argv[1:])
layers, components = [], []
for name in ("one", "two"):
    tree = root / name
    source = source_of_tree(scan(tree), tree, "/.deps/x/1", name=name, version="1")
    layers.append(layer_of(source))
    recipe = Recipe(name, "1", "MIT", root / "recipe.toml")
    components.append(component_of(recipe, source.entries, layers[-1].diff_id))
facts = BundleFacts(Facts("x", "1", "/.deps/x/1", 1), "amd64", symbols=("GLIBC_2.38", "GLIBC_2.4"))
image = bundle_image(facts, layers, components, command=["/nop"], environment=[("B", "1"), ("A", "2")])
print(write_layout(out / "layout", image).digest)
write_archive(out / "archive.tar", image)
"""

ENVIRONMENTS = [
    {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C", "PACK_UMASK": "022"},
    {"PYTHONHASHSEED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "PACK_UMASK": "077"},
    {"PYTHONHASHSEED": "2", "TZ": "America/Lima", "LC_ALL": "POSIX", "PACK_UMASK": "000", "PYTHONUTF8": "0"},
    {"PYTHONHASHSEED": "3", "SOURCE_DATE_EPOCH": "1", "LC_ALL": "tr_TR.UTF-8", "PACK_UMASK": "027"},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        directory = tmp_path / "root" / name / "bin"
        directory.mkdir(parents=True)
        for file in ("I", "i", "ı", "é", "e", "Z", "_"):
            (directory / f"{name}-{file}").write_text(file)
        os.link(directory / f"{name}-I", directory / f"{name}-hard")
        os.close(os.open(os.fsencode(directory) + b"/\xff-" + name.encode(), os.O_CREAT | os.O_WRONLY, 0o644))
    return tmp_path / "root"


def test_the_environment_does_not_matter(root: Path, tmp_path: Path) -> None:
    digests, archives = set(), set()
    for number, environment in enumerate(ENVIRONMENTS):
        out = tmp_path / f"out-{number}"
        out.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", PACK, str(root), str(out)],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), **environment},
            cwd=out if number % 2 else CHECKOUT,
            stdout=subprocess.PIPE,
            check=True,
        )
        digests.add(done.stdout)
        archives.add((out / "archive.tar").read_bytes())
    assert len(digests) == 1
    assert len(archives) == 1
