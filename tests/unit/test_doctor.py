"""What doctor finds, on this machine and in engines that are not in order."""

from __future__ import annotations

import io
import json
import platform
from dataclasses import replace
from pathlib import Path

import pytest
from engine_fake import FakeEngine

from bundler import doctor
from bundler.cli.main import main
from bundler.digest import Digest
from bundler.elf.read import read_elf
from bundler.engine import EngineImage
from bundler.labels import Facts, Required
from bundler.probe import program
from bundler.process import run
from bundler.target import ARCHITECTURES, Architecture

IDS = [Digest("sha256:" + digit * 64) for digit in "abc"]


def engine_with(*bundles: tuple[Digest, Facts]) -> FakeEngine:
    engine = FakeEngine()
    for identity, facts in bundles:
        name = f"{facts.name}:{facts.version}"
        engine.store[identity] = EngineImage(identity, (name,), (), {"Labels": facts.to_labels()})
    return engine


RUNTIME = Facts("runtime", "1", "/.deps/rt/1", 1)
SHELL = Facts("shell", "5", "/.deps/shell/1", 1, (Required("runtime", IDS[0]),))


@pytest.mark.parametrize(
    ("bundles", "levels"),
    [
        ([(IDS[0], RUNTIME), (IDS[1], SHELL)], {"bundle runtime:1": "ok", "bundle shell:5": "ok"}),
        ([(IDS[1], SHELL)], {"bundle shell:5": "problem"}),
        ([(IDS[2], RUNTIME), (IDS[1], SHELL)], {"bundle runtime:1": "ok", "bundle shell:5": "warning"}),
        ([(IDS[0], replace(RUNTIME, prefix="/x"))], {"bundle runtime:1": "problem"}),
        ([], {}),
    ],
)
def test_bundles_in_the_engine(bundles: list[tuple[Digest, Facts]], levels: dict[str, str]) -> None:
    found = doctor.check_bundles(engine_with(*bundles))
    assert {finding.name: finding.level for finding in found} == levels


def test_an_engine_that_keeps_images_otherwise() -> None:
    found = {finding.name: finding for finding in doctor.check_engine(FakeEngine(storage="vfs"))}
    assert found["engine storage"].level == "warning" and "--no-copy" in found["engine storage"].hint


def test_a_container_is_tried_and_leaves_nothing() -> None:
    engine = FakeEngine()
    assert [finding.level for finding in doctor.check_container(engine)] == ["ok"]
    assert not engine.store and not engine.made


def test_containers_that_do_not_start() -> None:
    engine = FakeEngine(broken="cgroups in hybrid mode")
    (finding,) = doctor.check_container(engine)
    assert finding.level == "problem" and "hybrid" in finding.message
    assert not engine.store and not engine.made


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda one: one.name)
def test_the_program_of_the_probe_is_sound(architecture: Architecture, tmp_path: Path) -> None:
    data = program(architecture)
    facts = read_elf(io.BytesIO(data))
    assert facts.is_executable and facts.interpreter is None
    if architecture.name == platform.machine():
        file = tmp_path / "exit"
        file.write_bytes(data)
        file.chmod(0o755)
        assert run([str(file)]).status == 0


@pytest.mark.parametrize(
    ("release", "level"),
    [("6.1.0-18-amd64", "ok"), ("4.19.0", "ok"), ("4.9.0-8-amd64", "warning"), ("6.18.44-fc-v657", "ok")],
)
def test_kernels(release: str, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: release)
    assert doctor.check_kernel().level == level


def test_an_unknown_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "m68k")
    assert doctor.check_machine().level == "problem"


def test_a_place_where_programs_do_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_exec(tmp_path / "not" / "made").level == "ok"
    assert list(tmp_path.iterdir()) == []

    def refuse(*_: object, **__: object) -> object:
        raise PermissionError

    monkeypatch.setattr(doctor, "run", refuse)
    assert doctor.check_exec(tmp_path).level == "problem"


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ROOM_BYTES", 1 << 62)
    assert doctor.check_room(tmp_path).level == "warning"


def test_without_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    monkeypatch.setenv("BUNDLE_CACHE", str(tmp_path))
    status = main(["doctor", "--engine", "docker", "--format", "json"])
    found = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert found["engine"]["level"] == "warning"
    assert status == any(finding["level"] == "problem" for finding in found.values())
