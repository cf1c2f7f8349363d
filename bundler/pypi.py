"""Files of the Python package index that the machine's pip is configured with.

The simple repository API (packaging.python.org, "Simple repository API"), JSON or HTML, and pip's
``find-links`` pages and directories.  Nothing of a package is run.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urljoin, urlsplit

from bundler import process
from bundler.digest import digest_file
from bundler.download import Failure, NetworkSettings, get_text
from bundler.errors import EnvironmentLacks
from bundler.wheel_lock import Wheel, normalized

if TYPE_CHECKING:
    from requests import Session

    from bundler.target import Architecture

MANYLINUX = 41
"""Minor version of the C library that wheels may ask for: that of the toolchains (glibc 2.41)."""
_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_DEFAULT = re.compile(r"--index-url.*?\(default\s+(\S+?)\)", re.DOTALL)
_SETTING = re.compile(r"(?:global|install|download|:env:)\.(index-url|extra-index-url|find-links)=(.*)\Z")


@dataclass(frozen=True, slots=True)
class PipSettings:
    """Where pip looks: index URLs, the main one first, and pages or directories of links."""

    indexes: tuple[str, ...]
    links: tuple[str, ...] = ()


@cache
def pip_settings() -> PipSettings:
    """What pip says of its configuration; raises EnvironmentLacks where there is no pip."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    environment = {**os.environ, "COLUMNS": "1000", "LC_ALL": "C.UTF-8"}
    listed = process.run([*pip, "config", "list"], environment=environment)
    told = process.run([*pip, "help", "download"], environment=environment)
    if not (listed.ok and told.ok):
        raise EnvironmentLacks(
            "cannot ask pip for its package index",
            why=listed.stderr.decode("utf-8", "replace").strip()[-300:],
            hint="apt-get install python3-pip, or list another URL of this source",
        )
    default = _DEFAULT.search(told.stdout.decode("utf-8", "replace"))
    return parse_pip_settings(listed.stdout.decode("utf-8", "replace"), default[1] if default else "")


def parse_pip_settings(listed: str, default: str) -> PipSettings:
    """The output of ``pip config list``; ``default`` is the index where none is set."""
    found: dict[str, list[str]] = {}
    for line in listed.splitlines():
        if match := _SETTING.match(line):
            # pip lists files before the environment, and the last one wins.
            found[match[1]] = str(ast.literal_eval(match[2])).split()
    indexes = [*found.get("index-url", [default]), *found.get("extra-index-url", [])]
    return PipSettings(tuple(i.rstrip("/") for i in indexes if i), tuple(found.get("find-links", [])))


def resolve(requirements: Sequence[str], python: str, architecture: Architecture) -> tuple[Wheel, ...]:
    """The wheels that requirements come to, as pip resolves them for a Python of that version.

    Environment markers are read as our own Python reads them.  Raises EnvironmentLacks with pip's words.
    """
    series = ".".join(python.split(".")[:2])
    tags = [f"manylinux_2_{minor}_{architecture.name}" for minor in range(MANYLINUX, 4, -1)]
    tags += [f"{tag}_{architecture.name}" for tag in ("manylinux2014", "manylinux2010", "manylinux1")]
    with tempfile.TemporaryDirectory(prefix="bundle-") as work:
        words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
        words += ["--only-binary=:all:", "--implementation=cp", f"--python-version={series}", "--dest", work]
        words += [f"--platform={tag}" for tag in tags]
        done = process.run([*words, *requirements], environment={**os.environ, "LC_ALL": "C.UTF-8"})
        if not done.ok:
            raise EnvironmentLacks(
                "pip does not find wheels for " + ", ".join(requirements),
                why=done.stderr.decode("utf-8", "replace").strip()[-1000:],
                hint="loosen the recipe's 'wheels', or look at pip's configuration",
            )
        return tuple(Wheel(file.name, digest_file(file)) for file in sorted(Path(work).iterdir()))


def file_urls(
    name: str,
    file: str,
    http: Session,
    settings: NetworkSettings,
    *,
    offline: bool = False,
    pip: PipSettings | None = None,
) -> tuple[list[str], list[str]]:
    """URLs of a project's file, best first, and what those who lack it said.

    With ``offline`` only directories of this machine are looked at.
    """
    urls: list[str] = []
    said: list[str] = []
    for page, found in _pages(name, http, settings, pip or pip_settings(), said, offline):
        matching = [url for url in found if unquote(urlsplit(url).path).rpartition("/")[2] == file]
        urls += matching
        if not matching:
            said.append(f"{page} does not list {file}")
    return list(dict.fromkeys(url.partition("#")[0] for url in urls)), said


def file_names(
    name: str, http: Session, settings: NetworkSettings, pip: PipSettings | None = None
) -> list[str]:
    """Names of all files of a project, in no order."""
    pages = _pages(name, http, settings, pip or pip_settings(), [], False)
    return [unquote(urlsplit(url).path).rpartition("/")[2] for _, found in pages for url in found]


def _pages(
    name: str, http: Session, settings: NetworkSettings, pip: PipSettings, said: list[str], offline: bool
) -> list[tuple[str, list[str]]]:
    """Each page that lists the project, and the URLs on it."""
    found = []
    for link in pip.links:
        directory = Path(unquote(urlsplit(link).path)) if link.startswith("file:") else Path(link)
        if directory.is_dir():
            found.append((link, [path.absolute().as_uri() for path in sorted(directory.iterdir())]))
        elif "://" in link and not offline:
            found += _page(link, http, settings, said)
    for index in pip.indexes:
        if index.startswith("file:") or not offline:
            found += _page(f"{index}/{normalized(name)}/", http, settings, said)
    return found


def _page(url: str, http: Session, settings: NetworkSettings, said: list[str]) -> list[tuple[str, list[str]]]:
    try:
        text, kind = get_text(url, http, settings, accept=_ACCEPT)
        return [(url, parse_page(text, kind, url))]
    except Failure as failure:
        said.append(f"{url}: {failure.why}")
        return []


def parse_page(text: str, kind: str, base: str) -> list[str]:
    """Absolute URLs of the files on an index's page; raises Failure where it is none."""
    if "json" in kind:
        try:
            return [urljoin(base, str(file["url"])) for file in json.loads(text)["files"]]
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(f"its answer is no list of files: {error}") from error
    parser = _Anchors()
    parser.feed(text)
    return [urljoin(base, href) for href in parser.hrefs]


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and (href := dict(attrs).get("href")):
            self.hrefs.append(href)
