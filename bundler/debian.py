"""Debian archives: the mirrors that the machine's apt is configured with, and what they hold.

Formats: sources.list(5) for both styles of configuration, deb822(5) for control data.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler import process
from bundler.debian_index import PackageIndex, SourcePackage, close, pick, source_packages, stanzas
from bundler.errors import EnvironmentLacks, InputError
from bundler.recipe import Lock
from bundler.target import Architecture

APT_DIRECTORY = Path("/etc/apt")
MIRRORS_VARIABLE = "BUNDLE_DEBIAN_MIRRORS"
"""Environment variable: archive roots, separated by blanks, that are asked before apt's own."""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Keys of Debian's archive, from the package debian-archive-keyring."""

KEYRING_VARIABLE = "BUNDLE_DEBIAN_KEYRING"
"""Environment variable: the keyring of those who may sign, for an archive of one's own."""

_ONE_LINE = re.compile(r"(?P<type>deb|deb-src)\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<rest>\S.*)")
_SCHEMES = ("http://", "https://", "file:/")


@dataclass(frozen=True, slots=True)
class AptSource:
    """One archive of an apt configuration; ``signed_by`` is the text of that option, or empty."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    @property
    def is_debian(self) -> bool:
        """Whether it is an archive of Debian itself: it has ``main``, and no key of somebody else's."""
        return "main" in self.components and (not self.signed_by or "debian-archive" in self.signed_by)


def mirror_urls(path: str, *, apt: Path = APT_DIRECTORY) -> list[str]:
    """Where ``path`` (``pool/main/r/rsync/rsync_3.4.1.orig.tar.gz``) may be had, best first.

    Raises EnvironmentLacks where the machine has no Debian archive configured.
    """
    return [f"{root}/{path}" for root in _in_order(path, mirrors(apt))]


def mirrors(apt: Path = APT_DIRECTORY) -> list[str]:
    """Roots of the Debian archives of this machine, without a trailing slash: the user's, then apt's.

    Raises EnvironmentLacks where there is none.
    """
    chosen = [root.rstrip("/") for root in os.environ.get(MIRRORS_VARIABLE, "").split()]
    configured = [source.uri for source in read_apt_sources(apt) if source.is_debian]
    found = list(dict.fromkeys(root for root in chosen + configured if root.startswith(_SCHEMES)))
    if not found:
        raise EnvironmentLacks(
            "no Debian archive is configured on this machine",
            where=str(apt),
            hint=f"name one in the environment variable {MIRRORS_VARIABLE}",
        )
    return found


def _in_order(path: str, roots: list[str]) -> list[str]:
    """Security archives have their own pool: first for what lies there, last for all else."""
    security = path.startswith("pool/updates/")
    return sorted(roots, key=lambda root: root.endswith("-security") is not security)


def read_apt_sources(apt: Path = APT_DIRECTORY) -> list[AptSource]:
    """The enabled archives of an apt configuration directory, in apt's order."""
    found: list[AptSource] = []
    parts = apt / "sources.list.d"
    files = [apt / "sources.list", *(sorted(parts.iterdir()) if parts.is_dir() else ())]
    for file in files:
        try:
            text = file.read_text("utf-8", "replace")
        except (FileNotFoundError, PermissionError, IsADirectoryError):
            continue
        if file.suffix == ".list":
            found += parse_one_line_sources(text)
        elif file.suffix == ".sources":
            found += parse_deb822_sources(text)
    return found


def parse_one_line_sources(text: str) -> list[AptSource]:
    """The classic format: ``deb [option=value …] URI SUITE [COMPONENT…]``; other lines are passed over."""
    found = []
    for line in text.splitlines():
        match = _ONE_LINE.match(line.partition("#")[0].strip())
        if match is None:
            continue
        uri, *words = match["rest"].split()
        options = dict(option.partition("=")[::2] for option in (match["options"] or "").split())
        found.append(
            AptSource(uri.rstrip("/"), tuple(words[:1]), tuple(words[1:]), options.get("signed-by", ""))
        )
    return found


def parse_deb822_sources(text: str) -> list[AptSource]:
    """The format of ``*.sources`` files: stanzas with ``URIs``, ``Suites`` and ``Components``."""
    found = []
    for stanza in stanzas(text):
        fields = {name.lower(): value for name, value in stanza.items()}
        if fields.get("enabled", "yes").lower() in ("no", "false", "0", "off"):
            continue
        suites, components = (tuple(fields.get(name, "").split()) for name in ("suites", "components"))
        for uri in fields.get("uris", "").split():
            found.append(AptSource(uri.rstrip("/"), suites, components, fields.get("signed-by", "")))
    return found


