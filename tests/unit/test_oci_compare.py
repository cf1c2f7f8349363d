"""What differs between two images, and what a client fetches; and how the command line shows it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_oci_image import D, F, H, S, image, layer, tar_layer

from bundler.cli.main import main
from bundler.oci.compare import Change, changes, transfer
from bundler.oci.layout import write_archive, write_layout
from bundler.oci.merged import ImageTree
from bundler.oci.read import open_image

Members = list[tuple[str, bytes, str]]
CASES: list[tuple[Members, Members, list[Change]]] = [
    ([("a", F, "1")], [("a", F, "1")], []),
    ([("a", F, "1")], [("a", F, "2")], [Change("changed", "a", ("content",), 1)]),
    ([("a", F, "1")], [("a", F, "22")], [Change("changed", "a", ("size",), 2)]),
    ([("a", F, "1")], [("b", F, "22")], [Change("removed", "a"), Change("added", "b", size=2)]),
    ([("a", F, "")], [("a", D, "")], [Change("changed", "a", ("kind",))]),
    ([("a", S, "x")], [("a", S, "y")], [Change("changed", "a", ("target",))]),
    ([("a", F, "1"), ("b", F, "1")], [("a", F, "1"), ("b", H, "a")],
     [Change("changed", "b", ("hardlink",), 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "expected"), CASES)
def test_changes(before: Members, after: Members, expected: list[Change]) -> None:
    with ImageTree(image(tar_layer(*before))) as one, ImageTree(image(tar_layer(*after))) as other:
        assert list(changes(one, other)) == expected


def test_transfer_counts_each_missing_layer_once() -> None:
    a, b, c = layer({"a": b"a" * 1000}), layer({"b": b"b"}), layer({"c": b"c" * 3000})
    found = transfer(image(a, b), image(a, c, c))
    assert found.layers == (c.diff_id,)
    assert (found.fetched, found.total) == (c.descriptor.size, c.descriptor.size + a.descriptor.size)
    assert transfer(None, image(a)).fetched == a.descriptor.size


def test_the_verbs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = image(layer({"opt/a": b"1"}), layer({"opt/b\n\x1b[2J": b"2"}, "y"))
    second = replace(first, layers=(first.layers[0], layer({"opt/c": b"3"}, "z")))
    write_layout(tmp_path / "out/first", first)
    write_archive(tmp_path / "second.tar", second)
    out = ["--out", str(tmp_path / "out")]

    assert main(["inspect", "first", *out]) == 0
    assert f"image id     {first.id}" in capsys.readouterr().out
    assert main(["inspect", "--files", "first", *out]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(" /opt/b\\n\\x1b[2J")
    assert main(["inspect", "--format", "json", str(tmp_path / "second.tar"), *out]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == second.id

    assert main(["diff", "first", str(tmp_path / "second.tar"), *out]) == 1
    assert capsys.readouterr().out == "- /opt/b\\n\\x1b[2J\n+ /opt/c\n"
    assert main(["diff", "first", "first", *out]) == 0
    assert main(["diff", "--transfer", "first", str(tmp_path / "second.tar"), *out]) == 0
    size = second.layers[1].descriptor.size
    total = sum(item.descriptor.size for item in second.layers)
    assert capsys.readouterr().out.splitlines() == [
        f"{size} of {total} bytes ({100 * size / total:.1f} %), 1 of 2 layers",
        f"  {size:>12}  z 1",
    ]
    assert main(["inspect", "absent", *out]) == 2
    assert "there is no image 'absent'" in capsys.readouterr().err


def test_upgrade_says_what_it_changes_and_does_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = layer({"opt/base": b"base"}, "base")
    old = image(base, layer({"opt/git": b"old", "opt/gone": b""}, "git"))
    changed = layer({"opt/git": b"newer", "opt/more": b"more"}, "git")
    annotations = (("org.opencontainers.image.title", "git"), ("org.opencontainers.image.version", "2"))
    changed = replace(changed, descriptor=replace(changed.descriptor, annotations=annotations))
    new = image(base, changed)
    write_layout(tmp_path / "deployed", old)
    write_layout(tmp_path / "new", new)
    words = ["upgrade", str(tmp_path / "deployed"), "--to", str(tmp_path / "new")]
    assert main([*words, "--plan"]) == 0
    size = changed.descriptor.size
    assert capsys.readouterr().out.splitlines() == [
        "git: 1 -> 2",
        "files: 1 added, 1 changed, 1 removed; 9 bytes",
        f"layers: 1 of 2 layers are new, {size} of {size + base.descriptor.size} bytes",
    ]
    assert open_image(tmp_path / "deployed").id == old.id
    assert main(words) == 0
    assert open_image(tmp_path / "deployed").id == new.id
