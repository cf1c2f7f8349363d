"""Real programs and libraries of a Debian root, and how they are run before and after a patch.

``BUNDLE_CORPUS_ROOT`` names the root (default: this machine's); ``BUNDLE_CORPUS_STEP`` takes every n-th
file, 1 for all: then it takes minutes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bundler.elf.edits import Edits
from bundler.elf.read import ElfError, ElfFile, is_elf, read_file
from bundler.elf.refuse import is_loader

ROOT = Path(os.environ.get("BUNDLE_CORPUS_ROOT", "/"))
STEP = int(os.environ.get("BUNDLE_CORPUS_STEP", "40"))
LOADER = "/lib64/ld-linux-x86-64.so.2"
TRIPLET = "usr/lib/x86_64-linux-gnu"
PREFIX = "/.deps/rt/1/lib"
NEW_LOADER = f"{PREFIX}/ld-linux-x86-64.so.2"
PROGRAMS = ("usr/bin", "usr/sbin", "usr/lib", "usr/libexec")
NOT_RUN = {"systemd", "init"}
"""What does its work whatever the arguments are, and has no output to compare."""


@dataclass(frozen=True)
class Sample:
    path: Path
    facts: ElfFile


def samples(step: int = STEP) -> list[Sample]:
    """Every ``step``-th dynamic ELF file of the root, each inode once, in the order of paths."""
    return list(_all()[::step])


def programs(step: int = STEP) -> list[Sample]:
    """Every ``step``-th program that the machine's own loader starts."""
    found = [
        sample
        for sample in _all()
        if sample.facts.is_executable
        and sample.facts.interpreter == LOADER
        and sample.path.name not in NOT_RUN
    ]
    return found[::step]


def libraries() -> list[tuple[str, Path]]:
    """Libraries where the loader looks for them: the name, which may be a symbolic link's, and the file."""
    directory = ROOT / TRIPLET
    return [(name, directory / name) for name in sorted(os.listdir(directory)) if ".so" in name]


def edits(facts: ElfFile) -> Edits:
    """What relocation does to a file: another loader, a path of ours in front of what it has."""
    own = facts.runpath or facts.rpath
    path = ":".join([PREFIX, *([own] if own else []), f"/{TRIPLET}", "/usr/lib", "/lib/x86_64-linux-gnu"])
    return Edits(interpreter=NEW_LOADER, rpath=path, no_default_lib=True, core=True)


def editable(facts: ElfFile) -> bool:
    return not facts.is_static and not is_loader(facts)


def run(
    program: Path, place: Path, prefix: Path | None, *arguments: str, root: Path = ROOT
) -> tuple[int | str, bytes, bytes]:
    """Start ``program`` as if it lay at ``place``, as nobody, in namespaces where it can do no harm.

    ``prefix`` is a directory with the patched libraries, without it the root's own.
    """
    argv = ["bwrap", "--unshare-all", "--die-with-parent", "--uid", "65534", "--gid", "65534", "--clearenv"]
    for directory in ("usr", "etc", "var/lib", "opt"):
        if (root / directory).exists():
            argv += ["--ro-bind", str(root / directory), f"/{directory}"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if (root / name).is_symlink():
            argv += ["--symlink", os.readlink(root / name), f"/{name}"]
    argv += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/run", "--chdir", "/tmp"]
    argv += [
        "--setenv",
        "LD_BIND_NOW",
        "1",
        "--setenv",
        "HOME",
        "/tmp",
        "--setenv",
        "PATH",
        "/usr/bin:/usr/sbin",
    ]
    argv += ["--ro-bind", str(prefix or root / TRIPLET), PREFIX]
    argv += ["--ro-bind", str(program), str(place), str(place), *arguments]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        return "timeout", b"", b""
    return done.returncode, done.stdout, done.stderr


@cache
def _all() -> tuple[Sample, ...]:
    """All of them, read once: several tests look at the same files."""
    return tuple(_read())


def _read() -> Iterator[Sample]:
    seen: set[tuple[int, int]] = set()
    for top in PROGRAMS:
        for directory, subdirectories, names in os.walk(ROOT / top):
            subdirectories[:] = sorted(name for name in subdirectories if name != "debug")
            for name in sorted(names):
                path = Path(directory, name)
                if path.is_symlink() or not path.is_file():
                    continue
                status = path.stat()
                identity = (status.st_dev, status.st_ino)
                if identity in seen:
                    continue
                seen.add(identity)
                with path.open("rb") as stream:
                    if not is_elf(stream.read(4)):
                        continue
                try:
                    facts = read_file(path)
                except ElfError:
                    continue
                if facts.is_dynamic and facts.machine == 62 and facts.elf_class == 64:
                    yield Sample(path, facts)
