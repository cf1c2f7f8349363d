"""Symbols, with readelf and a real compiler as judges."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bundler.closure import Scope, verify
from bundler.closure.files import Files
from bundler.closure.loaded import Closure, How, Loaded
from bundler.closure.symbols import Reference, SymbolChecker, read_symbols
from bundler.elf.read import read_elf, read_file
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


def readelf(path: Path) -> tuple[set[Reference], set[Reference]]:
    """Defined and undefined symbols that are not local, the latter without the weak ones."""
    done = subprocess.run(
        ["readelf", "--dyn-syms", "--wide", path], capture_output=True, text=True, check=True
    )
    defined, undefined = set(), set()
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) >= 8 and words[0].rstrip(":").isdigit() and words[4] != "LOCAL":
            name, _, version = words[7].replace("@@", "@").partition("@")
            # The symbol that stands for a version is shown without it.
            symbol = Reference(name, version or (name if words[6] == "ABS" else None))
            if words[6] != "UND":
                defined.add(symbol)
            elif words[4] == "GLOBAL":
                undefined.add(symbol)
    return defined, undefined


@pytest.mark.parametrize("path", [LIBC, Path("/bin/ls"), Path("/bin/bash")])
def test_agrees_with_readelf(path: Path) -> None:
    with path.open("rb") as stream:
        found = read_symbols(stream, read_elf(stream))
    defined, undefined = readelf(path)
    assert found.versioned | {Reference(name) for name in found.unversioned} == defined
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


VERSIONED = (
    '__asm__(".symver one,f@V1"); int one(void) { return 1; }\n'
    '__asm__(".symver two,f@@V2"); int two(void) { return 2; }\n'
)
PLAIN = "int f(void) { return 1; }"
LIBRARIES = {
    "both": (VERSIONED, "V1 {}; V2 {} V1;"),
    "old": (PLAIN + " int g(void) { return 1; }", "V1 { f; }; V2 { g; } V1;"),
    "hidden": ('__asm__(".symver two,f@V2"); int two(void) { return 2; }', "V1 {}; V2 {} V1;"),
    "plain": (PLAIN, ""),
}


@needs_compiler
@pytest.mark.parametrize(
    ("linked", "reference", "loaded", "missing"),
    [
        ("both", "f@V1", "both", None),
        ("both", "f@V2", "both", None),
        ("both", "f@V2", "old", "f@V2"),  # the name is there, the version is not
        ("both", "f@V2", "plain", None),  # an object without versions does for any
        ("plain", "f", "both", None),  # without a version: the default one
        ("plain", "f", "old", None),
        ("plain", "f", "hidden", "f"),
    ],
)
def test_versions_are_compared_as_the_loader_does(
    linked: str, reference: str, loaded: str, missing: str | None, tmp_path: Path
) -> None:
    """``ldd -r``, which is the loader itself, must name the same symbol, or none."""
    library = tmp_path / "lib/libf.so"
    script = tmp_path / "script"

    def make_library(name: str) -> None:
        source, versions = LIBRARIES[name]
        script.write_text(versions)
        options = [f"-Wl,--version-script={script}"] if versions else []
        compile_c(library, source, "-shared", "-Wl,-soname,libf.so", *options)

    make_library(linked)
    user = tmp_path / "lib/libuser.so"
    asm = f'__asm__(".symver call,{reference}"); int call(void);' if "@" in reference else "int f(void);"
    body = "call" if "@" in reference else "f"
    compile_c(
        user,
        f"{asm} int user(void) {{ return {body}(); }}",
        "-shared",
        "-Wl,-soname,libuser.so",
        f"-Wl,--disable-new-dtags,-rpath,{library.parent}",
        f"-L{library.parent}",
        "-lf",
    )
    make_library(loaded)
    said = subprocess.run(["ldd", "-r", user], capture_output=True, text=True, check=False)
    named = re.findall(r"undefined symbol: (\w+)(?:, version (\w+))?", said.stdout + said.stderr)
    assert ["@".join(filter(None, symbol)) for symbol in named] == ([missing] if missing else []), said

    objects = [
        Loaded(f"lib/{path.name}", f"/lib/{path.name}", read_file(path), None, How.MAIN)
        for path in (user, library)
    ]
    found = SymbolChecker(Files(DirectoryTree(tmp_path))).check(Closure(tuple(objects), (), ()))
    assert [item.message for item in found] == ([f"nothing defines {missing}"] if missing else [])


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


@needs_compiler
def test_missing_relro_is_noted(tmp_path: Path) -> None:
    for name, option in (("libopen.so", "norelro"), ("libshut.so", "relro")):
        compile_c(
            tmp_path / "p/lib" / name,
            "int a; const int *const p = &a;",
            "-shared",
            f"-Wl,-soname,{name}",
            f"-Wl,-z,{option}",
        )
    report = verify(DirectoryTree(tmp_path), SCOPE)
    assert [note.path for note in report.notes if note.rule == "relro"] == ["/p/lib/libopen.so"]


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
