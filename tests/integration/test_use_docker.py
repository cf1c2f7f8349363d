"""Bundles used through a real Docker engine: loaded, mounted, run, committed without a trace."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import samples
from command import Bundle
from dockerd import Dockerd

from bundler.digest import hex_of
from bundler.oci.read import open_image
from bundler.process import find_tool, run

pytestmark = pytest.mark.engine

ForeignImage = Callable[[str], str]


def inspect(daemon: Dockerd, reference: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(daemon.docker("inspect", reference))[0]
    return found


def test_load_brings_what_is_required_first(bundle: Bundle, dockerd: Dockerd) -> None:
    assert bundle("load", "tools").split() == ["runtime:1.0", "tools:1.0"]
    labels = inspect(dockerd, "tools:1.0")["Config"]["Labels"]
    assert labels["bundle.prefix"] == samples.TOOLS
    again = bundle.run("load", "tools", "--progress", "plain")
    assert again.stdout.split() == ["runtime:1.0", "tools:1.0"]


def test_load_sends_only_what_is_missing(bundle: Bundle, dockerd: Dockerd, tmp_path: Path) -> None:
    bundle("load", "tools")
    newer = Bundle(samples.make(tmp_path, version="1.1"), bundle.environment)
    narration = newer.run("load", "tools", "--progress", "json")
    assert narration.returncode == 0, narration.stderr
    notes = {
        event["task"]: event["note"]
        for event in map(json.loads, narration.stderr.splitlines())
        if event.get("note")
    }
    assert notes == {"load runtime:1.1": "thin", "load tools:1.1": "thin"}
    old, new = (inspect(dockerd, f"tools:{version}")["RootFS"]["Layers"] for version in ("1.0", "1.1"))
    assert old[0] == new[0] and old[1] != new[1]
    # The layer that was left out is really there.
    dockerd.docker("run", "--rm", "tools:1.1", f"{samples.TOOLS}/bin/find", "/.deps")


@pytest.mark.parametrize("name", ["scratch", "musl", "debian"])
def test_run_in_foreign_images(bundle: Bundle, foreign_image: ForeignImage, name: str) -> None:
    image = foreign_image(name)
    assert bundle("run", "--from", image, "--with", "tools", "--", "greet") == (
        f"hello from {samples.TOOLS}/bin/greet"
    )


def test_the_bundles_own_command_is_the_default(bundle: Bundle, foreign_image: ForeignImage) -> None:
    assert "hello" in bundle("run", "--from", foreign_image("scratch"), "--with", "tools")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "PATH={own}:/.deps/tools/1/bin:/.deps/rt/1/bin"),
        (["--path", "prepend"], "PATH=/.deps/tools/1/bin:/.deps/rt/1/bin:{own}"),
        (["--path", "none"], "PATH={own}"),
    ],
)
def test_search_path(bundle: Bundle, foreign_image: ForeignImage, options: list[str], expected: str) -> None:
    own = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    words = ["run", *options, "--from", foreign_image("musl"), "--with", "tools", "--"]
    shown = bundle(*words, f"{samples.TOOLS}/bin/env").splitlines()
    assert expected.format(own=own) in shown
    assert "FOREIGN=musl" in shown


def test_run_hands_through(bundle: Bundle, foreign_image: ForeignImage, tmp_path: Path) -> None:
    words = ["run", "--from", foreign_image("musl"), "--with", "tools"]
    assert bundle.run(*words, "--", "sh", "-c", "exit 37").returncode == 37
    assert bundle.run(*words, "--", "no-such-command").returncode == 127
    assert bundle(*words, "--", "cat", stdin="through\n") == "through"
    (tmp_path / "file").write_text("mounted ")
    tmp_path.chmod(0o755)
    options = ["--env", "A=1 2", "--env", "B", "--workdir", "/work", "--volume", f"{tmp_path}:/work:ro"]
    options += ["--user", "12345:54321", "--read-only"]
    script = 'echo "$A $B $PWD $(id -u):$(id -g)"; cat file; touch /x || echo refused'
    done = bundle(*words, *options, "--", "sh", "-c", script, B="from here")
    assert done == "1 2 from here /work 12345:54321\nmounted refused"


def test_nothing_is_left_of_a_run(bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage) -> None:
    before = dockerd.docker("ps", "--all", "--quiet").split()
    bundle("volume", "create", "tools")
    kept = dockerd.docker("ps", "--all", "--quiet").split()
    bundle("run", "--from", foreign_image("musl"), "--with", "tools", "--", "true")
    assert dockerd.docker("ps", "--all", "--quiet").split() == kept
    assert len(kept) - len(before) in (0, 2)


class TestVolumes:
    def test_created_once_and_listed(self, bundle: Bundle, dockerd: Dockerd) -> None:
        names = bundle("volume", "create", "tools").split()
        assert [name.rsplit("-", 1)[0] for name in names] == ["bundle-runtime", "bundle-tools"]
        digits = names[1].rsplit("-", 1)[1]
        assert hex_of(open_image(bundle.out / "tools").id).startswith(digits) and len(digits) == 12
        assert bundle("volume", "create", "tools").split() == names
        listed = json.loads(bundle("volume", "list", "--format", "json"))
        assert {one["name"]: one["prefix"] for one in listed}.items() >= {
            names[0]: samples.RUNTIME,
            names[1]: samples.TOOLS,
        }.items()

    def test_serve_the_plain_docker_command(
        self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage
    ) -> None:
        names = bundle("volume", "create", "tools").split()
        mounts = [f"--volumes-from={name}" for name in names]
        run = ["run", "--rm", *mounts, foreign_image("scratch"), f"{samples.TOOLS}/bin/greet"]
        assert "hello" in dockerd.docker(*run)

    def test_read_only_though_not_asked_for(
        self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage
    ) -> None:
        names = bundle("volume", "create", "tools").split()
        run = ["run", "--rm", f"--volumes-from={names[1]}", foreign_image("musl")]
        done = dockerd.try_docker(*run, "touch", f"{samples.TOOLS}/file")
        assert not done.ok and b"Read-only" in done.stderr

    def test_come_back_after_a_prune(
        self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage
    ) -> None:
        names = bundle("volume", "create", "tools").split()
        dockerd.docker("container", "prune", "--force")
        assert bundle("volume", "list") == ""
        assert bundle("volume", "create", "tools").split() == names
        dockerd.docker("container", "prune", "--force")
        dockerd.docker("volume", "prune", "--force")
        assert "hello" in bundle("run", "--from", foreign_image("scratch"), "--with", "tools")

    def test_removed_with_their_volumes(self, bundle: Bundle, dockerd: Dockerd) -> None:
        names = bundle("volume", "create", "tools").split()
        assert bundle("volume", "remove", "tools", names[0]).split() == names
        assert not set(names) & set(dockerd.docker("volume", "ls", "--quiet").split())
        assert bundle("volume", "remove", "tools") == ""

    def test_pruned_containers_leave_no_volume_behind(self, bundle: Bundle, dockerd: Dockerd) -> None:
        names = bundle("volume", "create", "tools").split()
        dockerd.docker("container", "prune", "--force")
        assert set(names) <= set(dockerd.docker("volume", "ls", "--quiet").split())
        assert set(names) <= set(bundle("volume", "remove", "--all").split())
        assert not set(names) & set(dockerd.docker("volume", "ls", "--quiet").split())

    def test_killed_while_loading_and_filling(
        self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage
    ) -> None:
        """Whatever has its final name is whole, and the next one takes no harm."""
        chance = random.Random(4)
        image = foreign_image("scratch")
        whole = {
            "runtime": (
                (f"{samples.RUNTIME}/bin/sh", "-c", f"read x <{samples.RUNTIME}/etc/shells; echo $x"),
                {"sh"},
            ),
            "tools": ((f"{samples.TOOLS}/bin/find", samples.TOOLS), {f"{samples.TOOLS}/share/data"}),
        }
        for _ in range(5):
            bundle("volume", "remove", "--all")
            for name in ("tools:1.0", "runtime:1.0"):
                dockerd.try_docker("rmi", "--force", name)
            process = bundle.start("volume", "create", "tools")
            time.sleep(chance.uniform(0.3, 1.5))
            process.kill()
            process.wait()
            for line in bundle("volume", "list").splitlines():
                container, name, *_ = line.split()
                command, expected = whole[name]
                found = dockerd.docker("run", "--rm", f"--volumes-from={container}", image, *command)
                assert expected <= set(found.split())
            assert "hello" in bundle("run", "--from", image, "--with", "tools")
        bundle("volume", "remove", "--all")
        names = dockerd.docker("ps", "--all", "--format", "{{.Names}}").split()
        assert not [name for name in names if name.startswith("bundle-")]

    def test_writable_on_request(self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage) -> None:
        words = ["run", "--from", foreign_image("musl"), "--with", "tools", "--writable", "--"]
        bundle(*words, "touch", f"{samples.TOOLS}/file")
        assert bundle(*words, "ls", f"{samples.TOOLS}/file") == f"{samples.TOOLS}/file"
        bundle("volume", "remove", "--all")

    def test_without_a_copy(self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage) -> None:
        bundle("volume", "remove", "--all")
        if inspect_driver(dockerd) != "overlay2":
            refused = bundle.run("volume", "create", "tools", "--no-copy")
            assert refused.returncode == 4 and "needs Docker with overlay2" in refused.stderr
            return
        names = bundle("volume", "create", "tools", "--no-copy").split()
        kinds = [
            json.loads(dockerd.docker("volume", "inspect", name))[0]["Options"]["type"] for name in names
        ]
        assert kinds == ["none", "overlay"]
        assert "hello" in bundle("run", "--from", foreign_image("scratch"), "--with", "tools")
        run = ["run", "--rm", *(f"--volumes-from={name}" for name in names), foreign_image("musl")]
        for name in (samples.RUNTIME, samples.TOOLS):
            assert not dockerd.try_docker(*run, "touch", f"{name}/file").ok
        # The data container holds the image.
        assert not dockerd.try_docker("rmi", "tools:1.0").ok or inspect(dockerd, names[1])
        bundle("volume", "remove", "--all")

    def test_without_a_copy_of_many_layers(
        self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage, tmp_path: Path
    ) -> None:
        if inspect_driver(dockerd) != "overlay2":
            return
        out = str(samples.make_layered(tmp_path / "few", 40))
        words = ["run", "--from", foreign_image("musl"), "--out", out, "--with", "many", "--no-copy"]
        listed = bundle(*words, "--", "ls", "/.deps/many/1/share").split()
        assert sorted(map(int, listed)) == list(range(40))
        out = str(samples.make_layered(tmp_path / "many", 100))
        done = bundle.run("volume", "create", "--out", out, "--no-copy", "many")
        assert done.returncode == 4 and "too many layers" in done.stderr


def inspect_driver(daemon: Dockerd) -> str:
    return daemon.docker("info", "--format", "{{.Driver}}")


class TestCommit:
    def test_leaves_no_trace(self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage) -> None:
        base = foreign_image("musl")
        options = ["--env", "HTTP_PROXY=http://secret@proxy", "--workdir", "/root", "--user", "0"]
        words = ["run", "--from", base, "--with", "tools", "--commit", "made:1", *options]
        bundle(*words, "--", f"{samples.TOOLS}/bin/busybox", "sh", "-c", "greet > /made; mkdir /empty")
        before, after = inspect(dockerd, base), inspect(dockerd, "made:1")
        assert after["RootFS"]["Layers"][:-1] == before["RootFS"]["Layers"]
        assert after["Config"] == before["Config"]
        assert ".deps" not in json.dumps(after) and "proxy" not in json.dumps(after)
        assert ".deps" not in dockerd.docker("history", "--no-trunc", "made:1")
        assert changed_files(dockerd, "made:1") == ["empty/", "made"]
        shown = dockerd.docker("run", "--rm", "made:1", "cat", "/made")
        assert shown == f"hello from {samples.TOOLS}/bin/greet"

    def test_into_scratch(self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage) -> None:
        words = ["run", "--from", foreign_image("scratch"), "--with", "tools", "--commit", "made:2", "--"]
        bundle(*words, f"{samples.RUNTIME}/bin/sh", "-c", "echo content > /file")
        assert changed_files(dockerd, "made:2") == ["file"]

    def test_of_nothing_adds_no_layer(
        self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage
    ) -> None:
        base = foreign_image("musl")
        bundle("run", "--from", base, "--with", "tools", "--commit", "made:3", "--", "true")
        assert inspect(dockerd, "made:3")["RootFS"] == inspect(dockerd, base)["RootFS"]

    def test_not_after_a_failure(self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage) -> None:
        words = ["run", "--from", foreign_image("musl"), "--with", "tools", "--commit", "made:4"]
        assert bundle.run(*words, "--", "false").returncode == 1
        assert not dockerd.try_docker("inspect", "made:4").ok

    def test_no_image_without_a_name_stays(
        self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage
    ) -> None:
        before = dockerd.docker("images", "--all", "--quiet", "--filter", "dangling=true")
        bundle(
            "run",
            "--from",
            foreign_image("musl"),
            "--with",
            "tools",
            "--commit",
            "made:5",
            "--",
            "touch",
            "/a",
        )
        assert dockerd.docker("images", "--all", "--quiet", "--filter", "dangling=true") == before


def changed_files(daemon: Dockerd, reference: str) -> list[str]:
    """Names in an image's top layer."""
    import io
    import tarfile

    done = daemon.try_docker("save", reference)
    assert done.ok
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        manifest = json.load(archive.extractfile("manifest.json") or io.BytesIO())
        layer = archive.extractfile(archive.getmember(manifest[0]["Layers"][-1]))
        assert layer is not None
        with tarfile.open(fileobj=layer) as tar:
            return sorted(member.name + "/" * member.isdir() for member in tar)


