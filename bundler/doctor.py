"""What a machine must have for bundles to be built and used on it: looked at one thing at a time.

Each check is a small function that returns a :class:`Finding`; none changes the machine but for temporary
files, containers and directories, which it removes.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from bundler.digest import hex_of
from bundler.engine import VARIABLE, Engine, connect
from bundler.errors import BundleError, EnvironmentLacks
from bundler.labels import COMPAT, NAME, read_facts
from bundler.probe import run_probe
from bundler.process import find_tool, run
from bundler.target import ARCHITECTURES

Level = Literal["ok", "warning", "problem"]

KERNEL_FLOOR = (4, 19)
"""Oldest kernel that is tried; glibc itself is configured for 3.2 (``--enable-kernel``)."""
ROOM_BYTES = 5 << 30
"""What a build of all bundles takes, with sources and logs."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``hint`` says what to do about it, or what goes without it."""

    name: str
    level: Level
    message: str
    hint: str = ""


def examine(cache: Path, engine: str | None = None) -> list[Finding]:
    """All checks, in the order in which a build and a use would need what they look at."""
    checks: list[Callable[[], Finding]] = [
        check_machine,
        check_kernel,
        check_sandbox,
        lambda: check_room(cache),
        lambda: check_exec(cache),
    ]
    findings = [_safely(check) for check in checks]
    try:
        found = connect(engine)
    except BundleError as error:
        hint = "bundles can be built, verified and packed without one"
        return [*findings, Finding("engine", "warning", _told(error), hint)]
    # An engine that nobody asked for may be broken: bundles are built without it.
    level: Level = "problem" if engine or os.environ.get(VARIABLE) else "warning"
    for check_of in (check_engine, partial(check_container, level=level), check_bundles):
        findings += _safely_all(partial(check_of, found))
    return findings


def check_machine() -> Finding:
    machine = platform.machine()
    if machine in ARCHITECTURES:
        return Finding("processor", "ok", machine)
    return Finding("processor", "problem", f"{machine} is none that bundles are built for")


def check_kernel() -> Finding:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < KERNEL_FLOOR:
        floor = ".".join(map(str, KERNEL_FLOOR))
        return Finding(
            "kernel", "warning", f"{release} is older than {floor}", "programs may refuse to start"
        )
    return Finding("kernel", "ok", f"Linux {release}")


def check_sandbox() -> Finding:
    """Whether recipes can build in namespaces of their own."""
    try:
        tool = find_tool("bwrap", package="bubblewrap")
    except EnvironmentLacks as error:
        return Finding("sandbox", "problem", error.message, error.hint or "")
    done = run([tool, "--unshare-all", "--ro-bind", "/", "/", "true"])
    if done.ok:
        who = "root" if os.geteuid() == 0 else "an ordinary user"
        return Finding("sandbox", "ok", f"bubblewrap makes namespaces as {who}")
    why = done.stderr.decode("utf-8", "replace").strip()
    return Finding("sandbox", "problem", f"bubblewrap cannot make namespaces: {why}", _namespace_hint())


def _namespace_hint() -> str:
    for name in ("kernel/unprivileged_userns_clone", "user/max_user_namespaces"):
        try:
            if Path("/proc/sys", name).read_text().strip() == "0":
                return f"sysctl -w {name.replace('/', '.')}=… as root, or build with --sandbox docker"
        except OSError:
            continue
    return "build with --sandbox docker"


def check_room(cache: Path) -> Finding:
    place = _existing(cache)
    free = shutil.disk_usage(place).free
    text = f"{free / (1 << 30):.1f} GiB free for {cache}"
    if free < ROOM_BYTES:
        return Finding("room", "warning", text, "'bundle gc' clears the cache; BUNDLE_CACHE moves it")
    return Finding("room", "ok", text)


def check_exec(cache: Path) -> Finding:
    """Whether programs can be started where they are built, and by any name."""
    place = _existing(cache)
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=place) as directory:
        probe = Path(directory) / "probe"
        probe.write_text("#!/bin/sh\nexit 0\n")
        probe.chmod(0o755)
        try:
            started = run([str(probe)]).ok
        except PermissionError:
            started = False
        if not started:
            hint = "it may be mounted noexec; BUNDLE_CACHE names another place"
            return Finding("noexec", "problem", f"programs do not start in {place}", hint)
        twin = Path(directory) / "PROBE"
        if twin.exists():
            return Finding("case", "problem", f"{place} takes upper and lower case for one")
    return Finding("noexec", "ok", f"programs start in {place}")


