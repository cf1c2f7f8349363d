"""Advisories in OSV's format: which versions of what they are about, and what that means here."""

import io
import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_oci_pack import BUNDLE, FACTS, component

from bundler import osv
from bundler.advisories import Finding, Index, Software, Undecided, cpe_parts, within
from bundler.cli.main import main
from bundler.errors import BundleError, InputError
from bundler.oci.image import layer_of
from bundler.oci.layout import write_archive, write_layout
from bundler.oci.pack import bundle_image
from bundler.osv import Event, PackageUrl, parse_advisory, parse_purl, read_advisories
from bundler.versions import Order, compare, plain

CURL = Software(
    "curl",
    "8.14.1",
    (
        "pkg:generic/curl@8.14.1?checksum=sha256:00&download_url=https:%2F%2Fcurl.se%2Fcurl-8.14.1.tar.xz",
        "pkg:deb/debian/curl@8.14.1?arch=source",
    ),
    "cpe:2.3:a:haxx:curl:8.14.1:*:*:*:*:*:*:*",
)
GLIBC = Software(
    "glibc",
    "2.41",
    (
        "pkg:deb/debian/libc6@2.41-12?arch=amd64&upstream=glibc",
        "pkg:deb/debian/libc-bin@2.41-12%2Bb1?arch=amd64&upstream=glibc",
    ),
    "cpe:2.3:a:gnu:glibc:2.41:*:*:*:*:*:*:*",
)
GIT = Software("git", "2.47.3", ("pkg:deb/debian/git@2.47.3?arch=source",), "cpe:2.3:a:git-scm:git:2.47.3")
ANSIBLE = Software("ansible-core", "2.19.0", ("pkg:pypi/ansible-core@2.19.0", "pkg:pypi/jinja2@3.1.5"))
ALL = (CURL, GLIBC, GIT, ANSIBLE)


def record(*affected: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "schema_version": "1.7.0",
        "id": "X-1",
        "modified": "2026-03-27T08:00:00Z",
        "affected": list(affected),
        **more,
    }


START = {"introduced": "0"}


def package(ecosystem: str, name: str, *events: dict[str, str], kind: str = "ECOSYSTEM", **more: Any) -> Any:
    ranges = [{"type": kind, "events": list(events)}] if events else []
    return {"package": {"ecosystem": ecosystem, "name": name}, "ranges": ranges, **more}


# As curl publishes them: no package, versions and commits side by side.
CURLS_OWN = {
    "schema_version": "1.5.0",
    "id": "CURL-CVE-2025-0001",
    "aliases": ["CVE-2025-0001"],
    "summary": "memory leak in HTTP/2 push headers",
    "database_specific": {"package": "curl", "severity": "Medium", "last_affected": "8.14.1"},
    "affected": [
        {
            "ranges": [
                {"type": "SEMVER", "events": [{"introduced": "7.44.0"}, {"fixed": "8.15.0"}]},
                {
                    "type": "GIT",
                    "repo": "https://github.com/curl/curl.git",
                    "events": [{"introduced": "ea7134ac874a66107e54ff93657ac565cf2ec4aa"}],
                },
            ],
            "versions": ["8.14.1", "8.14.0"],
        }
    ],
}
# As osv.dev converts what NVD has.
FROM_NVD = {
    "schema_version": "1.7.3",
    "id": "CVE-2025-0002",
    "affected": [
        {
            "ranges": [
                {
                    "type": "GIT",
                    "repo": "https://github.com/git/git",
                    "events": [{"introduced": "0"}, {"fixed": "d1f4d2d5bb4bda0d2a5a5e6f5e5c3a0cbc9d2a11"}],
                    "database_specific": {
                        "source": "CPE_FIELD",
                        "cpe": "cpe:2.3:a:git-scm:git:*:*:*:*:*:*:*:*",
                        "extracted_events": [{"introduced": "2.45.0"}, {"fixed": "2.47.4"}],
                    },
                }
            ],
        }
    ],
}