@dataclass(frozen=True, slots=True)
class Archive:
    """A suite of an archive, as its signed Release file describes it.

    ``date`` is that file's, as RFC 5322 writes it; ``lists`` is the directory that holds the indexes.
    """

    suite: str
    date: str
    lists: Path
    digests: dict[str, str]
    """Path of an index below the suite's directory → SHA-256 in hexadecimal."""

    def packages(self, architecture: Architecture) -> PackageIndex:
        """Binary packages; raises InputError where the index is not the one that was signed."""
        name = f"main/binary-{architecture.debian}/Packages"
        return PackageIndex(self._read(name), where=name)

    def sources(self, names: Sequence[str]) -> dict[str, SourcePackage]:
        """Source packages by name; raises InputError as :meth:`packages` does."""
        name = "main/source/Sources"
        return source_packages(self._read(name), set(names), where=name)

    def _read(self, name: str) -> str:
        file = _list_file(self.lists, name.replace("/", "_"))
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != self.digests.get(name):
            raise InputError(
                "the index is not the one that the archive signed", where=str(file), hint="try again later"
            )
        return data.decode("utf-8", "replace")


def open_archive(
    suite: str, architecture: Architecture, state: Path, *, apt: Path = APT_DIRECTORY
) -> Archive:
    """Download the indexes of ``suite`` into ``state`` and check the signature.

    apt fetches, with the machine's proxies and credentials, into lists of its own: the machine's are not
    touched, and root is not needed.  Raises EnvironmentLacks for a missing tool, keyring or network, and
    InputError where the archive is not the one that signed.
    """
    lists = state / "lists"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    (state / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
    keyring = Path(os.environ.get(KEYRING_VARIABLE) or KEYRING)
    configuration = state / "sources.list"
    root = _in_order("", mirrors(apt))[0]
    configuration.write_text(
        "".join(f"{kind} [signed-by={keyring}] {root} {suite} main\n" for kind in ("deb", "deb-src"))
    )
    options = {
        "APT::Architecture": architecture.debian,
        "APT::Architectures": architecture.debian,
        "APT::Sandbox::User": "",
        "Acquire::GzipIndexes": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Dir::Cache": f"{state}/cache",
        "Dir::Etc::SourceList": f"{configuration}",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": f"{lists}",
    }
    argv = [process.find_tool("apt-get", package="apt"), "-q", "update", "--error-on=any"]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    environment = process.BASE_ENVIRONMENT | {
        name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")
    }
    done = process.run(argv, environment=environment)
    if not done.ok:
        raise EnvironmentLacks(
            f"cannot fetch the indexes of {suite!r}",
            where=root,
            why=(done.stderr or done.stdout).decode("utf-8", "replace").strip(),
        )
    return read_archive(suite, lists, keyring=keyring)


def read_archive(suite: str, lists: Path, *, keyring: Path = KEYRING) -> Archive:
    """The archive whose indexes lie in ``lists``; raises as :func:`open_archive` does."""
    file = _list_file(lists, f"{suite}_InRelease")
    release = next(stanzas(verified_text(file, keyring), where=str(file)), {})
    if suite not in (release.get("Suite"), release.get("Codename")):
        raise InputError(f"this Release file is not of {suite!r}", where=str(file))
    digests = {}
    for line in release.get("SHA256", "").split("\n"):
        match line.split():
            case [hexadecimal, _, name]:
                digests[name] = hexadecimal
    return Archive(suite, release.get("Date", ""), lists, digests)


def verified_text(file: Path, keyring: Path = KEYRING) -> str:
    """What is signed in a clear-signed file (RFC 9580, section 7), and nothing around it.

    Raises EnvironmentLacks without gpgv or keyring, InputError without a good signature.
    """
    if not keyring.exists():
        raise EnvironmentLacks(
            "the keys of Debian's archive are not on this machine",
            where=str(keyring),
            hint="apt-get install debian-archive-keyring",
        )
    gpgv = process.find_tool("gpgv")
    done = process.run([gpgv, "--keyring", str(keyring), "--output", "-", str(file)])
    if not done.ok:
        why = done.stderr.decode("utf-8", "replace").strip()
        raise InputError("the signature is not good", where=str(file), why=why)
    return done.stdout.decode("utf-8")


def refresh(
    archive: Archive,
    architecture: Architecture,
    names: Sequence[str],
    *,
    without: Sequence[str] = (),
    close_over: bool,
) -> Lock:
    """Pin the packages of these names, with all that they depend on where ``close_over`` says so.

    Raises InputError naming every package or relation that the suite cannot meet.
    """
    index = archive.packages(architecture)
    packages = close(index, names, without) if close_over else pick(index, names)
    return Lock(archive.suite, archive.date, tuple(packages))


def _list_file(lists: Path, suffix: str) -> Path:
    """The file of apt's lists directory that ends so: its beginning is the mirror's URI."""
    found = sorted(lists.glob(f"*_{suffix}"))
    if not found:
        raise EnvironmentLacks(f"apt did not fetch {suffix}", where=str(lists))
    return max(found, key=lambda file: file.stat().st_mtime)
