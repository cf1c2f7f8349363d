"""Fetching, against a local server that does what servers do."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import json
import os
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bundler.digest import Digest
from bundler.download import Failure, NetworkSettings, network_settings, public
from bundler.errors import BundleError, EnvironmentLacks, InputError, Problems
from bundler.events import Event, TaskAdvanced, TaskFinished, TaskStarted
from bundler.fetch import Fetcher
from bundler.git_source import check_out
from bundler.pypi import PipSettings, file_urls, parse_page, parse_pip_settings
from bundler.recipe import Source

CONTENT = bytes(range(256)) * 4000
SETTINGS = NetworkSettings(attempts=3, backoff=0.01, connect_timeout=2.0, read_timeout=0.3)

Handler = http.server.BaseHTTPRequestHandler
Answer = Callable[[Handler], None]


class Server:
    """Paths with what they answer; ``asked`` are the requests, each a path and its Range."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str | None]] = []
        outer = self

        class Requests(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, self.headers.get("Range")))
                outer.answers.get(self.path, status(404))(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._server.server_port}"
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def status(code: int, **headers: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def gives(content: bytes, kind: str = "application/octet-stream", *, says: int | None = None) -> Answer:
    """The content, saying that it has ``says`` bytes; no ranges."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(content) if says is None else says))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def resumes(content: bytes, *, at_most: int | None = None) -> Answer:
    """Ranges, and at most so many bytes a time."""

    def answer(handler: Handler) -> None:
        asked = handler.headers.get("Range")
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if begin >= len(content):
            return status(416)(handler)
        handler.send_response(206 if asked else 200)
        if asked:
            handler.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - begin))
        handler.end_headers()
        handler.wfile.write(content[begin : None if at_most is None else begin + at_most])
        return None

    return answer


def in_turn(*answers: Answer) -> Answer:
    rest = iter(answers)
    last = answers[-1]
    return lambda handler: next(rest, last)(handler)


def silent(seconds: float) -> Answer:
    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.flush()
        time.sleep(seconds)

    return answer


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def digest(content: bytes = CONTENT) -> Digest:
    return Digest("sha256:" + hashlib.sha256(content).hexdigest())


def source(*urls: str, content: bytes = CONTENT, **fields: object) -> Source:
    return Source(urls=urls, digest=digest(content), **fields)  # type: ignore[arg-type]


def fetcher(tmp_path: Path, events: list[Event] | None = None, *, offline: bool = False) -> Fetcher:
    sink = (lambda _: None) if events is None else events.append
    return Fetcher(tmp_path / "cache", offline=offline, sink=sink, settings=SETTINGS)


def leftovers(tmp_path: Path) -> list[str]:
    return sorted(os.listdir(tmp_path / "cache/sources/partial"))


def test_a_file_is_fetched_once_and_kept_read_only(server: Server, tmp_path: Path) -> None:
    server.answers["/x.tar.gz"] = gives(CONTENT, "application/x-gzip")
    events: list[Event] = []
    wanted = source(server.url + "/x.tar.gz")
    for _ in range(2):
        path = fetcher(tmp_path, events).fetch(wanted)
        assert path.read_bytes() == CONTENT
    assert path == tmp_path / "cache/sources" / digest().removeprefix("sha256:")
    assert path.stat().st_mode & 0o777 == 0o444
    assert server.asked == [("/x.tar.gz", None)]
    assert leftovers(tmp_path) == []
    assert events[0] == TaskStarted("fetch x.tar.gz", len(CONTENT), "bytes")
    assert isinstance(events[1], TaskAdvanced) and events[1].done == len(CONTENT)
    assert [type(event) for event in events] == [TaskStarted, TaskAdvanced, TaskFinished]


BAD: dict[str, tuple[Answer, str]] = {
    "missing": (status(404), "404 Not Found"),
    "forbidden": (status(403), "403 Forbidden"),
    "broken server": (status(503), "503 Service Unavailable"),
    "wrong bytes": (gives(b"x" * 10), f"its 10 bytes have SHA-256 {hashlib.sha256(b'x' * 10).hexdigest()}"),
    "cut short": (gives(CONTENT[:1000], says=len(CONTENT)), f"broke off after 1000 of {len(CONTENT)} bytes"),
    "sign-in page": (gives(b"<html>Sign in</html>", "text/html; charset=utf-8"), "an HTML page instead"),
    "page in disguise": (gives(b"\n<!DOCTYPE html><html>"), "an HTML page instead"),
    "redirects in a circle": (status(302, Location="/bad"), "redirects in a circle"),
    "redirect to nowhere": (status(302, Location="/none"), "404 Not Found (redirected to http://127.0.0.1"),
    "silence": (silent(1.0), "silent for 0.3 s after 0 bytes"),
    "other scheme": (status(302, Location="ftp://127.0.0.1/x"), "No connection adapters"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_one_url_does_wrong_another_makes_good(name: str, server: Server, tmp_path: Path) -> None:
    server.answers = {"/bad": BAD[name][0], "/good": gives(CONTENT)}
    path = fetcher(tmp_path).fetch(source(server.url + "/bad", server.url + "/good"))
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("name", BAD)
def test_the_error_says_which_url_did_what(name: str, server: Server, tmp_path: Path) -> None:
    answer, words = BAD[name]
    server.answers["/bad"] = answer
    events: list[Event] = []
    with pytest.raises(BundleError) as caught:
        fetcher(tmp_path, events).fetch(source(server.url + "/bad", server.url + "/gone"))
    assert f"  {server.url}/bad: " in str(caught.value)
    assert words in str(caught.value)
    assert f"  {server.url}/gone: 404 Not Found" in str(caught.value)
    assert isinstance(caught.value, InputError if name == "wrong bytes" else EnvironmentLacks)
    assert isinstance(events[-1], TaskFinished) and events[-1].outcome == "failed"
    assert not fetcher(tmp_path).path(digest()).exists()


def test_the_whole_text_of_a_wrong_digest(server: Server, tmp_path: Path) -> None:
    server.answers["/x-1.tar.gz"] = gives(b"other")
    with pytest.raises(InputError) as caught:
        fetcher(tmp_path).fetch(source(server.url + "/x-1.tar.gz"))
    assert str(caught.value) == (
        "error: 'x-1.tar.gz' is not what the recipe says: no URL gave its SHA-256\n"
        f"  why: expected {hashlib.sha256(CONTENT).hexdigest()}\n"
        f"  {server.url}/x-1.tar.gz: its 5 bytes have SHA-256 {hashlib.sha256(b'other').hexdigest()}\n"
        "  hint: if upstream has replaced the file, 'bundle fetch --update-hash' takes the new one"
    )
    assert leftovers(tmp_path) == []


def test_no_connection_and_no_such_host(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacks) as caught:
        fetcher(tmp_path).fetch(source("http://127.0.0.1:9/x", "http://host.invalid/x"))
    assert "http://127.0.0.1:9/x: no connection: " in str(caught.value)
    assert "http://host.invalid/x: no connection: " in str(caught.value)


def test_a_host_that_cannot_be_reached_is_asked_last_from_then_on(server: Server, tmp_path: Path) -> None:
    server.answers = {"/1": gives(b"1"), "/2": gives(b"2")}
    events: list[Event] = []
    one = fetcher(tmp_path, events)
    for name in ("1", "2"):
        one.fetch(source(f"http://127.0.0.1:9/{name}", f"{server.url}/{name}", content=name.encode()))
    assert one._unreachable == {"127.0.0.1:9"}
    assert len(server.asked) == 2


def test_a_proxy_that_is_not_there_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(EnvironmentLacks, match=r"the proxy: .*\n.*check HTTPS_PROXY"):
        fetcher(tmp_path).fetch(source("http://host.invalid/x"))


def test_a_proxy_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.answers["http://host.invalid/x"] = gives(CONTENT)
    assert fetcher(tmp_path).fetch(source("http://host.invalid/x")).read_bytes() == CONTENT


def test_what_may_pass_is_tried_again_and_what_may_not_is_not(server: Server, tmp_path: Path) -> None:
    server.answers = {
        "/a": status(404),
        "/b": in_turn(status(503), status(429, Retry_After="0"), gives(CONTENT)),
    }
    fetcher(tmp_path).fetch(source(server.url + "/a", server.url + "/b"))
    assert [path for path, _ in server.asked] == ["/a", "/b", "/b", "/b"]


def test_a_download_that_breaks_off_goes_on(server: Server, tmp_path: Path) -> None:
    server.answers["/x"] = resumes(CONTENT, at_most=400_000)
    assert fetcher(tmp_path).fetch(source(server.url + "/x")).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=400000-", "bytes=800000-"]


def test_the_next_process_takes_it_up(server: Server, tmp_path: Path) -> None:
    wanted = source(server.url + "/x")
    server.answers["/x"] = in_turn(gives(CONTENT[:5000], says=len(CONTENT)), status(404))
    with pytest.raises(EnvironmentLacks):
        fetcher(tmp_path).fetch(wanted)
    assert leftovers(tmp_path) == [digest().removeprefix("sha256:")]
    server.answers["/x"] = resumes(CONTENT)
    assert fetcher(tmp_path).fetch(wanted).read_bytes() == CONTENT
    assert server.asked[-1] == ("/x", "bytes=5000-")


@pytest.mark.parametrize("size", [10, len(CONTENT), len(CONTENT) + 5])
def test_a_wrong_beginning_is_thrown_away(size: int, server: Server, tmp_path: Path) -> None:
    wanted = source(server.url + "/x")
    partial = tmp_path / "cache/sources/partial" / digest().removeprefix("sha256:")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"?" * size)
    server.answers["/x"] = resumes(CONTENT)
    assert fetcher(tmp_path).fetch(wanted).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.answers["/x"] = in_turn(gives(CONTENT[:9], says=len(CONTENT)), gives(CONTENT))
    assert fetcher(tmp_path).fetch(source(server.url + "/x")).read_bytes() == CONTENT
    assert server.asked[1] == ("/x", "bytes=9-")


def test_a_server_that_trickles_is_given_up(server: Server, tmp_path: Path) -> None:
    def trickle(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(100):
                handler.wfile.write(b"x")
                handler.wfile.flush()
                time.sleep(0.05)

    server.answers["/x"] = trickle
    once = NetworkSettings(attempts=1, read_timeout=0.3)
    before = time.monotonic()
    with pytest.raises(EnvironmentLacks, match="less than 256 bytes a second"):
        Fetcher(tmp_path / "cache", settings=once).fetch(source(server.url + "/x"))
    assert time.monotonic() - before < 4


def test_too_large(server: Server, tmp_path: Path) -> None:
    server.answers = {"/said": gives(b"", says=1 << 40), "/endless": lambda h: endless(h)}

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(40):
                handler.wfile.write(bytes(1 << 16))

    small = NetworkSettings(attempts=1, largest=1 << 20, read_timeout=0.5)
    with pytest.raises(EnvironmentLacks) as caught:
        Fetcher(tmp_path / "cache", settings=small).fetch(
            source(server.url + "/said", server.url + "/endless")
        )
    assert "/said: it would be 1099511627776 bytes" in str(caught.value)
    assert "/endless: it does not end after 1048576 bytes" in str(caught.value)


def test_several_at_once_and_all_problems_at_once(server: Server, tmp_path: Path) -> None:
    contents = {f"/{n}": bytes([n]) * 100_000 for n in range(8)}
    server.answers = {path: gives(content) for path, content in contents.items()}
    sources = [source(server.url + path, content=content) for path, content in contents.items()]
    paths = fetcher(tmp_path).fetch_all(sources)
    assert [path.read_bytes() for path in paths] == list(contents.values())
    bad = [source(f"{server.url}/none{n}", content=bytes([n]) * 3) for n in range(2)]
    with pytest.raises(Problems) as caught:
        fetcher(tmp_path).fetch_all([*sources, *bad])
    assert len(caught.value.problems) == 2


def test_the_same_source_by_many_is_fetched_once(server: Server, tmp_path: Path) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.1)
        gives(CONTENT)(handler)

    server.answers["/x"] = slow
    wanted = source(server.url + "/x")
    with ThreadPoolExecutor(8) as pool:
        for path in pool.map(lambda _: fetcher(tmp_path).fetch(wanted), range(8)):
            assert path.read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert leftovers(tmp_path) == []


def test_stop_ends_a_download_and_keeps_what_arrived(server: Server, tmp_path: Path) -> None:
    stop = threading.Event()

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(bytes(1000))
                stop.set()

    server.answers["/x"] = endless
    stopped = Fetcher(tmp_path / "cache", settings=SETTINGS, stop=stop)
    with pytest.raises(KeyboardInterrupt):
        stopped.fetch(source(server.url + "/x"))
    assert leftovers(tmp_path) == [digest().removeprefix("sha256:")]


def test_offline(server: Server, tmp_path: Path) -> None:
    server.answers["/x"] = gives(CONTENT)
    wanted = source(server.url + "/x")
    with pytest.raises(EnvironmentLacks, match="is not in the cache, and we are offline"):
        fetcher(tmp_path, offline=True).fetch(wanted)
    assert server.asked == []
    fetcher(tmp_path).fetch(wanted)
    assert fetcher(tmp_path, offline=True).fetch(wanted).read_bytes() == CONTENT


def test_files_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "a b.tar").write_bytes(CONTENT)
    urls = ("file:///nonexistent/x", (tmp_path / "a b.tar").as_uri())
    assert fetcher(tmp_path, offline=True).fetch(source(*urls)).read_bytes() == CONTENT
    with pytest.raises(EnvironmentLacks, match="No such file or directory"):
        fetcher(tmp_path).fetch(source("file:///nonexistent/y", content=b"other"))


def test_debian_paths_go_to_the_configured_mirrors(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUNDLE_DEBIAN_MIRRORS", f"{server.url}/empty {server.url}/debian")
    server.answers["/debian/pool/main/r/rsync/rsync_1.orig.tar.gz"] = gives(CONTENT)
    wanted = source("debian:pool/main/r/rsync/rsync_1.orig.tar.gz")
    assert fetcher(tmp_path).fetch(wanted).read_bytes() == CONTENT


def test_learn_takes_what_comes_but_no_page(server: Server, tmp_path: Path) -> None:
    server.answers = {"/x": gives(CONTENT), "/page": gives(b"<html>")}
    unknown = Source((server.url + "/x",), digest(b""))
    path, learnt = fetcher(tmp_path).learn(unknown)
    assert learnt == digest() and path.read_bytes() == CONTENT
    with pytest.raises(EnvironmentLacks, match="HTML page"):
        fetcher(tmp_path).learn(Source((server.url + "/page",), digest(b"")))
    assert leftovers(tmp_path) == []


def test_passwords_stay_out_of_what_is_shown() -> None:
    assert public("https://me:secret@example.org/x?y") == "https://…@example.org/x?y"
    assert public("https://example.org/x") == "https://example.org/x"


def test_certificates_that_the_environment_names() -> None:
    assert network_settings({}).ca_bundle is None
    assert network_settings({"SSL_CERT_FILE": "/a", "BUNDLE_CA": "/b"}).ca_bundle == "/b"
    assert network_settings({"SSL_CERT_FILE": "/a"}).ca_bundle == "/a"


def test_certificates_are_checked(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("key", "certificate")}
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names]
    argv += ["-keyout", files["key"], "-out", files["certificate"]]
    subprocess.run(argv, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["certificate"], files["key"])
    server = Server(context)
    server.answers["/x"] = gives(CONTENT)
    try:
        wanted = source(server.url + "/x")
        with pytest.raises(EnvironmentLacks) as caught:
            fetcher(tmp_path).fetch(wanted)
        assert "/x: its certificate is not trusted: " in str(caught.value)
        assert "hint: name the certificates to trust in the environment variable BUNDLE_CA" in str(
            caught.value
        )
        trusting = dataclasses.replace(SETTINGS, ca_bundle=files["certificate"])
        assert Fetcher(tmp_path / "good", settings=trusting).fetch(wanted).read_bytes() == CONTENT
        missing = dataclasses.replace(SETTINGS, ca_bundle=str(tmp_path / "none"))
        with pytest.raises(EnvironmentLacks, match=f"secure connection\n.*{tmp_path}/none"):
            Fetcher(tmp_path / "bad", settings=missing).fetch(wanted)
    finally:
        server.close()


def test_a_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(
        EnvironmentLacks, match=r"cache/sources: error: cannot keep 'x'\n  why: Not a directory"
    ):
        fetcher(tmp_path).fetch(source(server.url + "/x"))


# Python's package index


def test_pip_settings() -> None:
    listed = (
        "global.cert='/etc/ssl/ca.crt'\n"
        "global.extra-index-url='file:///a/simple https://b.example/simple/'\n"
        ":env:.find-links='/wheels'\n"
        "global.index-url='https://one.example/simple'\n"
        ":env:.index-url='https://two.example/simple/'\n"
    )
    assert parse_pip_settings(listed, "https://default.example/simple") == PipSettings(
        ("https://two.example/simple", "file:///a/simple", "https://b.example/simple"), ("/wheels",)
    )
    assert parse_pip_settings("", "https://d.example/simple") == PipSettings(("https://d.example/simple",))


@pytest.mark.parametrize("form", ["json", "html"])
def test_a_file_of_an_index(form: str, server: Server, tmp_path: Path) -> None:
    name = "ansible_core-2.19.0.tar.gz"
    if form == "json":
        page = json.dumps(
            {"files": [{"url": "../../files/other.whl"}, {"url": f"../../files/{name}"}]}
        ).encode()
        kind = "application/vnd.pypi.simple.v1+json"
    else:
        page = f'<a href="../../files/x">x</a><a href="/files/{name}#sha256=12">y</a>'.encode()
        kind = "text/html"
    server.answers["/simple/ansible-core/"] = gives(page, kind)
    pip = PipSettings((server.url + "/simple",), (str(tmp_path),))
    from bundler.download import session

    http = session()
    assert file_urls("Ansible_Core", name, http, SETTINGS, pip=pip)[0] == [f"{server.url}/files/{name}"]
    urls, said = file_urls("Ansible_Core", "none.tar.gz", http, SETTINGS, pip=pip)
    assert urls == [] and f"{server.url}/simple/ansible-core/ does not list none.tar.gz" in said
    (tmp_path / name).write_bytes(b"")
    assert file_urls("Ansible_Core", name, http, SETTINGS, offline=True, pip=pip)[0] == [
        (tmp_path / name).as_uri()
    ]


@pytest.mark.parametrize("page", ["[]", "{", '{"files": 3}', '{"files": [{}]}'])
def test_what_is_no_index(page: str) -> None:
    with pytest.raises(Failure, match="no list of files"):
        parse_page(page, "application/json", "https://x.example/")


# Git


def git(directory: Path, *words: str) -> str:
    environment = {
        **os.environ,
        **{
            f"GIT_{who}_{what}": "x@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }
    argv = ["git", "-c", "protocol.file.allow=always", *words]
    return subprocess.run(
        argv, cwd=directory, env=environment, check=True, capture_output=True, text=True
    ).stdout


def repository(directory: Path, files: dict[str, str]) -> str:
    directory.mkdir()
    git(directory, "init", "-q", ".")
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    (directory / "run").write_text("#!/bin/sh\n")
    (directory / "run").chmod(0o755)
    (directory / "link").symlink_to("run")
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", "one")
    return git(directory, "rev-parse", "HEAD").strip()


def test_git_gives_the_tree_of_the_commit(tmp_path: Path) -> None:
    commit = repository(
        tmp_path / "one", {"a/b": "text\n", ".gitattributes": "* text eol=crlf export-ignore\n"}
    )
    (tmp_path / "one/a/b").write_text("later")
    git(tmp_path / "one", "commit", "-aqm", "two")
    unknown = Source((f"git+file://{tmp_path}/one",), digest(), strip=0, commit=commit)
    path, learnt = fetcher(tmp_path).learn(unknown)
    assert (path / "a/b").read_bytes() == b"text\n"
    assert (path / "link").readlink() == Path("run") and os.access(path / "run", os.X_OK)
    assert sorted(os.listdir(path)) == [".gitattributes", "a", "link", "run"]
    pinned = Source(unknown.urls, learnt, strip=0, commit=commit)
    assert fetcher(tmp_path, offline=True).fetch(pinned) == path
    assert fetcher(tmp_path / "elsewhere").fetch(pinned).name == path.name
    with pytest.raises(InputError, match="is not what the recipe says"):
        fetcher(tmp_path).fetch(unknown)


def test_git_errors_name_each_url(tmp_path: Path) -> None:
    repository(tmp_path / "one", {})
    wanted = Source((f"git+file://{tmp_path}/none", f"git+file://{tmp_path}/one"), digest(), commit="0" * 40)
    with pytest.raises(EnvironmentLacks) as caught:
        fetcher(tmp_path).fetch(wanted)
    assert f"file://{tmp_path}/none: " in str(caught.value)
    assert f"file://{tmp_path}/one: " in str(caught.value)


def test_git_submodules_only_when_asked(tmp_path: Path) -> None:
    repository(tmp_path / "sub", {"inner": "inner"})
    repository(tmp_path / "main", {"outer": "outer"})
    git(tmp_path / "main", "submodule", "add", "-q", "../sub", "third/sub")
    git(tmp_path / "main", "commit", "-qm", "with submodule")
    commit = git(tmp_path / "main", "rev-parse", "HEAD").strip()
    url = (f"git+file://{tmp_path}/main",)
    path, _ = fetcher(tmp_path).learn(Source(url, digest(), commit=commit))
    assert os.listdir(path / "third/sub") == []
    path, _ = fetcher(tmp_path).learn(Source(url, digest(), commit=commit, submodules=True))
    assert (path / "third/sub/inner").read_text() == "inner"


def test_git_trees_that_lead_out_are_refused(tmp_path: Path) -> None:
    repository(tmp_path / "one", {})
    (tmp_path / "one/out").symlink_to("../../etc")
    git(tmp_path / "one", "add", "out")
    git(tmp_path / "one", "commit", "-qm", "out")
    commit = git(tmp_path / "one", "rev-parse", "HEAD").strip()
    with pytest.raises(InputError, match="leads out"):
        check_out(
            Source((f"git+file://{tmp_path}/one",), digest(), commit=commit), None, tmp_path / "sources"
        )
    assert os.listdir(tmp_path / "sources") == []
