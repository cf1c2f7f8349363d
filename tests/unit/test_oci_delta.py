"""An image on top of another: shared content once, the base untouched, conflicts named."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_oci_compose import part
from test_oci_image import D, F, H, S, image, listing, tar_layer
from test_oci_pack import BUNDLE, component

from bundler.cli.main import main
from bundler.errors import BundleError, Problems
from bundler.oci.compose import BASE_DIGEST, BASE_NAME, Part
from bundler.oci.delta import Delta, delta
from bundler.oci.image import Image, layer_of
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
