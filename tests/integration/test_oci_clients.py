"""Images through the clients that people have: each must see the very tree that was packed.

docker 20.10 (load, save, the layers on its disk), containerd, podman, skopeo, umoci and GNU tar.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dockerd import Dockerd

from bundler.oci.compress import Codec, compressed
from bundler.oci.image import Image, ImageConfig, layer_of
from bundler.oci.layer import source_of_tree
from bundler.oci.layout import stream_archive, write_archive, write_layout
from bundler.oci.merged import ImageTree
from bundler.oci.read import open_image
from bundler.process import BASE_ENVIRONMENT, run
from bundler.tree import Entry, Kind, scan

pytestmark = pytest.mark.engine
NAME = "localhost/clients:1"
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""cap_net_bind_service in a revision 2 ``security.capability`` (linux/capability.h)."""


def call(*argv: str | Path, **environment: str) -> bytes:
    done = run([str(word) for word in argv], environment={**BASE_ENVIRONMENT, **environment})
    assert done.ok, f"{argv}: {done.stderr.decode('utf-8', 'replace')}"
    return done.stdout


def make_tree(root: Path) -> None:
    """All that a layer can hold, and names that break careless readers."""
    (root / "bin").mkdir(parents=True)
    (root / "bin/tool").write_bytes(b"\x7fELF" + bytes(5000))
    (root / "bin/tool").chmod(0o755)
    os.setxattr(root / "bin/tool", "security.capability", CAPABILITY)
    os.link(root / "bin/tool", root / "bin/other-name")
    (root / "bin/setuid").write_text("x")
    (root / "bin/setuid").chmod(0o4711)
    (root / "bin/link").symlink_to("tool")
    (root / "absolute").symlink_to("/etc/" + "p" * 120)
    (root / "dangling").symlink_to("../../nowhere")
    (root / "empty").mkdir(mode=0o700)
    (root / ("d" * 120) / ("e" * 120)).mkdir(parents=True)
    (root / ("d" * 120) / ("e" * 120) / ("f" * 120)).write_text("deep")
    for name in ("ünïcödé", "new\nline", "back\\slash", " blank ", "-dash", "*", "\u202e"):
        (root / name).write_text(name)
    os.close(os.open(os.fsencode(root) + b"/not-\xff-utf-8", os.O_CREAT | os.O_WRONLY, 0o640))
    try:
        os.setxattr(root / "-dash", "user.note", b"a\nb\0c")
    except OSError as error:
        assert error.errno == errno.ENOTSUP


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, tuple[Entry, ...]]:
    root = tmp_path_factory.mktemp("packed")
    sources = []
    for number in ("1", "2"):
        make_tree(root / number)
        (root / number / "number").write_text(number)
        entries = scan(root / number)
        at = f"/.deps/x{number}/1"
        sources.append(source_of_tree(entries, root / number, at, name=f"x{number}", version="1"))
    config = ImageConfig("amd64", command=("/.deps/x1/1/bin/tool",), labels=(("bundle.name", "x"),))
    image = Image(tuple(layer_of(source) for source in sources), config, reference=NAME)
    seen = {entry.path: entry for source in sources for entry in source.entries}
    return image, tuple(seen[path] for path in sorted(seen, key=os.fsencode))


def on_disk(root: Path, entries: tuple[Entry, ...], *, attributes: bool = True) -> None:
    """Compare a directory, owners and times included, with what was packed."""
    found = scan(root, keep_owner=True, keep_mtime=True)
    for one, other in zip(found, entries, strict=True):
        kept = other if attributes else replace(other, xattrs=one.xattrs)
        assert replace(one, digest=None) == replace(kept, digest=None)


def same_tree(image: Image, entries: tuple[Entry, ...]) -> None:
    with ImageTree(image) as tree:
        found = {entry.path: replace(entry, digest=None) for entry in tree.walk()}
    assert found == {entry.path: replace(entry, digest=None) for entry in entries}


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_docker_loads_and_saves_it(
    dockerd: Dockerd, packed: tuple[Image, tuple[Entry, ...]], codec: Codec, tmp_path: Path
) -> None:
    image, entries = packed
    archive = tmp_path / "archive.tar"
    write_archive(archive, compressed(image, codec, tmp_path))
    assert NAME in dockerd.docker("load", "--input", str(archive))
    try:
        found = json.loads(dockerd.docker("image", "inspect", NAME))[0]
        assert found["Id"] == image.id
        assert found["RootFS"]["Layers"] == [layer.diff_id for layer in image.layers]
        dockerd.docker("save", "--output", str(tmp_path / "saved.tar"), NAME)
        saved = open_image(tmp_path / "saved.tar")
        assert saved.id == image.id
        same_tree(saved, entries)
        data = found["GraphDriver"]["Data"]
        uppers = [data["UpperDir"], *data.get("LowerDir", "").split(":")]
        for number, upper in enumerate(filter(None, reversed(uppers)), 1):
            place = f".deps/x{number}"
            own = tuple(e for e in entries if e.path == ".deps" or (e.path + "/").startswith(place + "/"))
            on_disk(Path(upper), own)
    finally:
        dockerd.docker("rmi", NAME)