def check_engine(engine: Engine) -> list[Finding]:
    info = engine.info()
    where = f"{info.name} {info.version}, {info.storage}" + (", rootless" if info.rootless else "")
    findings = [Finding("engine", "ok", where)]
    findings += [Finding(f"engine {key}", "ok", value) for key, value in info.details.items() if value]
    if info.name == "docker" and _version(info.version) < (20, 10, 10):
        hint = "glibc 2.34 and newer need Docker 20.10.10 (moby#42680)"
        findings.append(Finding("clone3", "warning", "this Docker's seccomp filter refuses clone3", hint))
    if not info.local:
        hint = "bundle volume create --no-copy needs one on this machine"
        findings.append(Finding("engine place", "warning", "the engine is on another machine", hint))
    elif info.storage not in ("overlay2", "overlay"):
        hint = "bundle volume create --no-copy needs overlay2"
        findings.append(Finding("engine storage", "warning", f"it keeps images by {info.storage}", hint))
    if info.local and info.root.is_dir():
        free = shutil.disk_usage(info.root).free
        level: Level = "ok" if free > ROOM_BYTES else "warning"
        findings.append(Finding("engine room", level, f"{free / (1 << 30):.1f} GiB free for {info.root}"))
    return findings


def check_container(engine: Engine, level: Level = "problem") -> list[Finding]:
    """Whether a container really starts; ``level`` is what it is worth if not."""
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None:
        return []
    try:
        status = run_probe(engine, architecture)
    except BundleError as error:
        hint = f"bundles cannot be used in {engine.name} as it is; another engine is chosen with --engine"
        return [Finding("container", level, _told(error), hint)]
    if status:
        return [Finding("container", level, f"a program that does nothing ended with {status}")]
    return [Finding("container", "ok", "a container starts, and is gone again")]


def check_bundles(engine: Engine) -> list[Finding]:
    """Whether each bundle in the engine has there what it requires, as it was built with."""
    images = [image for image in engine.images() if image.labels.get(NAME) and image.labels.get(COMPAT)]
    ids = {image.id for image in images}
    comparable = not any(image.by_manifest for image in images)
    names = {image.labels[NAME] for image in images}
    findings = []
    for image in images:
        label = next(iter(image.names), hex_of(image.id)[:12])
        try:
            facts = read_facts(image.labels, where=label)
        except BundleError as error:
            findings.append(Finding(f"bundle {label}", "problem", _told(error)))
            continue
        missing = [one.name for one in facts.requires if one.name not in names]
        others = [
            one.name for one in facts.requires if comparable and one.name in names and one.digest not in ids
        ]
        if missing:
            hint = "bundle load brings what a bundle requires, too"
            text = "lacks what it requires: " + ", ".join(missing)
            findings.append(Finding(f"bundle {label}", "problem", text, hint))
        elif others:
            text = "was built with other images of " + ", ".join(others)
            findings.append(
                Finding(f"bundle {label}", "warning", text, "bundle load of those it was built with")
            )
        else:
            findings.append(Finding(f"bundle {label}", "ok", f"at {facts.prefix}"))
    return findings


def _existing(path: Path) -> Path:
    """The path, or the nearest directory above it that there is."""
    return next(place for place in (path, *path.parents) if place.is_dir())


def _version(text: str) -> tuple[int, ...]:
    numbers = text.split("+")[0].split("~")[0].split("-")[0].split(".")
    return tuple(int(number) for number in numbers if number.isdigit())


def _safely(check: Callable[[], Finding]) -> Finding:
    return _safely_all(lambda: [check()])[0]


def _safely_all(check: Callable[[], Sequence[Finding]]) -> list[Finding]:
    """A check that cannot be made is a finding of its own, and no end of the others."""
    try:
        return list(check())
    except (BundleError, OSError) as error:
        return [Finding("check", "problem", _told(error))]


def _told(error: BundleError | OSError) -> str:
    if isinstance(error, BundleError):
        return error.message + (f" ({error.why})" if error.why else "")
    return str(error)


def worst(findings: Iterable[Finding]) -> Level:
    levels = {finding.level for finding in findings}
    return "problem" if "problem" in levels else "warning" if "warning" in levels else "ok"
