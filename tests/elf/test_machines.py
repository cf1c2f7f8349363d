"""Other machines: real C libraries of twelve architectures, patched, judged, and loaded in an emulator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from judges import faults, tool

from bundler.elf.edits import Edits
from bundler.elf.patch import patch_file
from bundler.elf.read import ElfFile, read_file
from bundler.elf.refuse import is_loader


@dataclass(frozen=True)
class Machine:
    libraries: str
    loader: str
    emulator: str | None
    bits: int
    order: str


MACHINES = {
    "aarch64": Machine("/usr/aarch64-linux-gnu/lib", "ld-linux-aarch64.so.1", "qemu-aarch64", 64, "little"),
    "armhf": Machine("/usr/arm-linux-gnueabihf/lib", "ld-linux-armhf.so.3", "qemu-arm", 32, "little"),
    "i386": Machine("/usr/lib32", "ld-linux.so.2", None, 32, "little"),
    "mips": Machine("/usr/mips-linux-gnu/lib", "ld.so.1", "qemu-mips", 32, "big"),
    "mips64el": Machine("/usr/mips64el-linux-gnuabi64/lib64", "ld.so.1", "qemu-mips64el", 64, "little"),
    "powerpc": Machine("/usr/powerpc-linux-gnu/lib", "ld.so.1", "qemu-ppc", 32, "big"),
    "ppc64": Machine("/usr/powerpc64-linux-gnu/lib", "ld64.so.1", "qemu-ppc64", 64, "big"),
    "ppc64el": Machine("/usr/powerpc64le-linux-gnu/lib", "ld64.so.2", "qemu-ppc64le", 64, "little"),
    "riscv64": Machine(
        "/usr/riscv64-linux-gnu/lib", "ld-linux-riscv64-lp64d.so.1", "qemu-riscv64", 64, "little"
    ),
    "s390x": Machine("/usr/s390x-linux-gnu/lib", "ld64.so.1", "qemu-s390x", 64, "big"),
    "sparc64": Machine("/usr/sparc64-linux-gnu/lib64", "ld-linux.so.2", "qemu-sparc64", 64, "big"),
}
LIBRARIES = (
    "libc.so.6",
    "libm.so.6",
    "libresolv.so.2",
    "libnss_compat.so.2",
    "libthread_db.so.1",
    "libutil.so.1",
)
EDITS = {
    "slack": Edits(rpath="/.deps/rt/1/lib:/.deps/shell/1/lib", no_default_lib=True, core=True),
    "moved": Edits(rpath="/.deps/rt/1/lib" + ":/x" * 800, add_rpath=("/y",), no_default_lib=True, core=True),
}


def directory(machine: Machine) -> Path:
    for path in (Path(machine.libraries), Path(machine.libraries.removesuffix("64"))):
        if (path / "libm.so.6").exists():
            return path
    raise AssertionError(f"install the C library of {machine.libraries}")


def present(machine: Machine) -> bool:
    """Debian's releases differ in which machines they cross-build for."""
    return (Path(machine.libraries.removesuffix("64")) / "libm.so.6").exists() or (
        Path(machine.libraries) / "libm.so.6"
    ).exists()


PRESENT = [name for name, machine in MACHINES.items() if present(machine)]


def test_enough_machines_are_here() -> None:
    """Both classes in both byte orders among them: see ELF_PACKAGES in the Makefile."""
    kinds = {(MACHINES[name].bits, MACHINES[name].order) for name in PRESENT}
    assert len(PRESENT) >= 8 and len(kinds) == 4, PRESENT


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", PRESENT)
def test_c_library(name: str, edit: str, tmp_path: Path) -> None:
    machine = MACHINES[name]
    source = directory(machine)
    loader = next(
        path for path in (source / machine.loader, Path(machine.libraries) / machine.loader) if path.exists()
    )
    patched = []
    for library in LIBRARIES:
        if not (source / library).exists():
            continue
        facts = read_file(source / library)
        assert (facts.elf_class, facts.byte_order) == (machine.bits, machine.order)
        target = tmp_path / library
        patch_file(source / library, EDITS[edit], target)
        assert faults((source / library).resolve(), target, tmp_path, deep=False) == []
        patched.append(target)
    assert is_loader(read_file(loader))
    # The C library is a program, too: it prints its version. The others are loaded before it.
    words = [machine.emulator] if machine.emulator else []
    others = ":".join(str(path) for path in patched if path.name != "libc.so.6")
    command = [*words, str(loader), "--inhibit-cache", "--library-path", str(tmp_path), "--preload", others]
    done = tool(*command, str(tmp_path / "libc.so.6"))
    assert done.returncode == 0 and done.stdout.startswith("GNU C Library"), done.stderr
    assert done.stderr == ""
    listed = tool(
        *words,
        str(loader),
        "--inhibit-cache",
        "--library-path",
        str(tmp_path),
        "--list",
        str(tmp_path / "libm.so.6"),
    )
    assert f"{tmp_path}/libc.so.6" in listed.stdout


PROGRAM = r"""
#include <stdio.h>
#include <math.h>
static int order[4] = {1, 2, 3, 4};
int main(int argc, char **argv) { printf("%.3f %d\n", sqrt(argc + 1.0), order[argc]); return 5; }
"""


@pytest.mark.parametrize(
    "options", [(), ("-no-pie",), ("-Wl,--spare-dynamic-tags=1",), ("-Wl,-z,max-page-size=4096",)]
)
def test_aarch64_programs_run(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Segments of aarch64 are aligned to 64 KiB; a patched program starts by its own interpreter."""
    (tmp_path / "p.c").write_text(PROGRAM)
    program = tmp_path / "p"
    made = tool("aarch64-linux-gnu-gcc", "-O1", *options, "-o", program, tmp_path / "p.c", "-lm")
    assert made.returncode == 0, made.stderr
    library = directory(MACHINES["aarch64"])
    loader = tmp_path / "a-loader-with-a-long-name" / "ld-linux-aarch64.so.1"
    loader.parent.mkdir()
    loader.symlink_to(library / "ld-linux-aarch64.so.1")
    patched = tmp_path / "patched"
    names = {name: str(library / name) for name in ("libc.so.6", "libm.so.6")}
    needed = {name: names[name] for name in read_file(program).needed}
    patch_file(
        program,
        Edits(interpreter=str(loader), rpath=str(library), no_default_lib=True, replace_needed=needed),
        patched,
    )
    done = tool("qemu-aarch64", patched)
    assert (done.returncode, done.stdout, done.stderr) == (5, "1.414 2\n", "")
    assert faults(program, patched, tmp_path) == []
    facts: ElfFile = read_file(patched)
    assert all((s.vaddr - s.offset) % s.align == 0 for s in facts.segments if s.type == 1)
