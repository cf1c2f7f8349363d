"""Archives: what is unpacked, against the real tools; what is refused, and in which words."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import random
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.digest import digest_bytes
from bundler.errors import BundleError, EnvironmentLacks, InputError
from bundler.oci.stream import Limits
from bundler.recipe import Source
from bundler.unpack import place, unpack, unpack_deb

COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd.compress,
}


def member(name: str, content: bytes | None = None, **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if content is None and "type" not in fields else tarfile.REGTYPE
    info.size, info.mtime = len(content or b""), 1_700_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content or b""


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, linkname=target)


def tar(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=format, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def deb(data: bytes, name: str = "data.tar.xz") -> bytes:
    parts = [("debian-binary", b"2.0\n"), ("control.tar.gz", gzip.compress(b"")), (name, data)]
    out = b"!<arch>\n"
    for title, content in parts:
        out += f"{title:<16}{0:<12}{0:<6}{0:<6}{0o100644:<8o}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


def shown(root: Path) -> dict[str, str]:
    """A tree as text: files with their content, links with their target."""
    tree = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            tree[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            tree[name] = "dir"
        else:
            tree[name] = f"{path.stat().st_mode & 0o7777:o} {path.read_text('utf-8', 'replace')}"
    return tree


def unpacked(data: bytes, tmp_path: Path, strip: int = 0, **options: Limits) -> dict[str, str]:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.write_bytes(data)
    unpack(archive, out, strip=strip, **options)
    return shown(out)


SMALL = tar(
    member("pkg-1/"),
    member("pkg-1/configure", b"run", mode=0o4775),
    member("pkg-1/src/a.c", b"int a;", mode=0o600),
    link("pkg-1/src/b.c", "a.c"),
    link("pkg-1/up", "src/../configure"),
    hard("pkg-1/again", "pkg-1/configure"),
)
SMALL_TREE = {
    "again": "755 run",
    "configure": "755 run",
    "src": "dir",
    "src/a.c": "644 int a;",
    "src/b.c": "-> a.c",
    "up": "-> src/../configure",
}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_every_compression_gives_the_same_tree(suffix: str, tmp_path: Path) -> None:
    assert unpacked(COMPRESSORS[suffix](SMALL), tmp_path, strip=1) == SMALL_TREE


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_streams_that_follow_one_another_are_one(suffix: str, tmp_path: Path) -> None:
    compress = COMPRESSORS[suffix]
    assert unpacked(compress(SMALL[:700]) + compress(SMALL[700:]), tmp_path, strip=1) == SMALL_TREE


def test_hard_links_stay_links_and_times_are_kept(tmp_path: Path) -> None:
    unpacked(SMALL, tmp_path, strip=1)
    first, second = (tmp_path / "out" / name for name in ("configure", "again"))
    assert first.stat().st_ino == second.stat().st_ino
    assert first.stat().st_mtime == 1_700_000_000


def test_the_umask_does_not_matter(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        assert unpacked(SMALL, tmp_path, strip=1) == SMALL_TREE
    finally:
        os.umask(before)
    assert (tmp_path / "out/src").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("format", ["v7", "ustar", "gnu", "posix"])
def test_what_gnu_tar_writes(format: str, tmp_path: Path) -> None:
    inner = tmp_path / "in" / "pkg" / ("d" * (60 if format in ("v7", "ustar") else 150))
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    (inner / "link").symlink_to("file")
    argv = ["tar", "-C", tmp_path / "in", f"--format={format}", "-cf", tmp_path / "archive", "pkg"]
    subprocess.run(argv, check=True)
    unpack(tmp_path / "archive", tmp_path / "out")
    assert subprocess.run(["diff", "-r", tmp_path / "in", tmp_path / "out"]).returncode == 0


def test_names_that_are_not_utf8_keep_their_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    for format in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        unpacked(tar(member(name, b"x"), member(name + "\n\x1b[31m", b"y"), format=format), tmp_path)
        assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == [b"caf\xe9", b"caf\xe9\n\x1b[31m"]
        shutil.rmtree(tmp_path / "out")


def test_zip_with_modes_and_links(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in (
            ("p/run", "x", 0o100755),
            ("p/data", "y", 0o100600),
            ("p/link", "data", 0o120777),
        ):
            info = zipfile.ZipInfo(name, (2020, 2, 3, 4, 5, 6))
            info.create_system, info.external_attr = 3, mode << 16
            archive.writestr(info, content)
    tree = unpacked(out.getvalue(), tmp_path, strip=1)
    assert tree == {"run": "755 x", "data": "644 y", "link": "-> data"}
    assert (tmp_path / "out/run").stat().st_mtime == 1_580_702_706


@pytest.mark.parametrize("name", ["data.tar.xz", "data.tar.zst", "data.tar.gz", "data.tar"])
def test_deb_as_dpkg_unpacks_it(name: str, tmp_path: Path) -> None:
    data = tar(member("./usr/bin/x", b"x", mode=0o755), link("./etc/x", "/usr/bin/x"), link("./out", "../.."))
    package = tmp_path / "x.deb"
    package.write_bytes(deb(COMPRESSORS[name.removeprefix("data.tar")](data), name))
    unpack_deb(package, tmp_path / "out")
    if shutil.which("dpkg-deb"):
        (tmp_path / "theirs").mkdir()
        subprocess.run(["dpkg-deb", "-x", package, tmp_path / "theirs"], check=True)
        assert shown(tmp_path / "out") == shown(tmp_path / "theirs")
    assert shown(tmp_path / "out")["etc/x"] == "-> /usr/bin/x"


REFUSED = {
    "climbs": (tar(member("a/../../x", b"")), "leads out"),
    "absolute link": (tar(link("x", "/etc")), "absolute path"),
    "climbing link": (tar(link("a/x", "../../etc")), "leads out"),
    "file through a link": (tar(link("a", "b"), member("b/"), member("a/x", b"")), "used as a directory"),
    "link through links": (tar(member("d/e/"), link("l", "d/e"), link("x", "l/../../..")), "leads out"),
    "link over the root": (tar(link("here", "."), link("x", "here/..")), "leads out"),
    "a loop that leaves": (tar(link("a", "b"), link("b", "../c")), "leads out"),
    "hard link out": (tar(hard("x", "../../etc/passwd")), "leads out"),
    "hard link to nothing": (tar(hard("x", "etc/passwd")), "no file of the archive"),
    "hard link through a link": (tar(link("a", "b"), hard("x", "a/f")), "no file of the archive"),
    "hard link to a directory": (tar(member("a/"), hard("x", "a")), "no file of the archive"),
    "device": (tar(member("null", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)), "character device"),
    "block device": (tar(member("sda", b"", type=tarfile.BLKTYPE, devmajor=8)), "block device"),
    "pipe": (tar(member("pipe", b"", type=tarfile.FIFOTYPE)), "fifo"),
    "file over a directory": (tar(member("a/b", b""), member("a", b"")), "place of a directory"),
    "a name too long": (tar(member("n" * 300, b"")), "too long"),
    "a path too long": (tar(member("n/" * 3000, b"")), "path of"),
    "cut short": (SMALL[:1300], "cut short"),
    "cut short, compressed": (gzip.compress(SMALL)[:-20], "damaged"),
    "cut short, xz": (lzma.compress(SMALL)[:-20], "cut short"),
    "garbage inside": (SMALL[:512] + b"x" * 512 + SMALL[1024:], "no sound tar"),
    "xz damaged": (lzma.compress(SMALL)[:60] + b"x" * 99, "damaged"),
    "no archive": (b"<html><body>Sign in to the network</body></html>", "no archive that we know"),
    "empty": (b"", "no archive that we know"),
    "deb cut short": (deb(lzma.compress(SMALL))[:-50], "cut short"),
    "deb without data": (deb(b"", "other.tar"), "no data.tar"),
    "deb in a deb": (deb(deb(SMALL)), "no tar"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, tmp_path: Path) -> None:
    data, words = REFUSED[name]
    (tmp_path / "deep").mkdir()
    with pytest.raises(InputError) as caught:
        unpacked(data, tmp_path / "deep")
    assert words in str(caught.value).lower()
    assert str(tmp_path / "deep/archive") in str(caught.value)
    assert [item.name for item in tmp_path.iterdir()] == ["deep"], "nothing was written outside"


@pytest.mark.parametrize("filename", ["../x", "/x", "a/../../x", "d/" * 300 + "x"])
def test_zip_names_that_lead_out(filename: str, tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo(filename), "x")
    with pytest.raises(InputError, match=r"leads out|longer"):
        unpacked(out.getvalue(), tmp_path)


def test_damaged_zip(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", "content " * 100)
    data = bytearray(out.getvalue())
    data[35:40] = b"\xff" * 5
    with pytest.raises(InputError, match="no sound zip"):
        unpacked(bytes(data), tmp_path)


SMALL_LIMITS = Limits(entries=10, unpacked=1 << 20)


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_bombs(suffix: str, tmp_path: Path) -> None:
    data = COMPRESSORS[suffix](tar(member("zeros", bytes(3 << 20))))
    with pytest.raises(InputError, match="bomb"):
        unpacked(data, tmp_path, limits=SMALL_LIMITS)


def test_zip_bomb(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(3 << 20))
    with pytest.raises(InputError, match="bomb"):
        unpacked(out.getvalue(), tmp_path, limits=SMALL_LIMITS)


def test_too_many_entries(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="more than 10 entries"):
        unpacked(tar(*(member(f"f{n}", b"") for n in range(11))), tmp_path, limits=SMALL_LIMITS)


def test_a_link_that_was_there_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a").symlink_to(outside)
    with pytest.raises(InputError, match="used as a directory"):
        unpacked(tar(member("a/x", b"x")), tmp_path)
    assert not list(outside.iterdir())


def test_later_archives_replace_files_and_do_not_write_through_them(tmp_path: Path) -> None:
    unpacked(tar(member("a", b"old"), hard("b", "a"), link("c", "a")), tmp_path)
    tree = unpacked(tar(member("a", b"new"), member("c", b"file")), tmp_path)
    assert tree == {"a": "644 new", "b": "644 old", "c": "644 file"}


def test_a_missing_archive_and_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such archive"):
        unpack(tmp_path / "none", tmp_path / "out")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x").write_bytes(SMALL)
    with pytest.raises(EnvironmentLacks, match="File exists"):
        unpack(tmp_path / "x", tmp_path / "pipe")


def source(**fields: object) -> Source:
    return Source(urls=("https://example.org/pub/x-1.tar.gz?raw=1",), digest=digest_bytes(b""), **fields)  # type: ignore[arg-type]


def test_place_as_the_recipe_says(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(gzip.compress(SMALL))
    nested = tmp_path / "nested"
    nested.write_bytes(tar(member("o/README", b"r"), member("o/inner-1.tar.gz", gzip.compress(SMALL))))
    checkout = tmp_path / "checkout"
    (checkout / "sub").mkdir(parents=True)
    (checkout / "sub/run").write_text("x")
    (checkout / "sub/run").chmod(0o700)
    out = tmp_path / "out"
    place(source(), archive, out)
    assert shown(out) == SMALL_TREE
    place(source(unpack="nested", directory="third/party"), nested, out)
    place(source(unpack="none", directory="files", strip=0), archive, out)
    place(source(directory="git", strip=0), checkout, out)
    assert shown(out / "third/party") == SMALL_TREE
    assert (out / "files/x-1.tar.gz").read_bytes() == archive.read_bytes()
    assert shown(out / "git") == {"sub": "dir", "sub/run": "755 x"}
    assert not list(out.glob(".nested*"))


def test_nested_needs_exactly_one_archive(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(tar(member("a.tar", b""), member("b.zip", b"")))
    with pytest.raises(InputError, match=r"it holds a.tar, b.zip"):
        place(source(unpack="nested"), archive, tmp_path / "out")


def test_place_does_not_follow_a_link_of_an_earlier_source(tmp_path: Path) -> None:
    first, out = tmp_path / "first", tmp_path / "out"
    first.write_bytes(tar(member("p/real/"), link("p/sub", "real")))
    place(source(), first, out)
    with pytest.raises(InputError, match="used as a directory"):
        place(source(directory="sub"), first, out)


def test_damage_anywhere_is_an_error_of_ours(tmp_path: Path) -> None:
    """Flip bytes at random: whatever happens is a BundleError or a sound tree, inside the directory."""
    choose = random.Random(7)
    for round_number in range(150):
        kind = choose.choice(["", ".gz", ".xz", ".zst", ".bz2", "deb"])
        data = bytearray(deb(lzma.compress(SMALL)) if kind == "deb" else COMPRESSORS[kind](SMALL))
        for _ in range(choose.randint(1, 4)):
            data[choose.randrange(len(data))] = choose.randrange(256)
        place_for_it = tmp_path / str(round_number)
        place_for_it.mkdir()
        with contextlib.suppress(BundleError):
            unpacked(bytes(data[: choose.randint(1, len(data))]), place_for_it)
        assert {item.name for item in place_for_it.iterdir()} <= {"archive", "out"}


PATHS = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=4).map("/".join)
MEMBERS = st.one_of(
    PATHS.map(lambda path: member(path + "/")),
    PATHS.map(lambda path: member(path, b"new")),
    st.builds(link, PATHS, st.one_of(PATHS, PATHS.map("/{}".format))),
    st.builds(hard, PATHS, PATHS),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(MEMBERS, max_size=8), st.integers(0, 1), st.booleans())
def test_whatever_the_links_say_nothing_outside_is_touched_or_pointed_at(
    members: list[tuple[tarfile.TarInfo, bytes]], strip: int, is_deb: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        for name in ("a", "b", "c"):
            (top / name).write_text("old")
        root = top / "d/out"
        data = tar(*members)
        archive = top / "archive"
        archive.write_bytes(deb(data, "data.tar") if is_deb else data)
        refused = False
        try:
            unpack_deb(archive, root) if is_deb else unpack(archive, root, strip=strip)
        except InputError:
            refused = True
        assert {path.name for path in top.iterdir()} == {"a", "b", "c", "d", "archive"}
        assert [path.name for path in (top / "d").iterdir()] in ([], ["out"])
        assert all((top / name).read_text() == "old" for name in ("a", "b", "c"))
        assert all((top / name).stat().st_nlink == 1 for name in ("a", "b", "c"))
        for path in root.rglob("*"):
            if path.is_symlink() and not refused and not is_deb:
                with contextlib.suppress(RuntimeError):  # a loop leads nowhere
                    assert path.resolve().is_relative_to(root.resolve())