FOUND: list[tuple[str, dict[str, Any], list[tuple[str, str, tuple[str, ...]]]]] = [
    ("curl's own", CURLS_OWN, [("curl", "name", ("8.15.0",))]),
    ("converted from NVD, by CPE", FROM_NVD, [("git", "cpe", ("2.47.4",))]),
    (
        "Debian's source package, not fixed",
        record(package("Debian:13", "curl", START)),
        [("curl", "purl", ())],
    ),
    (
        "Debian's fix is a patch on the same release: the release is affected",
        record(package("Debian:13", "curl", START, {"fixed": "8.14.1-2+deb13u1"})),
        [("curl", "purl", ("8.14.1-2+deb13u1",))],
    ),
    (
        "Debian's first revision has it: so has the release",
        record(package("Debian:13", "curl", START, {"fixed": "8.14.1-1"})),
        [],
    ),
    (
        "an epoch is not in the file's name",
        record(package("Debian:13", "git", START, {"fixed": "1:2.47.2-0.1"})),
        [],
    ),
    (
        "another release of Debian",
        record(package("Debian:12", "curl", START), package("Debian:14", "glibc", START)),
        [],
    ),
    (
        "a binary package, by its source",
        record(package("Debian:13", "glibc", START, {"fixed": "2.41-12+deb13u1"})),
        [("glibc", "purl", ("2.41-12+deb13u1",))],
    ),
    ("fixed", record(package("Debian:13", "glibc", START, {"fixed": "2.41-12"})), []),
    (
        "listed",
        record(package("Debian:13", "glibc", versions=["2.41-11", "2.41-12"])),
        [("glibc", "purl", ())],
    ),
    (
        "PyPI, one of several packages, written in another way",
        record(package("PyPI", "Jinja2", START, {"fixed": "3.1.6"})),
        [("ansible-core", "purl", ("3.1.6",))],
    ),
    (
        "PyPI: before the release",
        record(package("PyPI", "ansible_core", {"introduced": "2.19.0b1"}, {"fixed": "2.19.0rc2"})),
        [],
    ),
    (
        "last affected",
        record(package("Bitnami", "git", START, {"last_affected": "2.47.3"}, kind="SEMVER")),
        [("git", "name", ())],
    ),
    (
        "OSS-Fuzz names tags",
        record(package("OSS-Fuzz", "curl", versions=["curl-8_13_0", "curl-8_14_1"])),
        [("curl", "name", ())],
    ),
    ("a name of another ecosystem", record(package("npm", "curl", START)), []),
    ("Alpine's", record(package("Alpine:v3.22", "curl", START)), []),
    ("Ubuntu's", record(package("Ubuntu:24.04", "curl", START)), []),
    ("withdrawn", record(package("Debian:13", "curl", START), withdrawn="2026-01-01T00:00:00Z"), []),
    (
        "one version in the CPE itself",
        record({"database_specific": {"cpes": ["cpe:2.3:a:gnu:glibc:2.41:*:*:*:*:*:*:*"]}}),
        [("glibc", "cpe", ())],
    ),
    ("another one", record({"database_specific": {"cpe": "cpe:/a:gnu:glibc:2.40"}}), []),
    (
        "a package URL",
        record(
            {
                "package": {"ecosystem": "X", "name": "y", "purl": "pkg:generic/curl@7"},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "8.0rc1"}]}],
            }
        ),
        [("curl", "purl", ())],
    ),
    ("nothing", record(), []),
]  # fmt: skip


@pytest.mark.parametrize(("_what", "said", "expected"), FOUND, ids=[case[0] for case in FOUND])
def test_what_is_affected(
    _what: str, said: dict[str, Any], expected: list[tuple[str, str, tuple[str, ...]]]
) -> None:
    results = Index(ALL, "13").judge(parse_advisory(said, where="x"))
    assert [(one.software.name, one.by, one.fixed) for one in results if isinstance(one, Finding)] == expected
    assert len(results) == len(expected)


