"""Two builds give the same images: another user, directory, time, umask, locale, jobs and cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from bundler.cli.common import CHECKOUT
from bundler.settings import cache_directory

OTHER_USER = 12345

SMALL = """\
name = "small"
version = "1"
compat = 1
summary = "a few small recipes: a library, what is linked to it, a program"
requires = ["runtime"]
recipes = ["attr", "tree", "xxhash"]
commands = ["bin/tree", "bin/getfattr"]
"""

HERE = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "umask": "022", "jobs": "3"}
THERE = {"LC_ALL": "de_DE.UTF-8", "TZ": "Pacific/Auckland", "umask": "077", "jobs": "1"}


def copy_checkout(to: Path) -> Path:
    """What a build reads, with one more bundle."""
    for name in ("bundler", "recipes", "images", "toolchain"):
        shutil.copytree(CHECKOUT / name, to / name)
    (to / "images/small.toml").write_text(SMALL)
    return to


def python_for_others() -> str:
    """The system's Python: the one that runs the tests may lie where only its owner can look."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    found = shutil.which(version, path="/usr/local/bin:/usr/bin")
    assert found, f"the system has no {version}"
    return found


def share(source: Path, target: Path) -> None:
    """A second name for a file that all may read and nobody writes to; a copy on another file system."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy(source, target)


def build(bundle: str, checkout: Path, cache: Path, settings: Mapping[str, str], user: int) -> dict[str, str]:
    """Image IDs by bundle of a build with its own cache; only the sources are shared."""
    sources, out = cache / "sources", cache / "out"
    for directory in (cache, sources, out):
        directory.mkdir(parents=True)
        if os.geteuid() == 0:
            os.chown(directory, user, user)
    for source in (cache_directory() / "sources").iterdir():
        if source.is_file():
            share(source, sources / source.name)
    # The packages that bundle itself imports lie in the environment of the tests.
    path = os.pathsep.join([str(checkout), *(p for p in sys.path if p.endswith("-packages"))])
    script = f'umask {settings["umask"]}; exec "$@"'
    words = ["build", bundle, "--jobs", settings["jobs"], "--out", str(out), "--format", "json"]
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", python_for_others(), "-m", "bundler", *words],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": path,
            "HOME": str(cache),
            "BUNDLE_CACHE": str(cache),
            "LC_ALL": settings["LC_ALL"],
            "TZ": settings["TZ"],
        },
        cwd=cache,
        user=user if os.geteuid() == 0 else None,
        group=user if os.geteuid() == 0 else None,
        extra_groups=[] if os.geteuid() == 0 else None,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {found["name"]: found["image"] for found in json.loads(done.stdout)["bundles"]}


@pytest.mark.parametrize("bundle", ["small", pytest.param("shell", marks=pytest.mark.slow)])
def test_another_user_place_and_time_give_the_same_images(bundle: str, public_path: Path) -> None:
    here = copy_checkout(public_path / "here")
    there = copy_checkout(public_path / "quite/another/place")
    first = build(bundle, here, public_path / "one", HERE, os.geteuid())
    second = build(bundle, there, public_path / "quite/two", THERE, OTHER_USER)
    assert first == second
    assert set(first) == {"runtime", bundle}
