"""An image on top of another: shared content once, the base untouched, conflicts named."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from closure_forge import LOADER
from test_oci_compose import INTERPRETER, library, part, program
from test_oci_image import D, F, H, S, image, listing, tar_layer
from test_oci_pack import BUNDLE, component

from bundler.cli.main import main
from bundler.digest import canonical_json
from bundler.elf.read import ElfError, parse_elf
from bundler.errors import BundleError, InputError, Problems
from bundler.oci.compose import BASE_DIGEST, BASE_NAME, Part, compose, rebase
from bundler.oci.delta import Delta, delta
from bundler.oci.glimpse import GlimpseStream, glimpse_of
from bundler.oci.image import MANIFEST, Image, Original, layer_of, manifest_json
from bundler.oci.inventory import inventory
from bundler.oci.layout import write_layout
from bundler.oci.merged import ImageTree
from bundler.oci.pack import bundle_image
from bundler.oci.read import open_image
from bundler.tree import Kind

Members = list[tuple[str, bytes, str]]


def put_on(want: Part, base: Part, tmp_path: Path) -> tuple[Delta, Image]:
    """The delta, and what is read back of it once it was written."""
    with ImageTree(want.image) as tree:
        made = delta(want, base, tree)
        write_layout(tmp_path / "delta", made.image)
    return made, open_image(tmp_path / "delta")


def contents(found: Image) -> list[tuple[str, bytes]]:
    """Every file in every layer, so that a content that is there twice shows."""
    with_files = []
    for layer in found.layers:
        with ImageTree(replace(found, layers=(layer,))) as tree:
            with_files += [
                (entry.path, tree.open(entry.path).read())
                for entry in tree.walk()
                if entry.kind is Kind.FILE and entry.hardlink is None
            ]
    return with_files


def test_two_images_of_which_one_holds_the_other(tmp_path: Path) -> None:
    """chisel's RFC 10: runtime on runtime-deps, whose image has a user, files and variables of its own."""
    libraries = {"usr/lib/libc.so.6": b"libc", "usr/lib/libssl.so.3": b"ssl", "etc/ssl/cert.pem": b"cert"}
    deps = part(
        "runtime-deps",
        libraries,
        {"etc/passwd": b"app:x:1654:", "home/app/.keep": b""},
        environment=("APP_UID=1654", "PATH=/usr/bin"),
        other={"User": "app"},
    )
    runtime = part(
        "runtime",
        {**libraries, "usr/share/runtime/host": b"runtime"},
        command=("/usr/share/runtime/host",),
        environment=("PATH=/usr/share/runtime",),
    )
    made, found = put_on(runtime, deps, tmp_path)
    assert found.layers[:2] == open_image(tmp_path / "delta").layers[:2]
    assert [layer.diff_id for layer in found.layers[:2]] == [layer.diff_id for layer in deps.image.layers]
    assert listing(found) == {**listing(deps.image), **listing(runtime.image)}
    files = contents(found)
    assert len(files) == len({content for _, content in files})
    assert (made.added, made.shared) == ((1, 7), (3, 4 + 3 + 4))
    assert found.config.environment == ("APP_UID=1654", "PATH=/usr/share/runtime:/usr/bin")
    assert found.config.command == ("/usr/share/runtime/host",)
    assert found.config.other == {"User": "app"}
    annotations = dict(found.annotations)
    assert annotations[BASE_NAME] == "runtime-deps:1"
    assert annotations[BASE_DIGEST] == deps.image.digest


def test_layers_that_the_base_lacks_are_taken_whole(tmp_path: Path) -> None:
    want = part("want", {"opt/a": b"a"}, {"opt/b": b"b"})
    _, found = put_on(want, part("base", {"etc/x": b"x"}), tmp_path)
    assert [layer.diff_id for layer in found.layers[1:]] == [layer.diff_id for layer in want.image.layers]
    _, again = put_on(want, Part("same", want.image), tmp_path)
    assert [layer.diff_id for layer in again.layers] == [layer.diff_id for layer in want.image.layers]


CONFLICTS: list[tuple[Members, Members, str]] = [
    ([("a", F, "1")], [("a", F, "2")], "has different content"),
    ([("a", F, "1")], [("a", D, "")], "is a file here and a directory there"),
    ([("a/b", F, "1")], [("a", F, "")], "is a directory here and a file there"),
    ([("lib/x", F, "1")], [("lib", S, "usr/lib")], "is a directory here and a symlink there"),
    ([("a", S, "x")], [("a", S, "y")], "differs in its target"),
    ([("a", H, "z"), ("z", F, "1")][::-1], [("a", F, "2")], "has different content"),
]


