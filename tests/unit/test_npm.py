"""The npm registry: its metadata read, its packages fetched."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bundler import npm
from bundler.digest import digest_bytes
from bundler.download import Failure
from bundler.errors import EnvironmentLacks
from bundler.fetch import Fetcher
from bundler.recipe import Source

METADATA = {
    "dist-tags": {"latest": "22.2.0", "next": "24.0.0-rc.1"},
    "versions": {
        version: {"dist": {"tarball": f"https://registry.example/x-{version}.tgz"}}
        for version in ("20.9.0", "22.2.0", "22.10.0", "22.11.0-rc.1", "24.0.0-rc.1")
    },
}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("22.2.0", "22.2.0"),
        ("latest", "22.2.0"),
        ("next", "24.0.0-rc.1"),
        ("22", "22.10.0"),
        ("22.2", "22.2.0"),
        ("20", "20.9.0"),
    ],
)
def test_choosing_a_version(wanted: str, expected: str) -> None:
    found = npm.choose("x", wanted, json.dumps(METADATA))
    assert (found.version, found.url) == (expected, f"https://registry.example/x-{expected}.tgz")


@pytest.mark.parametrize(
    ("wanted", "text", "why"),
    [
        ("2", json.dumps(METADATA), "has no version '2' of x"),
        ("1.0.0", "not json", "no package's metadata"),
        ("1.0.0", "[]", "no package's metadata"),
        ("1.0.0", '{"versions": {"1.0.0": {}}}', "no package's metadata"),
        ("1.0.0", '{"versions": 1}', "no package's metadata"),
    ],
)
def test_metadata_that_do_not_help(wanted: str, text: str, why: str) -> None:
    with pytest.raises(Failure) as caught:
        npm.choose("x", wanted, text)
    assert why in caught.value.why


class _Registry(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        address = f"http://127.0.0.1:{self.server.server_address[1]}"
        if self.path == "/@scope%2Ftool":
            body = json.dumps({"versions": {"1.0.0": {"dist": {"tarball": f"{address}/tool.tgz"}}}}).encode()
        elif self.path == "/tool.tgz":
            body = b"the tarball"
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Registry) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        npm.registry.cache_clear()
        monkeypatch.setenv(npm.VARIABLE, f"http://127.0.0.1:{server.server_address[1]}/")
        yield
        npm.registry.cache_clear()
        server.shutdown()
        thread.join()


def test_fetching_from_a_registry(registry: None, tmp_path: Path) -> None:
    source = Source(("npm:@scope/tool@1.0.0",), digest_bytes(b"the tarball"))
    assert Fetcher(tmp_path).fetch(source).read_bytes() == b"the tarball"
    with pytest.raises(EnvironmentLacks, match=r"no version '2\.0\.0' of @scope/tool"):
        Fetcher(tmp_path).fetch(Source(("npm:@scope/tool@2.0.0",), digest_bytes(b"")))


def test_files_beside_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/x.tar").write_bytes(b"x")
    source = Source(("file:x.tar",), digest_bytes(b"x"), home=tmp_path / "recipe")
    assert source.file_name == "x.tar"
    assert Fetcher(tmp_path / "cache", offline=True).fetch(source).read_bytes() == b"x"
