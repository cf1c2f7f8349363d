"""A real Debian root cut into layers: from a directory, from Docker, without privileges, to a registry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import Bundle
from dockerd import Dockerd
from registry import RegistryServer

from bundler.oci.layout import write_archive
from bundler.oci.merged import ImageTree
from bundler.oci.read import open_image
from bundler.process import BASE_ENVIRONMENT, run
from bundler.registry.client import Repository
from bundler.registry.reference import parse_reference
from bundler.registry.transfer import pull

CAPABILITY = "0x0100000200040000000000000000000000000000"

pytestmark = pytest.mark.engine


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path / "out", {"BUNDLE_CACHE": str(tmp_path / "cache")})


def listed(root: Path) -> dict[str, str]:
    """What GNU find says of each file: our reader has no part in it."""
    words = ["find", ".", "-mindepth", "1", "-printf", r"%P\t%y %m %U:%G %l %n\n"]
    done = run([*words], directory=root)
    lines = done.stdout.decode("utf-8", "surrogateescape").splitlines()
    return {
        name: rest if not rest.startswith("d") else rest.rpartition(" ")[0]
        for name, _, rest in (line.partition("\t") for line in lines)
    }


def test_a_debian_root(
    foreign_root: Callable[[str], Path], bundle: Bundle, dockerd: Dockerd, tmp_path: Path
) -> None:
    root = foreign_root("debian")
    lines = bundle("rechunk", str(root), "-o", "base", "--tag", "cut/base:1", "--layers", "12").splitlines()
    image = open_image(tmp_path / "base")
    assert lines[0] == image.digest
    assert len(image.layers) == 12
    write_archive(tmp_path / "base.tar", image)
    dockerd.docker("load", "--input", str(tmp_path / "base.tar"))
    container = dockerd.docker("create", "cut/base:1", "/bin/true")
    (tmp_path / "exported").mkdir()
    dockerd.docker("export", "--output", str(tmp_path / "exported.tar"), container)
    words = ["tar", "-xpf", str(tmp_path / "exported.tar"), "--numeric-owner"]
    assert run([*words, "-C", str(tmp_path / "exported")]).ok
    found, expected = listed(tmp_path / "exported"), listed(root)
    # What the engine puts into every container, and what an image leaves out.
    ours = {".dockerenv", "dev", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "proc", "sys"}
    skip = (*ours, "tmp/", "var/tmp/")
    for name in sorted(found.keys() | expected.keys()):
        if not name.startswith(skip):
            assert found.get(name) == expected.get(name), name
    assert dockerd.docker("start", "--attach", container) == ""
    assert bundle("rechunk", "docker:cut/base:1", "-o", "again", "--layers", "12", "--plan", "base",
                  DOCKER_HOST=dockerd.host)  # fmt: skip
    again = open_image(tmp_path / "again")
    assert [layer.diff_id for layer in again.layers] == [layer.diff_id for layer in image.layers]
    dockerd.docker("rm", container)
    dockerd.docker("rmi", "cut/base:1")


def test_without_privileges_capabilities_come_from_a_side_file(public_path: Path) -> None:
    root = public_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/ping").write_bytes(b"ping")
    (root / "usr/bin/ping").chmod(0o755)
    (public_path / "attributes").write_text(f"# file: usr/bin/ping\nsecurity.capability={CAPABILITY}\n")
    (public_path / "out").mkdir()
    for path in (public_path, public_path / "out"):
        os.chown(path, 65534, 65534)
    words = [sys.executable, "-m", "bundler", "rechunk", str(root), "-o", str(public_path / "out/image")]
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *words, "--xattrs", "attributes"],
        cwd=public_path,
        env={**BASE_ENVIRONMENT, "HOME": str(public_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with ImageTree(open_image(public_path / "out/image")) as tree:
        entry = tree.get("usr/bin/ping")
        assert entry is not None
        assert dict(entry.xattrs)["security.capability"].hex() == CAPABILITY[2:]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "registry") as running:
        yield running


def test_straight_to_a_registry(
    foreign_root: Callable[[str], Path], bundle: Bundle, server: RegistryServer, tmp_path: Path
) -> None:
    reference = f"{server.host}/cut/musl:1"
    bundle("rechunk", str(foreign_root("musl")), "--push", reference, "--layers", "3", "--progress", "none")
    image = pull(Repository(parse_reference(reference)), tmp_path / "pulled")
    assert all(layer.descriptor.media_type.endswith("+gzip") for layer in image.layers)
    assert bundle("rechunk", str(foreign_root("musl")), "-o", "here", "--layers", "3")
    diff = bundle.run("diff", "pulled", "here")
    assert (diff.returncode, diff.stdout) == (0, "")
    assert json.loads(bundle("inspect", "--format", "json", "pulled"))["id"] == image.id
