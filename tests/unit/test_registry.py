"""Registries that are slow, rude or dishonest: what we do then, against a server of a few lines."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_oci_image import image, layer

from bundler.digest import Digest, digest_bytes
from bundler.download import NetworkSettings
from bundler.errors import BundleError, EnvironmentLacks, InputError
from bundler.oci import image as media
from bundler.oci.image import Descriptor, blobs_of
from bundler.registry.auth import Credentials, find_credentials
from bundler.registry.client import Repository
from bundler.registry.reference import Reference, parse_reference
from bundler.registry.transfer import pull

DATA = b"content" * 1000
BLOB = Descriptor("application/octet-stream", digest_bytes(DATA), len(DATA))
ZERO = "sha256:" + "0" * 64

Answer = tuple[int, dict[str, str], bytes]
Behaviour = Callable[["Request"], Answer]


class Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behaviour: Behaviour
    seen: list[tuple[str, str]]
    body: bytes

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.command, self.path))
        status, headers, body = type(self).behaviour(self)
        self.send_response(status)
        length = headers.pop("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if length != str(len(body)):
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def registry(behaviour: Behaviour) -> Iterator[tuple[Repository, list[tuple[str, str]], list[float]]]:
    """A repository at a server that behaves so; what it was asked, and how long we slept."""
    seen: list[tuple[str, str]] = []
    pauses: list[float] = []
    handler = type("Handler", (Request,), {"behaviour": staticmethod(behaviour), "seen": seen})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        settings = NetworkSettings(attempts=4, backoff=0.5, connect_timeout=5, read_timeout=5)
        reference = parse_reference(f"127.0.0.1:{server.server_port}/some/where:1")
        repository = Repository(reference, settings=settings, sleep=pauses.append)
        try:
            yield repository, seen, pauses
        finally:
            repository.close()
            server.shutdown()
            thread.join()


def first(answers: list[Answer], then: Answer) -> Behaviour:
    """Give these answers, one each time, and then always the last."""
    left = list(answers)
    return lambda request: left.pop(0) if left else (then[0], dict(then[1]), then[2])


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int, tmp_path: Path) -> None:
    with registry(first([(status, {}, b""), (status, {}, b"")], (200, {}, DATA))) as (there, seen, pauses):
        there.fetch_blob(BLOB, tmp_path / "blob")
        assert (tmp_path / "blob").read_bytes() == DATA
        assert len(seen) == 3
        assert pauses == [0.5, 1.0]


def test_a_registry_may_say_when_to_come_back() -> None:
    with registry(first([(429, {"Retry-After": "7"}, b"")], (200, {}, b""))) as (there, _, pauses):
        assert there.has_blob(BLOB.digest)
        assert pauses == [7.0]


def test_what_stays_broken_is_an_error_that_says_so() -> None:
    body = json.dumps({"errors": [{"code": "UNKNOWN", "message": "the disk is full"}]}).encode()
    with (
        registry(lambda request: (500, {}, body)) as (there, seen, _),
        pytest.raises(EnvironmentLacks) as caught,
    ):
        there.manifest("1")
    assert "the disk is full" in str(caught.value)
    assert len(seen) == 4


@pytest.mark.parametrize("status", [400, 403, 404, 405])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    with registry(lambda request: (status, {}, b"")) as (there, seen, _), pytest.raises(EnvironmentLacks):
        there.manifest("1")
    assert len(seen) == 1


def test_a_manifest_of_another_digest_is_refused() -> None:
    with registry(lambda request: (200, {}, b"{}")) as (there, _, _), pytest.raises(InputError, match="give"):
        there.manifest(ZERO)


def test_an_endless_manifest_is_refused() -> None:
    with registry(lambda request: (200, {}, bytes(5 << 20))) as (there, _, _), pytest.raises(InputError):
        there.manifest("1")


def test_a_blob_of_another_digest_is_never_kept(tmp_path: Path) -> None:
    other = DATA[:-1] + b"X"
    with (
        registry(lambda request: (200, {}, other)) as (there, _, _),
        pytest.raises(EnvironmentLacks) as caught,
    ):
        there.fetch_blob(BLOB, tmp_path / "blob")
    assert "its bytes have the digest" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_blob_that_does_not_end_is_cut_off(tmp_path: Path) -> None:
    with (
        registry(lambda request: (200, {}, DATA * 3)) as (there, _, _),
        pytest.raises(InputError, match="more than"),
    ):
        there.fetch_blob(BLOB, tmp_path / "blob")
    assert not (tmp_path / "blob").exists()


def test_a_download_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    asked = []

    def behaviour(request: Request) -> Answer:
        asked.append(request.headers.get("Range"))
        if len(asked) == 1:
            return 200, {"Content-Length": str(len(DATA))}, DATA[:3000]
        return 206, {"Content-Range": f"bytes 3000-{len(DATA) - 1}/{len(DATA)}"}, DATA[3000:]

    with registry(behaviour) as (there, _, _):
        there.fetch_blob(BLOB, tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == DATA
    assert asked == [None, "bytes=3000-"]


def test_a_server_without_ranges_sends_all_again(tmp_path: Path) -> None:
    (tmp_path / "blob.part").write_bytes(DATA[:100])
    with registry(lambda request: (200, {}, DATA)) as (there, _, _):
        there.fetch_blob(BLOB, tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == DATA


def test_an_upload_goes_on_where_the_server_stands(tmp_path: Path) -> None:
    taken = bytearray()

    def behaviour(request: Request) -> Answer:
        location = {"Location": "/v2/some/where/blobs/uploads/u?state=1"}
        if request.command == "POST":
            return 202, location, b""
        if request.command == "PATCH" and not taken:
            taken.extend(request.body[:4000])
            return 503, {}, b""
        if request.command == "GET":
            return 204, {**location, "Range": f"0-{len(taken) - 1}"}, b""
        if request.command == "PATCH":
            assert request.headers["Content-Range"] == f"4000-{len(DATA) - 1}"
            taken.extend(request.body)
            return 202, location, b""
        assert "state=1" in request.path
        assert "digest=sha256%3A" in request.path
        return 201, {"Docker-Content-Digest": digest_bytes(bytes(taken))}, b""

    (tmp_path / "data").write_bytes(DATA)
    with registry(behaviour) as (there, _, _), (tmp_path / "data").open("rb") as stream:
        there.put_blob(BLOB, stream)
    assert bytes(taken) == DATA


def test_an_upload_stored_as_something_else_is_an_error(tmp_path: Path) -> None:
    def behaviour(request: Request) -> Answer:
        status = {"POST": 202, "PATCH": 202, "PUT": 201}[request.command]
        return status, {"Location": "/v2/u", "Docker-Content-Digest": ZERO}, b""

    (tmp_path / "data").write_bytes(DATA)
    with (
        registry(behaviour) as (there, _, _),
        (tmp_path / "data").open("rb") as stream,
        pytest.raises(InputError, match="stored as"),
    ):
        there.put_blob(BLOB, stream)


def test_a_mount_that_is_refused_becomes_an_upload() -> None:
    with registry(lambda request: (202, {"Location": "/v2/u"}, b"")) as (there, seen, _):
        location = there.mount_blob(BLOB.digest, "else/where")
    assert location is not None
    assert location.endswith("/v2/u")
    assert seen == [
        ("POST", f"/v2/some/where/blobs/uploads/?mount=sha256%3A{BLOB.digest[7:]}&from=else%2Fwhere")
    ]


def test_tokens_are_fetched_once_and_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    auth = base64.b64encode(b"me:secret").decode()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def behaviour(request: Request) -> Answer:
        host = request.headers["Host"]
        (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
        if request.path.startswith("/token"):
            assert request.path == "/token?service=reg&scope=repository%3Asome%2Fwhere%3Apull"
            assert request.headers["Authorization"] == f"Basic {auth}"
            return 200, {}, b'{"token":"t0k3n"}'
        if request.headers.get("Authorization") == "Bearer t0k3n":
            return 200, {"Content-Type": media.MANIFEST}, b"{}"
        scope = "repository:some/where:pull"
        challenge = f'Bearer realm="http://{host}/token",service="reg",scope="{scope}"'
        return 401, {"WWW-Authenticate": challenge}, b""

    with registry(behaviour) as (there, seen, _):
        for _ in range(3):
            assert there.manifest("1") == (b"{}", media.MANIFEST)
    assert [path.partition("?")[0] for _, path in seen].count("/token") == 1


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Bearer realm="http://127.0.0.1:1/t"', "Odd", ""])
def test_access_refused_says_what_to_do(
    challenge: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with (
        registry(lambda request: (401, {"WWW-Authenticate": challenge}, b"")) as (there, _, _),
        pytest.raises(BundleError) as caught,
    ):
        there.manifest("1")
    assert "docker login" in str(caught.value) or "Connection refused" in str(caught.value)


def test_a_password_is_not_sent_where_an_answer_says_in_the_clear() -> None:
    from bundler.registry.auth import Authorizer

    headers = {"WWW-Authenticate": 'Bearer realm="http://evil.example/",service="x"'}
    refusal = SimpleNamespace(headers=headers)
    reference = Reference("registry.example", "x")
    authorizer = Authorizer(reference, lambda: Credentials("me", "secret"))
    with pytest.raises(EnvironmentLacks, match="no https address"):
        authorizer.answer(refusal, "pull", None, lambda *words, **options: pytest.fail("asked"))  # type: ignore[arg-type]


def test_a_netrc_does_not_speak_for_us(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))

    def behaviour(request: Request) -> Answer:
        assert "Authorization" not in request.headers
        return 200, {}, b""

    with registry(behaviour) as (there, _, _):
        assert there.has_blob(BLOB.digest)


CONFIGS: list[tuple[dict[str, object], Credentials | None]] = [
    ({}, None),
    ({"auths": {"h.example": {"auth": base64.b64encode(b"a:b:c").decode()}}}, Credentials("a", "b:c")),
    (
        {"auths": {"https://h.example/v2/": {"auth": base64.b64encode(b"a:b").decode()}}},
        Credentials("a", "b"),
    ),
    ({"auths": {"h.example": {"identitytoken": "t"}}}, Credentials("<token>", "t")),
    ({"auths": {"h.example": {}}}, None),
    ({"auths": {"other.example": {"auth": base64.b64encode(b"a:b").decode()}}}, None),
]


@pytest.mark.parametrize(("config", "expected"), CONFIGS)
def test_credentials(config: dict[str, object], expected: Credentials | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = find_credentials(Reference("h.example", "x"), {"DOCKER_CONFIG": str(tmp_path)})
    assert found == expected


def test_podmans_file_counts_first(tmp_path: Path) -> None:
    for name, user in (("auth.json", b"podman:x"), ("config.json", b"docker:x")):
        auths = {"h.example": {"auth": base64.b64encode(user).decode()}}
        (tmp_path / name).write_text(json.dumps({"auths": auths}))
    environment = {"REGISTRY_AUTH_FILE": str(tmp_path / "auth.json"), "DOCKER_CONFIG": str(tmp_path)}
    found = find_credentials(Reference("h.example", "x"), environment)
    assert found is not None
    assert found.user == "podman"
    assert "x" not in repr(found)


@pytest.mark.parametrize("text", ["{", '{"auths":{"h.example":{"auth":"%%%"}}}'])
def test_a_broken_configuration_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        find_credentials(Reference("h.example", "x"), {"DOCKER_CONFIG": str(tmp_path)})


REFERENCES = [
    ("127.0.0.1:5000/a", Reference("127.0.0.1:5000", "a")),
    ("localhost/a/b:c", Reference("localhost", "a/b", "c")),
    (
        "h.example/a:1@" + ZERO,
        Reference("h.example", "a", "1", parse_reference("h.example/a@" + ZERO).digest),
    ),
    ("[::1]:5000/a", Reference("[::1]:5000", "a")),
]


@pytest.mark.parametrize(("text", "expected"), REFERENCES)
def test_references(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    ["shell", "shell:1", "me/shell", "h.example/", "h.example/A", "h.example/a:", "h.example/a:b c",
     "h.example/../a", "h.example/a@sha256:12", "h ost.example/a", "h.example:999999/a",
     "h.example/" + "a" * 300],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(InputError):
        parse_reference(text)


@pytest.mark.parametrize("kind", [media.INDEX, "application/json", ""])
def test_an_index_is_known_by_what_it_says(kind: str, tmp_path: Path) -> None:
    """The image of the platform is chosen, whatever the registry calls the documents."""
    made = image(layer({"a": b"x"}))
    contents = {blob: data for blob, (_, data) in blobs_of(made).items()}
    item = {**made.descriptor().to_dict(), "platform": {"os": "linux", "architecture": "amd64"}}
    other = {**item, "digest": ZERO, "platform": {"os": "linux", "architecture": "arm64"}}
    index = json.dumps({"schemaVersion": 2, "manifests": [other, item]}).encode()

    def behaviour(request: Request) -> Answer:
        name = request.path.rpartition("/")[2]
        if name == "1":
            return 200, {"Content-Type": kind}, index
        found = contents[Digest(name)]
        headers = {"Content-Type": kind if name == made.digest and kind != media.INDEX else media.MANIFEST}
        return 200, headers, media.memory_stream(found).read()

    with registry(behaviour) as (there, _, _):
        assert pull(there, tmp_path / "layout").digest == made.digest
        with pytest.raises(InputError, match="no image for linux/riscv64"):
            pull(there, tmp_path / "other", platform="linux/riscv64")


def test_nothing_is_fetched_for_a_place_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with (
        registry(lambda request: (200, {}, b"")) as (there, seen, _),
        pytest.raises(InputError, match="no OCI"),
    ):
        pull(there, tmp_path)
    assert seen == []
