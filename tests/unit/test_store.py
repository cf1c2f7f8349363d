from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from bundler.digest import Digest, digest_bytes
from bundler.errors import BundleError, EnvironmentLacks, InputError
from bundler.gc import collect, parse_size
from bundler.store import Store, remove_tree
from bundler.tree import EPOCH, scan, tree_digest

KEY = digest_bytes(b"key")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = Store(tmp_path / "cache")
    found.open()
    return found


def add(store: Store, files: Mapping[str, str]) -> Digest:
    """A tree of these files; a name that ends with a slash is a directory, ``->`` makes a link."""
    with store.temporary() as work:
        top = work / "tree"
        top.mkdir()
        for path, text in files.items():
            target = top / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                target.mkdir(exist_ok=True)
            elif text.startswith("-> "):
                target.symlink_to(text[3:])
            else:
                target.write_text(text)
        return store.add_tree(top)


def listing(store: Store) -> set[str]:
    return {path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file()}


def test_a_tree_is_what_its_digest_says(store: Store) -> None:
    digest = add(store, {"bin/a": "one", "lib/": "", "b": "-> bin/a"})
    assert [entry.path for entry in store.entries(digest)] == ["b", "bin", "bin/a", "lib"]
    assert tree_digest(store.entries(digest)) == digest == tree_digest(scan(store.tree_path(digest)))
    assert store.check(digest)
    (store.tree_path(digest) / "bin/a").write_text("two")
    assert not store.check(digest)


def test_modes_times_and_umask_do_not_count(store: Store) -> None:
    found = set()
    for mode in (0o600, 0o640, 0o664):
        with store.temporary() as work:
            top = work / "tree"
            (top / "d").mkdir(parents=True, mode=0o700)
            (top / "d/file").write_text("x")
            (top / "d/file").chmod(mode)
            (top / "d/program").write_text("x")
            (top / "d/program").chmod(mode | 0o100)
            (top / "d/link").symlink_to("nowhere")
            found.add(store.add_tree(top))
            assert not top.exists()
    (digest,) = found
    modes = {entry.path: entry.mode for entry in store.entries(digest)}
    assert modes == {"d": 0o755, "d/file": 0o644, "d/program": 0o755, "d/link": 0o777}
    for entry in store.entries(digest):
        assert os.lstat(store.tree_path(digest) / entry.path).st_mtime == EPOCH


def test_what_is_hidden_or_linked_survives(store: Store) -> None:
    with store.temporary() as work:
        top = work / "tree"
        top.mkdir()
        (top / "a").write_text("x")
        os.link(top / "a", top / "b")
        os.setxattr(top / "a", "user.note", b"1")
        (top / "s").write_text("x")
        (top / "s").chmod(0o4755)
        digest = store.add_tree(top)
    entries = {entry.path: entry for entry in store.entries(digest)}
    assert entries["b"].hardlink == "a"
    assert entries["a"].xattrs == (("user.note", b"1"),)
    assert entries["s"].mode == 0o4755
    names = os.stat(store.tree_path(digest) / "a").st_ino, os.stat(store.tree_path(digest) / "b").st_ino
    assert names[0] == names[1]


def test_a_name_that_is_not_utf8(store: Store) -> None:
    digest = add(store, {os.fsdecode(b"\xff"): "x"})
    assert store.entries(digest)[0].path == os.fsdecode(b"\xff")
    assert store.check(digest)


def test_a_socket_is_refused(store: Store) -> None:
    with store.temporary() as work, pytest.raises(InputError, match="not a fifo"):
        (work / "tree").mkdir()
        os.mkfifo(work / "tree/pipe")
        store.add_tree(work / "tree")


def test_one_tree_twice(store: Store) -> None:
    assert add(store, {"a": "x"}) == add(store, {"a": "x"})
    assert len(list((store.root / "trees").iterdir())) == 2


def test_a_key_leads_to_trees_until_one_is_gone(store: Store) -> None:
    assert store.outputs(KEY) is None
    digest = add(store, {"a": "x"})
    store.record(KEY, {"/.deps/x/1": digest}, {"name": "x"})
    assert store.outputs(KEY) == {"/.deps/x/1": digest}
    found = store.lookup(KEY)
    assert found is not None
    assert found.meta == {"name": "x"}
    remove_tree(store.tree_path(digest))
    assert store.outputs(KEY) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"outputs": 3}', '{"outputs": {"a": "b"}}', "\0"])
def test_a_damaged_record_counts_as_missing(store: Store, text: str) -> None:
    digest = add(store, {"a": "x"})
    store.record(KEY, {"p": digest})
    (path,) = (store.root / "keys").iterdir()
    path.write_text(text)
    assert store.outputs(KEY) is None


def test_entries_of_a_tree_that_is_not_here(store: Store) -> None:
    with pytest.raises(InputError, match="no tree"):
        store.entries(KEY)


# Unions


def test_a_union_shows_all_trees(store: Store) -> None:
    first = add(store, {"lib/a": "a", "share/": "", "x": "-> lib/a"})
    second = add(store, {"lib/b": "b", "lib/deep/c": "c"})
    union = store.union([first, second])
    assert [e.path for e in scan(union)] == ["lib", "lib/a", "lib/b", "lib/deep", "lib/deep/c", "share", "x"]
    assert os.path.samefile(union / "lib/a", store.tree_path(first) / "lib/a")
    assert store.union([second, first]) == union
    assert store.union([first]) == store.tree_path(first)
    assert store.check(first)


