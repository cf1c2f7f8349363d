"""What a bundle says of itself: the manifest read back, SBOMs, package URLs, and the whole image."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.digest import Digest, digest_bytes
from bundler.errors import BundleError, InputError
from bundler.holders import held_by
from bundler.labels import Facts, Required, read_facts
from bundler.oci.image import Image, ImageConfig, layer_of
from bundler.oci.layer import LayerSource
from bundler.oci.manifest import (
    MANIFEST,
    PARTS,
    BundleFacts,
    Component,
    component_of,
    cpe_of,
    manifest_lines,
    package_urls,
    read_manifest,
    recipe_record,
)
from bundler.oci.merged import ImageTree
from bundler.oci.pack import MemoryTree, bundle_image, facts_layer, recipe_layer, within_budget
from bundler.oci.sbom import CYCLONEDX, SPDX
from bundler.recipe import LockedPackage, Recipe, Source
from bundler.tree import Kind

ZERO = Digest("sha256:" + "0" * 64)
FACTS = Facts("shell", "0.1.0", "/.deps/shell/1", 1, (Required("runtime", ZERO),))
BUNDLE = BundleFacts(FACTS, "amd64", commands=("bin/bash",), symbols=("GLIBC_2.38",))


def recipe(**changes: object) -> Recipe:
    urls = ("https://files.example/bash-5.2.tar.gz", "debian:pool/main/b/bash/bash_5.2.37.orig.tar.xz")
    blank = Recipe("bash", "5.2", "GPL-3.0-or-later", Path("recipe.toml"), sources=(Source(urls, ZERO),))
    return replace(blank, **changes)  # type: ignore[arg-type]


def component(files: dict[str, bytes], **changes: object) -> tuple[Component, LayerSource]:
    tree = MemoryTree({f".deps/shell/1/{path}": data for path, data in files.items()})
    found = recipe(**changes)
    source = LayerSource(found.name, found.version, tree, tree.entries)
    return component_of(found, source.entries, layer_of(source).diff_id), source


@pytest.fixture
def components() -> list[Component]:
    return [
        component({"bin/bash": b"elf", "share/man/bash.1": b"man"})[0],
        component(
            {"lib/libz.so": b"elf"},
            name="zlib",
            license="LicenseRef-odd AND Zlib",
            homepage="https://z.example",
        )[0],
    ]


def test_manifest_is_read_back(components: list[Component]) -> None:
    found = read_manifest(manifest_lines(BUNDLE, components), where="manifest")
    assert (found.facts, found.architecture) == (FACTS, "amd64")
    assert found.owners[".deps/shell/1/lib/libz.so"] == "zlib"
    assert found.entries[".deps/shell/1/bin/bash"].digest == digest_bytes(b"elf")
    assert {name: record["layer"] for name, record in found.recipes.items()} == {
        item.name: item.layer for item in components
    }
    assert list(found.entries) == sorted(found.entries)


def test_order_of_recipes_does_not_matter_to_the_lines(components: list[Component]) -> None:
    lines = manifest_lines(BUNDLE, components).splitlines()
    again = manifest_lines(BUNDLE, components[::-1]).splitlines()
    files = [line for line in lines if b'"kind":"file"' in line]
    assert files == [line for line in again if b'"kind":"file"' in line]


def test_two_recipes_with_one_path_are_named() -> None:
    one, two = component({"bin/sh": b"1"})[0], component({"bin/sh": b"2"}, name="dash")[0]
    with pytest.raises(InputError, match="both bash and dash"):
        manifest_lines(BUNDLE, [one, two])


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"type":"entry","path":"/abs"}', b'{"type":"bundle"}', b"\xff"]
)
def test_lines_that_are_none_are_pointed_at(components: list[Component], line: bytes) -> None:
    data = manifest_lines(BUNDLE, components) + line + b"\n"
    with pytest.raises(InputError, match=rf"manifest:{data.count(10)}: "):
        read_manifest(data, where="manifest")


PURLS = [
    (recipe(purl="pkg:generic/x@{version}"), (), ("pkg:generic/x@5.2",)),
    (
        recipe(sources=()),
        (LockedPackage("libc6", "2.41-12+deb13u1", "amd64", "pool/x.deb", ZERO, 1),),
        ("pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64",),
    ),
    (recipe(sources=(Source(("pypi:Ansible_Core/x.tar.gz",), ZERO),)), (), ("pkg:pypi/ansible-core@5.2",)),
    (
        recipe(),
        (),
        (
            "pkg:generic/bash@5.2?checksum=sha256:" + "0" * 64
            + "&download_url=https:%2F%2Ffiles.example%2Fbash-5.2.tar.gz",
            "pkg:deb/debian/bash@5.2.37?arch=source",
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("found", "packages", "expected"), PURLS)
def test_package_urls(found: Recipe, packages: tuple[LockedPackage, ...], expected: tuple[str, ...]) -> None:
    assert package_urls(found, packages) == expected


@pytest.mark.parametrize(
    ("cpe", "expected"),
    [
        (None, "cpe:2.3:a:bash:bash:5.2:*:*:*:*:*:*:*"),
        ("gnu:bash", "cpe:2.3:a:gnu:bash:5.2:*:*:*:*:*:*:*"),
        ("cpe:2.3:a:gnu:bash:{version}:*:*:*:*:*:*:*", "cpe:2.3:a:gnu:bash:5.2:*:*:*:*:*:*:*"),
    ],
)
def test_cpe_names(cpe: str | None, expected: str) -> None:
    assert cpe_of(recipe(cpe=cpe)) == expected


def test_the_image_of_a_bundle(components: list[Component]) -> None:
    _, source = component({"bin/bash": b"elf", "share/man/bash.1": b"man"})
    image = bundle_image(
        BUNDLE,
        [layer_of(source)],
        components[:1],
        command=["/.deps/shell/1/bin/bash"],
        reference="shell:0.1.0",
    )
    assert read_facts(image.labels, where="image") == FACTS
    config = json.loads(image.config_bytes)
    assert config["config"]["Cmd"] == ["/.deps/shell/1/bin/bash"]
    assert "Volumes" not in config["config"]
    assert [item["created_by"] for item in config["history"]] == ["bash 5.2", "manifest 0.1.0"]
    with ImageTree(image) as tree:
        outside = [entry.path for entry in tree.walk() if not entry.path.startswith(".deps/shell/1/")]
        assert outside == [".deps", ".deps/shell", ".deps/shell/1"]
        names = [
            entry.path.removeprefix(".deps/shell/1/") for entry in tree.walk() if entry.kind is Kind.FILE
        ]
        manifest = tree.open(".deps/shell/1/" + MANIFEST).read()
    assert names == ["bin/bash", MANIFEST, CYCLONEDX, SPDX, "share/man/bash.1"]
    assert read_manifest(manifest, where="manifest").facts == FACTS


def described(files: dict[str, bytes], **changes: object) -> tuple[Component, LayerSource]:
    """A recipe's layer as it is packed, and the component that the bundle's manifest has."""
    own, tree = component(files, **changes)
    source = recipe_layer(tree, FACTS.prefix, own)
    return replace(own, layer=layer_of(source).diff_id, entries=source.entries), source


def test_a_single_layer_says_what_is_in_it() -> None:
    whole, source = described({"bin/bash": b"elf"}, cpe="gnu:bash")
    with ImageTree(Image((layer_of(source),), ImageConfig("amd64"))) as tree:
        place = f".deps/shell/1/{PARTS}/bash"
        head, *lines = map(json.loads, tree.open(f"{place}.jsonl").read().splitlines())
        spdx, cdx = (json.loads(tree.open(f"{place}.{kind}.json").read()) for kind in ("spdx", "cdx"))
        files = {entry.path for entry in tree.walk() if entry.kind is Kind.FILE}
    assert head == {"type": "layer", "format": 1, "prefix": "/.deps/shell/1"}
    assert lines[0] == {k: v for k, v in recipe_record(whole).items() if k != "layer"}
    assert {line["path"]: line.get("digest") for line in lines[1:] if line["kind"] == "file"} == {
        ".deps/shell/1/bin/bash": digest_bytes(b"elf")
    }
    assert files == {entry.path for entry in whole.entries if entry.kind is Kind.FILE}
    assert [one["name"] for one in spdx["packages"]] == [one["name"] for one in cdx["components"]] == ["bash"]


def test_what_a_layer_says_of_itself_has_one_owner() -> None:
    with pytest.raises(InputError, match=r"/share/bundle/recipes/bash\.jsonl: error: two entries"):
        described({f"{PARTS}/bash.jsonl": b"mine"})


def test_what_is_no_software_is_in_no_bill_of_materials() -> None:
    _, source = described({"share/made": b"x"}, name="finish", license="")
    names = [entry.path for entry in source.entries if PARTS in entry.path and entry.kind is Kind.FILE]
    assert names == [f".deps/shell/1/{PARTS}/finish.jsonl"]


def test_layers_on_their_own_are_read_back_and_counted_once() -> None:
    bash, zlib = described({"bin/bash": b"elf"}), described({"lib/z": b"z"}, name="zlib", license="Zlib")
    layers = [layer_of(source) for _, source in (bash, zlib)]
    alone = Image(tuple(layers), ImageConfig("amd64"))
    assert [(one.software.name, one.bundle) for one in held_by(alone, "x")] == [("bash", ""), ("zlib", "")]
    packed = bundle_image(BUNDLE, layers[:1], [bash[0]], command=["/nop"])
    mixed = replace(alone, layers=(*packed.layers, layers[1]))
    assert {(one.software.name, one.bundle) for one in held_by(mixed, "x")} == {
        ("bash", "shell"),
        ("zlib", ""),
    }


def test_above_the_budget_the_smallest_share_a_layer() -> None:
    made = [
        described({f"lib/{name}": bytes(size)}, name=name)[1]
        for name, size in {"a": 5000, "b": 10, "c": 9000, "d": 20, "e": 4000}.items()
    ]
    assert within_budget(made, 5) == made
    found = within_budget(made, 4)
    assert [one is other for one, other in zip(found, made, strict=True)] == [True, False, True, False, True]
    assert found[1] is found[3]
    layers = [layer_of(source) for source in {id(source): source for source in found}.values()]
    together, apart = (
        Image(tuple(layers), ImageConfig("amd64")),
        Image(tuple(map(layer_of, made)), ImageConfig("amd64")),
    )
    assert len(together.layers) == 4
    with ImageTree(together) as one, ImageTree(apart) as other:
        assert list(one.walk()) == list(other.walk())
    with pytest.raises(BundleError, match="two entries have this path"):
        within_budget([made[0], made[0]], 1)


def test_a_bump_changes_one_layer_and_the_last() -> None:
    def image(version: str, content: bytes) -> list[Digest]:
        made = [
            described({"lib/z": b"z"}, name="zlib"),
            described({"bin/git": content}, name="git", version=version),
        ]
        layers = [layer_of(source) for _, source in made]
        return [layer.diff_id for layer in (*layers, facts_layer(BUNDLE, [one for one, _ in made]))]

    old, new = image("2.47.0", b"old"), image("2.47.1", b"new")
    assert [one == other for one, other in zip(old, new, strict=True)] == [True, False, False]
