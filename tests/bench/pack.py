"""Packing and packing again, against the tools that people use for it: a sample of this machine's /usr."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from bundler.oci.image import Image, layer_of
from bundler.oci.layer import source_of_tree
from bundler.oci.layout import write_layout
from bundler.tree import scan
from tests.bench.measure import Cost, Report, call, rounds
from tests.bench.sample import PARTS, ROUNDS, begin, image_of, pack, shell, start

SUMMARY = "images made, and made again, against buildah, umoci and tar"


def run(report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        work = Path(name)
        tree = begin(report, work)
        report.cost("of each of ours the start of Python", rounds(ROUNDS, start)[0])
        _plain(report, work, tree)
        _compressed(report, work, tree)
        _again(report, work, tree)


def _plain(report: Report, work: Path, tree: Path) -> None:
    buildah = f"buildah --root {work}/buildah --runroot {work}/buildah-run --storage-driver vfs"
    peers: dict[str, tuple[str, float]] = {
        "tar | sha256sum": (f"tar -C {tree} -cf - . | tee {work}/t.tar | sha256sum", 1.0),
        "buildah copy, commit (no compression)": (
            f"rm -rf {work}/b; c=$({buildah} from scratch); {buildah} copy -q $c {tree} /; "
            f"{buildah} commit -q --disable-compression $c oci:{work}/b:1; {buildah} rm $c",
            0.15,
        ),
    }
    for peer, (script, goal) in peers.items():
        ours, theirs = rounds(ROUNDS, lambda: pack(work, tree, "none"), _script(script))
        report.ratio("bundle, none", ours, peer, theirs, goal)


def _script(text: str) -> Callable[[], Cost]:
    return lambda: shell(text)


def _compressed(report: Report, work: Path, tree: Path) -> None:
    """These take long: all in one round, after none that warms up."""
    image = f"--image {work}/u:1"
    peers: dict[str, tuple[str, float]] = {
        "tar | gzip": (f"tar -C {tree} -cf - . | gzip -n > {work}/t.tgz", 0.3),
        "tar | pigz": (f"tar -C {tree} -cf - . | pigz -n > {work}/t.tgz", 0.6),
        "umoci insert": (
            f"rm -rf {work}/u; umoci init --layout {work}/u; umoci new {image}; "
            f"umoci insert {image} {tree} /x",
            0.7,
        ),
    }
    ours = [pack(work, tree, "gzip")]
    for peer, (script, goal) in peers.items():
        report.ratio("bundle, gzip", ours, peer, [shell(script)], goal)


def _again(report: Report, work: Path, tree: Path) -> None:
    """What is remembered is not read: a layout that is current, and one in which one small part changed."""
    image = image_of(tree)
    write_layout(work / "layout", image)

    def one_file() -> Cost:
        (tree / PARTS[-1] / "changed").write_bytes(os.urandom(100))
        known = image.layers[:-1]

        def repack() -> None:
            entries = scan(tree / PARTS[-1])
            source = source_of_tree(entries, tree / PARTS[-1], "/.deps/x/1/four", name="four", version="1")
            write_layout(
                work / "layout", Image((*known, layer_of(source)), image.config, reference="bench:1")
            )

        return call(repack)

    (nothing,) = rounds(ROUNDS, lambda: call(lambda: write_layout(work / "layout", image)))
    (changed,) = rounds(ROUNDS, one_file)
    report.cost("bundle, nothing changed (diff IDs known)", nothing)
    report.cost("bundle, one file in one of four parts changed", changed)
