"""What a real bundle's image says of itself: its SBOMs judged, advisories and upgrades found by it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from command import Bundle
from dockerd import Dockerd
from test_identifiers import judge

from bundler.buildroot import find_buildroot
from bundler.catalogue import Catalogue
from bundler.cli.common import CHECKOUT
from bundler.oci.merged import ImageTree
from bundler.oci.read import open_image
from bundler.settings import cache_directory
from bundler.store import Store
from bundler.tree import Kind


@pytest.fixture(scope="module")
def shell(built: Callable[[str], Path]) -> Bundle:
    return Bundle(built("shell"), {})


def test_sboms_before_the_official_validators(shell: Bundle, tmp_path: Path) -> None:
    documents = {}
    for form in ("spdx", "cyclonedx"):
        documents[form] = tmp_path / f"{form}.json"
        documents[form].write_text(shell("sbom", "--format", form, "shell"))
    judge(documents["spdx"], documents["cyclonedx"])
    listed = json.loads(documents["cyclonedx"].read_text())["components"]
    assert {"bash", "rsync", "zlib"} <= {item["name"] for item in listed}
    assert all(item["purl"].startswith("pkg:") and item["cpe"].startswith("cpe:2.3:a:") for item in listed)


def test_every_layer_says_by_itself_what_it_is(shell: Bundle, tmp_path: Path) -> None:
    image = open_image(shell.out / "shell")
    documents = []
    for layer in image.layers[:-1]:
        name = layer.comment.split()[0]
        with ImageTree(replace(image, layers=(layer,), original=None)) as tree:
            place = f".deps/shell/1/share/bundle/recipes/{name}"
            lines = [json.loads(line) for line in tree.open(f"{place}.jsonl").read().splitlines()]
            listed = {
                line["path"] for line in lines if line["type"] == "entry" and line["kind"] != "directory"
            }
            there = {entry.path for entry in tree.walk() if entry.kind is not Kind.DIRECTORY}
            assert there - listed == {f"{place}{kind}" for kind in (".jsonl", ".spdx.json", ".cdx.json")}
            for kind in ("spdx", "cdx"):
                documents.append(tmp_path / f"{name}.{kind}.json")
                documents[-1].write_bytes(tree.open(f"{place}.{kind}.json").read())
    assert len(documents) == 24
    judge(*documents)


def test_provenance_says_what_the_image_was_made_of(shell: Bundle) -> None:
    image = open_image(shell.out / "shell")
    said = json.loads(shell("provenance", "shell"))["buildDefinition"]
    assert said["internalParameters"]["image"] == image.id
    manifest = [json.loads(line) for line in shell("sbom", "--format", "manifest", "shell").splitlines()]
    recipes = {line["name"]: line for line in manifest if line["type"] == "recipe"}
    assert said["internalParameters"]["recipes"].keys() == recipes.keys()
    digests = {f"sha256:{one['digest']['sha256']}" for one in said["resolvedDependencies"]}
    sources = {source["digest"] for line in recipes.values() for source in line["sources"]}
    assert sources <= digests
    assert open_image(shell.out / "runtime").id in digests


def test_a_bundle_put_on_a_debian_starts_there(shell: Bundle, dockerd: Dockerd, tmp_path: Path) -> None:
    toolchain = Catalogue(
        recipes=(CHECKOUT / "recipes",), images=(CHECKOUT / "images",), toolchains=CHECKOUT / "toolchain"
    ).toolchain("seed")
    root = find_buildroot(Store(cache_directory()), toolchain.buildroot, toolchain.links)
    assert root is not None
    base, both = str(tmp_path / "debian"), str(tmp_path / "both.tar")
    shell("rechunk", str(root), "-o", base, "--layers", "3", "--tag", "debian:1")
    put = ("--on", base, "-o", both, "--tag", "both:1", "--out", str(shell.out))
    refused = shell.run("delta", "shell", *put)
    assert refused.returncode == 2
    assert "no layer has the loader /.deps/rt/1/lib/ld-linux-x86-64.so.2" in refused.stderr
    told = shell("delta", "runtime", "shell", *put).splitlines()
    assert told[2] == "shared 0 files, 0 bytes"
    below = open_image(Path(base)).layers
    made = open_image(Path(both)).layers[: len(below)]
    assert [layer.diff_id for layer in made] == [layer.diff_id for layer in below]
    dockerd.docker("load", "-i", both)
    script = "/.deps/shell/1/bin/tree --version && /bin/cat /etc/debian_version"
    ran = dockerd.docker("run", "--rm", "--net=none", "both:1", "/.deps/shell/1/bin/bash", "-c", script)
    assert "tree v" in ran


def write_advisory(place: Path, *packages: tuple[str, str]) -> str:
    """A file with an advisory that every version of these (ecosystem, name) is affected by."""
    affected = [
        {
            "package": {"ecosystem": ecosystem, "name": name},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
        }
        for ecosystem, name in packages
    ]
    (place / "a.json").write_text(json.dumps({"id": "TEST-1", "affected": affected}))
    return str(place / "a.json")


@pytest.mark.parametrize(
    ("name", "ecosystem", "affected"), [("zlib", "Debian:13", "shell"), ("glibc", "Debian:13", "runtime")]
)
def test_advisories_find_recipes_bundles_and_images(
    shell: Bundle, tmp_path: Path, name: str, ecosystem: str, affected: str
) -> None:
    advisory = write_advisory(tmp_path, (ecosystem, name))
    done = shell.run("advisories", "--out", str(shell.out), "--format", "json", advisory)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    affects = next(one for one in found["advisories"][0]["affects"] if one["name"] == name)
    assert affects["images"] == [affected]
    assert affected in affects["bundles"]
    assert Path(affects["recipe"]).is_file()
    assert affected in found["rebuild"]["images"]


def test_what_was_put_together_or_loaded_is_read_back_as_well(
    shell: Bundle, dockerd: Dockerd, tmp_path: Path
) -> None:
    both, again = str(tmp_path / "both"), str(tmp_path / "again")
    out = ["--out", str(shell.out)]
    shell("compose", "runtime", "shell", "-o", both, "--tag", "both:1", *out)
    # The daemon's environment has a home of its own.
    here = {"BUNDLE_ENGINE": "docker", "BUNDLE_CACHE": str(cache_directory())}
    docker = Bundle(shell.out, {**dockerd.environment, **here})
    loaded = f"docker:{docker('load', 'shell', *out).split()[-1]}"
    advisory = write_advisory(tmp_path, ("Debian:13", "zlib"), ("Debian:13", "glibc"))
    images = ["--image", both, "--image", loaded]
    done = docker.run("advisories", advisory, *images, "--format", "json", *out)
    assert done.returncode == 1, done.stderr
    affects = {one["name"]: one["images"] for one in json.loads(done.stdout)["advisories"][0]["affects"]}
    assert (affects["glibc"], affects["zlib"]) == ([both], [both, loaded])

    told = docker("upgrade", "--plan", both, loaded, *out).splitlines()
    assert [line.rpartition(": ")[2] for line in told] == ["as the recipes give it"] * 3
    shell("upgrade", both, "-o", again, "--progress", "none", *out)
    assert open_image(Path(again)).id == open_image(Path(both)).id


def test_an_upgrade_of_what_is_up_to_date_changes_nothing(shell: Bundle) -> None:
    told = shell("upgrade", "--plan", "--out", str(shell.out), "runtime", "shell").splitlines()
    assert [line.partition(" ")[2].partition(": ")[2] for line in told] == ["as the recipes give it"] * 2


def test_an_upgrade_after_a_change_of_a_recipe(shell: Bundle, tmp_path: Path) -> None:
    """tree is changed (its manual goes) and a bundle of it alone built again: one layer, known files."""
    images, recipes = tmp_path / "images", tmp_path / "recipes"
    images.mkdir()
    (images / "small.toml").write_text(
        'name = "small"\nversion = "1"\nsummary = "tree alone"\nshort = "small"\ncompat = 1\n'
        'requires = ["runtime"]\nrecipes = ["xxhash", "tree"]\ncommands = ["bin/tree"]\n'
    )
    options = ["--out", str(tmp_path / "out"), "--images", str(images), "--progress", "none"]
    shell("build", "small", *options)
    changed = recipes / "tree"
    changed.mkdir(parents=True)
    text = (CHECKOUT / "recipes/tree/recipe.toml").read_text()
    # The second glob makes a key that no cache has.
    changed.joinpath("recipe.toml").write_text(
        f'drop = ["share/man/**", "none-{secrets.token_hex(8)}"]\n' + text
    )
    for patch in (CHECKOUT / "recipes/tree").glob("*.patch"):
        changed.joinpath(patch.name).write_bytes(patch.read_bytes())
    options += ["--recipes", str(recipes)]
    plan = json.loads(shell("upgrade", "--plan", "small", "--format", "json", *options))[0]["bundles"][0]
    assert {one["name"]: one["step"] for one in plan["recipes"]} == {"tree": "to build", "xxhash": "kept"}
    made = json.loads(shell("upgrade", "small", "--format", "json", *options))[0]["bundles"][0]
    steps = {one["name"]: one for one in made["recipes"]}
    assert {name: one["step"] for name, one in steps.items()} == {"tree": "changed", "xxhash": "kept"}
    assert {(change["kind"], change["path"]) for change in steps["tree"]["files"]} == {
        ("removed", ".deps/small/1/share/man/man1/tree.1")
    }
    assert made["layers_kept"] == 1
    told = shell("upgrade", "--plan", "small", *options)
    assert told == "small 1: as the recipes give it"
