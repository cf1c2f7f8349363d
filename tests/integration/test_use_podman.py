"""Bundles used through a real podman, which fills volumes in a way of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import foreign
import pytest
import samples
from command import Bundle
from podmans import PrivatePodman

from bundler.process import run

pytestmark = pytest.mark.engine

Image = Callable[[str], str]


@pytest.fixture(scope="module")
def podman_image(podman: PrivatePodman) -> Image:
    @cache
    def make(name: str) -> str:
        reference = f"localhost/foreign/{name}:1"
        podman.podman("import", "--change", "CMD /nop", str(foreign.archive(name)), reference)
        return reference

    return make


def inspect(podman: PrivatePodman, reference: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(podman.podman("image", "inspect", reference))[0]
    return found


def test_load_and_run(podman_bundle: Bundle, podman_image: Image) -> None:
    assert podman_bundle("load", "tools").split() == ["runtime:1.0", "tools:1.0"]
    assert podman_bundle("load", "tools").split() == ["runtime:1.0", "tools:1.0"]
    for name in ("scratch", "musl"):
        words = ["run", "--from", podman_image(name), "--with", "tools", "--", "greet"]
        assert podman_bundle(*words) == f"hello from {samples.TOOLS}/bin/greet"


def test_run_hands_through(podman_bundle: Bundle, podman_image: Image) -> None:
    words = ["run", "--from", podman_image("musl"), "--with", "tools", "--"]
    assert podman_bundle.run(*words, "sh", "-c", "exit 37").returncode == 37
    assert podman_bundle.run(*words, "no-such-command").returncode == 127
    assert podman_bundle(*words, "cat", stdin="through\n") == "through"


def test_volumes(podman_bundle: Bundle, podman: PrivatePodman, podman_image: Image) -> None:
    names = podman_bundle("volume", "create", "tools").split()
    assert podman_bundle("volume", "create", "tools").split() == names
    assert [line.split()[0] for line in podman_bundle("volume", "list").splitlines()] == names
    command = ["run", "--rm", f"--volumes-from={names[1]}", podman_image("musl")]
    assert podman.podman(*command, "cat", f"{samples.TOOLS}/share/data") == "data 1.0"
    assert not podman.try_podman(*command, "touch", f"{samples.TOOLS}/file").ok
    podman.podman("container", "prune", "--force")
    assert podman_bundle("volume", "create", "tools").split() == names
    assert podman_bundle("volume", "remove", "--all").split() == names
    assert not podman.podman("volume", "ls", "--quiet")


def test_no_copy_is_refused(podman_bundle: Bundle) -> None:
    podman_bundle("volume", "remove", "--all")
    done = podman_bundle.run("volume", "create", "tools", "--no-copy")
    assert done.returncode == 4 and "needs Docker with overlay2" in done.stderr
    assert podman_bundle("volume", "list") == ""


def test_commit_leaves_no_trace(podman_bundle: Bundle, podman: PrivatePodman, podman_image: Image) -> None:
    base = podman_image("scratch")
    words = ["run", "--from", base, "--with", "tools", "--commit", "localhost/made:1", "--workdir", "/"]
    podman_bundle(*words, "--", f"{samples.RUNTIME}/bin/sh", "-c", "echo x > /made")
    before, after = inspect(podman, base), inspect(podman, "localhost/made:1")
    assert after["RootFS"]["Layers"][:-1] == before["RootFS"]["Layers"]
    assert after["Config"] == before["Config"]
    assert ".deps" not in json.dumps(after)
    shown = podman.podman("diff", "localhost/made:1").splitlines()
    assert [line for line in shown if not line.endswith("/etc")] == ["A /made"]


def test_the_printed_recipe_works(podman_bundle: Bundle, podman: PrivatePodman, podman_image: Image) -> None:
    podman_bundle("volume", "remove", "--all")
    podman_bundle("load", "tools")
    recipe = podman_bundle("mount", "tools", "--for", "podman")
    recipe = recipe.replace("IMAGE COMMAND", f"{podman_image('scratch')} {samples.TOOLS}/bin/greet")
    done = run(["sh", "-euc", recipe], environment=podman.environment)
    assert b"hello from" in done.stdout, done.stderr
    podman_bundle("volume", "remove", "--all")
