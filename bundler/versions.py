"""Which of two versions is the later one, by the rules of who gave them.

Debian: deb-version(7).  PyPI: PEP 440.  Semantic versions: semver.org 2.0.0, section 11, missing parts
being 0.  Everything else: runs of digits and letters by turns, with ``rc1``, ``beta2`` and their like
before the release that they lead to.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

from bundler.debian_index import VersionKey

_SEMANTIC = re.compile(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]*)?\Z")
_BEFORE_RELEASE = re.compile(r"[-._~]?(?=(?:alpha|beta|pre|rc|dev)(?![a-z]))", re.IGNORECASE)


class Order(StrEnum):
    DEBIAN = "debian"
    DEBIAN_SOURCE = "debian source"
    """A version of upstream against versions of Debian: see :func:`compare`."""
    PYPI = "pypi"
    SEMANTIC = "semantic"
    UPSTREAM = "upstream"


def compare(mine: str, bound: str, order: Order) -> int:
    """Less than, equal to or greater than 0, as ``mine`` is earlier than, equal to or later than ``bound``.

    With DEBIAN_SOURCE, ``mine`` is what upstream released, by the name that its file has in Debian's pool:
    without an epoch, which file names leave out, and without a revision.  It counts as the first revision:
    what that fixed is fixed in upstream's release, what a later one fixed is fixed by a patch of Debian's.
    """
    match order:
        case Order.DEBIAN:
            return _cmp(VersionKey(mine), VersionKey(bound))
        case Order.DEBIAN_SOURCE:
            bound = bound.partition(":")[2] or bound
            return _cmp(VersionKey(f"{mine}-1" if "-" in bound else mine), VersionKey(bound))
        case Order.PYPI:
            one, other = _pypi(mine), _pypi(bound)
        case Order.SEMANTIC:
            one, other = _semantic(mine), _semantic(bound)
        case Order.UPSTREAM:
            one = other = None
    if one is not None and other is not None:
        return _cmp(one, other)
    return _cmp(VersionKey(_marked(mine)), VersionKey(_marked(bound)))


def plain(tag: str) -> str:
    """The version in the name of a release: ``curl-8_14_1``, ``v8.14.1`` and ``8.14.1`` are one."""
    found = re.search(r"\d", tag)
    version = tag[found.start() :] if found else tag
    return version if "." in version else version.replace("_", ".")


def _cmp(one: Any, other: Any) -> int:
    return -1 if one < other else int(other < one)


def _marked(version: str) -> str:
    """The version so that Debian's order is right for it: a tilde sorts before the end."""
    return _BEFORE_RELEASE.sub("~", version.removeprefix("v")).replace("-", ".").replace(":", ".")


def _pypi(version: str) -> Any:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version)
    except InvalidVersion:
        return None


def _semantic(version: str) -> Any:
    found = _SEMANTIC.match(version)
    if found is None:
        return None
    numbers = tuple(int(part or 0) for part in found.groups()[:3])
    before = tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in (found[4] or "").split(".") if part
    )
    return numbers, found[4] is None, before