def test_commits_alone_are_said_not_to_be_comparable() -> None:
    commits = {"type": "GIT", "repo": "https://github.com/curl/curl", "events": [START]}
    said = record({"package": {"ecosystem": "OSS-Fuzz", "name": "curl"}, "ranges": [commits]})
    (result,) = Index(ALL, "13").judge(parse_advisory(said, where="x"))
    assert isinstance(result, Undecided)
    assert result.software is CURL


def events(*pairs: tuple[str, str]) -> tuple[Event, ...]:
    return tuple(Event(kind, version) for kind, version in pairs)


RANGES: list[tuple[str, tuple[Event, ...], Order, bool]] = [
    ("1.0", events(("introduced", "0")), Order.SEMANTIC, True),
    ("1.0", events(), Order.SEMANTIC, True),
    ("1.0", events(("introduced", "1.0.0"), ("fixed", "1.0.1")), Order.SEMANTIC, True),
    ("1.0.1", events(("introduced", "1.0.0"), ("fixed", "1.0.1")), Order.SEMANTIC, False),
    ("1.0.1", events(("introduced", "1.0.0"), ("last_affected", "1.0.1")), Order.SEMANTIC, True),
    ("1.0.2", events(("introduced", "1.0.0"), ("last_affected", "1.0.1")), Order.SEMANTIC, False),
    ("3.5", events(("fixed", "3.2"), ("introduced", "3.4"), ("introduced", "0")), Order.UPSTREAM, True),
    ("3.3", events(("fixed", "3.2"), ("introduced", "3.4"), ("introduced", "0")), Order.UPSTREAM, False),
    ("2.0.0", events(("introduced", "1.0.0"), ("limit", "2.0.0")), Order.SEMANTIC, False),
    ("2.0.0", events(("introduced", "1.0.0"), ("limit", "*")), Order.SEMANTIC, True),
    ("1.0.0-rc.1", events(("introduced", "1.0.0")), Order.SEMANTIC, False),
    ("1.0.0-rc.1", events(("introduced", "0"), ("fixed", "1.0.0-rc.2")), Order.SEMANTIC, True),
    ("1.5", events(("fixed", "2.0")), Order.UPSTREAM, True),
]


@pytest.mark.parametrize(("version", "said", "order", "expected"), RANGES)
def test_ranges(version: str, said: tuple[Event, ...], order: Order, expected: bool) -> None:
    assert within(version, said, order) is expected
    assert within(version, said[::-1], order) is expected


VERSIONS = [
    (Order.DEBIAN, ["1.0~rc1-1", "1.0-1~deb13u1", "1.0-1", "1.0-1+deb13u1", "1.0-2", "1:0.1-1"]),
    (
        Order.SEMANTIC,
        ["1.0.0-1", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0", "v1.0.1", "1.10"],
    ),
    (Order.PYPI, ["1.0.dev1", "1.0a1", "1.0rc1", "1.0", "1.0.post1", "1!0.1"]),
    (
        Order.UPSTREAM,
        ["1.1.1-beta2", "1.1.1rc1", "1.1.1", "1.1.1a", "1.1.1w", "3.0", "9.9p1", "9.9p2", "10.0"],
    ),
    # What is no semantic version is compared all the same.
    (Order.SEMANTIC, ["9.9p1", "9.9p2", "10.0p1"]),
]


@pytest.mark.parametrize(("order", "ascending"), VERSIONS)
def test_orders(order: Order, ascending: list[str]) -> None:
    for at, one in enumerate(ascending):
        assert [compare(one, other, order) for other in ascending] == [
            (at > number) - (at < number) for number in range(len(ascending))
        ]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [("curl-8_14_1", "8.14.1"), ("v2.47.3", "2.47.3"), ("openssl-3.5.1", "3.5.1"), ("20250419", "20250419")],
)
def test_tags(tag: str, expected: str) -> None:
    assert plain(tag) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pkg:pypi/Foo_Bar.baz@1.0", PackageUrl("pypi", "", "foo-bar-baz")),
        ("pkg:deb/Debian/libstdc%2B%2B6@1?arch=amd64#x", PackageUrl("deb", "debian", "libstdc++6")),
        ("pkg:npm/%40babel/core", PackageUrl("npm", "@babel", "core")),
        ("pkg:pypi", None),
        ("http://example.org/a", None),
        ("pkg:pypi/", None),
    ],
)
def test_package_urls_are_read(text: str, expected: PackageUrl | None) -> None:
    assert parse_purl(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cpe:2.3:a:haxx:CURL:8.14.1:*", ("haxx", "curl", "8.14.1")),
        ("cpe:/a:gnu:glibc", ("gnu", "glibc", "")),
        (r"cpe:2.3:a:x:a\:b:1", ("x", "a:b", "1")),
        ("cpe:2.3:a", None),
        ("", None),
    ],
)
def test_cpes_are_read(text: str, expected: tuple[str, str, str] | None) -> None:
    assert cpe_parts(text) == expected


