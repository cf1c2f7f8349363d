"""Every form of target shows verify the same bundle: the report is one and the same.

The bundle is the real ``shell``; podman's volumes and images count like Docker's.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import Bundle
from dockerd import Dockerd
from podmans import PrivatePodman

from bundler.cli.common import CHECKOUT
from bundler.elf.edits import Edits
from bundler.elf.patch import patch_file
from bundler.oci.layout import write_archive
from bundler.oci.merged import ImageTree
from bundler.oci.read import open_image
from bundler.tree import Kind
from bundler.tree_writer import TreeWriter

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from closure_forge import Forged, forge

pytestmark = pytest.mark.engine

PREFIX = "/.deps/shell/1"
Built = Callable[[str], Path]


@pytest.fixture(scope="module")
def shell(built: Built, dockerd: Dockerd) -> Bundle:
    return Bundle(built("shell"), {**dockerd.environment, "BUNDLE_ENGINE": "docker"})


@pytest.fixture(scope="module")
def unpacked(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system that has the bundle at its prefix, with the modes of the image."""
    root = tmp_path_factory.mktemp("unpacked")
    writer = TreeWriter(root, "shell", is_root=True)
    with ImageTree(open_image(built("shell") / "shell")) as tree:
        for entry in tree.walk():
            if entry.kind is Kind.DIRECTORY:
                writer.directory(entry.path)
            elif entry.kind is Kind.SYMLINK:
                writer.symlink(entry.path, entry.target or "")
            else:
                with tree.open(entry.path) as stream:
                    executable = bool(entry.mode & 0o111)
                    writer.file(entry.path, stream, entry.size, executable=executable, mtime=None)
    return root


def report(bundle: Bundle, *words: str) -> dict[str, Any]:
    (found,) = json.loads(bundle("verify", "--format", "json", *words))
    return dict(found)


def test_directories_layouts_and_archives_are_all_the_same(
    shell: Bundle, built: Built, unpacked: Path, tmp_path: Path
) -> None:
    layout = built("shell") / "shell"
    write_archive(tmp_path / "shell.tar", open_image(layout))
    by_name = report(shell, "shell")
    assert by_name["ok"] and by_name["prefix"] == PREFIX
    assert by_name["counts"]["programs"] > 10
    for target in (layout, tmp_path / "shell.tar", unpacked / PREFIX[1:]):
        assert report(shell, str(target)) == by_name, target
    assert report(shell, "--prefix", PREFIX, str(unpacked)) == by_name


def test_docker_images_and_volumes_are_the_same(shell: Bundle) -> None:
    by_name = report(shell, "shell")
    references = shell("load", "shell").split()
    assert report(shell, f"docker:{references[-1]}") == by_name
    volumes = shell("volume", "create", "shell").split()
    name = next(volume for volume in volumes if volume.startswith("bundle-shell-"))
    assert report(shell, f"volume:{name}") == by_name


