"""What a build can and cannot see, through both backends."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from small_builds import busybox_root

from bundler.errors import EnvironmentLacks
from bundler.sandbox import Mount, Room, Sandbox, choose_sandbox
from bundler.sandbox.bubblewrap import Bubblewrap
from bundler.sandbox.docker import DockerSandbox

ENVIRONMENT = {"PATH": "/usr/bin:/bin", "GREETING": "a b"}


@pytest.fixture(scope="module")
def buildroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_root(tmp_path_factory.mktemp("buildroot") / "root")


@pytest.fixture(params=["bubblewrap", pytest.param("docker", marks=pytest.mark.engine)])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    if request.param == "bubblewrap":
        return Bubblewrap()
    request.getfixturevalue("docker_host")
    return DockerSandbox()


@pytest.fixture
def room(buildroot: Path, tmp_path: Path) -> Room:
    return make_room(buildroot, tmp_path)


def make_room(buildroot: Path, place: Path) -> Room:
    for path in (place / "dependency/bin", place / "work/src"):
        path.mkdir(parents=True)
    (place / "dependency/bin/tool").write_text("#!/bin/sh\necho tool\n")
    (place / "dependency/bin/tool").chmod(0o755)
    return Room(buildroot, place / "work", (Mount(place / "dependency", "/.deps/x/1"),), ENVIRONMENT)


@pytest.fixture
def say(sandbox: Sandbox, room: Room) -> Callable[[str], tuple[int, str]]:
    """Run a script and return its status and output."""

    def run(script: str) -> tuple[int, str]:
        heard: list[bytes] = []
        status = sandbox.run(room, ["sh", "-c", script], heard.append)
        return status, b"".join(heard).decode()

    return run


Say = Callable[[str], tuple[int, str]]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("id -u; id -g", "1000\n1000\n"),
        ("hostname", "build\n"),
        ("pwd", "/build/src\n"),
        ("umask", "0022\n"),
        ("ulimit -n; ulimit -c; ulimit -s", "1024\n0\n8192\n"),
        ('echo "$GREETING"', "a b\n"),
        ("/.deps/x/1/bin/tool", "tool\n"),
        ("cat", ""),
        ("echo x >/dev/null; head -c 3 /dev/zero | wc -c", "3\n"),
        ("echo x >/tmp/x; cat /tmp/x", "x\n"),
        ("wc -l </proc/net/route", "1\n"),
        ("echo out; echo err >&2", "out\nerr\n"),
        ("grep CapEff /proc/self/status", "CapEff:\t0000000000000000\n"),
        ("ls -d /home /root /work 2>/dev/null; echo", "\n"),
    ],
)
def test_what_a_build_sees(say: Say, script: str, expected: str) -> None:
    status, heard = say(script)
    assert heard == expected
    assert status in (0, 1)


@pytest.mark.parametrize(
    "path", ["/x", "/usr/x", "/etc/x", "/.deps/x/1/x", "/.deps/y", "/proc/sys/kernel/core_pattern"]
)
def test_what_a_build_cannot_change(say: Say, path: str) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    status, _ = say(f"echo x >{path}")
    assert status != 0
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_device_nodes_of_the_machine_keep_their_mode(say: Say) -> None:
    before = os.stat("/dev/null").st_mode
    say("chmod 700 /dev/null; chmod 777 /dev/zero; rm -f /dev/null; : >/dev/null")
    assert os.stat("/dev/null").st_mode == before


def test_what_a_build_writes_is_there_afterwards(say: Say, room: Room) -> None:
    assert say("echo x >file; mkdir d; ln -s file link; mkdir -m 700 private; echo y >private/y")[0] == 0
    source = room.work / "src"
    assert (source / "file").read_text() == "x\n"
    assert os.readlink(source / "link") == "file"
    assert (source / "private/y").read_text() == "y\n"


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("true", 0), ("no-such-command", 127)])
def test_status(say: Say, script: str, status: int) -> None:
    assert say(script)[0] == status


def test_what_stays_behind_dies(say: Say, room: Room) -> None:
    began = time.monotonic()
    assert say("(sleep 3; echo late >late) & echo done")[0] == 0
    assert time.monotonic() - began < 3
    time.sleep(3)
    assert not (room.work / "src/late").exists()


def test_stop(sandbox: Sandbox, room: Room) -> None:
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    began = time.monotonic()
    status = sandbox.run(room, ["sh", "-c", "sleep 3; echo late >late"], lambda data: None, stop)
    assert status != 0
    assert time.monotonic() - began < 3
    time.sleep(3)
    assert not (room.work / "src/late").exists()


def test_an_ordinary_user_gets_the_same_room(public_path: Path) -> None:
    room = make_room(busybox_root(public_path / "root"), public_path)
    for path in (room.work, room.work / "src"):
        os.chown(path, 65534, 65534)
    command = Bubblewrap().command(room, ["sh", "-c", "id -u; hostname; echo x >file; echo y >/usr/y"])
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    done = subprocess.run([*user, *command], capture_output=True, text=True, check=False)
    assert done.stdout == "1000\nbuild\n", done.stderr
    assert "Read-only file system" in done.stderr
    assert os.stat(room.work / "src/file").st_uid == 65534


def test_choose(buildroot: Path, tmp_path: Path) -> None:
    assert choose_sandbox(buildroot, tmp_path).name == "bubblewrap"


@pytest.mark.engine
def test_choose_docker(buildroot: Path, tmp_path: Path, docker_host: str) -> None:
    assert choose_sandbox(buildroot, tmp_path, "docker").name == "docker"


def test_no_sandbox_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buildroot: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentLacks) as caught:
        choose_sandbox(buildroot, tmp_path)
    assert "bubblewrap: the program 'bwrap' is not on this machine" in str(caught.value)
    assert "docker: the program 'docker' is not on this machine" in str(caught.value)
