"""Compression on the way out: other tools undo it, threads do not change it, identity stays."""

import gzip
import random
import subprocess
import sys
from pathlib import Path

import pytest
from test_oci_image import image, layer, listing

from bundler.oci import image as media
from bundler.oci.compress import COMPRESSOR, MEMBER, Codec, compressed, uncompressed
from bundler.oci.image import Image


@pytest.fixture(scope="module")
def large() -> Image:
    """Two members and a half."""
    noise = random.Random(1).randbytes(1 << 16) * (MEMBER * 5 // 2 >> 16)
    return image(layer({"opt/noise": noise, "opt/a": b"a"}), layer({"opt/b": b"b"}))


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_the_number_of_threads_does_not_matter(large: Image, codec: Codec, tmp_path: Path) -> None:
    found = set()
    for threads in (1, 2, 5):
        directory = tmp_path / str(threads)
        directory.mkdir()
        small = compressed(large, codec, directory, threads=threads)
        found.add(small.digest)
        assert small.id == large.id
        assert listing(small) == listing(large)
    assert len(found) == 1


def test_gzip_undoes_it(large: Image, tmp_path: Path) -> None:
    for before, after in zip(large.layers, compressed(large, "gzip", tmp_path).layers, strict=True):
        place = after.blob.file()
        assert place is not None
        done = subprocess.run(["gzip", "-dc", str(place[0])], stdout=subprocess.PIPE, check=True)
        assert done.stdout == media.memory_stream(before.blob).read()


def test_members_begin_alike_on_every_machine(large: Image, tmp_path: Path) -> None:
    small = compressed(large, "gzip", tmp_path)
    data = media.memory_stream(small.layers[1].blob).read()
    assert data[:10].hex() == "1f8b08000000000000ff"
    assert gzip.decompress(data) == media.memory_stream(large.layers[1].blob).read()


def test_what_is_compressed_stays_as_it_is(large: Image, tmp_path: Path) -> None:
    small = compressed(large, "gzip", tmp_path)
    assert compressed(small, "zstd", tmp_path) is small
    assert compressed(large, "none", tmp_path) is large


def test_the_compressor_is_recorded_and_all_of_it_can_be_undone(large: Image, tmp_path: Path) -> None:
    small = compressed(large, "zstd", tmp_path)
    annotations = dict(small.layers[0].descriptor.annotations)
    assert annotations[COMPRESSOR].startswith("libzstd ")
    assert annotations[media.TITLE] == "x"
    again = uncompressed(small, tmp_path)
    assert again.digest == large.digest
    assert listing(again) == listing(large)


PACK = """
import sys
from pathlib import Path
from bundler.oci.layer import source_of_tree
from bundler.oci.store import store_layer
from bundler.tree import scan
root, blobs, codec = sys.argv[1:]
source = source_of_tree(scan(Path(root)), Path(root), "/opt", name="x", version="1")
layer = store_layer(source, Path(blobs), codec=codec)
assert layer.blob.file()[2] == layer.descriptor.size
# Not ru_maxrss, which begins with what the parent had.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) >> 10)
"""


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
def test_memory_stays_small_whatever_the_size(codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree/large").open("wb") as out:
        out.write(random.Random(1).randbytes(1 << 20) * 30)
        out.truncate(300 << 20)
    words = [sys.executable, "-c", PACK, str(tmp_path / "tree"), str(tmp_path / "blobs"), codec]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    assert int(done.stdout) < 64, "MiB"
