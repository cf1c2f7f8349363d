"""Symbols, with readelf and a real compiler as judges."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.closure import Scope, verify
from bundler.closure.symbols import read_symbols
from bundler.elf.read import read_elf
from bundler.errors import BundleError
from bundler.target import ARCHITECTURES
from bundler.tree import DirectoryTree

LIBC = Path("/lib/x86_64-linux-gnu/libc.so.6")
SCOPE = Scope("/p", (), ARCHITECTURES["x86_64"])
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a compiler")


def compile_c(target: Path, source: str, *flags: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-x", "c", "-nostdlib", "-fPIC", "-o", str(target), "-", *flags]
    subprocess.run(command, input=source, text=True, check=True)


def readelf(path: Path) -> tuple[set[str], set[str]]:
    """Defined and undefined symbols that are not local, the latter without the weak ones."""
    done = subprocess.run(
        ["readelf", "--dyn-syms", "--wide", path], capture_output=True, text=True, check=True
    )
    defined, undefined = set(), set()
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) >= 8 and words[0].rstrip(":").isdigit() and words[4] != "LOCAL":
            name = words[7].partition("@")[0]
            if words[6] != "UND":
                defined.add(name)
            elif words[4] == "GLOBAL":
                undefined.add(name)
    return defined, undefined


@pytest.mark.parametrize("path", [LIBC, Path("/bin/ls"), Path("/bin/bash")])
def test_agrees_with_readelf(path: Path) -> None:
    with path.open("rb") as stream:
        found = read_symbols(stream, read_elf(stream))
    defined, undefined = readelf(path)
    assert found.defined == defined
    assert found.undefined <= undefined
    # What no relocation names is not looked up, as the version symbol of nothing.
    assert len(found.undefined) >= len(undefined) * 0.9


@needs_compiler
@pytest.mark.parametrize("style", ["gnu", "sysv", "both"])
def test_an_undefined_symbol_is_found_in_deep_mode_alone(style: str, tmp_path: Path) -> None:
    library = tmp_path / "p/lib/liba.so"
    both = "int a(void) { return 1; } int gone(void) { return 2; }"
    compile_c(library, both, "-shared", "-Wl,-soname,liba.so")
    flags = [f"-Wl,--hash-style={style}", "-Wl,--disable-new-dtags,-rpath,/p/lib", "-Wl,-z,nodefaultlib"]
    compile_c(
        tmp_path / "p/bin/t",
        "extern int a(void), gone(void); __attribute__((weak)) int maybe(void);\n"
        "int _start(void) { return a() + gone() + (maybe ? maybe() : 0); }",
        "-pie",
        *flags,
        f"-L{tmp_path}/p/lib",
        "-la",
        "-Wl,--dynamic-linker=/p/lib/ld-linux-x86-64.so.2",
    )
    compile_c(tmp_path / "p/lib/ld-linux-x86-64.so.2", "", "-shared", "-Wl,-soname,ld-linux-x86-64.so.2")
    tree = DirectoryTree(tmp_path)
    deep = replace(SCOPE, deep=True)
    assert "symbol-missing" not in {item.rule for item in verify(tree, deep).violations}
    compile_c(library, "int a(void) { return 1; }", "-shared", "-Wl,-soname,liba.so")
    assert "symbol-missing" not in {item.rule for item in verify(tree, SCOPE).violations}
    found = [item for item in verify(tree, deep).violations if item.rule == "symbol-missing"]
    assert [(item.path, item.message) for item in found] == [("/p/bin/t", "nothing defines gone")]


@needs_compiler
def test_names_beside_a_call_of_dlopen(tmp_path: Path) -> None:
    source = (
        "void *dlopen(const char *, int);\n"
        'void *a(void) { return dlopen("libgone.so.4", 1); }\n'
        'void *b(void) { return dlopen("liba.so.1", 1); }\n'
    )
    compile_c(tmp_path / "p/lib/liba.so.1", source, "-shared", "-Wl,-soname,liba.so.1,-rpath,/p/lib")
    deep = verify(DirectoryTree(tmp_path), replace(SCOPE, deep=True))
    found = [item.message for item in deep.notes if item.rule == "dlopen-named"]
    assert found == ["calls dlopen, and names libgone.so.4"]


def test_damaged_tables_are_our_error_or_nothing(tmp_path: Path) -> None:
    import random

    data = Path("/bin/true").read_bytes()
    chance = random.Random(3)
    file = tmp_path / "t"
    for _ in range(200):
        broken = bytearray(data)
        for _ in range(chance.randint(1, 30)):
            broken[chance.randrange(min(len(broken), 0x1000))] = chance.randrange(256)
        file.write_bytes(broken)
        with file.open("rb") as stream:
            try:
                read_symbols(stream, read_elf(stream))
            except BundleError:
                continue
