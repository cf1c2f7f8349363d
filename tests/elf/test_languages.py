"""Programs of other compilers: Go, inside and outside its own linker, Rust, and LLVM itself."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import corpus
import corpus_root
import pytest
from judges import faults, tool

from bundler.elf.edits import Edits
from bundler.elf.format import ElfError
from bundler.elf.patch import patch_file
from bundler.elf.place import Tier
from bundler.elf.read import read_file
from bundler.settings import cache_directory

PROGRAMS: dict[str, tuple[str, ...]] = {
    "usr/bin/fzf": ("--version",),  # Go with cgo, at a fixed address
    "usr/bin/age": ("--version",),  # Go with cgo, position-independent
    "usr/bin/age-keygen": ("--version",),  # Go's own linker, which dlopens nothing and spares no tags
    "usr/lib/cargo/bin/fd": (".", "/etc"),  # Rust
    "usr/bin/rg": ("--pcre2-version",),  # Rust with a library in C
}
LONG = "/a/directory/with/a/long/name" * 120
"""More than any slack has room for."""


@pytest.fixture(scope="module")
def root() -> Path:
    return corpus_root.unpacked(corpus_root.LANGUAGES, cache_directory())


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_run_as_before(name: str, root: Path, tmp_path: Path) -> None:
    program, place, arguments = root / name, Path("/", name), PROGRAMS[name]
    before = corpus.run(program, place, None, *arguments, root=root)
    assert before[0] == 0 and before[1]
    first = corpus.edits(read_file(program))
    patch_file(program, first, tmp_path / "first")
    patch_file(tmp_path / "first", Edits(rpath=f"{first.rpath}:{LONG}"), tmp_path / "second")
    for patched in (tmp_path / "first", tmp_path / "second"):
        assert read_file(patched).interpreter == corpus.NEW_LOADER
        assert corpus.run(patched, place, None, *arguments, root=root) == before
        assert faults(program, patched, tmp_path) == []
        assert tool("strip", "-o", tmp_path / "stripped", patched).returncode == 0
        assert corpus.run(tmp_path / "stripped", place, None, *arguments, root=root) == before


def test_static_go_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ElfError, match="cannot be edited") as caught:
        patch_file(root / "usr/bin/shfmt", Edits(rpath="/x"), tmp_path / "out")
    assert "statically linked" in str(caught.value)


def test_llvm_runs_as_before(tmp_path: Path) -> None:
    """LLVM's linker and its library of 100 MB, as this machine has them."""
    program, library, listing = llvm()
    for line in listing.splitlines():
        if "=>" in line:
            (tmp_path / line.split()[0]).symlink_to(line.split()[2])
    needed = next(name for name in read_file(program).needed if "libLLVM" in name)
    (tmp_path / needed).unlink()
    patch_file(library, Edits(rpath=str(tmp_path)), tmp_path / needed)
    patch_file(program, Edits(rpath=str(tmp_path), no_default_lib=True), tmp_path / "ld.lld")
    before, after = (tool(path, "--version") for path in (program.with_name("ld.lld"), tmp_path / "ld.lld"))
    assert (after.returncode, after.stdout, after.stderr) == (0, before.stdout, before.stderr)
    assert f"=> {tmp_path / needed} (" in tool("ldd", tmp_path / "ld.lld").stdout


@pytest.mark.slow
def test_tools_find_nothing_new_in_llvm(tmp_path: Path) -> None:
    for file in llvm()[:2]:
        patch_file(file, corpus.edits(read_file(file)), tmp_path / file.name)
        assert faults(file, tmp_path / file.name, tmp_path) == []


def llvm() -> tuple[Path, Path, str]:
    """LLVM's linker, its library, and what the loader says of both."""
    program = Path(shutil.which("ld.lld") or "").resolve()
    listing = tool("ldd", program).stdout
    library = next(line.split()[2] for line in listing.splitlines() if "libLLVM" in line)
    return program, Path(library).resolve(), listing


def test_a_payload_behind_a_program_stays(root: Path, tmp_path: Path) -> None:
    """As single-file programs have it: found from the end of the file, so the file must not grow."""
    payload = io.BytesIO()
    with zipfile.ZipFile(payload, "w") as archive:
        archive.writestr("inside", "text")
    program = tmp_path / "program"
    size = (root / "usr/bin/rg").stat().st_size
    program.write_bytes((root / "usr/bin/rg").read_bytes() + payload.getvalue())
    result = patch_file(program, Edits(interpreter="/.deps/rt/1/lib/ld-linux-x86-64.so.2"), tmp_path / "same")
    assert result.tier in (Tier.SLOT, Tier.SLACK)
    assert zipfile.ZipFile(tmp_path / "same").read("inside") == b"text"
    grows = Edits(rpath=LONG)
    with pytest.raises(ElfError, match="cannot grow"):
        patch_file(program, grows, tmp_path / "out")
    patch_file(program, Edits(rpath=LONG, overlay=True), tmp_path / "grown")
    grown = (tmp_path / "grown").read_bytes()
    assert grown[size : size + len(payload.getvalue())] == payload.getvalue()