class TestScrub:
    def test_a_plain_commit(self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage) -> None:
        base = foreign_image("debian")
        names = bundle("volume", "create", "tools").split()
        mounts = [f"--volumes-from={name}" for name in names]
        run = ["run", "--name", "dirty", *mounts, "--env", "PATH=/.deps/tools/1/bin:/bin", base]
        dockerd.docker(*run, "/.deps/tools/1/bin/busybox", "touch", "/made")
        dockerd.docker("commit", "dirty", "dirty:1")
        dockerd.docker("rm", "dirty")
        assert ".deps/tools/1/" in changed_files(dockerd, "dirty:1")
        told = bundle.run("scrub", "dirty:1")
        assert "/.deps/tools/1" in told.stderr and "Cmd" in told.stderr
        before, after = inspect(dockerd, base), inspect(dockerd, "dirty:1")
        assert after["Config"] == before["Config"]
        assert after["RootFS"]["Layers"][:-1] == before["RootFS"]["Layers"]
        assert changed_files(dockerd, "dirty:1") == ["made"]
        assert bundle.run("scrub", "dirty:1").stderr == "no traces found\n"

    def test_what_buildkit_leaves(
        self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage, tmp_path: Path
    ) -> None:
        bundle("load", "tools")
        base = foreign_image("scratch")
        mounts = " ".join(
            f"--mount=type=bind,from={name}:1.0,source={prefix},target={prefix}"
            for name, prefix in (("runtime", samples.RUNTIME), ("tools", samples.TOOLS))
        )
        command = json.dumps([f"{samples.TOOLS}/bin/busybox", "touch", "/built"])
        (tmp_path / "Dockerfile").write_text(
            f'FROM {base}\nRUN {mounts} {command}\nLABEL keep="this"\nCMD ["/built"]\n'
        )
        build = ["build", "--tag", "built:1", "--network", "none", str(tmp_path)]
        dockerd.docker(*build, DOCKER_BUILDKIT="1")
        bundle("scrub", "built:1")
        after = inspect(dockerd, "built:1")
        assert changed_files(dockerd, "built:1") == ["built"]
        assert after["Config"]["Cmd"] == ["/built"] and after["Config"]["Labels"] == {"keep": "this"}
        assert not after["Config"]["Env"]

    def test_an_archive(
        self, bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage, tmp_path: Path
    ) -> None:
        run = [
            "run",
            "--name",
            "dirty",
            "--volume",
            "/.deps/tools/1",
            foreign_image("musl"),
            "touch",
            "/made",
        ]
        dockerd.docker(*run)
        dockerd.docker("commit", "dirty", "dirty:2")
        dockerd.docker("rm", "--volumes", "dirty")
        dockerd.docker("save", "--output", str(tmp_path / "dirty.tar"), "dirty:2")
        bundle("scrub", str(tmp_path / "dirty.tar"), "--output", str(tmp_path / "clean.tar"))
        dockerd.docker("rmi", "dirty:2")
        dockerd.docker("load", "--input", str(tmp_path / "clean.tar"))
        assert changed_files(dockerd, "dirty:2") == ["made"]
        assert not inspect(dockerd, "dirty:2")["Config"]["Volumes"]


