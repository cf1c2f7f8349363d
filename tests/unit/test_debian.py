"""Debian's configuration, indexes, signatures and locks, from text; dpkg is the judge of versions."""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler import debian, debian_index, lock_file
from bundler.cli import lock as lock_verb
from bundler.debian import AptSource
from bundler.debian_index import PackageIndex, Relation, VersionKey
from bundler.errors import BundleError, EnvironmentLacks, InputError, Problems
from bundler.target import ARCHITECTURES

X86_64 = ARCHITECTURES["x86_64"]

ONE_LINE = """\
# deb http://off.example/debian trixie main
deb http://one.example/debian/ trixie main contrib  # a comment
deb [arch=amd64 signed-by=/keys/debian-archive-keyring.gpg] https://two.example/debian trixie main
deb-src http://one.example/debian trixie main
deb [signed-by=/keys/other.gpg] https://vendor.example/apt stable main
deb cdrom:[Debian]/ trixie main
not a source at all
"""

DEB822 = """\
# who made this
Types: deb
URIs: http://three.example/debian
 https://four.example/debian/
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://three.example/debian-security
Suites: trixie-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main
"""


def test_one_line_sources() -> None:
    found = debian.parse_one_line_sources(ONE_LINE)
    assert [(source.uri, source.suites, source.components) for source in found[:3]] == [
        ("http://one.example/debian", ("trixie",), ("main", "contrib")),
        ("https://two.example/debian", ("trixie",), ("main",)),
        ("http://one.example/debian", ("trixie",), ("main",)),
    ]
    assert [source.is_debian for source in found] == [True, True, True, False, True]


def test_deb822_sources() -> None:
    found = debian.parse_deb822_sources(DEB822)
    assert [source.uri for source in found] == [
        "http://three.example/debian",
        "https://four.example/debian",
        "http://three.example/debian-security",
    ]
    assert found[0].suites == ("trixie", "trixie-updates")
    assert [source.is_debian for source in found] == [True, True, False]


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(debian.MIRRORS_VARIABLE, raising=False)
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://one.example/debian-security trixie-security main\n")
    (tmp_path / "sources.list.d/b.sources").write_text(DEB822)
    (tmp_path / "sources.list.d/a.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d/c.sources.save").write_text("URIs: http://off.example/\nComponents: main\n")
    return tmp_path


def test_mirrors_in_order(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert debian.mirror_urls("pool/main/b/bash/x.deb", apt=apt) == [
        "http://one.example/debian/pool/main/b/bash/x.deb",
        "https://two.example/debian/pool/main/b/bash/x.deb",
        "http://three.example/debian/pool/main/b/bash/x.deb",
        "https://four.example/debian/pool/main/b/bash/x.deb",
        "http://one.example/debian-security/pool/main/b/bash/x.deb",
    ]
    assert debian.mirror_urls("pool/updates/main/b/x.deb", apt=apt)[0].startswith(
        "http://one.example/debian-security/"
    )
    monkeypatch.setenv(debian.MIRRORS_VARIABLE, "http://mine.example/debian/ ftp://old.example/debian")
    assert debian.mirrors(apt)[0] == "http://mine.example/debian"
    assert len(debian.mirrors(apt)) == 6


def test_no_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(debian.MIRRORS_VARIABLE, raising=False)
    with pytest.raises(EnvironmentLacks, match=r"no Debian archive") as caught:
        debian.mirror_urls("pool/x", apt=tmp_path)
    assert debian.MIRRORS_VARIABLE in str(caught.value)


def test_only_debian_itself() -> None:
    assert not AptSource("https://x.example", ("s",), ("contrib",)).is_debian


@pytest.mark.parametrize(
    ("text", "message"),
    [(" folded\n", "without a field"), ("no colon\n", "not a field"), (": no name\n", "not a field")],
)
def test_unsound_control_files(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        list(debian_index.stanzas(text, where="control"))
    assert caught.value.where == "control:1"


VERSIONS = [
    "0", "0~~", "0~", "1", "1.0", "1.0-1", "1.0-1+b1", "1.0~rc1-1", "1.0+dfsg-1", "1:0.9", "2:0",
    "1.10", "1.9", "1.09", "1.a", "1.+", "14.2.0-19", "2.41-12+deb13u4", "2.41-12", "1.3.dfsg+really1.3.1-1",
    "4.4.38-1", "10", "1.0-1.1", "1.0-2", "a", "1-0-1", "00001",
]  # fmt: skip


def test_versions_sort_as_dpkg_sorts_them() -> None:
    """One dpkg call would be a fork each: a shell compares all pairs at once."""
    pairs = list(itertools.product(VERSIONS, repeat=2))
    script = "\n".join(
        f"dpkg --compare-versions '{one}' lt '{other}' 2>/dev/null && echo y || echo n"
        for one, other in pairs
    )
    answers = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True).stdout.split()
    ours = ["y" if VersionKey(one) < VersionKey(other) else "n" for one, other in pairs]
    wrong = [(pair, mine) for pair, mine, theirs in zip(pairs, ours, answers, strict=True) if mine != theirs]
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("libc6 (>= 2.38), zlib1g", [(Relation("libc6", ">=", "2.38"),), (Relation("zlib1g"),)]),
        ("gcc | c-compiler,", [(Relation("gcc"), Relation("c-compiler"))]),
        ("perl:any, python3:any (>= 3.9~)", [(Relation("perl"),), (Relation("python3", ">=", "3.9~"),)]),
        ("a (<<2),\n b(= 1)", [(Relation("a", "<<", "2"),), (Relation("b", "=", "1"),)]),
    ],
)
def test_relations(text: str, expected: list[tuple[Relation, ...]]) -> None:
    assert debian_index.parse_relations(text) == expected


