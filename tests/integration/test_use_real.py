"""A real bundle in real containers: what the README promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from command import Bundle
from dockerd import Dockerd

SCRIPT = """
echo "bash ${BASH_VERSION%%.*}"
rsync --version | { read -r name rest; echo "$name"; }
tree --noreport -L 1 /.deps
exec 3< <(echo substituted); read -r line <&3; echo "$line"
"""
SHOWN = ["rsync", "/.deps", "|-- rt", "`-- shell", "substituted"]


@pytest.fixture
def shell(dockerd: Dockerd, built: Callable[[str], Path]) -> Bundle:
    return Bundle(built("shell"), {**dockerd.environment, "BUNDLE_ENGINE": "docker"})


@pytest.mark.engine
@pytest.mark.parametrize("name", ["scratch", "musl", "debian"])
def test_shell_in_foreign_images(shell: Bundle, foreign_image: Callable[[str], str], name: str) -> None:
    bash = "/.deps/shell/1/bin/bash"
    words = ["run", "--from", foreign_image(name), "--with", "shell", "--read-only", "--user", "12345", "--"]
    shown = shell(*words, bash, "-c", SCRIPT).splitlines()
    assert shown == ["bash 5", *SHOWN]


def test_shell_in_an_empty_root_without_an_engine(shell: Bundle) -> None:
    words = ["run", "--from", "scratch", "--with", "shell", "--", "bash", "-c", SCRIPT]
    shown = shell(*words, DOCKER_HOST="unix:///nonexistent").splitlines()
    assert shown == ["bash 5", *SHOWN]


@pytest.mark.engine
def test_an_image_made_with_rsync_knows_nothing_of_it(
    shell: Bundle, dockerd: Dockerd, foreign_image: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("hello\n")
    base = foreign_image("scratch")
    words = ["run", "--from", base, "--with", "shell", "--volume", f"{tmp_path}/site:/from:ro"]
    shell(*words, "--commit", "site:1", "--", "rsync", "--archive", "/from/", "/srv/")
    before, after = (json.loads(dockerd.docker("inspect", name))[0] for name in (base, "site:1"))
    assert after["Config"] == before["Config"]
    container = dockerd.docker("create", "site:1")
    listing = dockerd.try_docker("export", container).stdout
    assert b"srv/index.html" in listing
    assert b".deps" not in listing and b"from/" not in listing
    dockerd.docker("rm", container)