def test_docker_takes_an_archive_without_the_layers_that_it_has(
    dockerd: Dockerd, packed: tuple[Image, tuple[Entry, ...]], tmp_path: Path
) -> None:
    image, _ = packed
    first = replace(image, layers=image.layers[:1], reference="localhost/first:1")
    write_archive(tmp_path / "first.tar", first)
    dockerd.docker("load", "--input", str(tmp_path / "first.tar"))
    try:
        with (tmp_path / "thin.tar").open("wb") as out:
            stream_archive(out, image, omit=frozenset({image.layers[0].diff_id}))
        dockerd.docker("load", "--input", str(tmp_path / "thin.tar"))
        assert json.loads(dockerd.docker("image", "inspect", NAME))[0]["Id"] == image.id
        dockerd.docker("rmi", NAME)
    finally:
        dockerd.docker("rmi", "localhost/first:1")
    refused = dockerd.try_docker("load", "--input", str(tmp_path / "thin.tar"))
    assert not refused.ok
    assert b"no such file" in refused.stderr


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
def test_containerd_imports_it(
    dockerd: Dockerd, packed: tuple[Image, tuple[Entry, ...]], codec: Codec, tmp_path: Path
) -> None:
    image, entries = packed
    write_archive(tmp_path / "archive.tar", compressed(image, codec, tmp_path))
    socket = dockerd.directory / "exec/containerd/containerd.sock"
    ctr = ("ctr", "--address", socket, "--namespace", f"clients-{codec}")
    assert NAME in call(*ctr, "images", "import", tmp_path / "archive.tar").decode()
    target = tmp_path / "mounted"
    target.mkdir()
    call(*ctr, "images", "mount", NAME, target)
    try:
        on_disk(target, entries)
    finally:
        call(*ctr, "images", "unmount", target)


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Callable[..., str]]:
    run_root = tempfile.mkdtemp(prefix="podman-")  # podman wants it shorter than 50 characters
    storage = ("--root", tmp_path / "storage", "--runroot", run_root, "--storage-driver", "vfs")

    def podman_call(*words: str | Path) -> str:
        return call("podman", *storage, *words, HOME=str(tmp_path)).decode().strip()

    yield podman_call
    podman_call("image", "unmount", "--all")
    shutil.rmtree(run_root)


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("kind", ["archive", "layout"])
def test_podman_loads_it(
    podman: Callable[..., str],
    packed: tuple[Image, tuple[Entry, ...]],
    codec: Codec,
    kind: str,
    tmp_path: Path,
) -> None:
    image, entries = packed
    small = compressed(image, codec, tmp_path)
    if kind == "archive":
        write_archive(tmp_path / "image", small)
        podman("load", "--input", tmp_path / "image")
        name = NAME
    else:
        write_layout(tmp_path / "image", small)
        name = podman("pull", f"oci:{tmp_path / 'image'}").splitlines()[-1]
    found = json.loads(podman("image", "inspect", name))[0]
    assert found["Id"] == image.id.removeprefix("sha256:")
    assert found["RootFS"]["Layers"] == [layer.diff_id for layer in image.layers]
    on_disk(Path(podman("image", "mount", name)), entries)


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
def test_skopeo_copies_it_without_changing_a_digest(
    packed: tuple[Image, tuple[Entry, ...]], codec: Codec, tmp_path: Path
) -> None:
    image, entries = packed
    small = compressed(image, codec, tmp_path)
    write_layout(tmp_path / "layout", small)
    write_archive(tmp_path / "archive.tar", small)
    for source in (f"oci:{tmp_path}/layout", f"oci-archive:{tmp_path}/archive.tar"):
        target = tmp_path / source.partition(":")[0]
        call("skopeo", "copy", "--insecure-policy", "--preserve-digests", source, f"oci:{target}")
        copied = open_image(target)
        assert (copied.digest, copied.id) == (small.digest, image.id)
        same_tree(copied, entries)
    back = f"docker-archive:{tmp_path}/archive.tar"
    call("skopeo", "copy", "--insecure-policy", back, f"docker-archive:{tmp_path}/copy.tar:x:1")
    copied = open_image(tmp_path / "copy.tar")
    assert [layer.diff_id for layer in copied.layers] == [layer.diff_id for layer in image.layers]


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_umoci_unpacks_it(packed: tuple[Image, tuple[Entry, ...]], codec: Codec, tmp_path: Path) -> None:
    image, entries = packed
    write_layout(tmp_path / "layout", compressed(image, codec, tmp_path))
    call("umoci", "unpack", "--image", f"{tmp_path}/layout:1", tmp_path / "bundle")
    on_disk(tmp_path / "bundle/rootfs", entries)


def test_gnu_tar_lists_each_entry_once(packed: tuple[Image, tuple[Entry, ...]], tmp_path: Path) -> None:
    image, _ = packed
    write_layout(tmp_path / "layout", image)
    for layer in image.layers:
        blob = tmp_path / "layout/blobs/sha256" / layer.diff_id.removeprefix("sha256:")
        names = call("tar", "--list", "--quoting-style=literal", "--null", "--file", blob)
        with ImageTree(replace(image, layers=(layer,))) as tree:
            expected = [
                os.fsencode(e.path) + (b"/" if e.kind is Kind.DIRECTORY else b"") for e in tree.walk()
            ]
        assert sorted(names.split(b"\n")) == sorted(b"\n".join([*expected, b""]).split(b"\n"))
