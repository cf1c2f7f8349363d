"""An installed tree made to run from its prefix: compiled files, scripts, links, and what must survive."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bundler.elf.read import read_file
from bundler.errors import InputError
from bundler.recipe import BinaryEdit
from bundler.relocate import Context
from bundler.relocation import Place, Relocated, relocate_tree
from bundler.tree import DirectoryTree, UnionTree

PREFIX = "/.deps/x/1"
RUNTIME = "/.deps/rt/1"
CONTEXT = Context(
    loader=f"{RUNTIME}/lib/ld-linux-x86-64.so.2",
    rpath=(f"{RUNTIME}/lib", f"{PREFIX}/lib"),
    prefixes=(RUNTIME, PREFIX),
    commands={"sh": f"{RUNTIME}/bin/sh"},
)


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    """A program with a library, a script under two names, a .pc file and links, as a build installs them."""
    top = tmp_path / "dest" / PREFIX.lstrip("/")
    for name in ("bin", "lib/pkgconfig"):
        (top / name).mkdir(parents=True)
    library, program = tmp_path / "l.c", tmp_path / "p.c"
    library.write_text("int answer(void) { return 42; }\n")
    program.write_text("int answer(void); int main(void) { return answer() - 42; }\n")
    compiled = top / "lib/libanswer.so.1"
    run("gcc", "-shared", "-fPIC", "-Wl,-soname,libanswer.so.1", "-o", compiled, library)
    run("gcc", "-o", top / "bin/ask", program, compiled, "-Wl,--enable-new-dtags,-rpath,/build/dest/lib")
    (top / "bin/script").write_text(f"#!/bin/sh -e\necho /build/dest{PREFIX}/share\n")
    (top / "bin/script").chmod(0o755)
    os.link(top / "bin/script", top / "bin/other-name")
    os.setxattr(top / "bin/ask", "user.note", b"\0kept\n")
    (top / "lib/libanswer.so").symlink_to(f"/build/dest{PREFIX}/lib/libanswer.so.1")
    (top / "lib/pkgconfig/answer.pc").write_text(f"prefix=/build/dest{PREFIX}\n")
    (top / "bin/data").write_bytes(b"\0\0/somewhere/else\0")
    return tmp_path / "dest"


@pytest.fixture
def runtime(tmp_path: Path) -> DirectoryTree:
    """The machine's C library where the runtime's would be."""
    lib = tmp_path / "runtime/lib"
    lib.mkdir(parents=True)
    for name in ("libc.so.6", "ld-linux-x86-64.so.2"):
        found = subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
        (lib / name).write_bytes(Path(found).read_bytes())
    return DirectoryTree(tmp_path / "runtime", at=RUNTIME.lstrip("/"))


def run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def relocate(dest: Path, runtime: DirectoryTree, *edits: BinaryEdit) -> Relocated:
    return relocate_tree(
        dest, [Place(PREFIX, CONTEXT)], edits=edits, bundles={"x": PREFIX}, dependencies=UnionTree([runtime])
    )


def test_everything_points_into_the_prefixes(dest: Path, runtime: DirectoryTree) -> None:
    done = relocate(dest, runtime)
    top = dest / PREFIX.lstrip("/")
    program, library = read_file(top / "bin/ask"), read_file(top / "lib/libanswer.so.1")
    assert program.interpreter == CONTEXT.loader
    assert program.needed == (f"{PREFIX}/lib/libanswer.so.1", f"{RUNTIME}/lib/libc.so.6")
    for elf in (program, library):
        assert (elf.rpath, elf.runpath, elf.nodeflib) == (":".join(CONTEXT.rpath), None, True)
    assert (top / "bin/script").read_text() == f"#!{RUNTIME}/bin/sh -e\necho {PREFIX}/share\n"
    assert os.readlink(top / "lib/libanswer.so") == "libanswer.so.1"
    assert (top / "lib/pkgconfig/answer.pc").read_text() == f"prefix={PREFIX}\n"
    assert (done.elf_files, done.elf_changed, done.links_changed, done.leaks) == (2, 2, 1, ())


def test_modes_attributes_and_hard_links_survive(dest: Path, runtime: DirectoryTree) -> None:
    top = dest / PREFIX.lstrip("/")
    before = {path: path.stat().st_mode for path in top.rglob("*") if not path.is_symlink()}
    relocate(dest, runtime)
    assert {path: path.stat().st_mode for path in top.rglob("*") if not path.is_symlink()} == before
    assert os.getxattr(top / "bin/ask", "user.note") == b"\0kept\n"
    assert (top / "bin/script").samefile(top / "bin/other-name")
    assert (top / "bin/data").read_bytes() == b"\0\0/somewhere/else\0"


def test_twice_is_once(dest: Path, runtime: DirectoryTree) -> None:
    relocate(dest, runtime)
    again = relocate(dest, runtime)
    assert (again.elf_changed, again.texts_changed, again.links_changed) == (0, 0, 0)


def test_what_still_names_the_build_is_found(dest: Path, runtime: DirectoryTree) -> None:
    (dest / PREFIX.lstrip("/") / "bin/data").write_bytes(b"\0/build/src/x.c\0")
    assert relocate(dest, runtime).leaks == (f"{PREFIX}/bin/data",)


def test_edits_inside_binaries(dest: Path, runtime: DirectoryTree) -> None:
    edit = BinaryEdit(files=("bin/data",), old=b"/somewhere/else", new=b"{bundle:x}/else", count=1)
    relocate(dest, runtime, edit)
    assert (dest / PREFIX.lstrip("/") / "bin/data").read_bytes() == b"\0\0/.deps/x/1/else\0"


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (
            BinaryEdit(files=("bin/data",), old=b"/somewhere/else", new=b"/longer/than/before", count=1),
            "cannot take",
        ),
        (BinaryEdit(files=("bin/data",), old=b"/nowhere", new=b"/now/are", count=1), "0 times"),
        (BinaryEdit(files=("bin/none",), old=b"a", new=b"b", count=1), "does not install"),
    ],
)
def test_edits_that_do_not_fit(dest: Path, runtime: DirectoryTree, edit: BinaryEdit, says: str) -> None:
    with pytest.raises(InputError, match=says):
        relocate(dest, runtime, edit)