def test_unsound_relation() -> None:
    with pytest.raises(InputError, match="not a relation"):
        debian_index.parse_relations("a, B_C")


@pytest.mark.parametrize(
    ("operator", "answers"),
    [("", "yyy"), ("<<", "ynn"), ("<=", "yyn"), ("=", "nyn"), (">=", "nyy"), (">>", "nny")],
)
def test_bounds(operator: str, answers: str) -> None:
    relation = Relation("x", operator, "2.0-1")
    assert [debian_index.satisfies(version, relation) for version in ("2.0~rc1-1", "2.0-1", "2.0-1+b1")] == [
        answer == "y" for answer in answers
    ]


def package(name: str, version: str = "1", **fields: str) -> str:
    lines = {
        "Package": name,
        "Version": version,
        "Architecture": "amd64",
        "Filename": f"pool/main/{name[0]}/{name}/{name}_{version}_amd64.deb",
        "Size": "10",
        "SHA256": hashlib.sha256(f"{name}{version}".encode()).hexdigest(),
    } | {key.replace("_", "-"): value for key, value in fields.items()}
    return "".join(f"{key}: {value}\n" for key, value in lines.items())


INDEX = "\n".join(
    [
        package("app", Depends="libone (>= 2), awk, gcc | c-compiler", Pre_Depends="base"),
        package("base"),
        package("libone", "1"),
        package("libone", "2", Depends="libtwo:any"),
        package("libtwo", Depends="libone"),
        package("gawk", Provides="awk"),
        package("mawk", Provides="awk (= 3)"),
        package("tcc", Provides="c-compiler"),
        package("needy", Depends="awk (>= 2)"),
        package("broken", Depends="absent | gone, libone (>= 3)"),
    ]
)


def names_of(index: PackageIndex, *names: str, without: tuple[str, ...] = ()) -> list[str]:
    return [package.name for package in debian_index.close(index, names, without)]


def test_closure() -> None:
    index = PackageIndex(INDEX)
    assert names_of(index, "app") == ["app", "base", "gawk", "libone", "libtwo", "tcc"]
    assert names_of(index, "mawk", "app") == ["app", "base", "libone", "libtwo", "mawk", "tcc"]
    assert names_of(index, "app", without=("libone", "gcc")) == ["app", "base", "gawk"]
    assert names_of(index, "needy") == ["mawk", "needy"]  # only mawk says which awk it provides
    newest = index.package("libone")
    assert newest is not None and newest.version == "2" and newest.path.endswith("libone_2_amd64.deb")


def test_closure_names_all_that_is_missing() -> None:
    with pytest.raises(Problems) as caught:
        debian_index.close(PackageIndex(INDEX), ["broken", "nothing"])
    text = str(caught.value)
    assert "absent | gone" in text and "libone" in text and "'nothing'" in text


def test_pick() -> None:
    index = PackageIndex(INDEX)
    assert [found.name for found in debian_index.pick(index, ["tcc", "app", "tcc"])] == ["app", "tcc"]
    with pytest.raises(InputError, match="'nothing'"):
        debian_index.pick(index, ["app", "nothing"])


