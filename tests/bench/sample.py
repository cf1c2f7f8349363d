"""What the image benchmarks are about: a sample of this machine's files, in four parts, packed by us."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from bundler.cli.common import CHECKOUT
from bundler.oci.image import Image, ImageConfig, layer_of
from bundler.oci.layer import source_of_tree
from bundler.tree import scan
from tests.bench.measure import Cost, Report, command

ROUNDS = 3
WANTED = 700 << 20
PARTS = ("one", "two", "three", "four")

_PACK = """
import sys
from pathlib import Path
from bundler.oci.image import Image, ImageConfig, layer_of
from bundler.oci.layer import source_of_tree
from bundler.oci.layout import write_layout
from bundler.oci.store import store_layer
from bundler.tree import scan
out, codec, *parts = sys.argv[1:]
layers = []
for part in map(Path, parts):
    source = source_of_tree(scan(part), part, f"/.deps/x/1/{part.name}", name=part.name, version="1")
    layers.append(store_layer(source, Path(out + ".blobs"), codec=codec))
write_layout(Path(out), Image(tuple(layers), ImageConfig("amd64", command=("/nop",)), reference="bench:1"))
"""


def make_tree(tree: Path) -> tuple[int, int]:
    """Copy every so-and-so-manieth file, so that sizes are those of a real system; gives bytes and files."""
    files = [
        Path(above, name)
        for root in ("/usr/lib", "/usr/bin", "/usr/share")
        for above, below, names in os.walk(root)
        if below.sort() is None
        for name in sorted(names)
    ]
    sizes = {file: file.lstat().st_size for file in files if file.is_symlink() or file.is_file()}
    step = max(1.0, sum(sizes.values()) / WANTED)
    chosen = [file for number, file in enumerate(sizes) if int(number / step) != int((number - 1) / step)]
    for number, file in enumerate(chosen):
        target = tree / PARTS[number * len(PARTS) // len(chosen)] / file.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target, follow_symlinks=False)
    return sum(sizes[file] for file in chosen), len(chosen)


def begin(report: Report, work: Path) -> Path:
    """The sample, and a line that says what it is."""
    tree = work / "tree"
    size, count = make_tree(tree)
    report.line(f"  {size / 1e6:.0f} MB, {count} files, {len(PARTS)} parts, {ROUNDS} rounds in turn")
    return tree


def pack(work: Path, tree: Path, codec: str) -> Cost:
    """Files read, hashed and packed into a new layout, by a process of its own: its start is in it."""
    fresh(work, "ours", "ours.blobs")
    words = [sys.executable, "-c", _PACK, str(work / "ours"), codec, *(str(tree / part) for part in PARTS)]
    return command(words, cwd=str(CHECKOUT))


def start() -> Cost:
    """What of it is Python and our modules."""
    return command([sys.executable, "-c", _PACK.partition("out, codec")[0]], cwd=str(CHECKOUT))


def fresh(work: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(work / name, ignore_errors=True)


def shell(script: str, environment: Mapping[str, str] | None = None) -> Cost:
    return command(["/bin/sh", "-euc", script], environment=environment)


def image_of(tree: Path, changed: str = "") -> Image:
    layers = []
    for part in PARTS:
        entries = scan(tree / part)
        source = source_of_tree(entries, tree / part, f"/.deps/x/1/{part}", name=part, version="1" + changed)
        layers.append(layer_of(source))
    return Image(tuple(layers), ImageConfig("amd64", command=("/nop",)), reference="bench:1")