def test_the_printed_recipe_works(bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage) -> None:
    bundle("volume", "remove", "--all")
    bundle("load", "tools")
    recipe = bundle("mount", "tools", "--for", "docker")
    recipe = recipe.replace("IMAGE COMMAND", f"{foreign_image('scratch')} {samples.TOOLS}/bin/greet")
    done = run(["sh", "-euc", recipe], environment=dockerd.environment)
    assert b"hello from" in done.stdout, done.stderr
    # What it made is what `bundle volume` knows.
    names = bundle("volume", "create", "tools").split()
    assert [one["name"] for one in json.loads(bundle("volume", "list", "--format", "json"))] == names
    bundle("volume", "remove", "--all")


def test_the_printed_recipe_works_in_a_build(
    bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage, tmp_path: Path
) -> None:
    bundle("load", "tools")
    recipe = bundle("mount", "tools", "--for", "buildkit").replace("COMMAND", "greet > /made")
    (tmp_path / "Dockerfile").write_text(f"FROM {foreign_image('musl')}\n{recipe}\n")
    dockerd.docker("build", "--tag", "mounted:1", "--network=none", str(tmp_path), DOCKER_BUILDKIT="1")
    assert dockerd.docker("run", "--rm", "mounted:1", "cat", "/made").startswith("hello from")