def test_damage_in_a_copy_is_found_with_its_exit_status(
    shell: Bundle, unpacked: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(unpacked / PREFIX[1:], copy, symlinks=True)
    (copy / "lib/libreadline.so.8").unlink()
    (copy / "bin/env").symlink_to("/usr/bin/env")
    done = shell.run("verify", str(copy))
    assert done.returncode == 1
    assert "bin/bash: error: " in done.stdout and "[needed-missing]" in done.stdout
    assert f"{PREFIX}/bin/env: error: leads to /usr/bin/env: outside" in done.stdout
    assert "Traceback" not in done.stderr


def shared(name: str, *needed: str, **rest: Any) -> bytes:
    return forge(Forged(soname=name, needed=needed, **rest))


Plant = Callable[[Path], object]
PLANTED: list[tuple[str, str, Plant]] = [
    ("needed-outside", "bin/tree", lambda p: patch(p / "bin/tree", add_needed=("/usr/lib/libhost.so.1",))),
    ("runpath", "bin/tree", lambda p: patch(p / "bin/tree", runpath="/.deps/rt/1/lib")),
    ("rpath-outside", "bin/tree", lambda p: patch(p / "bin/tree", rpath="/.deps/rt/1/lib:/usr/lib")),
    (
        "interpreter-outside",
        "bin/tree",
        lambda p: patch(p / "bin/tree", interpreter="/lib64/ld-linux-x86-64.so.2"),
    ),
    ("needed-missing", "bin/tree", lambda p: patch(p / "bin/tree", add_needed=("libgone.so.7",))),
    (
        "version-missing",
        "lib/libnew.so.1",
        lambda p: (p / "lib/libnew.so.1").write_bytes(
            shared(
                "libnew.so.1",
                "libc.so.6",
                rpath="/.deps/rt/1/lib",
                nodeflib=True,
                versions_needed=[("libc.so.6", "GLIBC_2.99", False)],
            )
        ),
    ),
    ("link-dangling", "lib/liblz4.so.1", lambda p: (p / "lib/liblz4.so.1").resolve().unlink()),
    ("link-outside", "bin/sh", lambda p: (p / "bin/sh").symlink_to("/bin/sh")),
    ("link-outside", "bin/up", lambda p: (p / "bin/up").symlink_to("../../../../etc/passwd")),
    ("shebang-outside", "bin/hello", lambda p: (p / "bin/hello").write_text("#!/usr/bin/perl\n")),
    ("elf-damaged", "bin/rsync", lambda p: os.truncate(p / "bin/rsync", 5000)),
    (
        "machine-foreign",
        "lib/libarm.so.1",
        lambda p: (p / "lib/libarm.so.1").write_bytes(shared("libarm.so.1", machine=183)),
    ),
]


def patch(file: Path, **edits: Any) -> None:
    patch_file(file, Edits(**edits))


@pytest.mark.parametrize(("rule", "path", "plant"), PLANTED)
def test_each_planted_fault_fails_by_name(
    rule: str, path: str, plant: Plant, shell: Bundle, unpacked: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(unpacked / PREFIX[1:], copy, symlinks=True)
    plant(copy)
    if (copy / path).is_file() and not (copy / path).is_symlink():
        (copy / path).chmod(0o755)
    done = shell.run("verify", "--format", "json", str(copy))
    assert done.returncode == 1, done.stderr
    found = [item for item in json.loads(done.stdout)[0]["violations"] if item["rule"] == rule]
    assert f"{PREFIX}/{path}" in [item["path"] for item in found]
    assert all(item["hint"] and item["message"] for item in found)
    if rule.startswith(("needed", "version", "interpreter", "shebang")):
        assert all(item["chain"][0].startswith(PREFIX) and len(item["chain"]) > 1 for item in found)


@pytest.mark.engine
def test_podman_volumes_are_the_same(podman: PrivatePodman, built: Built) -> None:
    bundle = Bundle(built("shell"), {**podman.environment, "BUNDLE_ENGINE": "podman"})
    by_name = report(bundle, "shell")
    references = bundle("load", "shell").split()
    assert report(bundle, f"podman:{references[-1]}") == by_name
    volumes = bundle("volume", "create", "shell").split()
    name = next(volume for volume in volumes if volume.startswith("bundle-shell-"))
    assert report(bundle, f"volume:{name}") == by_name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nothing-there",), "there is nothing to verify at 'nothing-there'"),
        (("docker:none:1",), "has no image 'none:1'"),
        (("volume:none",), "has no data container 'none'"),
        ((), "there is nothing to verify"),
        (("--explain", "runpth"), "did you mean 'runpath'?"),
    ],
)
def test_what_cannot_be_verified_is_a_usage_error(
    shell: Bundle, words: tuple[str, ...], message: str
) -> None:
    done = shell.run("verify", *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_required_bundle_that_is_nowhere_is_an_error_of_its_own(
    shell: Bundle, built: Built, tmp_path: Path
) -> None:
    alone = Bundle(tmp_path, shell.environment)
    done = alone.run("verify", str(built("shell") / "shell"))
    assert done.returncode == 2
    assert "the required bundle 'runtime' is not at hand" in done.stderr
    assert "--with" in done.stderr
    runtime = str(built("shell") / "runtime")
    assert report(alone, "--with", runtime, str(built("shell") / "shell"))["ok"]


def test_what_an_image_file_accepts_counts(shell: Bundle, unpacked: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(unpacked / PREFIX[1:], copy, symlinks=True)
    (copy / "bin/env").symlink_to("/usr/bin/env")
    (tmp_path / "images").mkdir()
    text = (CHECKOUT / "images/shell.toml").read_text()
    accept = '[[accept]]\nrule = "link-outside"\npath = "bin/env"\nreason = "the container\'s own is meant"\n'
    (tmp_path / "images/shell.toml").write_text(f"{text}\n{accept}")
    assert shell.run("verify", str(copy)).returncode == 1
    found = report(shell, "--images", str(tmp_path / "images"), str(copy))
    assert [item["reason"] for item in found["accepted"]] == ["the container's own is meant"]


def test_a_directory_without_a_place_asks_for_it(shell: Bundle, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    done = shell.run("verify", str(tmp_path))
    assert done.returncode == 2
    assert "--prefix" in done.stderr


@pytest.mark.parametrize(
    "name",
    ["shell", "gitartifact", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ansible", "chef"))],
)
def test_every_command_runs_in_foreign_roots(
    name: str, built: Built, foreign_root: Callable[[str], Path], tmp_path: Path
) -> None:
    page = tmp_path / "matrix.html"
    roots = [word for root in ("musl", "debian") for word in ("--foreign", f"{root}={foreign_root(root)}")]
    text = Bundle(built(name), {})("verify", "--run", *roots, "--html", str(page), "runtime", name)
    assert text.splitlines()[-1].endswith("every command runs the same")
    assert page.read_text().count("<table>") == 2
