"""Locks refreshed through the machine's apt, from an archive of our own with a key of our own."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundler import debian
from bundler.errors import BundleError, EnvironmentLacks, InputError
from bundler.target import ARCHITECTURES

X86_64 = ARCHITECTURES["x86_64"]

PACKAGES = """\
Package: tool
Version: 2-1
Architecture: amd64
Depends: libtool-one (>= 1)
Filename: pool/main/t/tool/tool_2-1_amd64.deb
Size: 100
SHA256: {digest}

Package: libtool-one
Version: 1.5
Architecture: amd64
Filename: pool/main/t/tool/libtool-one_1.5_amd64.deb
Size: 10
SHA256: {digest}
""".format(digest="a" * 64)

SOURCES = """\
Package: tool
Version: 2-1
Directory: pool/main/t/tool
Homepage: https://tool.example/
Checksums-Sha256:
 {digest} 7 tool_2.orig.tar.xz
""".format(digest="b" * 64)


class OwnArchive:
    """An archive on disk: ``write`` publishes a suite in it."""

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self.home = home
        self.keyring = root / "keys.gpg"
        self._gpg("--passphrase", "", "--quick-gen-key", "archive@example", "ed25519", "sign", "never")
        self._gpg("--output", str(self.keyring), "--export")

    def _gpg(self, *words: str) -> None:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--yes", *words]
        subprocess.run(command, check=True, capture_output=True)

    def write(self, packages: str = PACKAGES) -> None:
        suite = self.root / "dists/trixie"
        indexes = {"main/binary-amd64/Packages": packages, "main/source/Sources": SOURCES}
        lines = [
            "Origin: Test",
            "Suite: stable",
            "Codename: trixie",
            "Components: main",
            "Architectures: amd64",
        ]
        lines += ["Date: Sat, 12 Sep 2026 07:55:41 UTC", "SHA256:"]
        for path, text in indexes.items():
            (suite / path).parent.mkdir(parents=True, exist_ok=True)
            (suite / path).write_text(text)
            lines.append(f" {hashlib.sha256(text.encode()).hexdigest()} {len(text)} {path}")
        (suite / "Release").write_text("\n".join(lines) + "\n")
        self._gpg("--output", str(suite / "InRelease"), "--clear-sign", str(suite / "Release"))
        (suite / "Release").unlink()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnArchive]:
    # gpg-agent's socket lies in it, whose path must be short.
    home = Path(tempfile.mkdtemp())
    found = OwnArchive(tmp_path, home)
    found.write()
    monkeypatch.setenv(debian.MIRRORS_VARIABLE, f"file:{tmp_path}")
    monkeypatch.setenv(debian.KEYRING_VARIABLE, str(found.keyring))
    yield found
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False, capture_output=True)
    shutil.rmtree(home, ignore_errors=True)


def test_lock_from_a_signed_archive(archive: OwnArchive, tmp_path: Path) -> None:
    found = debian.open_archive("trixie", X86_64, tmp_path / "state")
    lock = debian.refresh(found, X86_64, ["tool"], close_over=True)
    assert (lock.suite, lock.date) == ("trixie", "Sat, 12 Sep 2026 07:55:41 UTC")
    assert [(package.name, package.version) for package in lock.packages] == [
        ("libtool-one", "1.5"),
        ("tool", "2-1"),
    ]
    files = found.sources(["tool"])["tool"].files
    assert [(file.path, file.size) for file in files] == [("pool/main/t/tool/tool_2.orig.tar.xz", 7)]


def test_refresh_sees_what_is_new(archive: OwnArchive, tmp_path: Path) -> None:
    debian.open_archive("trixie", X86_64, tmp_path / "state")
    archive.write(PACKAGES.replace("1.5", "1.6"))
    lock = debian.refresh(
        debian.open_archive("trixie", X86_64, tmp_path / "state"), X86_64, ["libtool-one"], close_over=True
    )
    assert [package.version for package in lock.packages] == ["1.6"]


@pytest.mark.parametrize("fault", ["key", "release", "index", "suite"])
def test_what_is_not_as_signed_is_refused(
    archive: OwnArchive, tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = tmp_path / "dists/trixie"
    wanted = "trixie"
    if fault == "key":
        monkeypatch.delenv(debian.KEYRING_VARIABLE)
    elif fault == "release":
        text = (suite / "InRelease").read_text()
        (suite / "InRelease").write_text(text.replace("Origin: Test", "Origin: Evil"))
    elif fault == "index":
        (suite / "main/binary-amd64/Packages").write_text(PACKAGES.replace("2-1", "3-1"))
    else:
        wanted = "bookworm"
    with pytest.raises(BundleError) as caught:
        debian.open_archive(wanted, X86_64, tmp_path / "state")
    assert isinstance(caught.value, EnvironmentLacks | InputError)
    assert wanted in str(caught.value)