@pytest.mark.parametrize(
    "entry",
    [
        package("x").replace("SHA256", "MD5sum"),
        package("x", Filename="../../etc/passwd"),
        package("x", Size="many"),
        package("x", SHA256="beef"),
    ],
)
def test_unsound_entries(entry: str) -> None:
    with pytest.raises(InputError):
        PackageIndex(entry).package("x")


SOURCES = """\
Package: tool-doc
Version: 9
Directory: pool/main/t/tool-doc

Package: tool
Binary: tool
Version: 1.0-1
Homepage: https://tool.example/
Directory: pool/main/t/tool
Files:
 d41d8cd98f00b204e9800998ecf8427e 0 tool_1.0.orig.tar.xz
Checksums-Sha256:
 {old} 7 tool_1.0.orig.tar.xz

Package: tool
Version: 1.0-2
Directory: pool/main/t/tool
Checksums-Sha256:
 {new} 8 tool_1.0.orig.tar.xz
 {old} 9 tool_1.0-2.dsc
""".format(old="0" * 64, new="1" * 64)


def test_source_packages() -> None:
    found = debian_index.source_packages(SOURCES, {"tool"})
    assert list(found) == ["tool"] and found["tool"].version == "1.0-2"
    first = found["tool"].files[0]
    assert (first.path, first.digest, first.size) == (
        "pool/main/t/tool/tool_1.0.orig.tar.xz",
        "sha256:" + "1" * 64,
        8,
    )


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A GnuPG home with a key of its own, and its public key as an archive's keyring."""
    # Not below the test's directory: the path of gpg-agent's socket must be short.
    home = Path(subprocess.run(["mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip())
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet"]
    new_key = ["--passphrase", "", "--quick-gen-key", "archive@example", "ed25519", "sign", "never"]
    subprocess.run([*gpg, *new_key], check=True, capture_output=True)
    keyring = tmp_path_factory.mktemp("keys") / "archive.gpg"
    subprocess.run([*gpg, "--output", str(keyring), "--export"], check=True, capture_output=True)
    yield home, keyring
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True)
    shutil.rmtree(home, ignore_errors=True)


def signed_lists(home: Path, lists: Path, index: str = INDEX) -> Path:
    """A lists directory as apt leaves it, with a suite of one index."""
    digest = hashlib.sha256(index.encode()).hexdigest()
    release = (
        "Suite: stable\nCodename: trixie\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nMD5Sum:\n"
        f" 0 0 main/binary-amd64/Packages\nSHA256:\n {digest} {len(index)} main/binary-amd64/Packages\n"
    )
    (lists / "a.example_debian_dists_trixie_main_binary-amd64_Packages").write_text(index)
    release_file = str(lists / "a.example_debian_dists_trixie_InRelease")
    subprocess.run(
        ["gpg", "--homedir", str(home), "--batch", "--clear-sign", "--output", release_file],
        input=release.encode(),
        check=True,
        capture_output=True,
    )
    return lists


def test_signed_archive(signer: tuple[Path, Path], tmp_path: Path) -> None:
    home, keyring = signer
    archive = debian.read_archive("trixie", signed_lists(home, tmp_path), keyring=keyring)
    assert archive.date == "Sat, 12 Sep 2026 07:55:41 UTC"
    lock = debian.refresh(archive, X86_64, ["app"], without=["gcc"], close_over=True)
    assert [package.name for package in lock.packages] == ["app", "base", "gawk", "libone", "libtwo"]
    lock = debian.refresh(archive, X86_64, ["app"], close_over=False)
    assert [package.name for package in lock.packages] == ["app"]
    with pytest.raises(InputError, match="not of 'sid'"):
        (tmp_path / "a.example_debian_dists_trixie_InRelease").rename(tmp_path / "a_sid_InRelease")
        debian.read_archive("sid", tmp_path, keyring=keyring)


def test_changed_index_is_refused(signer: tuple[Path, Path], tmp_path: Path) -> None:
    home, keyring = signer
    archive = debian.read_archive("trixie", signed_lists(home, tmp_path), keyring=keyring)
    (tmp_path / "a.example_debian_dists_trixie_main_binary-amd64_Packages").write_text(INDEX + "\n")
    with pytest.raises(InputError, match="not the one that the archive signed"):
        archive.packages(X86_64)
    with pytest.raises(EnvironmentLacks, match="did not fetch"):
        archive.sources(["app"])


@pytest.mark.parametrize("place", ["body", "unsigned", "keyring"])
def test_bad_signatures(signer: tuple[Path, Path], tmp_path: Path, place: str) -> None:
    home, keyring = signer
    release = signed_lists(home, tmp_path) / "a.example_debian_dists_trixie_InRelease"
    if place == "body":
        release.write_text(release.read_text().replace("Codename: trixie", "Codename: trixi"))
    elif place == "unsigned":
        release.write_text("Suite: stable\nCodename: trixie\n")
    else:
        keyring = debian.KEYRING  # Debian's own keys: they did not sign this
    with pytest.raises(InputError, match="signature is not good"):
        debian.read_archive("trixie", tmp_path, keyring=keyring)


def test_text_around_the_signed_part_is_not_read(signer: tuple[Path, Path], tmp_path: Path) -> None:
    home, keyring = signer
    release = signed_lists(home, tmp_path) / "a.example_debian_dists_trixie_InRelease"
    release.write_text("Suite: evil\nDate: never\n\n" + release.read_text())
    try:
        archive = debian.read_archive("trixie", tmp_path, keyring=keyring)
    except InputError:
        return
    assert archive.date != "never"


def test_no_keyring(tmp_path: Path) -> None:
    (tmp_path / "x_trixie_InRelease").write_text("")
    with pytest.raises(EnvironmentLacks, match="keys of Debian's archive"):
        debian.read_archive("trixie", tmp_path, keyring=tmp_path / "none.gpg")


def test_lock_round_trip() -> None:
    packages = tuple(debian_index.close(PackageIndex(INDEX), ["app"]))
    lock = lock_file.Lock("trixie", "Sat, 12 Sep 2026 07:55:41 UTC", packages)
    text = lock_file.format_lock(lock)
    assert lock_file.parse_lock(text) == lock
    assert len(text.splitlines()) == len(packages) + 6  # a package a line


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"suite": "s", "date": "d", "packages": [{}]}',
        '{"suite": 1, "date": "d", "packages": []}',
        '{"suite": "s", "date": "d", "packages": 7}',
    ],
)
def test_not_a_lock(text: str) -> None:
    with pytest.raises(InputError, match="not a lock file") as caught:
        lock_file.parse_lock(text, where="seed.lock")
    assert caught.value.where == "seed.lock"


