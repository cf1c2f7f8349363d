"""The real bundles, built by the pipeline and mounted at their prefixes in foreign roots.

Namespaces stand for containers here: they start in milliseconds, so that every command can be tried in
every root.  ``test_use_*.py`` hold that Docker and podman show bundles the same way.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import foreign

from bundler.pipeline import Pipeline
from bundler.recipe import Bundle
from bundler.settings import Settings, cache_directory
from bundler.survey import to_build
from bundler.target import parse_target

CHECKOUT = Path(__file__).parents[2]
EVERYDAY = ("runtime", "shell", "libs", "base", "gitartifact")
BUNDLES = (*EVERYDAY, "chef", "ansible")

HOSTILE = {
    "LD_LIBRARY_PATH": "/lib:/usr/lib:/usr/lib/x86_64-linux-gnu",
    "LANG": "de_DE.UTF-8",
    "LOCPATH": "/usr/lib/locale",
    "TERMINFO_DIRS": "/nowhere",
}
"""What a container may have set, and programs of another libc must bear."""


def _scratch() -> Path:
    """A directory that goes when the tests end."""
    directory = mkdtemp(prefix="bundles-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


@dataclass(frozen=True)
class Mounted:
    """Bundles by name, the trees that lie at their prefixes, and a directory that programs see as /w."""

    bundles: Mapping[str, Bundle]
    prefixes: Mapping[str, str]
    trees: Mapping[str, Path]
    work: Path
    root: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    uid: int = 0
    network: bool = False
    sysfs: bool = False

    def path(self, bundle: str, below: str) -> str:
        return f"{self.prefixes[bundle]}/{below}"

    def words(self) -> list[str]:
        """bwrap's words for a container of ``root`` (empty without one), read-only but for /w and /tmp."""
        path = ":".join(f"{prefix}/bin" for prefix in reversed(self.prefixes.values()))
        words = [
            "bwrap",
            "--unshare-ipc",
            "--unshare-pid",
            "--unshare-uts",
            "--clearenv",
            "--die-with-parent",
        ]
        words += [] if self.network else ["--unshare-net"]
        # A user namespace knows one user alone, and ACLs name others: only where it is needed.
        words += ["--unshare-user", "--uid", str(self.uid), "--gid", str(self.uid)] if self.uid else []
        for name, value in {"PATH": path, "HOME": "/w", **self.environment}.items():
            words += ["--setenv", name, value]
        words += foreign.shown(self.root, "proc", "dev", "tmp")
        for name, tree in self.trees.items():
            words += ["--ro-bind", str(tree), self.prefixes[name]]
        words += ["--ro-bind", "/sys", "/sys"] if self.sysfs else []
        words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind", str(self.work), "/w"]
        return [*words, "--remount-ro", "/", "--chdir", "/w"]

    def attempt(
        self, argv: Sequence[str], stdin: str = "", *, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.words(), *argv], input=stdin, capture_output=True, text=True, check=False, timeout=timeout
        )

    def bash(self, script: str) -> str:
        """What bash's ``script`` prints; it must succeed, and have nothing to complain of."""
        done = self.attempt([self.path("shell", "bin/bash"), "-euc", script])
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout


def with_required(bundle: str) -> tuple[str, ...]:
    """The bundle, after those that its file says it requires."""
    return (*tomllib.loads((CHECKOUT / f"images/{bundle}.toml").read_text()).get("requires", ()), bundle)


@cache
def _built(
    names: tuple[str, ...],
) -> tuple[Mapping[str, Bundle], Mapping[str, str], Mapping[str, Path]]:
    settings = Settings(
        cache=cache_directory(),
        recipes=(CHECKOUT / "recipes",),
        images=(CHECKOUT / "images",),
        toolchains=CHECKOUT / "toolchain",
        toolchain=os.environ.get("BUNDLE_TOOLCHAIN", "seed"),
        target=parse_target(),
        out=_scratch(),
        jobs=2,
    )
    pipeline = Pipeline(settings, names)
    # Trees are all that is needed: what is built is not packed once more.
    if to_build(pipeline.surveyor.survey()):
        pipeline.build()
    planned = {name: pipeline.plan.bundles[name] for name in names}
    return (
        {name: plan.bundle for name, plan in planned.items()},
        {name: plan.prefix for name, plan in planned.items()},
        {
            name: pipeline.store.union([part.tree for part in pipeline.parts(plan)])
            for name, plan in planned.items()
        },
    )


def mount(work: Path, root: Path | None = None, names: Sequence[str] = EVERYDAY) -> Mounted:
    """The bundles ``names``, those that others require first, in a container of ``root``.

    Builds what the cache lacks.
    """
    return Mounted(*_built(tuple(names)), work, root)