def test_a_union_of_what_conflicts_names_both(store: Store) -> None:
    first = add(store, {"lib/a": "1", "lib/same": "s", "d/": ""})
    second = add(store, {"lib/a": "2", "lib/same": "s", "d": "file"})
    with pytest.raises(BundleError) as caught:
        store.union([first, second], {first: "zlib", second: "zstd"})
    text = str(caught.value)
    for path in ("lib/a", "lib/same", "d"):
        assert f"zlib and zstd both install {path}" in text
    assert 'drop = ["lib/a"]' in text
    assert not list((store.root / "unions").iterdir())


# Room to work in


def test_a_temporary_directory_goes_with_its_block(store: Store) -> None:
    with pytest.raises(RuntimeError), store.temporary() as work:
        (work / "locked").mkdir()
        (work / "locked/file").write_text("x")
        (work / "locked").chmod(0)
        raise RuntimeError
    assert not list((store.root / "tmp").iterdir())


def test_sweep_takes_what_the_dead_left_and_nothing_else(store: Store) -> None:
    script = """
        import os, sys
        from pathlib import Path
        from bundler.store import Store
        with Store(Path(sys.argv[1])).temporary() as work:
            (work / "left").write_text("x")
            os.kill(os.getpid(), 9)
    """
    with store.temporary() as mine:
        subprocess.run([sys.executable, "-c", textwrap.dedent(script), store.root], check=False)
        assert len(list((store.root / "tmp").iterdir())) == 2
        assert store.sweep() == 1
        assert list((store.root / "tmp").iterdir()) == [mine]


def test_a_lock_dies_with_its_process(store: Store) -> None:
    script = """
        import os, sys, time
        from pathlib import Path
        from bundler.store import Store
        with Store(Path(sys.argv[1])).lock("x"):
            print("held", flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(store.root)]
    waited = threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        threading.Timer(0.1, holder.kill).start()
        with store.lock("x", waiting=waited.set):
            assert waited.is_set()


def test_threads_do_the_work_of_a_key_once(store: Store) -> None:
    done = []

    def work() -> None:
        with store.key_lock(KEY):
            if store.outputs(KEY) is None:
                time.sleep(0.02)
                done.append(1)
                store.record(KEY, {"p": add(store, {"a": "x"})})

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [1]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentLacks, match="cannot write to the cache"):
        Store(tmp_path / "file/cache").open()


# Collecting


def age(store: Store, key: Digest, hours: float) -> None:
    path = store.root / "keys" / f"{key.removeprefix('sha256:')}.json"
    os.utime(path, (time.time() - hours * 3600,) * 2)


def test_the_longest_unused_goes_first_and_roots_stay(store: Store) -> None:
    keys = {name: digest_bytes(name.encode()) for name in ("old", "new", "held")}
    for name, key in keys.items():
        store.record(key, {"p": add(store, {name: name * 20000})})
    store.hold("bundle", [keys["held"]])
    for name, hours in (("held", 9), ("old", 5), ("new", 2)):
        age(store, keys[name], hours)
    store.close()
    whole = collect(store, 1 << 40)
    assert whole.removed == 0
    some = collect(store, whole.before - 1)
    assert some.removed == 2  # a key and its tree
    assert some.after < whole.before
    assert [name for name, key in keys.items() if store.outputs(key)] == ["new", "held"]
    assert collect(store, 0).after > 0
    assert [name for name, key in keys.items() if store.outputs(key)] == ["held"]


def test_a_tree_of_two_keys_goes_with_the_second(store: Store) -> None:
    tree = add(store, {"a": "x"})
    for name in ("one", "two"):
        store.record(digest_bytes(name.encode()), {"p": tree})
    (store.root / "keys" / f"{digest_bytes(b'one').removeprefix('sha256:')}.json").unlink()
    collect(store, 1 << 40)
    assert store.tree_path(tree).is_dir()
    collect(store, 0)
    assert not store.tree_path(tree).exists()
    assert listing(store) == {"locks/store", "locks/tmp"}


def test_what_no_key_leads_to_goes_with_its_unions(store: Store) -> None:
    kept, lost = add(store, {"a": "x"}), add(store, {"b": "x"})
    store.record(KEY, {"p": kept})
    store.union([kept, lost])
    (store.root / "sources").mkdir()
    (store.root / "sources/file").write_text("x")
    collect(store, 1 << 40)
    assert store.outputs(KEY) == {"p": kept}
    assert not store.tree_path(lost).exists()
    assert not list((store.root / "unions").iterdir())
    assert (store.root / "sources/file").exists()
    collect(store, 0)
    assert not (store.root / "sources/file").exists()


def test_nothing_is_collected_while_another_uses_the_store(store: Store) -> None:
    other = Store(store.root)
    other.open()
    with pytest.raises(EnvironmentLacks, match="another process uses"):
        collect(store, 0)
    other.close()
    collect(store, 0)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("12", 12), ("1k", 1024), ("1.5M", 1572864), ("20G", 20 << 30), ("2T", 2 << 40)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "1X", "-1", "nan", "1e999", "1GB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


def test_records_are_readable(store: Store) -> None:
    store.record(KEY, {"p": add(store, {"a": "x"})}, {"name": "n"})
    (path,) = (store.root / "keys").iterdir()
    assert set(json.loads(path.read_text())) == {"outputs", "meta"}