def zipped(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_", "."), data)
    return out.getvalue()


GOOD = json.dumps(CURLS_OWN).encode()
BAD: list[tuple[bytes, str]] = [
    (b"", "is no JSON"),
    (b"{", "is no JSON"),
    (b"\xff\xfe", "is no JSON"),
    (b"[" * 100_000, "is no JSON"),
    (b"[1]", r"x\[0\]: error: is no sound advisory: the record is no object"),
    (b"{}", "has no 'id'"),
    (b'{"id": 7}', "'id' is no string"),
    (b'{"id": "X", "affected": {}}', "'affected' is no array"),
    (b'{"id": "X", "affected": [{"package": []}]}', "'package' is no object"),
    (b'{"id": "X", "affected": [{"versions": [1]}]}', "'versions' holds what is no string"),
    (b'{"id":"X","affected":[{"ranges":[{"type":"SEMVER","events":[{"fixed":"' + b"9" * 5000 + b'"}]}]}]}',
     "'fixed' is no version"),
    ('{"id":"X","affected":[{"ranges":[{"type":"SEMVER","events":[{"fixed":"²:1"}]}]}]}'.encode(),
     "'fixed' is no version"),
    (zipped(a_json=b"[]"), "x:a.json: error: is no sound advisory"),
    (zipped(a_txt=b"[]"), "holds no advisories"),
    (zipped(a_json=GOOD)[:-30], "is no JSON"),
    (zipped(a_json=b"0" * 3000), "expands too far"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "says"), BAD, ids=range(len(BAD)))
def test_files_that_are_no_advisories(
    data: bytes, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(osv, "MAX_RECORD", 2048)
    file = tmp_path / "x"
    file.write_bytes(data)
    with pytest.raises(InputError, match=says):
        list(read_advisories(file))


def test_records_that_are_small_alone_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(osv, "MAX_RECORD", 5000)
    padded = GOOD[:-1] + b" " * 3000 + b"}"
    members = {f"a{number}_json": padded for number in range(200)}
    (tmp_path / "x").write_bytes(zipped(**members))
    monkeypatch.setattr(osv, "MAX_RATIO", 2)
    with pytest.raises(InputError, match="expands too far"):
        list(read_advisories(tmp_path / "x"))


def test_files_arrays_directories_and_archives(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_bytes(GOOD)
    (tmp_path / "two.json").write_bytes(b"[" + GOOD + b"," + GOOD + b"]")
    (tmp_path / "three.zip").write_bytes(zipped(a_json=GOOD, b_json=GOOD, c_txt=b"?"))
    assert [
        len(list(read_advisories(tmp_path / name))) for name in ("one.json", "two.json", "three.zip")
    ] == [
        1,
        2,
        2,
    ]
    feed = tmp_path / "feed/curl"
    feed.mkdir(parents=True)
    (feed / "a.json").write_bytes(GOOD)
    (feed / "readme").write_text("no record")
    (feed / "b.json").symlink_to("/dev/zero")
    os.mkfifo(feed / "c.json")
    assert [one.id for one in read_advisories(tmp_path / "feed")] == ["CURL-CVE-2025-0001"]
    with pytest.raises(InputError, match="no such file"):
        list(read_advisories(tmp_path / "none"))


WORDS = [
    "id",
    "affected",
    "package",
    "purl",
    "name",
    "ecosystem",
    "ranges",
    "type",
    "events",
    "introduced",
    "fixed",
    "versions",
    "database_specific",
    "cpe",
    "extracted_events",
    "severity",
    "score",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=25,
)


@given(JSON)
def test_whatever_json_there_is_gives_a_result_or_a_message(value: Any) -> None:
    try:
        found = parse_advisory({"id": "X", "affected": [value]}, where="x")
    except BundleError:
        return
    Index(ALL, "13").judge(found)


def small_image(version: str) -> Any:
    found, source = component({"bin/bash": b"elf"}, version=version, sources=(), cpe="gnu:bash")
    return bundle_image(
        replace(BUNDLE, facts=replace(FACTS, requires=())),
        [layer_of(source)],
        [found],
        command=["/nop"],
        reference="shell:1",
    )


BASH = record(
    {
        "database_specific": {"cpe": "cpe:2.3:a:gnu:bash:*:*:*:*:*:*:*:*"},
        "ranges": [{"type": "ECOSYSTEM", "events": [START, {"fixed": "5.2.21"}]}],
    },
    id="CVE-2026-1\x1b[2J",
    summary="a\nlie",
    severity=[{"type": "CVSS_V3", "score": "CVSS:3.1/AV:L"}],
)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_layout(out / "shell", small_image("5.2.15"))
    (tmp_path / "bash.json").write_text(json.dumps(BASH))
    options = ["--out", str(out), "--cache", str(tmp_path / "cache")]
    assert main(["advisories", str(tmp_path / "bash.json"), *options]) == 1
    text = capsys.readouterr().out
    assert text.splitlines() == [
        "CVE-2026-1\\x1b[2J  [CVSS:3.1/AV:L]",
        "  a\\nlie",
        "  bash 5.2.15, fixed in 5.2.21",
        "    found by   cpe gnu:bash",
        "    recipe     has another version by now: building again is enough",
        *[line for line in text.splitlines() if line.startswith("    bundles    shell (required by ")],
        "    images     shell",
        "",
        "1 of 1 advisories affect 1 recipes",
        "to rebuild: shell; images: shell",
    ]
    write_archive(tmp_path / "new.tar", small_image("5.2.21"))
    words = ["advisories", str(tmp_path / "bash.json"), "--image", str(tmp_path / "new.tar"), *options]
    assert main(words) == 0
    assert capsys.readouterr().out == "none of 1 advisories affects what is here\n"


def test_the_verb_as_json_names_recipe_and_bundles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = record(package("Debian:13", "zlib", START), aliases=["CVE-2026-2"])
    (tmp_path / "a.json").write_text(json.dumps(said))
    options = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"), "--format", "json"]
    assert main(["advisories", str(tmp_path / "a.json"), *options]) == 1
    found = json.loads(capsys.readouterr().out)
    affects = next(one for one in found["advisories"][0]["affects"] if one["name"] == "zlib")
    assert affects["recipe"].endswith("recipes/zlib/recipe.toml")
    assert affects["bundles"] == ["shell"]
    assert "gitartifact" in affects["required_by"]
    # The seed's toolchain is made of packages that advisories name, too.
    assert found["rebuild"] == {"bundles": ["shell", "toolchain"], "images": []}
