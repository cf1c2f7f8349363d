"""Git sources: the tree of a pinned commit, as we write it.

Files are read out of the object store one by one, so no filter, attribute, hook or line-end setting has a
say, and the digest is that of our own tree: names, executable bits, contents, links.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

from bundler import process
from bundler.digest import Digest, hex_of
from bundler.errors import EnvironmentLacks, InputError
from bundler.recipe import Source
from bundler.tree import scan, tree_digest
from bundler.tree_writer import TreeWriter

_TIMEOUT = 1800.0
"""Seconds for one fetch."""
_DEPTH = 8
"""Submodules within submodules."""
_PROTOCOLS = ("https", "http", "ssh", "git", "file")
_LINE = re.compile(rb"(\d{6}) (\w+) ([0-9a-f]{40,64})\t(.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Item:
    """A line of ``git ls-tree``: mode, kind (blob or commit), object name, path."""

    mode: str
    kind: str
    name: str
    path: str


def check_out(source: Source, expected: Digest | None, sources: Path) -> Digest:
    """Put the tree of the source's commit into ``sources`` under its digest, and return that.

    Raises InputError for a wrong digest or an unsound tree, EnvironmentLacks where no URL has the commit
    or git is not here; both say what each URL did.
    """
    assert source.commit is not None
    sources.mkdir(parents=True, exist_ok=True)
    said = []
    for url in source.urls:
        with tempfile.TemporaryDirectory(prefix="partial-git-", dir=sources) as scratch:
            tree = Path(scratch, "tree")
            try:
                url = url.removeprefix("git+")
                _write(url, source.commit, tree, "", Path(scratch), source.submodules, _DEPTH)
            except EnvironmentLacks as error:
                said.append(f"  {url}: {error.why or error.message}")
                continue
            digest = tree_digest(scan(tree))
            if expected is not None and digest != expected:
                raise InputError(
                    f"the tree of commit {source.commit} is not what the recipe says",
                    where=url,
                    why=f"expected {hex_of(expected)}, and it is {hex_of(digest)}",
                    hint="'bundle fetch --update-hash' takes the new one",
                )
            final = sources / hex_of(digest)
            # Another process may be first: its tree has the same digest.
            with contextlib.suppress(OSError):
                tree.rename(final)
            if not final.is_dir():
                raise EnvironmentLacks("cannot keep a git source", where=str(final))
            return digest
    raise EnvironmentLacks(f"cannot fetch commit {source.commit}", detail="\n".join(said))


def _write(
    url: str, commit: str, root: Path, below: str, scratch: Path, submodules: bool, depth: int
) -> None:
    """Write the tree of one repository at ``below``, and those of its submodules."""
    repository = Path(tempfile.mkdtemp(prefix="repository-", dir=scratch))
    _fetch(url, commit, repository)
    items = _items(repository, commit)
    writer = TreeWriter(root, f"{url} at {commit[:12]}", below=below)
    _write_items(repository, items, writer)
    writer.finish()
    modules = [item for item in items if item.kind == "commit"]
    if submodules and modules:
        if depth == 0:
            raise InputError("its submodules are nested too deeply", where=url)
        urls = _submodule_urls(repository, commit, url)
        for item in modules:
            if item.path not in urls:
                raise InputError(f"the submodule {item.path!r} has no URL in .gitmodules", where=url)
            inside = f"{below}/{item.path}" if below else item.path
            _write(urls[item.path], item.name, root, inside, scratch, True, depth - 1)
    shutil.rmtree(repository)


def _fetch(url: str, commit: str, repository: Path) -> None:
    """Fetch one commit; where the server gives only what has a name, all that has one."""
    _git(repository, "init", "--quiet", "--bare", ".")
    shallow = _try_git(repository, "fetch", "--quiet", "--no-tags", "--depth=1", "--", url, commit)
    if not shallow.ok:
        refs = ("refs/heads/*:refs/heads/*", "refs/tags/*:refs/tags/*")
        _git(repository, "fetch", "--quiet", "--no-tags", "--", url, *refs)
    _git(repository, "cat-file", "-e", f"{commit}^{{commit}}")


def _items(repository: Path, commit: str) -> list[_Item]:
    listed = _git(repository, "ls-tree", "-r", "-z", "--full-tree", commit).stdout
    items = []
    for line in listed.split(b"\0"):
        if match := _LINE.match(line):
            mode, kind, name = (match[n].decode() for n in (1, 2, 3))
            items.append(_Item(mode, kind, name, os.fsdecode(match[4])))
    return items


def _write_items(repository: Path, items: list[_Item], writer: TreeWriter) -> None:
    """Blobs through one ``git cat-file --batch`` (its format: ``<name> <kind> <size>LF<content>LF``)."""
    blobs = [item for item in items if item.kind == "blob"]
    for item in items:
        if ".git" in item.path.lower().split("/") or ".." in item.path.split("/"):
            writer.refuse(item.path, "has no place in a tree")
        if item.kind == "commit":
            writer.directory(item.path)
    contents = repository / "contents"
    names = "".join(f"{item.name}\n" for item in blobs).encode()
    argv = [process.find_tool("git"), "cat-file", "--batch"]
    done = process.run(argv, environment=_environment(), directory=repository, stdin=names, log=contents)
    if not done.ok:
        raise EnvironmentLacks("git cat-file failed", where=str(repository))
    with contents.open("rb") as reader:
        for item in blobs:
            _, kind, size = reader.readline().decode("utf-8", "replace").split()
            if kind != "blob":
                writer.refuse(item.path, "is no file")
            if item.mode == "120000":
                writer.symlink(item.path, os.fsdecode(reader.read(int(size))))
            else:
                executable = item.mode == "100755"
                writer.file(item.path, reader, int(size), executable=executable, mtime=None)
            reader.read(1)


def _submodule_urls(repository: Path, commit: str, parent: str) -> Mapping[str, str]:
    """Paths of submodules with their URLs, relative ones resolved (gitmodules(5))."""
    listed = _git(repository, "config", "--blob", f"{commit}:.gitmodules", "--list", "-z").stdout
    values: dict[str, dict[str, str]] = {}
    for record in os.fsdecode(listed).split("\0"):
        key, _, value = record.partition("\n")
        section, _, rest = key.partition(".")
        name, _, variable = rest.rpartition(".")
        if section == "submodule":
            values.setdefault(name, {})[variable] = value
    found = {}
    for module in values.values():
        url, path = module.get("url", ""), module.get("path", "")
        if url.startswith(("./", "../")):
            url = _joined(parent, url)
        if url.partition("://")[0] not in _PROTOCOLS or "://" not in url:
            raise InputError(f"the submodule {path!r} has the URL {url[:200]!r}", where=parent)
        if url.startswith("file:") and not parent.startswith("file:"):
            raise InputError(f"the submodule {path!r} points into this machine: {url[:200]!r}", where=parent)
        found[path] = url
    return found


def _joined(parent: str, relative: str) -> str:
    scheme, _, rest = parent.partition("://")
    return f"{scheme}://" + urljoin("https://" + rest.rstrip("/") + "/", relative).removeprefix("https://")


def _git(repository: Path, *words: str) -> process.Completed:
    done = _try_git(repository, *words)
    if not done.ok:
        why = done.stderr.decode("utf-8", "replace").strip().replace("\n", "; ")
        raise EnvironmentLacks(f"git {words[0]} failed", why=why[:500])
    return done


def _try_git(repository: Path, *words: str) -> process.Completed:
    argv = [process.find_tool("git"), *words]
    try:
        return process.run(argv, environment=_environment(), directory=repository, timeout=_TIMEOUT)
    except TimeoutError as error:
        raise EnvironmentLacks(f"git {words[0]} failed", why=str(error)) from error


def _environment() -> dict[str, str]:
    """The user's proxies, certificates and git configuration, but no variable that points elsewhere."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name.startswith(("GIT_SSL", "GIT_SSH"))
    }
    return kept | {
        "LC_ALL": "C.UTF-8",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_HTTP_LOW_SPEED_LIMIT": "256",
        "GIT_HTTP_LOW_SPEED_TIME": "60",
        "GIT_ALLOW_PROTOCOL": ":".join(_PROTOCOLS),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