@pytest.mark.parametrize(("above", "below", "message"), CONFLICTS)
def test_conflicts_name_both_owners(above: Members, below: Members, message: str, tmp_path: Path) -> None:
    want, base = Part("want", image(tar_layer(*above))), Part("base", image(tar_layer(*below)))
    with pytest.raises(BundleError) as caught:
        put_on(want, base, tmp_path)
    assert message in str(caught.value)
    assert "of want, and" in str(caught.value)
    assert "of base" in str(caught.value)


def test_all_conflicts_come_at_once(tmp_path: Path) -> None:
    want, base = part("want", {"a": b"1", "b": b"1"}), part("base", {"a": b"2", "b": b"2"})
    with pytest.raises(Problems) as caught:
        put_on(want, base, tmp_path)
    assert len(caught.value.problems) == 2


def test_hard_links_stay_among_the_names_that_are_added(tmp_path: Path) -> None:
    want = Part("want", image(tar_layer(("a", F, "x"), ("b", H, "a"), ("c", H, "a"))))
    base = Part("base", image(tar_layer(("a", F, "x"))))
    _, found = put_on(want, base, tmp_path)
    with ImageTree(found) as tree:
        assert [(entry.path, entry.hardlink) for entry in tree.walk()] == [
            ("a", None),
            ("b", None),
            ("c", "b"),
        ]
        assert tree.open("c").read() == b"x"


def test_a_layer_that_deletes_is_not_taken_whole(tmp_path: Path) -> None:
    want = Part("want", image(tar_layer(("old", F, "1")), tar_layer((".wh.old", F, ""), ("new", F, "2"))))
    base = part("base", {"old": b"base's own"})
    assert listing(put_on(want, base, tmp_path)[1]) == {"old": b"base's own", "new": b"2"}


APP = {"usr/bin/app": program("libapp.so.1", "libc.so.6"), "usr/lib/libapp.so.1": library("libapp.so.1")}
LIBC = {"lib64/ld-linux-x86-64.so.2": LOADER.read_bytes(), "usr/lib/libc.so.6": library("libc.so.6")}


def test_what_would_not_start_on_the_base_is_refused_with_all_that_it_lacks(tmp_path: Path) -> None:
    lame = part("app", {**APP, "usr/bin/other": program("libz.so.1", "libc.so.6")})
    with pytest.raises(Problems) as caught:
        put_on(lame, part("base", {"etc/x": b"x", "usr/bin/broken": program("libnone.so")}), tmp_path)
    said = {problem.message: problem.why for problem in caught.value.problems}
    assert f"no layer has the loader {INTERPRETER}" in said
    assert said["no layer has libz.so.1 where it is looked for"] == "needed by /usr/bin/other (app 1)"
    assert not any("libnone" in message for message in said), "what the base lacks is not ours"
    with pytest.raises(InputError, match=r"libz\.so\.1"):
        put_on(lame, part("base", LIBC), tmp_path)
    made, found = put_on(part("app", APP), part("base", LIBC), tmp_path)
    assert made.added[0] == 2
    assert listing(found).keys() >= {*APP, *LIBC}


def test_loading_from_a_base_is_proven_from_what_is_remembered_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, cache = part("base", LIBC), tmp_path / "cache"
    inventory(base.image, cache)
    inventory(part("app", APP).image, cache)
    monkeypatch.setattr("bundler.oci.base.ImageTree", lambda image: pytest.fail("read again"))
    monkeypatch.setattr("bundler.oci.inventory.ImageTree", lambda image: pytest.fail("read again"))
    app = part("app", APP)
    with ImageTree(app.image) as tree:
        assert delta(app, base, tree, cache=cache).added[0] == 2


@pytest.mark.parametrize(
    "data", [LOADER.read_bytes(), program("libc.so.6"), b"\x7fELF torn", b"\x7fELF" + bytes(100)]
)
def test_of_a_file_the_bytes_that_loading_reads_are_enough(data: bytes) -> None:
    def facts(stream: BinaryIO | io.RawIOBase) -> object:
        try:
            return parse_elf(reading(stream), len(data))
        except ElfError as error:
            return str(error)

    glimpse = glimpse_of(io.BytesIO(data), "bin/x")
    small = GlimpseStream(glimpse, len(data), lambda: pytest.fail("the rest is read, too"))
    assert facts(small) == facts(io.BytesIO(data))
    assert GlimpseStream(glimpse, len(data), lambda: io.BytesIO(data)).read() == data