def test_missing_lock(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="missing"):
        lock_file.read_lock(tmp_path / "seed.lock")


def test_changes_of_a_lock() -> None:
    index = PackageIndex(INDEX)
    before = lock_file.Lock("s", "d", tuple(debian_index.pick(index, ["app", "base", "libone"])))
    rebuilt = PackageIndex(
        package("base", SHA256="a" * 64) + "\n" + package("libone", "7") + "\n" + package("x")
    )
    after = lock_file.Lock("s", "e", tuple(debian_index.pick(rebuilt, ["base", "libone", "x"])))
    assert list(lock_verb.changes(before, after)) == [
        "- app 1",
        "base 1 → 1 (another file)",
        "libone 2 → 7",
        "+ x 1",
    ]
    assert list(lock_verb.changes(before, before)) == []


def test_what_the_locks_are_to_hold() -> None:
    toolchains = Path(__file__).parents[2] / "toolchain"
    seed = lock_verb.wanted(toolchains / "seed.toml")
    assert not seed.closed and {"libc6", "gcc-14-x86-64-linux-gnu", "dash"} <= set(seed.packages)
    root = lock_verb.wanted(toolchains / "buildroot.toml")
    assert root.closed and "make" in root.packages and "gcc" in root.without


@pytest.mark.parametrize("name", ["seed", "buildroot"])
def test_locks_hold_what_is_wanted(name: str) -> None:
    toolchains = Path(__file__).parents[2] / "toolchain"
    wanted = lock_verb.wanted(toolchains / f"{name}.toml")
    pinned = {package.name for package in lock_file.read_lock(wanted.lock).packages}
    assert set(wanted.packages) <= pinned
    assert not pinned & set(wanted.without)
    compilers = {found for found in pinned if re.match(r"(gcc|g\+\+|cpp)-[0-9]|lib.*-dev$|binutils", found)}
    assert name == "seed" or compilers <= {"gcc-14-base"}
