"""Images written, read back, merged and unpacked; and everything hostile that an image can be."""

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.digest import digest_bytes, hex_of
from bundler.errors import BundleError, InputError
from bundler.oci import image as media
from bundler.oci.image import FileBlob, Image, ImageConfig, Layer, MemoryBlob, layer_of
from bundler.oci.layer import LayerIdentity, LayerSource
from bundler.oci.layout import stream_archive, write_archive, write_layout
from bundler.oci.merged import ImageTree
from bundler.oci.pack import MemoryTree
from bundler.oci.read import open_image
from bundler.oci.stream import Limits
from bundler.oci.unpack import unpack
from bundler.tree import Entry, Kind, scan


def layer(files: dict[str, bytes], name: str = "x") -> Layer:
    tree = MemoryTree(files)
    return layer_of(LayerSource(name, "1", tree, tree.entries))


def tar_layer(*members: tuple[str, bytes, str], pax: dict[str, str] | None = None) -> Layer:
    """A layer as someone else may have written it: (name, tar type, content or link)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.pax_headers = pax or {}
            if kind == tarfile.REGTYPE:
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text.encode()))
            else:
                info.linkname = text
                tar.addfile(info)
    return bytes_layer(out.getvalue())


def bytes_layer(data: bytes, blob: bytes | None = None, media_type: str = media.LAYER) -> Layer:
    stored = data if blob is None else blob
    descriptor = media.Descriptor(media_type, digest_bytes(stored), len(stored))
    return Layer(descriptor, digest_bytes(data), MemoryBlob(stored))


def image(*layers: Layer) -> Image:
    return Image(layers, ImageConfig("amd64", command=("/bin/x",), labels=(("a", "b"),)), reference="x:1")


F, D, S, H = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.fixture
def two() -> Image:
    return image(
        layer({"opt/a": b"one", "opt/b": b"two"}), layer({"opt/b": b"three", "opt/c/d": b"four"}, "y")
    )


def listing(found: Image) -> dict[str, bytes | str]:
    with ImageTree(found) as tree:
        return {
            entry.path: tree.open(entry.path).read() if entry.kind is Kind.FILE else str(entry.kind)
            for entry in tree.walk()
        }


def test_layout_and_archive_hold_the_same_image(two: Image, tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", two)
    write_archive(tmp_path / "archive.tar", two)
    (tmp_path / "archive.tar.gz").write_bytes(gzip.compress((tmp_path / "archive.tar").read_bytes()))
    for name in ("layout", "archive.tar", "archive.tar.gz"):
        found = open_image(tmp_path / name)
        assert (found.digest, found.id, found.config) == (two.digest, two.id, two.config)
        assert found.reference == "docker.io/library/x:1"
        assert [item.comment for item in found.layers] == ["x 1", "y 1"]
        assert listing(found) == {
            "opt": "directory", "opt/a": b"one", "opt/b": b"three", "opt/c": "directory", "opt/c/d": b"four",
        }  # fmt: skip


def test_docker_save_archives_are_read_with_links_between_layers(two: Image, tmp_path: Path) -> None:
    """Docker before version 25 wrote a directory per layer, and links where two are the same."""
    with tarfile.open(tmp_path / "saved.tar", "w") as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for number, item in enumerate(two.layers):
            add(f"{number}/layer.tar", media.memory_stream(item.blob).read())
        link = tarfile.TarInfo("2/layer.tar")
        link.type, link.linkname = S, "../1/layer.tar"
        tar.addfile(link)
        same = replace(two, layers=(*two.layers, two.layers[1]))
        add("config.json", same.config_bytes)
        layers = ["0/layer.tar", "1/layer.tar", "2/layer.tar"]
        saved = [{"Config": "config.json", "RepoTags": ["x:1"], "Layers": layers}]
        add("manifest.json", json.dumps(saved).encode())
    found = open_image(tmp_path / "saved.tar")
    assert found.id == same.id
    assert listing(found) == listing(same)


def test_a_layout_that_is_current_is_not_touched(two: Image, tmp_path: Path) -> None:
    write_layout(tmp_path / "x", two)
    before = (tmp_path / "x").stat()
    write_layout(tmp_path / "x", two)
    assert (tmp_path / "x").stat().st_ino == before.st_ino


def test_blobs_that_exist_are_linked_not_written_again(two: Image, tmp_path: Path) -> None:
    write_layout(tmp_path / "x", two)
    blob = tmp_path / "x/blobs/sha256" / hex_of(two.layers[0].diff_id)
    inode = blob.stat().st_ino
    write_layout(tmp_path / "x", replace(two, layers=two.layers[:1]))
    assert blob.stat().st_ino == inode
    assert len(list((tmp_path / "x/blobs/sha256").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_is_no_layout_is_not_replaced(two: Image, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/thesis.txt").write_text("years")
    with pytest.raises(InputError, match="no OCI layout"):
        write_layout(tmp_path / "home", two)
    assert (tmp_path / "home/thesis.txt").read_text() == "years"


def test_what_a_dead_process_left_is_removed(two: Image, tmp_path: Path) -> None:
    (tmp_path / ".x.0123abcd.tmp/blobs").mkdir(parents=True)
    write_layout(tmp_path / "x", two)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_an_archive_may_leave_out_layers(two: Image) -> None:
    out = io.BytesIO()
    stream_archive(out, two, omit=frozenset({two.layers[0].diff_id}))
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        names = tar.getnames()
    assert f"blobs/sha256/{hex_of(two.layers[0].diff_id)}" not in names
    assert f"blobs/sha256/{hex_of(two.layers[1].diff_id)}" in names


def test_index_names_are_those_that_engines_look_for(two: Image, tmp_path: Path) -> None:
    write_layout(tmp_path / "x", two)
    (manifest,) = json.loads((tmp_path / "x/index.json").read_text())["manifests"]
    assert manifest["annotations"] == {media.CONTAINERD_NAME: "docker.io/library/x:1", media.REF_NAME: "1"}


@pytest.mark.parametrize(
    ("reference", "full"),
    [
        ("shell", "docker.io/library/shell:latest"),
        ("shell:1", "docker.io/library/shell:1"),
        ("me/shell:1", "docker.io/me/shell:1"),
        ("localhost/shell:1", "localhost/shell:1"),
        ("127.0.0.1:5000/shell", "127.0.0.1:5000/shell:latest"),
        ("registry.example/a/b:c", "registry.example/a/b:c"),
    ],
)
def test_full_names(reference: str, full: str) -> None:
    assert media.full_name(reference) == full


MERGES = [
    ("file over file", [[("a", F, "1")], [("a", F, "2")]], {"a": b"2"}),
    ("whiteout", [[("d/a", F, "1"), ("d/b", F, "2")], [("d/.wh.a", F, "")]], {"d": "directory", "d/b": b"2"}),
    ("whiteout of a directory", [[("d/a", F, "1")], [(".wh.d", F, "")]], {}),
    ("whiteout, then again", [[("a", F, "1")], [(".wh.a", F, ""), ("a", F, "2")]], {"a": b"2"}),
    ("opaque", [[("d/a", F, "1")], [("d/.wh..wh..opq", F, ""), ("d/b", F, "2")]],
     {"d": "directory", "d/b": b"2"}),
    ("opaque root", [[("d/a", F, "1")], [(".wh..wh..opq", F, ""), ("b", F, "2")]], {"b": b"2"}),
    ("file over directory", [[("d/a", F, "1")], [("d", F, "2")]], {"d": b"2"}),
    ("directory over file", [[("d", F, "1")], [("d/a", F, "2")]], {"d": "directory", "d/a": b"2"}),
    ("directory over link", [[("d", S, "/etc")], [("d/a", F, "2")]], {"d": "directory", "d/a": b"2"}),
    ("directories merge", [[("d/a", F, "1")], [("d", D, ""), ("d/b", F, "2")]],
     {"d": "directory", "d/a": b"1", "d/b": b"2"}),
    ("spellings", [[("./d/", D, ""), ("/d/a", F, "1"), ("d//./b", F, "2")]],
     {"d": "directory", "d/a": b"1", "d/b": b"2"}),
    ("the last of two counts", [[("a", F, "1"), ("a", F, "2")]], {"a": b"2"}),
    ("aufs leftovers", [[(".wh..wh.plnk", D, ""), (".wh..wh.aufs", F, ""), ("a", F, "1")]], {"a": b"1"}),
    ("hard link", [[("b", F, "1"), ("a", H, "b")]], {"a": b"1", "b": b"1"}),
    ("hard link to a lower layer", [[("b", F, "1")], [("a", H, "b")]], {"a": b"1", "b": b"1"}),
    ("hard link, first name deleted", [[("a", F, "1"), ("b", H, "a")], [(".wh.a", F, "")]], {"b": b"1"}),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "expected"), [m[1:] for m in MERGES], ids=[m[0] for m in MERGES])
def test_layers_merge(layers: list[list[tuple[str, bytes, str]]], expected: dict[str, bytes | str]) -> None:
    assert listing(image(*(tar_layer(*members) for members in layers))) == expected


def test_the_first_name_in_byte_order_is_the_file() -> None:
    with ImageTree(image(tar_layer(("c", F, "1"), ("a", H, "c"), ("b", H, "a")))) as tree:
        assert [(entry.path, entry.hardlink) for entry in tree.walk()] == [
            ("a", None),
            ("b", "a"),
            ("c", "a"),
        ]


def test_a_link_whose_file_is_gone_is_a_file() -> None:
    with ImageTree(image(tar_layer(("a", F, "1"), ("b", H, "a")), tar_layer((".wh.a", F, "")))) as tree:
        assert [(entry.path, entry.hardlink) for entry in tree.walk()] == [("b", None)]


HOSTILE: list[tuple[str, Callable[[], Layer], str]] = [
    ("climbs", lambda: tar_layer(("../../etc/passwd", F, "x")), "leads out of it"),
    ("climbs inside", lambda: tar_layer(("a/../../b", F, "x")), "leads out of it"),
    ("hard link climbs", lambda: tar_layer(("a", H, "../etc/passwd")), "leads out of it"),
    ("hard link to nothing", lambda: tar_layer(("a", H, "etc/passwd")), "leads nowhere"),
    ("hard link to a directory", lambda: tar_layer(("d", D, ""), ("a", H, "d")), "leads nowhere"),
    ("below a link", lambda: tar_layer(("a", S, "/etc"), ("a/passwd", F, "x")), "below what is no directory"),
    ("below a file", lambda: tar_layer(("a", F, "x"), ("a/b", F, "x")), "below what is no directory"),
    ("root is a link", lambda: tar_layer((".", S, "/etc")), "its root is a symlink"),
    ("whiteout of ..", lambda: tar_layer(("a/.wh...", F, "")), "deletes nothing"),
    ("empty link", lambda: tar_layer(("a", S, "")), "has no target"),
    ("garbage", lambda: bytes_layer(b"garbage" * 100), "no octal number"),
    ("checksum", lambda: bytes_layer(b"b" + cut(tar_layer(("a", F, "x")), 1024)[1:]), "checksum is wrong"),
    ("cut in a header", lambda: bytes_layer(b"x" * 100), "cut short"),
    ("cut in a file", lambda: bytes_layer(cut(tar_layer(("a", F, "x" * 5000)), 2000)), "cut short"),
    ("sparse", lambda: tar_layer(("a", F, "x"), pax={"GNU.sparse.major": "1"}), "sparse"),
    ("negative owner", lambda: tar_layer(("a", F, "x"), pax={"uid": "-1"}), "negative uid"),
    ("size is no number", lambda: tar_layer(("a", F, "x"), pax={"size": "1e9"}), "no number"),
    ("size is huge", lambda: tar_layer(("a", F, "x"), pax={"size": "9" * 18}), "cut short"),
    ("long name", lambda: tar_layer(("a/" * 3000 + "b", F, "x")), "a path of"),
    ("gzip cut short", lambda: compressed(lambda data: gzip.compress(data)[:-20]), "is damaged"),
    ("gzip of something else", lambda: compressed(lambda data: gzip.compress(b"x" + data)), "is damaged"),
    ("gzip with garbage", lambda: compressed(lambda data: gzip.compress(data) + b"garbage"), "is damaged"),
    ("bomb", lambda: bytes_layer(bytes(3 << 20), gzip.compress(bytes(3 << 20))), "bomb"),
]  # fmt: skip


def cut(whole: Layer, size: int) -> bytes:
    return media.memory_stream(whole.blob).read()[:size]


def compressed(change: Callable[[bytes], bytes]) -> Layer:
    data = media.memory_stream(layer({"a": os.urandom(3000)}).blob).read()
    return bytes_layer(data, change(data), media.LAYER_GZIP)


@pytest.mark.parametrize(("make", "message"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE])
def test_hostile_layers_are_refused(make: Callable[[], Layer], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        unpack(image(make()), tmp_path / "out", limits=Limits(unpacked=1 << 20))
    assert not (tmp_path / "out").exists()


def test_compressed_layers_read_alike() -> None:
    from backports import zstd

    data = media.memory_stream(layer({"a": b"x" * 100000, "b": os.urandom(9000)}).blob).read()
    half = len(data) // 2
    plain = listing(image(bytes_layer(data)))
    for blob in (
        gzip.compress(data),
        gzip.compress(data[:half]) + gzip.compress(data[half:]),
        zstd.compress(data),
        zstd.compress(data[:half]) + zstd.compress(data[half:]),
    ):
        assert listing(image(bytes_layer(data, blob))) == plain


def test_every_flipped_byte_of_a_layout_is_found(two: Image, tmp_path: Path) -> None:
    write_layout(tmp_path / "x", two)
    for blob in (tmp_path / "x/blobs/sha256").iterdir():
        whole = blob.read_bytes()
        blob.chmod(0o644)
        for at in range(0, len(whole), 101):
            blob.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(BundleError, match="damaged"):
                listing(open_image(tmp_path / "x"))
        blob.write_bytes(whole)
    assert listing(open_image(tmp_path / "x")) == listing(two)


def test_every_truncation_of_an_archive_is_found(two: Image, tmp_path: Path) -> None:
    write_archive(tmp_path / "whole.tar", two)
    whole = (tmp_path / "whole.tar").read_bytes()
    end = len(whole.rstrip(b"\0"))
    for size in range(0, end, 173):
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        with pytest.raises(BundleError):
            listing(open_image(tmp_path / "cut.tar"))


BAD_JSON = [
    ("not JSON", b"{", "no JSON"),
    ("nested", b"[" * 100000, "no JSON"),
    ("no object", b"[]", "no object"),
    ("no manifests", b"{}", "manifests is no list"),
    ("empty", b'{"manifests":[]}', "it is empty"),
    ("a path for a digest", b'{"manifests":[{"digest":"sha256:../../x","size":1}]}', "not a digest"),
    ("negative size", b'{"manifests":[{"digest":"sha256:%s","size":-1}]}' % (b"0" * 64), "no size"),
    ("missing blob", b'{"manifests":[{"digest":"sha256:%s","size":1}]}' % (b"0" * 64), "lacks the blob"),
    ("large", b" " * (5 << 20), "the limit is"),
]


@pytest.mark.parametrize(("data", "message"), [b[1:] for b in BAD_JSON], ids=[b[0] for b in BAD_JSON])
def test_bad_indexes(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text("{}")
    (tmp_path / "index.json").write_bytes(data)
    with pytest.raises(InputError) as caught:
        open_image(tmp_path)
    assert message in str(caught.value)


def test_one_of_several_images_is_named(two: Image, tmp_path: Path) -> None:
    other = replace(two, layers=two.layers[:1], reference="y:2")
    write_layout(tmp_path / "x", two)
    write_layout(tmp_path / "y", other)
    for blob in (tmp_path / "y/blobs/sha256").iterdir():
        if not (tmp_path / "x/blobs/sha256" / blob.name).exists():
            os.link(blob, tmp_path / "x/blobs/sha256" / blob.name)
    manifests = [two.descriptor().to_dict(), other.descriptor().to_dict()]
    (tmp_path / "x/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    with pytest.raises(InputError, match="several images"):
        open_image(tmp_path / "x")
    for name in ("y:2", "2", "docker.io/library/y:2"):
        assert open_image(tmp_path / "x", reference=name).digest == other.digest


def test_unpacking_keeps_what_a_layer_holds(tmp_path: Path) -> None:
    tree = MemoryTree({"d/a": b"one", "d/ro/b": b"two"})
    entries = [replace(e, mode=0o555) if e.path == "d/ro" else e for e in tree.entries]
    entries += [Entry("d/l", Kind.SYMLINK, 0o777, target="/nowhere"), Entry("d/z", Kind.FILE, hardlink="d/a")]
    source = LayerSource("x", "1", tree, tuple(sorted(entries, key=lambda e: e.path)))
    unpack(image(layer_of(source)), tmp_path / "out")
    expected = [replace(e, size=3, mode=0o644) if e.hardlink else e for e in source.entries]
    digest = digest_bytes(b"one")
    assert [replace(e, digest=None) for e in scan(tmp_path / "out", keep_mtime=True)] == [
        replace(e, digest=None) for e in expected
    ]
    assert next(e for e in scan(tmp_path / "out") if e.path == "d/a").digest == digest


def test_a_changed_tree_cannot_be_packed_under_its_old_digest(tmp_path: Path) -> None:
    tree = MemoryTree({"a": b"one"})
    known = layer_of(LayerSource("x", "1", tree, tree.entries))
    changed = MemoryTree({"a": b"two"})
    swapped = layer_of(
        LayerSource("x", "1", changed, tree.entries), LayerIdentity(known.diff_id, known.descriptor.size)
    )
    with pytest.raises(InputError, match="no longer"):
        write_layout(tmp_path / "x", image(swapped))
    assert list(tmp_path.iterdir()) == []


def test_a_file_blob_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"short")
    with pytest.raises(InputError, match="ends 5 bytes early"):
        FileBlob(tmp_path / "blob", 10).copy_to(io.BytesIO())
