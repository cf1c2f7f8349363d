"""Push and pull against Debian's docker-registry, and what other clients make of what we pushed."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dockerd import Dockerd
from registry import DroppingProxy, RegistryServer

from bundler.cli.main import main
from bundler.digest import digest_bytes, digest_file
from bundler.errors import EnvironmentLacks
from bundler.oci.image import Image, ImageConfig, Layer, layer_of, memory_stream
from bundler.oci.layer import LayerSource
from bundler.oci.layout import write_layout
from bundler.oci.pack import MemoryTree
from bundler.oci.read import open_image
from bundler.process import BASE_ENVIRONMENT, run
from bundler.registry.client import Repository
from bundler.registry.reference import parse_reference
from bundler.registry.transfer import pull, push

# "tester" with the password "secret word", as htpasswd -B writes it.
HTPASSWD = "tester:$2b$05$VQ6zJwmZXOHARMKG3.dmWORtSiMs7jpOUiJsZEN5ipjtBbOJEg5Lu\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as running:
        yield running


def layer(name: str, size: int) -> Layer:
    tree = MemoryTree({f"opt/{name}": random.Random(name).randbytes(size)})
    return layer_of(LayerSource(name, "1", tree, tree.entries))


@pytest.fixture(scope="module")
def image() -> Image:
    """One layer is larger than a chunk of an upload."""
    layers = (layer("small", 10), layer("large", 40 << 20), layer("other", 3000))
    return Image(layers, ImageConfig("amd64", command=("/nop",)), reference="x:1")


def repository(server: RegistryServer, name: str) -> Repository:
    return Repository(parse_reference(f"{server.host}/{name}"))


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
def test_what_was_pushed_comes_back(server: RegistryServer, image: Image, codec: str, tmp_path: Path) -> None:
    there = repository(server, f"back/{codec}:1")
    done = push(image, there, codec=codec)  # type: ignore[arg-type]
    found = pull(there, tmp_path / "layout")
    assert found.digest == done.descriptor.digest
    assert (codec == "none") == (found.digest == image.digest)
    assert found.id == image.id == open_image(tmp_path / "layout").id


def test_a_second_push_sends_nothing(server: RegistryServer, image: Image, tmp_path: Path) -> None:
    there = repository(server, "twice:1")
    first = push(image, there, memory=tmp_path / "memory")
    again = push(image, repository(server, "twice:2"), memory=tmp_path / "memory")
    assert (again.sent, again.skipped) == (0, 4)
    assert again.descriptor == first.descriptor


def test_layers_are_taken_over_from_another_repository(server: RegistryServer, image: Image) -> None:
    push(image, repository(server, "from/here:1"), codec="none")
    done = push(image, repository(server, "to/there:1"), codec="none", mount_from=["from/here"])
    assert done.sent == 0


def test_docker_pulls_it(server: RegistryServer, image: Image, dockerd: Dockerd) -> None:
    push(image, repository(server, "for/docker:1"))
    dockerd.docker("pull", f"{server.host}/for/docker:1")
    found = json.loads(dockerd.docker("image", "inspect", f"{server.host}/for/docker:1"))[0]
    assert found["Id"] == image.id
    dockerd.docker("rmi", f"{server.host}/for/docker:1")


def test_skopeo_pushes_and_we_pull(server: RegistryServer, image: Image, tmp_path: Path) -> None:
    write_layout(tmp_path / "layout", image)
    done = run(
        [
            *("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", "--preserve-digests"),
            *(f"oci:{tmp_path}/layout", f"docker://{server.host}/by/skopeo:1"),
        ],
        environment={**BASE_ENVIRONMENT, "HOME": str(tmp_path)},
    )
    assert done.ok, done.stderr
    assert pull(repository(server, "by/skopeo:1"), tmp_path / "back").digest == image.digest


def test_referrers_are_found_by_tag_where_the_api_is_missing(server: RegistryServer, image: Image) -> None:
    there = repository(server, "refers:1")
    done = push(image, there)
    one = there.attach(done.descriptor, "application/spdx+json", "application/spdx+json", b"{}")
    two = there.attach(done.descriptor, "text/plain", "text/plain", b"note")
    again = there.attach(done.descriptor, "text/plain", "text/plain", b"note")
    assert two == again
    assert [item["digest"] for item in there.referrers(done.descriptor.digest)] == [one, two]
    (found,) = there.referrers(done.descriptor.digest, "text/plain")
    manifest = json.loads(there.manifest(found["digest"])[0])
    assert manifest["subject"]["digest"] == done.descriptor.digest
    assert manifest["layers"][0]["digest"] == digest_bytes(b"note")


def test_an_interrupted_pull_goes_on(server: RegistryServer, image: Image, tmp_path: Path) -> None:
    there = repository(server, "broken:1")
    done = push(image, there, codec="none")
    large = image.layers[1].descriptor
    staging = tmp_path / ".layout.pull/sha256"
    staging.mkdir(parents=True)
    data = memory_stream(image.layers[1].blob).read()
    (staging / f"{large.digest[7:]}.part").write_bytes(data[: 30 << 20])
    assert pull(there, tmp_path / "layout").digest == done.descriptor.digest
    assert [path.name for path in tmp_path.iterdir()] == ["layout"]


def test_a_wrong_beginning_is_found_and_fetched_again(
    server: RegistryServer, image: Image, tmp_path: Path
) -> None:
    there = repository(server, "broken:1")
    push(image, there, codec="none")
    large = image.layers[1].descriptor
    staging = tmp_path / ".layout.pull/sha256"
    staging.mkdir(parents=True)
    (staging / f"{large.digest[7:]}.part").write_bytes(bytes(1000))
    assert pull(there, tmp_path / "layout").id == image.id


def test_an_upload_that_broke_off_goes_on(server: RegistryServer, image: Image) -> None:
    with DroppingProxy(server.host, [24 << 20, 2000, 10 << 20]) as proxy:
        there = Repository(parse_reference(f"{proxy.host}/resumed:1"), sleep=lambda seconds: None)
        with memory_stream(image.layers[1].blob) as stream:
            there.put_blob(image.layers[1].descriptor, stream)
        assert proxy.dropped == 3
        assert proxy.passed < 80 << 20
    assert repository(server, "resumed:1").has_blob(image.layers[1].descriptor.digest)


def test_a_download_that_breaks_off_goes_on(server: RegistryServer, image: Image, tmp_path: Path) -> None:
    push(image, repository(server, "dropped:1"), codec="none")
    large = image.layers[1].descriptor
    with DroppingProxy(server.host, [10 << 20, 20 << 20], answers=True) as proxy:
        there = Repository(parse_reference(f"{proxy.host}/dropped:1"), sleep=lambda seconds: None)
        there.fetch_blob(large, tmp_path / "blob")
        assert proxy.dropped == 2
    assert digest_file(tmp_path / "blob") == large.digest


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "guarded", HTPASSWD) as running:
        yield running


def test_the_password_comes_from_dockers_configuration(
    guarded: RegistryServer, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    there = repository(guarded, "private/x:1")
    with pytest.raises(EnvironmentLacks) as caught:
        push(image, there)
    assert "docker login" in str(caught.value)
    auth = base64.b64encode(b"tester:secret word").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {guarded.host: {"auth": auth}}}))
    done = push(image, there)
    assert pull(there, tmp_path / "layout").digest == done.descriptor.digest


def test_the_password_comes_from_a_helper(
    guarded: RegistryServer, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "bin/docker-credential-fake"
    helper.parent.mkdir()
    answer = json.dumps({"ServerURL": guarded.host, "Username": "tester", "Secret": "secret word"})
    helper.write_text(f"#!/bin/sh\n[ \"$1 $(cat)\" = 'get {guarded.host}' ] && echo '{answer}'\n")
    helper.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {guarded.host: "fake"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", f"{helper.parent}:{BASE_ENVIRONMENT['PATH']}")
    push(replace(image, layers=image.layers[:1]), repository(guarded, "private/y:1"))


def test_the_verbs(
    server: RegistryServer,
    image: Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BUNDLE_CACHE", str(tmp_path / "cache"))
    write_layout(tmp_path / "layout", image)
    reference = f"{server.host}/verbs/x:1"
    assert main(["push", str(tmp_path / "layout"), reference, "--progress", "none"]) == 0
    digest = capsys.readouterr().out.strip().partition("@")[2]
    assert main(["pull", reference, str(tmp_path / "back"), "--progress", "none"]) == 0
    assert capsys.readouterr().out.strip() == digest
    assert main(["diff", str(tmp_path / "layout"), str(tmp_path / "back")]) == 0
