"""Debian archives: the mirrors that the machine's apt is configured with, and what they hold.

Formats: sources.list(5) for both styles of configuration, deb822(5) for control data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bundler.errors import EnvironmentLacks, InputError

APT_DIRECTORY = Path("/etc/apt")
MIRRORS_VARIABLE = "BUNDLE_DEBIAN_MIRRORS"
"""Environment variable: archive roots, separated by blanks, that are asked before apt's own."""

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


def stanzas(text: str, *, where: str | None = None) -> Iterator[Mapping[str, str]]:
    """The paragraphs of a control file, field by field as written; raises InputError for what is none.

    Lines of a folded or multi-line value are joined by newlines, without their leading blank.
    """
    fields: dict[str, str] = {}
    name = ""
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0] in " \t":
            if not name:
                raise InputError("a continuation line without a field", where=f"{where}:{number}")
            fields[name] += "\n" + line[1:]
        else:
            name, colon, value = line.partition(":")
            if not colon or not name:
                raise InputError(f"not a field: {line[:60]!r}", where=f"{where}:{number}")
            fields[name] = value.strip()
    if fields:
        yield fields
