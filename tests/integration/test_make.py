"""The jobserver with its real client: GNU make 4.4 from the build root's lock, in builds that run at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from small_builds import PREFIX, busybox_root, small_request, tarball

from bundler.build import BuildOptions, build_node
from bundler.cli.common import CHECKOUT
from bundler.errors import BuildError
from bundler.fetch import Fetcher
from bundler.jobserver import Jobserver
from bundler.lock_file import read_lock
from bundler.node_request import package_source
from bundler.sandbox.bubblewrap import Bubblewrap
from bundler.settings import cache_directory
from bundler.store import Store
from bundler.unpack import unpack_deb

MAKEFILE = """
jobs = 1 2 3 4 5 6 7 8
all: $(jobs)
$(jobs):
\t@touch /build/src/run.$@; sleep 0.2; rm /build/src/run.$@
below:
\t@$(MAKE) all
by-flags:
\t@make $(MFLAGS) all
"""
INSTALL = f'mkdir -p "$DESTDIR{PREFIX}"; echo x >"$DESTDIR{PREFIX}/x"'


@pytest.fixture(scope="module")
def buildroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Busybox, and make with its C library, where Debian has them: below /usr."""
    root = busybox_root(tmp_path_factory.mktemp("buildroot") / "root")
    packages = {
        package.name: package for package in read_lock(CHECKOUT / "toolchain/buildroot.lock").packages
    }
    fetcher = Fetcher(cache_directory())
    for name in ("libc6", "make"):
        unpack_deb(fetcher.fetch(package_source(packages[name])), root)
    return root


class Watch:
    """The most jobs that were seen at once in all builds of a store."""

    def __init__(self, store: Store) -> None:
        self.most = 0
        self._store = store
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(0.01):
            found = list((self._store.root / "tmp").glob("*/work/src/run.*"))
            self.most = max(self.most, len(found))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Builder:
    """Builds on one pool of slots."""

    def __init__(self, buildroot: Path, directory: Path, jobs: int) -> None:
        self._buildroot, self._directory = buildroot, directory
        self.store, self.jobserver = Store(directory / "cache"), Jobserver(jobs)
        self.store.open()

    def build(self, name: str, script: str, options: BuildOptions | None = None) -> None:
        source = tarball(self._directory / f"{name}.tar.gz", {"Makefile": MAKEFILE})
        steps = {"build": script, "install": INSTALL}
        request = small_request(self._buildroot, steps, name=name, sources=(source,))
        build_node(request, self.store, Bubblewrap(), self.jobserver, options=options)

    def build_all(self, names: str, script: str) -> None:
        """One build for each letter, all at once."""
        threads = [threading.Thread(target=self.build, args=(name, script)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("target", ["all", "below", "by-flags"])
def test_one_build_uses_all_slots(buildroot: Path, tmp_path: Path, target: str) -> None:
    builder = Builder(buildroot, tmp_path, 3)
    with Watch(builder.store) as watch:
        builder.build("one", f"make {target}")
    assert watch.most == 3
    assert builder.jobserver.available() == 3
    assert "jobserver" not in next((builder.store.root / "logs/one").iterdir()).read_text()


def test_builds_at_once_share_the_slots(buildroot: Path, tmp_path: Path) -> None:
    builder = Builder(buildroot, tmp_path, 4)
    with Watch(builder.store) as watch:
        builder.build_all("abc", "make all below")
    assert watch.most == 4
    assert builder.jobserver.available() == 4
    installed_and_relocated = 2
    assert len(list((builder.store.root / "keys").iterdir())) == 3 * installed_and_relocated


def test_slots_of_a_killed_make_come_back(buildroot: Path, tmp_path: Path) -> None:
    builder = Builder(buildroot, tmp_path, 4)
    with pytest.raises(BuildError, match="exit status 1"):
        builder.build("killed", "make all & sleep 0.1; kill -9 $!; exit 1")
    assert builder.jobserver.available() == 4
    options = BuildOptions()
    threading.Timer(0.3, options.stop.set).start()
    with pytest.raises(BuildError, match="was stopped"):
        builder.build("stopped", "make all", options)
    assert builder.jobserver.available() == 4


def test_a_build_that_waits_takes_over(buildroot: Path, tmp_path: Path) -> None:
    """With one slot for two builds, the second starts when the first is done."""
    builder = Builder(buildroot, tmp_path, 1)
    began = time.monotonic()
    builder.build_all("ab", "make all")
    assert time.monotonic() - began > 2 * 8 * 0.2
    assert builder.jobserver.available() == 1
