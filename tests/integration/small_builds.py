"""Builds that need no toolchain: a build root of busybox alone, and recipes of a few lines of shell."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from bundler.build_request import BuildRequest, Dependency, OutputSpec
from bundler.digest import Digest, digest_bytes, digest_file
from bundler.recipe import Recipe, Source, Step
from bundler.target import parse_target

PREFIX = "/.deps/small/1"


def busybox_root(root: Path) -> Path:
    """A build root with busybox's commands, from the machine's busybox-static."""
    busybox = Path("/bin/busybox")
    commands = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    (root / "usr/bin").mkdir(parents=True)
    for name in ("etc", "tmp", "proc"):
        (root / name).mkdir()
    for name in ("hosts", "hostname", "resolv.conf"):
        (root / "etc" / name).touch()
    shutil.copy(busybox, root / "usr/bin/busybox")
    for name in ("bin", "lib", "lib64"):
        (root / "usr" / name).mkdir(exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in commands:
        if name != "busybox":
            (root / "usr/bin" / name).symlink_to("busybox")
    # The machine's own shell (busybox's prefers its own commands to those in PATH) and GNU patch.
    for program in ("/bin/dash", "/usr/bin/patch"):
        _copy_with_libraries(root, Path(program))
    (root / "usr/bin/sh").unlink()
    (root / "usr/bin/sh").symlink_to("dash")
    return root


def _copy_with_libraries(root: Path, program: Path) -> None:
    listing = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    target = root / "usr/bin" / program.name
    target.unlink(missing_ok=True)
    shutil.copy(program, target)
    for library in re.findall(r"(/\S+) \(0x", listing):
        place = root / library.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, place)


def tarball(file: Path, files: Mapping[str, str]) -> tuple[Source, Path]:
    """A source archive whose files lie in one top directory, as upstreams make them."""
    tree = file.with_suffix(".d")
    for path, text in files.items():
        target = tree / "top" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    with tarfile.open(file, "w:gz") as archive:
        archive.add(tree / "top", "top")
    return Source((f"file://{file}",), digest_file(file)), file


def small_request(
    buildroot: Path,
    steps: Mapping[str, str],
    *,
    name: str = "small",
    sources: tuple[tuple[Source, Path], ...] = (),
    patches: tuple[Path, ...] = (),
    dependencies: tuple[Dependency, ...] = (),
    outputs: tuple[OutputSpec, ...] = (OutputSpec("small", PREFIX),),
    drop: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    key: Digest | None = None,
) -> BuildRequest:
    """A request of a recipe with these steps; its key is made of them."""
    recipe = Recipe(
        name=name,
        version="1.0",
        license="MIT",
        path=Path(f"recipes/{name}/recipe.toml"),
        sources=tuple(source for source, _ in sources),
        patches=patches,
        steps=tuple(Step(step, script) for step, script in steps.items()),
        drop=drop,
        environment=environment or {},
    )
    key = key or digest_bytes(repr((name, sorted(steps.items()))).encode())
    return BuildRequest(
        recipe=recipe,
        key=key,
        installed_key=digest_bytes(key.encode()),
        prefix=outputs[0].prefix,
        outputs=outputs,
        bundles={output.bundle: output.prefix for output in outputs},
        dependencies=dependencies,
        search=(PREFIX,),
        path_directories=(f"{PREFIX}/bin",),
        target=parse_target(),
        buildroot=buildroot,
        sources=sources,
    )