def test_little_of_a_file_is_enough() -> None:
    data = LOADER.read_bytes()
    assert sum(len(piece) for _, piece in glimpse_of(io.BytesIO(data), "bin/x")) < len(data) / 2
    assert glimpse_of(io.BytesIO(data), "lib/ld-linux.so.2") == ((0, data),)
    assert glimpse_of(io.BytesIO(b"#!/bin/sh"), "bin/x") == ()


def reading(stream: BinaryIO | io.RawIOBase) -> Callable[[int, int], bytes]:
    def read(offset: int, size: int) -> bytes:
        stream.seek(offset)
        return stream.read(size) or b""

    return read


def test_the_history_of_the_base_stays_as_it_was(tmp_path: Path) -> None:
    items = [
        {"created": "2024-01-01T00:00:00Z", "created_by": "LABEL", "empty_layer": True, "author": "x"},
        {"created": "2024-01-02T00:00:00.5Z", "created_by": "ADD rootfs", "comment": "buildkit"},
        {"created": "2024-01-03T00:00:00Z", "created_by": "CMD", "empty_layer": True},
    ]
    plain = part("base", {"etc/x": b"x"}).image
    config = {**json.loads(plain.config_bytes), "history": items}
    original = Original(plain.manifest_bytes, MANIFEST, canonical_json(config))
    manifest = manifest_json(original.config, plain.layers)
    write_layout(tmp_path / "base", replace(plain, original=replace(original, manifest=manifest)))
    base = Part("base", open_image(tmp_path / "base"))
    app = part("app", {"opt/a": b"a"}, {"opt/b": b"b"})
    own = json.loads(app.image.config_bytes)["history"]
    for made in (put_on(app, base, tmp_path)[1], compose([base, app])):
        assert json.loads(made.config_bytes)["history"] == [*items, *own]
    assert json.loads(rebase(Part("x", made), base, app).config_bytes)["history"] == [*own, *own]


def test_a_bundles_own_manifest_is_its_inventory(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [component({"bin/bash": b"elf"}), component({"lib/z": b"z"}, name="zlib")]
    layers = [layer_of(source) for _, source in made]
    found = bundle_image(BUNDLE, layers, [one for one, _ in made], command=["/nop"])
    read = [layer.diff_id for layer in found.layers]
    monkeypatch.setattr("bundler.oci.inventory._with_digest", lambda tree, entry: entry)
    original = ImageTree.__init__

    def counted(self: ImageTree, image: Image, **options: object) -> None:
        assert [layer.diff_id for layer in image.layers] == read[-1:], "only the last layer is read"
        original(self, image)

    monkeypatch.setattr(ImageTree, "__init__", counted)
    known = inventory(found)
    assert known[".deps/shell/1/lib/z"].owner == "zlib"
    assert known[".deps/shell/1/lib/z"].layer == layers[1].diff_id
    assert ".deps/shell/1/share/bundle/manifest.jsonl" in known


def test_another_image_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = image(tar_layer(("a", F, "x"), ("b", H, "a"), ("\udcff", F, "odd")), tar_layer(("c", F, "y")))
    first = inventory(found, tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr("bundler.oci.inventory.ImageTree", lambda image: pytest.fail("read again"))
    assert inventory(found, tmp_path / "cache") == first
    monkeypatch.undo()
    for size in (0, 10, kept.stat().st_size - 3):
        kept.write_bytes(kept.read_bytes()[:size])
        assert inventory(found, tmp_path / "cache") == first


def test_the_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUNDLE_CACHE", str(tmp_path / "cache"))
    write_layout(tmp_path / "want", part("want", {"a": b"1", "b": b"22"}).image)
    write_layout(tmp_path / "base", part("base", {"a": b"1"}).image)
    words = ["delta", str(tmp_path / "want"), "--on", str(tmp_path / "base"), "-o", str(tmp_path / "x")]
    assert main([*words, "--tag", "x:1"]) == 0
    found = open_image(tmp_path / "x")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [found.id, "added 1 files, 2 bytes", "shared 1 files, 1 bytes"]
