"""``kill -9`` at random moments: nothing is left that a later build trips over, and it gives the same trees.

``BUNDLE_KILLS`` sets how many moments (`make test-kill` runs 500).
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killed_build import build_chain
from small_builds import busybox_root

from bundler.digest import Digest
from bundler.gc import collect
from bundler.settings import cache_directory
from bundler.store import Store

KILLS = int(os.environ.get("BUNDLE_KILLS", "54"))
KILLS_EACH = 3
"""Kills before a chain may be built to its end."""

SCRIPT = Path(__file__).with_name("killed_build.py")


@pytest.fixture(scope="module")
def buildroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_root(tmp_path_factory.mktemp("buildroot") / "root")


def start(buildroot: Path, cache: Path, salt: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, SCRIPT, buildroot, cache, salt],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_store(cache: Path) -> None:
    """Every key leads to whole trees, and every tree under its final name is what its name says."""
    store = Store(cache)
    for path in (store.root / "keys").glob("[!.]*"):
        record = store.lookup(Digest(f"sha256:{path.stem}"))
        assert record is not None, path
        for digest in record.outputs.values():
            assert store.check(digest), digest
    for path in (store.root / "trees").iterdir():
        if path.is_dir():
            assert store.check(Digest(f"sha256:{path.name}")), path
    store.close()


def alive(cache: Path) -> list[str]:
    """Command lines of processes that work in the store."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes()
        except OSError:
            continue
        if os.fsencode(cache) + b"/tmp/" in line:
            found.append(line.decode(errors="replace"))
    return found


def test_killed_at_random_moments(buildroot: Path, tmp_path: Path) -> None:
    cache, chance = tmp_path / "cache", random.Random(os.environ.get("BUNDLE_SEED", "1"))
    killed = finished = rounds = 0
    while killed < KILLS:
        salt = str(rounds)
        rounds += 1
        began = time.monotonic()
        expected = build_chain(buildroot, tmp_path / f"reference-{salt}", salt)
        length = time.monotonic() - began
        for _ in range(KILLS_EACH):
            with start(buildroot, cache, salt) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                time.sleep(chance.uniform(0, length))
                process.kill()
                output, _ = process.communicate()
                killed += process.returncode == -9
                finished += bool(output)
        check_store(cache)
        with start(buildroot, cache, salt) as process:
            output, errors = process.communicate()
        assert json.loads(output.removeprefix("ready\n"))["trees"] == expected, errors
    # Most of them must have hit a build at work, or this shows nothing.
    assert finished < killed / 2
    end = time.monotonic() + 5
    while alive(cache) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive(cache)
    check_store(cache)
    assert not list((cache / "tmp").iterdir())
    collect(Store(cache), 1 << 40)
    left = [path for path in cache.rglob(".*") if "trees" not in path.parts]
    assert not left


def test_processes_that_need_one_key_build_it_once(buildroot: Path, tmp_path: Path) -> None:
    processes = [start(buildroot, tmp_path / "cache", "same") for _ in range(4)]
    outcomes = []
    for process in processes:
        with process:
            output, errors = process.communicate()
        assert process.returncode == 0, errors
        outcomes.append(json.loads(output.removeprefix("ready\n")))
    assert sum(outcome["built"] for outcome in outcomes) == 3
    assert all(outcome["trees"] == outcomes[0]["trees"] for outcome in outcomes)
    check_store(tmp_path / "cache")


@pytest.mark.slow
def test_a_bundle_killed_on_its_way_comes_out_the_same(tmp_path: Path) -> None:
    """The real thing: `bundle build runtime` with the seed toolchain, killed while it builds and packs."""
    chance = random.Random(os.environ.get("BUNDLE_SEED", "1"))

    def bundle(cache: Path, out: Path) -> subprocess.Popen[bytes]:
        words = ["build", "runtime", "--cache", str(cache), "--out", str(out), "--progress", "none"]
        return subprocess.Popen([sys.executable, "-m", "bundler", *words], stdout=subprocess.DEVNULL)

    warm, cache = cache_directory(), tmp_path / "cache"
    with bundle(warm, tmp_path / "reference") as process:
        assert process.wait() == 0
    # Sources and the build root are taken over: unpacking that would be most of the time.
    store, own = Store(warm), Store(cache)
    own.open()
    subprocess.run(["cp", "-a", warm / "sources", cache], check=True)
    for path in (warm / "keys").glob("*.json"):
        key = Digest(f"sha256:{path.stem}")
        record = store.lookup(key)
        if record is not None and record.meta.get("name") == "buildroot":
            with own.temporary() as work:
                subprocess.run(["cp", "-a", store.tree_path(record.outputs["/"]), work / "root"], check=True)
                assert own.add_tree(work / "root") == record.outputs["/"]
            own.record(key, record.outputs, record.meta)
    own.close()
    killed = 0
    for _ in range(100):
        with bundle(cache, tmp_path / "out") as process:
            # Short ones hit packing, long ones building, whatever the machine is busy with.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.choice((0.5, 1, 2, 4, 8)) * chance.uniform(0.5, 1.5))
            process.kill()
        killed += process.returncode == -9
        if process.returncode == 0:
            break
    assert killed > 2
    with bundle(cache, tmp_path / "out") as process:
        assert process.wait() == 0
    check_store(cache)
    built, reference = (tmp_path / out / "runtime/index.json" for out in ("out", "reference"))
    assert built.read_bytes() == reference.read_bytes()
