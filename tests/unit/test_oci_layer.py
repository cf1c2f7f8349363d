"""Layers: the bytes that they have, what other readers see in them, and what has no place in one."""

import hashlib
import io
import os
import random
import socket
import stat
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.digest import digest_bytes
from bundler.errors import BundleError, InputError
from bundler.oci.header import content_size, header
from bundler.oci.layer import LayerIdentity, LayerSource, layer_entries, source_of_tree, write_layer
from bundler.oci.pack import MemoryTree
from bundler.oci.tar import members
from bundler.tree import EPOCH, Entry, Kind, scan


def pack(source: LayerSource) -> bytes:
    out = io.BytesIO()
    identity = write_layer(source, out)
    data = out.getvalue()
    assert identity == LayerIdentity(digest_bytes(data), len(data))
    return data


def pack_directory(root: Path, at: str = "/.deps/x/1") -> bytes:
    return pack(source_of_tree(scan(root), root, at, name="x", version="1"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Everything that a layer can hold, at the sizes where a block ends."""
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    for size in (0, 1, 511, 512, 513, 1 << 20, (1 << 20) + 1):
        (root / f"size-{size}").write_bytes(random.Random(size).randbytes(size))
    (root / "bin/tool").write_text("#!/bin/sh\n")
    (root / "bin/tool").chmod(0o4755)
    os.link(root / "bin/tool", root / "bin/again")
    (root / "bin/link").symlink_to("../size-1")
    (root / "far").symlink_to("/" + "t" * 150)
    (root / ("d" * 90) / ("e" * 90)).mkdir(parents=True)
    (root / ("d" * 90) / ("e" * 90) / ("f" * 90)).write_text("deep")
    (root / ("n" * 200)).write_text("long name")
    (root / "ünïcödé").write_text("utf-8")
    os.close(os.open(os.fsencode(root) + b"/not-\xff\xfe-utf-8", os.O_CREAT | os.O_WRONLY, 0o600))
    (root / "new\nline").write_text("odd")
    return root


def test_gnu_tar_and_tarfile_see_the_same_tree(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "layer.tar"
    archive.write_bytes(pack_directory(tree))
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xpf", archive, "-C", tmp_path / "out", "--no-same-owner"], check=True)
    assert scan(tmp_path / "out/.deps/x/1") == scan(tree)
    with tarfile.open(archive) as reader:
        found = {member.name: member for member in reader.getmembers()}
    expected = [".deps", ".deps/x", ".deps/x/1", *(f".deps/x/1/{entry.path}" for entry in scan(tree))]
    assert list(found) == expected
    assert {(member.uid, member.gid, member.uname, member.gname) for member in found.values()} == {
        (0, 0, "", "")
    }
    assert {member.mtime for member in found.values()} == {EPOCH}


def test_our_reader_reads_what_we_write(tree: Path) -> None:
    source = source_of_tree(scan(tree), tree, "/.deps/x/1", name="x", version="1")
    data = pack(source)
    found = list(members(io.BytesIO(data), len(data), where="layer"))
    expected = [replace(entry, digest=None, size=content_size(entry)) for entry in source.entries]
    assert [member.entry for member in found] == expected
    contents = {
        member.entry.path: data[member.offset : member.offset + member.entry.size] for member in found
    }
    assert contents[".deps/x/1/size-513"] == (tree / "size-513").read_bytes()


def test_bytes_do_not_depend_on_how_the_tree_came_to_be(tree: Path, tmp_path: Path) -> None:
    first = pack_directory(tree)
    other = tmp_path / "other"
    former = os.umask(0o077)
    try:
        for entry in sorted(scan(tree), key=lambda e: hashlib.md5(os.fsencode(e.path)).digest()):
            (other / entry.path).parent.mkdir(parents=True, exist_ok=True)
            if entry.kind is Kind.DIRECTORY:
                (other / entry.path).mkdir(exist_ok=True)
            elif entry.hardlink:
                (other / entry.path).unlink(missing_ok=True)
                (other / entry.hardlink).parent.mkdir(parents=True, exist_ok=True)
                if not (other / entry.hardlink).exists():
                    (other / entry.hardlink).write_bytes((tree / entry.hardlink).read_bytes())
                os.link(other / entry.hardlink, other / entry.path)
            elif entry.kind is Kind.SYMLINK:
                (other / entry.path).symlink_to(entry.target or "")
            elif not (other / entry.path).exists():
                (other / entry.path).write_bytes((tree / entry.path).read_bytes())
        for entry in scan(tree):
            if entry.kind is not Kind.SYMLINK:
                (other / entry.path).chmod(entry.mode)
                os.utime(other / entry.path, (1e9, 1e9))
    finally:
        os.umask(former)
    assert pack_directory(other) == first


def test_golden_layer() -> None:
    """A change of this digest changes every image: raise layer.FORMAT with it."""
    tree = MemoryTree({"opt/a": b"hello\n", "opt/" + "long/" * 40 + "b": b""})
    source = LayerSource(
        "x", "1", tree, layer_entries([*tree.entries, Entry("opt/l", Kind.SYMLINK, target="a")])
    )
    assert write_layer(source).diff_id == GOLDEN


GOLDEN = "sha256:84c764fe9050d5e1eb1b826e50e3c0f618b732ef5823980d180e54507460627b"


@pytest.mark.parametrize(
    ("entry", "records"),
    [
        (Entry("a", Kind.FILE, 0o644), {}),
        (Entry("d" * 150 + "/" + "f" * 100, Kind.FILE), {}),
        (Entry("d" * 156 + "/f", Kind.FILE), {"path": "d" * 156 + "/f"}),
        (Entry("f" * 101, Kind.FILE), {"path": "f" * 101}),
        (Entry("d" * 99, Kind.DIRECTORY), {}),
        (Entry("d" * 100, Kind.DIRECTORY), {"path": "d" * 100}),
        (Entry("l", Kind.SYMLINK, target="t" * 100), {}),
        (Entry("l", Kind.SYMLINK, target="t" * 101), {"linkpath": "t" * 101}),
        (Entry("a", Kind.FILE, size=(1 << 33) - 1), {}),
        (Entry("a", Kind.FILE, size=1 << 33), {"size": str(1 << 33)}),
        (Entry("a", Kind.FILE, uid=0o7777777, gid=0o10000000), {"gid": str(0o10000000)}),
        (Entry("a", Kind.FILE, mtime=-5), {}),
        (Entry("a", Kind.FILE, xattrs=(("user.x", b"a\nb"),)), {"SCHILY.xattr.user.x": "a\nb"}),
    ],
)
def test_extended_headers_stand_only_where_ustar_lacks_room(entry: Entry, records: dict[str, str]) -> None:
    info = tarfile.TarInfo.frombuf(header(entry)[-512:], "utf-8", "surrogateescape")
    with tarfile.open(fileobj=io.BytesIO(header(entry) + bytes(1024))) as reader:
        found = reader.next()
    assert found is not None
    found_records = {key: value.rstrip("/") for key, value in found.pax_headers.items()}
    assert found_records == records
    assert (found.name.rstrip("/"), found.size, found.linkname) == (
        entry.path,
        entry.size,
        entry.target or "",
    )
    assert (found.uid, found.gid, found.mtime) == (entry.uid, entry.gid, max(0, entry.mtime))
    assert info.mode == entry.mode


def test_large_files_are_told_apart_by_size_alone() -> None:
    large = Entry("a", Kind.FILE, size=10 << 30)
    data = header(large)
    (found,) = members(io.BytesIO(data), len(data) + large.size, where="x")
    assert found.entry == large


REFUSED = [
    ([Entry("run/s", Kind.SOCKET)], "/run/s", "it is a socket"),
    ([Entry("dev/null", Kind.CHARACTER, device=(1, 3))], "/dev/null", "it is a character device"),
    ([Entry("run/f", Kind.FIFO)], "/run/f", "it is a fifo"),
    ([Entry("etc/.wh.passwd", Kind.FILE)], "/etc/.wh.passwd", "delete files in a layer"),
    ([Entry("a/b", Kind.FILE), Entry("a/b", Kind.FILE)], "/a/b", "two entries have this path"),
    ([Entry("a", Kind.FILE), Entry("a/b", Kind.FILE)], "/a/b", "lies below /a, which is a file"),
    ([Entry("a/../b", Kind.FILE)], "/a/../b", "not a plain relative path"),
    ([Entry("b", Kind.FILE, hardlink="a")], "/b", "hard link"),
    ([Entry("a", Kind.FILE, hardlink="b"), Entry("b", Kind.FILE)], "/a", "hard link"),
]


@pytest.mark.parametrize(("entries", "where", "message"), REFUSED)
def test_what_a_layer_cannot_hold_is_refused_by_its_full_path(
    entries: list[Entry], where: str, message: str
) -> None:
    with pytest.raises(BundleError) as caught:
        layer_entries(entries)
    assert where in str(caught.value)
    assert message in str(caught.value)


def test_all_refusals_of_a_tree_come_at_once() -> None:
    with pytest.raises(BundleError) as caught:
        layer_entries([Entry("a", Kind.FIFO), Entry("b/c", Kind.SOCKET)])
    assert "/a:" in str(caught.value)
    assert "/b/c:" in str(caught.value)


def test_a_real_socket_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t/run").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "t/run/s"))
        assert stat.S_ISSOCK((tmp_path / "t/run/s").stat().st_mode)
        with pytest.raises(InputError, match=r"/opt/run/s: .*socket"):
            pack_directory(tmp_path / "t", "/opt")


@pytest.mark.parametrize("size", [0, 5, 4000])
def test_a_file_that_changed_meanwhile_is_an_error(tmp_path: Path, size: int) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/file").write_bytes(bytes(1000))
    source = source_of_tree(scan(tmp_path / "t"), tmp_path / "t", "/opt", name="x", version="1")
    (tmp_path / "t/file").write_bytes(bytes(size))
    with pytest.raises(InputError, match=r"/opt/file"):
        write_layer(source)


NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=60
)
PATHS = st.lists(NAMES, min_size=1, max_size=5).map("/".join)


@given(st.dictionaries(PATHS, st.binary(max_size=1500), max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_tree_survives(files: dict[str, bytes]) -> None:
    try:
        tree = MemoryTree(files)
    except BundleError:
        return  # a file above another, or names that mean something in a layer
    data = pack(LayerSource("x", "1", tree, tree.entries))
    found = list(members(io.BytesIO(data), len(data), where="x"))
    assert {m.entry.path for m in found} == {entry.path for entry in tree.entries}
    with tarfile.open(fileobj=io.BytesIO(data)) as reader:
        names = [member.name for member in reader.getmembers()]
    assert names == [member.entry.path for member in found]
    for member in found:
        if member.entry.kind is Kind.FILE:
            assert data[member.offset : member.offset + member.entry.size] == files[member.entry.path]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_other_peoples_headers(form: int) -> None:
    """GNU's long names and base-256 numbers, negative and fractional times, as engines and tar write them."""
    infos = []
    for name, values in {
        "plain": {"mtime": 1000},
        "long/" + "x" * 90: {"mtime": 1},
        **({"y" * 300: {}, "large-owner": {"uid": 1 << 30, "gid": (1 << 31) - 1}} if form != 0 else {}),
        **({"old": {"mtime": -86400}} if form != 0 else {}),
    }.items():
        info = tarfile.TarInfo(name)
        info.size = 3
        for key, value in values.items():
            setattr(info, key, value)
        infos.append(info)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(b"abc"))
    data = out.getvalue()
    found = [member.entry for member in members(io.BytesIO(data), len(data), where="x")]
    expected = [(info.name, info.uid, info.gid, info.mtime) for info in infos]
    assert [(entry.path, entry.uid, entry.gid, entry.mtime) for entry in found] == expected
