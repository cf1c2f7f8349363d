"""A local apk repository with a key of its own, made of packages that are written here.

apk's second format (wiki.alpinelinux.org, "Apk spec"): a package is three gzip streams, each a tar archive:
a signature over the second, which describes the package and holds the digest of the third, its files.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

KEY = "tests.rsa.pub"


def make(directory: Path, architecture: str, packages: Mapping[str, Mapping[str, str]]) -> Path:
    """A repository for ``apk --repository DIRECTORY``, and its public key in ``DIRECTORY/tests.rsa.pub``.

    ``packages`` maps ``NAME_VERSION`` to files, path to text, all of them executable.
    """
    (directory / architecture).mkdir(parents=True)
    key = directory / "tests.rsa"
    for command in (["genrsa", "-out", key, "2048"], ["rsa", "-in", key, "-pubout", "-out", directory / KEY]):
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True)
    index = ""
    for package, files in packages.items():
        name, _, version = package.partition("_")
        data = _archive(files, mode=0o755, end=True)
        about = (
            f"pkgname = {name}\npkgver = {version}\npkgdesc = {name} for tests\nurl = https://example.org\n"
        )
        about += f"size = {sum(map(len, files.values()))}\narch = {architecture}\nlicense = MIT\n"
        about += f"datahash = {hashlib.sha256(data).hexdigest()}\n"
        control = _archive({".PKGINFO": about}, mode=0o644, end=False)
        whole = _signature(control, key) + control + data
        (directory / architecture / f"{name}-{version}.apk").write_bytes(whole)
        index += f"C:Q1{base64.b64encode(hashlib.sha1(control).digest()).decode()}\nP:{name}\nV:{version}\n"
        index += (
            f"A:{architecture}\nS:{len(whole)}\nI:4096\nT:{name} for tests\nU:https://example.org\nL:MIT\n\n"
        )
    content = _archive({"DESCRIPTION": "tests", "APKINDEX": index}, mode=0o644, end=True)
    (directory / architecture / "APKINDEX.tar.gz").write_bytes(_signature(content, key) + content)
    return directory


def _archive(files: Mapping[str, str], *, mode: int, end: bool) -> bytes:
    """A compressed tar archive; without its ``end``, so that another one can follow as its continuation."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        # apk wants each directory before what it holds.
        above = {str(parent) for path in files for parent in PurePosixPath(path).parents}
        for directory in sorted(above - {"."}):
            member = tarfile.TarInfo(directory)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        for path, text in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(text), mode
            if end:
                member.pax_headers = {"APK-TOOLS.checksum.SHA1": hashlib.sha1(text.encode()).hexdigest()}
            archive.addfile(member, io.BytesIO(text.encode()))
        length = stream.tell()
    return gzip.compress(stream.getvalue() if end else stream.getvalue()[:length], mtime=0)


def _signature(data: bytes, key: Path) -> bytes:
    signed = subprocess.run(
        ["openssl", "dgst", "-sha1", "-sign", str(key)], input=data, check=True, capture_output=True
    ).stdout
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(f".SIGN.RSA.{KEY}")
        member.size = len(signed)
        archive.addfile(member, io.BytesIO(signed))
        length = stream.tell()
    return gzip.compress(stream.getvalue()[:length], mtime=0)
