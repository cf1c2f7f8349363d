"""Processes killed at any moment, and a disk that is full: nothing half-written is taken for whole."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry import RegistryServer

from bundler.errors import EnvironmentLacks
from bundler.oci.image import Image, ImageConfig, layer_of
from bundler.oci.layer import LayerSource
from bundler.oci.layout import write_archive, write_layout
from bundler.oci.merged import ImageTree
from bundler.oci.pack import MemoryTree
from bundler.oci.read import open_image
from bundler.process import BASE_ENVIRONMENT, run
from bundler.registry.client import Repository
from bundler.registry.reference import parse_reference
from bundler.registry.transfer import pull, push

KILLS = 15


def make(name: str, size: int = 6 << 20) -> Image:
    layers = []
    for part in ("a", "b"):
        tree = MemoryTree({f"opt/{name}-{part}": random.Random(name + part).randbytes(size)})
        layers.append(layer_of(LayerSource(name, "1", tree, tree.entries)))
    return Image(tuple(layers), ImageConfig("amd64"), reference=f"{name}:1")


def killed(script: str, *words: str, chance: random.Random, within: float) -> None:
    """Run a program and kill it after a random time."""
    process = subprocess.Popen([sys.executable, "-c", script, *words], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it begins its work
    time.sleep(chance.uniform(0, within))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


WRITE = """
import itertools, sys
from pathlib import Path
from bundler.oci.layout import write_archive, write_layout
from bundler.oci.read import open_image
target, *sources = map(Path, sys.argv[1:])
images = [open_image(source) for source in sources]
print("ready", flush=True)
for image in itertools.cycle(images):
    write_layout(target, image)
    write_archive(target.with_suffix(".tar"), image)
"""


def test_a_killed_writer_leaves_the_old_image_or_the_new(tmp_path: Path) -> None:
    images = {name: make(name) for name in ("one", "two")}
    for name, image in images.items():
        # Archives as sources: what comes from a layout is linked, and too quick to be killed.
        write_archive(tmp_path / f"{name}.tar", image)
    known = {image.digest for image in images.values()}
    chance = random.Random(1)
    for _ in range(KILLS):
        sources = [str(tmp_path / f"{name}.tar") for name in images]
        killed(WRITE, str(tmp_path / "work/target"), *sources, chance=chance, within=0.3)
        for path in (tmp_path / "work/target", tmp_path / "work/target.tar"):
            if path.exists():
                found = open_image(path)
                assert found.digest in known
                ImageTree(found).close()
    write_layout(tmp_path / "work/target", images["one"])
    write_archive(tmp_path / "work/target.tar", images["one"])
    left = {path.name for path in (tmp_path / "work").iterdir() if path.suffix != ".new"}
    assert left == {"target", "target.tar"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as running:
        yield running


PULL = """
import sys
from pathlib import Path
from bundler.registry.client import Repository
from bundler.registry.reference import parse_reference
from bundler.registry.transfer import pull
repository = Repository(parse_reference(sys.argv[1]))
print("ready", flush=True)
pull(repository, Path(sys.argv[2]))
"""


def test_a_killed_pull_leaves_nothing_or_all_and_is_taken_up(server: RegistryServer, tmp_path: Path) -> None:
    image = make("large", 20 << 20)
    name = f"{server.host}/killed/pull:1"
    push(image, Repository(parse_reference(name)), codec="none")
    chance = random.Random(2)
    for _ in range(KILLS):
        killed(PULL, name, str(tmp_path / "target"), chance=chance, within=0.25)
        if (tmp_path / "target").exists():
            assert open_image(tmp_path / "target").digest == image.digest
    assert pull(Repository(parse_reference(name)), tmp_path / "target").digest == image.digest
    ImageTree(open_image(tmp_path / "target")).close()
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


PUSH = """
import sys
from pathlib import Path
from bundler.oci.read import open_image
from bundler.registry.client import Repository
from bundler.registry.reference import parse_reference
from bundler.registry.transfer import push
image = open_image(Path(sys.argv[2]))
repository = Repository(parse_reference(sys.argv[1]))
print("ready", flush=True)
push(image, repository, codec="none")
"""


def test_a_killed_push_names_nothing_that_is_not_there(server: RegistryServer, tmp_path: Path) -> None:
    image = make("pushed", 20 << 20)
    write_layout(tmp_path / "layout", image)
    name = f"{server.host}/killed/push:1"
    there = Repository(parse_reference(name))
    chance = random.Random(3)
    for _ in range(KILLS):
        killed(PUSH, name, str(tmp_path / "layout"), chance=chance, within=0.25)
        if there.has_manifest("1") is not None:
            assert all(there.has_blob(layer.descriptor.digest) for layer in image.layers)
    push(image, there, codec="none")
    assert pull(there, tmp_path / "back").digest == image.digest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    assert run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(place)]).ok
    try:
        yield place
    finally:
        assert run(["umount", str(place)], environment=BASE_ENVIRONMENT).ok


def test_a_full_disk_leaves_what_was_there(small_disk: Path, server: RegistryServer) -> None:
    before, large = make("before", 2 << 20), make("too-large", 15 << 20)
    write_layout(small_disk / "x", before)
    write_archive(small_disk / "x.tar", before)
    there = Repository(parse_reference(f"{server.host}/full/disk:1"))
    push(large, there, codec="none")
    for attempt in (
        lambda: write_layout(small_disk / "x", large),
        lambda: write_archive(small_disk / "x.tar", large),
        lambda: pull(there, small_disk / "x"),
    ):
        with pytest.raises((EnvironmentLacks, OSError), match=r"[Nn]o space left"):
            attempt()
        assert open_image(small_disk / "x").digest == before.digest
        assert open_image(small_disk / "x.tar").digest == before.digest
