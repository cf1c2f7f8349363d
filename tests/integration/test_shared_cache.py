"""A registry as the cache that two machines share, and entries in it that are not what they say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import Bundle
from registry import RegistryServer

from bundler.digest import Digest, digest_bytes, hex_of
from bundler.errors import BundleError, InputError
from bundler.oci import image as media
from bundler.registry.cache import SharedCache
from bundler.registry.client import Repository
from bundler.registry.reference import parse_reference
from bundler.settings import cache_directory
from bundler.store import Store

KEY = digest_bytes(b"key")
OTHER = digest_bytes(b"other key")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def first(tmp_path: Path) -> Store:
    """A machine that built two keys; one of them gave two trees, one of which has links."""
    store = Store(tmp_path / "first")
    for key, text in ((KEY, "one"), (OTHER, "two")):
        outputs = {}
        for prefix in ("/.deps/a/1", "/.deps/b/1"):
            with store.temporary() as work:
                (work / "tree/bin").mkdir(parents=True)
                (work / "tree/bin/x").write_text(text + prefix)
                (work / "tree/bin/x").chmod(0o755)
                os.link(work / "tree/bin/x", work / "tree/bin/y")
                (work / "tree/link").symlink_to("bin/x")
                outputs[prefix] = store.add_tree(work / "tree")
        store.record(key, outputs, {})
    return store


def trees(store: Store) -> list[str]:
    directory = store.root / "trees"
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def test_what_one_machine_built_the_other_has(server: RegistryServer, first: Store, tmp_path: Path) -> None:
    cache = SharedCache(f"{server.host}/build/cache")
    assert cache.push(KEY, first)
    assert not cache.push(KEY, first)
    second = Store(tmp_path / "second")
    assert cache.pull(KEY, second) == first.outputs(KEY) == second.outputs(KEY)
    found = first.outputs(KEY)
    assert found is not None
    for tree in found.values():
        assert second.entries(tree) == first.entries(tree)
        assert second.check(tree)
    assert cache.pull(OTHER, second) is None


def test_an_entry_for_another_key_is_refused(server: RegistryServer, first: Store, tmp_path: Path) -> None:
    cache = SharedCache(f"{server.host}/build/cache")
    cache.push(OTHER, first)
    there = Repository(parse_reference(f"{server.host}/build/cache"))
    there.put_manifest(hex_of(KEY), there.manifest(hex_of(OTHER))[0], media.MANIFEST)
    second = Store(tmp_path / "second")
    with pytest.raises(InputError, match="another key"):
        cache.pull(KEY, second)
    assert second.outputs(KEY) is None
    assert trees(second) == []


def test_an_entry_with_another_tree_is_refused(server: RegistryServer, first: Store, tmp_path: Path) -> None:
    liar = Store(tmp_path / "liar")
    with liar.temporary() as work:
        (work / "tree").mkdir()
        (work / "tree/x").write_text("evil")
        tree = liar.add_tree(work / "tree")
    promised = first.outputs(KEY)
    assert promised is not None
    (victim, *_) = promised.values()
    # The tree under the name that was promised: as if somebody had changed a machine's store.
    for suffix in ("", ".jsonl"):
        (liar.root / f"trees/{hex_of(tree)}{suffix}").rename(liar.root / f"trees/{hex_of(victim)}{suffix}")
    liar.record(KEY, {"/.deps/a/1": victim}, {})
    cache = SharedCache(f"{server.host}/build/cache")
    cache.push(KEY, liar)
    second = Store(tmp_path / "second")
    with pytest.raises(InputError, match="does not hold what it says"):
        cache.pull(KEY, second)
    assert second.outputs(KEY) is None


def test_a_damaged_registry_is_noticed(server: RegistryServer, first: Store, tmp_path: Path) -> None:
    cache = SharedCache(f"{server.host}/build/cache")
    cache.push(KEY, first)
    blobs = [path for path in (tmp_path / "registry/data").rglob("data") if path.stat().st_size > 0]
    for blob in blobs:
        data = blob.read_bytes()
        blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    second = Store(tmp_path / "second")
    with pytest.raises(BundleError):
        cache.pull(KEY, second)
    assert second.outputs(KEY) is None
    assert trees(second) == []


@pytest.mark.parametrize("name", ["h.example/cache:tag", f"h.example/cache@{KEY}", "cache"])
def test_a_cache_is_a_repository(name: str) -> None:
    with pytest.raises(InputError):
        SharedCache(name)


@pytest.mark.slow
def test_a_second_machine_builds_nothing(server: RegistryServer, tmp_path: Path) -> None:
    repository = f"{server.host}/build/cache"
    told = []
    for name, option in (("first", "--cache-to"), ("second", "--cache-from")):
        home = tmp_path / name
        (home / "cache").mkdir(parents=True)
        sources = cache_directory() / "sources"
        if name == "first" and sources.is_dir():
            shutil.copytree(sources, home / "cache/sources", copy_function=shutil.copyfile, symlinks=True)
        bundle = Bundle(home / "out", {"BUNDLE_CACHE": str(home / "cache")})
        offline = ["--offline"] if name == "second" else []
        told.append(bundle("build", "runtime", option, repository, "--progress", "none", *offline))
    assert " 0 built," in told[1].replace("\n", " ")
    layouts = [tmp_path / name / "out/runtime/index.json" for name in ("first", "second")]
    assert layouts[0].read_bytes() == layouts[1].read_bytes()
    assert Digest(KEY)
