"""What integration tests share: an engine that the session starts and stops, and foreign roots.

``dockerd`` is a daemon of our own (:class:`dockerd.Dockerd`).  ``foreign_root(name)`` is a directory with
``scratch``, ``musl`` or ``debian``, not to be written to; ``foreign_image(name)`` the same as an image in
that daemon.  ``sample_bundles`` are small bundles to use there.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import foreign
import pytest
import samples
from command import Bundle
from dockerd import Dockerd
from podmans import PrivatePodman


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and that is inherited.  Test suites of
    others wait in vain then for the signals that they send themselves."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that any user can enter.  pytest's own are for their owner, and each session that starts
    closes them again."""
    with tempfile.TemporaryDirectory(prefix="public-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def dockerd() -> Iterator[Dockerd]:
    with Dockerd() as daemon:
        yield daemon


@pytest.fixture
def docker_host(dockerd: Dockerd, monkeypatch: pytest.MonkeyPatch) -> str:
    """The daemon's address, which is in the environment, too: our own code then finds it there."""
    monkeypatch.setenv("DOCKER_HOST", dockerd.host)
    return dockerd.host


@pytest.fixture(scope="session")
def foreign_root(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def make(name: str) -> Path:
        return foreign.unpack(name, tmp_path_factory.mktemp("foreign") / name)

    return make


@pytest.fixture(scope="session")
def foreign_image(dockerd: Dockerd) -> Callable[[str], str]:
    @cache
    def make(name: str) -> str:
        reference = f"foreign/{name}:1"
        # An image config as real base images have one: what must survive a commit unchanged.
        changes = ['CMD ["/bin/sh"]', "ENV FOREIGN=" + name] if name != "scratch" else ['CMD ["/nop"]']
        words = [part for change in changes for part in ("--change", change)]
        dockerd.docker("import", *words, str(foreign.archive(name)), reference)
        return reference

    return make


@pytest.fixture(scope="session")
def sample_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the layouts of the bundles ``runtime`` and ``tools`` (:mod:`samples`)."""
    return samples.make(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="session")
def podman() -> Iterator[PrivatePodman]:
    with PrivatePodman() as engine:
        yield engine


@pytest.fixture
def bundle(dockerd: Dockerd, sample_bundles: Path) -> Bundle:
    """The command ``bundle`` with the sample bundles and the session's Docker."""
    return Bundle(sample_bundles, {**dockerd.environment, "BUNDLE_ENGINE": "docker"})


@pytest.fixture
def podman_bundle(podman: PrivatePodman, sample_bundles: Path) -> Bundle:
    """The same with the session's podman."""
    return Bundle(sample_bundles, {**podman.environment, "BUNDLE_ENGINE": "podman"})


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``built("shell")`` builds that bundle and what it requires, from the cache what is there, and is the
    directory with their layouts (what ``--out`` names)."""
    out = tmp_path_factory.mktemp("built") / "out"

    @cache
    def make(name: str) -> Path:
        Bundle(out, {})("build", name, "--out", str(out), "--progress", "plain")
        return out

    return make
