"""Packages of the npm registry that the machine's npm is configured with.

The registry's package metadata (npm's documentation, "package metadata"), in its abbreviated form.  Nothing
of a package is run, and its install scripts least of all.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from bundler import process
from bundler.debian_index import VersionKey
from bundler.download import Failure, NetworkSettings, get_text
from bundler.errors import EnvironmentLacks

if TYPE_CHECKING:
    from requests import Session

VARIABLE = "NPM_CONFIG_REGISTRY"
"""npm's own environment variable; where it is set, npm need not be installed."""

_ACCEPT = "application/vnd.npm.install-v1+json"
_RELEASE = re.compile(r"\d+\.\d+\.\d+\Z")


@dataclass(frozen=True, slots=True)
class Release:
    """One version of a package, and where its tarball is."""

    name: str
    version: str
    url: str


@cache
def registry() -> str:
    """The registry's address, without a slash at its end; raises EnvironmentLacks where nobody knows it."""
    for variable in (VARIABLE, VARIABLE.lower()):
        if os.environ.get(variable):
            return os.environ[variable].rstrip("/")
    npm = process.find_tool("npm")
    asked = process.run([npm, "config", "get", "registry"], environment={**os.environ, "LC_ALL": "C.UTF-8"})
    address = asked.stdout.decode("utf-8", "replace").strip().rstrip("/")
    if not asked.ok or not address.startswith(("http://", "https://")):
        raise EnvironmentLacks(
            "cannot ask npm for its registry",
            why=asked.stderr.decode("utf-8", "replace").strip()[-300:] or f"it says {address[:80]!r}",
            hint=f"set {VARIABLE}",
        )
    return address


def release(name: str, wanted: str, http: Session, settings: NetworkSettings) -> Release:
    """The version of a package that ``wanted`` means: see :func:`choose`.

    Raises Failure where the registry does not have it, EnvironmentLacks as :func:`registry` does.
    """
    url = f"{registry()}/{quote(name, safe='@')}"
    text, _ = get_text(url, http, settings, accept=_ACCEPT)
    return choose(name, wanted, text)


def choose(name: str, wanted: str, metadata: str) -> Release:
    """A version, the newest release that begins with one (``22``, ``22.1``), or a tag (``latest``).

    Raises Failure for metadata that are none, and where they have no such version.
    """
    try:
        record: Mapping[str, Any] = json.loads(metadata)
        versions: Mapping[str, Any] = record["versions"]
        tags: Mapping[str, str] = record.get("dist-tags", {})
        found = wanted if wanted in versions else tags.get(wanted)
        if found is None and re.fullmatch(r"\d+(\.\d+)?", wanted):
            fitting = [v for v in versions if v.startswith(wanted + ".") and _RELEASE.match(v)]
            found = max(fitting, key=VersionKey, default=None)
        if found is None:
            raise Failure(f"the registry has no version {wanted!r} of {name}")
        url = str(versions[found]["dist"]["tarball"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"the registry's answer is no package's metadata: {error!r}") from error
    return Release(name, found, url)


def releases(name: str, http: Session, settings: NetworkSettings) -> list[str]:
    """Versions of a package that are no pre-releases, in no order; raises as :func:`release` does."""
    text, _ = get_text(f"{registry()}/{quote(name, safe='@')}", http, settings, accept=_ACCEPT)
    try:
        return [version for version in json.loads(text)["versions"] if _RELEASE.match(version)]
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"the registry's answer is no package's metadata: {error!r}") from error