def test_doctor_starts_a_container(bundle: Bundle, dockerd: Dockerd) -> None:
    bundle("load", "tools")

    def there() -> tuple[set[str], str]:
        # Images of one second are listed in no order.
        images = set(dockerd.docker("images", "--all", "--quiet").split())
        return images, dockerd.docker("ps", "--all", "--quiet")

    before = there()
    found = {one["name"]: one["level"] for one in json.loads(bundle("doctor", "--format", "json"))}
    assert found["container"] == found["bundle tools:1.0"] == "ok"
    assert there() == before


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["load", "nothing"], 2, "the bundle 'nothing' is not at hand"),
        (["run", "--from", "no-image", "--with", "tools", "--", "true"], 2, "docker pull no-image"),
        (["load", "--engine", "docker", "tools"], 4, "no Docker engine answers"),
    ],
)
def test_errors_say_what_to_do(bundle: Bundle, words: list[str], status: int, text: str) -> None:
    gone = {"DOCKER_HOST": "unix:///nonexistent/docker.sock"} if status == 4 else {}
    done = bundle.run(*words, **gone)
    assert done.returncode == status
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_the_printed_recipe_works_in_compose(
    bundle: Bundle, dockerd: Dockerd, foreign_image: ForeignImage, tmp_path: Path
) -> None:
    bundle("volume", "remove", "--all")
    bundle("volume", "create", "tools")
    service = f"""\
  app:
    image: {foreign_image("scratch")}
    network_mode: none
    command: ["{samples.TOOLS}/bin/greet"]
"""
    recipe = bundle("mount", "tools", "--for", "compose").replace("  app:\n", service)
    (tmp_path / "compose.yaml").write_text(recipe + "\n")
    compose = [find_tool("docker-compose"), "--file", str(tmp_path / "compose.yaml")]
    done = run([*compose, "run", "--rm", "app"], environment=dockerd.environment)
    assert b"hello from" in done.stdout, done.stderr
    # What is external is not removed with the project.
    assert run([*compose, "down", "--volumes"], environment=dockerd.environment).ok
    assert bundle("volume", "list")
    bundle("volume", "remove", "--all")
