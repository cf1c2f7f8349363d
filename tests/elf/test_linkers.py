"""Files of each linker, in each shape, patched: they run as before, and no tool finds them worse."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from judges import faults, run, tool

from bundler.elf.edits import Edits
from bundler.elf.format import PT_GNU_PROPERTY, PT_NOTE
from bundler.elf.patch import patch_file
from bundler.elf.place import Tier
from bundler.elf.read import read_file

LIBRARY = """
#include <stdio.h>
__thread int per_thread = 40;
int table[3] = {1, 2, 3};
int *into_table = &table[1];
static int chosen(void) { return 5; }
static int (*resolve(void))(void) { return chosen; }
int picked(void) __attribute__((ifunc("resolve")));
int answer(void) { return per_thread + *into_table; }
__attribute__((constructor)) static void start(void) { puts("start"); }
__attribute__((destructor)) static void stop(void) { puts("stop"); }
"""
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
extern int answer(void), picked(void);
static char big[BIG];
const char *words[] = {"one", "two", "three"};
static int order(const void *a, const void *b) { return strcmp(*(char **)a, *(char **)b); }
int main(int argc, char **argv) {
    qsort(words, 3, sizeof *words, order);
    big[sizeof big - 1] = 'x';
    printf("%d %d %s %s %s %c %d\\n", answer(), picked(),
           words[0], words[1], words[2], big[sizeof big - 1], argc);
    char *heap = malloc(100000);
    memset(heap, 1, 100000);
    free(heap);
    return 7;
}
"""
EXPECTED = (7, "start\n42 5 one three two x 1\nstop\n", "")


@dataclass(frozen=True)
class Shape:
    linker: str
    options: tuple[str, ...] = ()
    pie: bool = True
    big: int = 16


LINKERS = ("bfd", "gold", "lld", "mold")
VARIANTS: dict[str, Shape] = {}
for _linker in LINKERS:
    for _name, _options, _pie, _big in (
        ("plain", (), True, 16),
        ("fixed address", (), False, 16),
        ("huge bss", (), True, 40 << 20),
        ("now", ("-Wl,-z,now", "-Wl,-z,relro"), True, 16),
        ("no relro", ("-Wl,-z,norelro",), True, 16),
        ("sysv hash", ("-Wl,--hash-style=sysv",), True, 16),
        ("both hashes", ("-Wl,--hash-style=both",), False, 16),
        ("no build id", ("-Wl,--build-id=none",), True, 16),
        ("debug", ("-g",), True, 16),
        ("runpath", ("-Wl,-rpath,/some/where/else", "-Wl,--enable-new-dtags"), True, 16),
    ):
        VARIANTS[f"{_linker}: {_name}"] = Shape(_linker, _options, _pie, _big)
VARIANTS |= {
    "bfd: no spare tags": Shape("bfd", ("-Wl,--spare-dynamic-tags=0",)),
    "bfd: one segment of code": Shape("bfd", ("-Wl,-z,noseparate-code",)),
    "bfd: one segment of code, fixed": Shape("bfd", ("-Wl,-z,noseparate-code",), pie=False),
    "bfd: emit relocs": Shape("bfd", ("-Wl,--emit-relocs",)),
    "bfd: pages of 64 KiB": Shape("bfd", ("-Wl,-z,max-page-size=0x10000", "-Wl,-z,common-page-size=0x10000")),
    "bfd: pages of 2 MiB": Shape("bfd", ("-Wl,-z,max-page-size=0x200000",)),
    "bfd: packed relative relocs": Shape("bfd", ("-Wl,-z,pack-relative-relocs",)),
    "bfd: no spare tags, no slack": Shape(
        "bfd", ("-Wl,--spare-dynamic-tags=0", "-Wl,-z,noseparate-code"), pie=False
    ),
    "lld: rosegment": Shape("lld", ("-Wl,--no-rosegment",)),
    "lld: separate": Shape("lld", ("-Wl,-z,separate-loadable-segments",)),
    "lld: pages of 64 KiB": Shape("lld", ("-Wl,-z,max-page-size=0x10000",)),
    "gold: pages of 64 KiB": Shape("gold", ("-Wl,-z,max-page-size=0x10000",)),
}


def compile_pair(shape: Shape, directory: Path) -> tuple[Path, Path]:
    """A program and the library that it needs, which it finds by LD_LIBRARY_PATH alone."""
    (directory / "library.c").write_text(LIBRARY)
    (directory / "program.c").write_text(PROGRAM)
    common = ("gcc", "-O1", f"-fuse-ld={shape.linker}", *shape.options)
    library, program = directory / "libanswer.so.1", directory / "program"
    made = tool(
        *common, "-shared", "-fPIC", "-Wl,-soname,libanswer.so.1", "-o", library, directory / "library.c"
    )
    assert made.returncode == 0, made.stderr
    mode = ("-fPIE", "-pie") if shape.pie else ("-fno-pie", "-no-pie")
    made = tool(*common, *mode, f"-DBIG={shape.big}", "-o", program, directory / "program.c", library)
    assert made.returncode == 0, made.stderr
    return program, library


def long_loader(directory: Path) -> Path:
    """A name of the machine's loader that is longer than the usual one."""
    loader = directory / "a-directory-with-a-long-name" / "ld-linux-x86-64.so.2"
    loader.parent.mkdir()
    loader.symlink_to("/lib64/ld-linux-x86-64.so.2")
    return loader


@pytest.mark.parametrize("name", VARIANTS)
def test_matrix(name: str, tmp_path: Path) -> None:
    program, library = compile_pair(VARIANTS[name], tmp_path)
    home = tmp_path / "prefix" / "lib"
    home.mkdir(parents=True)
    assert run(program, LD_LIBRARY_PATH=str(tmp_path)) == EXPECTED
    new_program, new_library = home / "program", home / "libanswer.so.1"
    edits = Edits(
        interpreter=str(long_loader(tmp_path)), rpath=f"{home}:/.deps/shell/1/lib", no_default_lib=False
    )
    patch_file(program, edits, new_program)
    patch_file(library, edits, new_library)
    assert run(new_program) == EXPECTED
    assert faults(program, new_program, tmp_path) == []
    assert run_stripped(tmp_path, home) == EXPECTED
    assert faults(library, new_library, tmp_path) == []

    # Once more, with absolute names, into a file that was patched already.
    again = home / "again"
    more = Edits(
        replace_needed={"libanswer.so.1": str(new_library), "libc.so.6": real_libc()}, no_default_lib=True
    )
    patch_file(new_program, more, again)
    assert read_file(again).needed[0] == str(new_library)
    assert run(again, LD_LIBRARY_PATH="/nowhere") == EXPECTED
    assert faults(new_program, again, tmp_path) == []
    assert run_stripped(tmp_path, home) == EXPECTED


def run_stripped(scratch: Path, home: Path) -> tuple[int, str, str]:
    """Run what the last of the strippers that makes programs left, in the program's directory."""
    out = tool(
        "strip",
        "-o",
        home / "stripped",
        max(
            (p for p in home.iterdir() if p.name in ("program", "again")), key=lambda p: p.stat().st_mtime_ns
        ),
    )
    assert out.returncode == 0
    return run(home / "stripped")


def real_libc() -> str:
    listing = tool("/lib64/ld-linux-x86-64.so.2", "--list", "/bin/true").stdout
    return next(line.split()[2] for line in listing.splitlines() if "libc.so.6 =>" in line)


def test_gdb_and_addresses_agree(tmp_path: Path) -> None:
    """Debug information fits the patched program: breakpoints, backtraces and lines as before."""
    program, library = compile_pair(Shape("bfd", ("-g", "-Wl,--spare-dynamic-tags=0")), tmp_path)
    home = tmp_path / "lib"
    home.mkdir()
    patch_file(program, Edits(rpath=str(home)), home / "program")
    patch_file(library, Edits(rpath=str(home)), home / "libanswer.so.1")
    script = (
        "-q",
        "-batch",
        "-nx",
        "-ex",
        "set debuginfod enabled off",
        "-ex",
        "break answer",
        "-ex",
        "run",
        "-ex",
        "bt",
    )
    outputs = [
        tool("gdb", *script, path, LD_LIBRARY_PATH=paths).stdout
        for path, paths in ((program, str(tmp_path)), (home / "program", ""))
    ]
    frames = [[line for line in output.splitlines() if line.startswith("#")] for output in outputs]
    assert frames[0] == frames[1] and "main" in frames[1][1], outputs[1]
    addresses = [tool("addr2line", "-f", "-e", path, "0x1180").stdout for path in (program, home / "program")]
    assert addresses[0] == addresses[1]


def test_no_section_headers(tmp_path: Path) -> None:
    """A file without section headers runs, and patches by what the loader sees."""
    program, library = compile_pair(Shape("bfd", ("-Wl,--spare-dynamic-tags=0",)), tmp_path)
    for path in (program, library):
        data = bytearray(path.read_bytes())
        data[0x28:0x30] = bytes(8)
        data[0x3C:0x40] = bytes(4)
        path.write_bytes(data[: max(s.offset + s.filesz for s in read_file(path).segments)])
        patch_file(path, Edits(rpath=str(tmp_path), interpreter=str(tmp_path / "loader")))
    (tmp_path / "loader").symlink_to("/lib64/ld-linux-x86-64.so.2")
    assert run(program) == EXPECTED


def test_exceptions_cross_libraries(tmp_path: Path) -> None:
    (tmp_path / "l.cc").write_text('#include <stdexcept>\nvoid fail() { throw std::runtime_error("x"); }\n')
    (tmp_path / "p.cc").write_text(
        "#include <exception>\n#include <cstdio>\nvoid fail();\n"
        "int main() { try { fail(); } catch (std::exception &e) { std::puts(e.what()); return 3; } }\n"
    )
    home = tmp_path / "lib"
    home.mkdir()
    library, program = tmp_path / "libfail.so", tmp_path / "program"
    assert tool("g++", "-shared", "-fPIC", "-o", library, tmp_path / "l.cc").returncode == 0
    assert tool("g++", "-o", program, tmp_path / "p.cc", library).returncode == 0
    for path in (library, program):
        patch_file(
            path, Edits(rpath=str(home), replace_needed={str(library): "libfail.so"}), home / path.name
        )
    shutil.move(library, tmp_path / "hidden")
    assert run(home / "program") == (3, "x\n", "")


def test_needed_soname_and_removal_at_run_time(tmp_path: Path) -> None:
    """An added library is loaded first, a renamed one is found by its new name, a removed one not at all."""
    program, library = compile_pair(Shape("bfd"), tmp_path)
    (tmp_path / "extra.c").write_text(
        '#include <stdio.h>\n__attribute__((constructor)) void e(void) { puts("extra"); }\n'
    )
    extra = tmp_path / "libextra.so"
    assert tool("gcc", "-shared", "-fPIC", "-o", extra, tmp_path / "extra.c").returncode == 0
    patch_file(library, Edits(soname="libother.so.2"), tmp_path / "libother.so.2")
    library.unlink()
    edits = Edits(
        rpath=str(tmp_path), add_needed=("libextra.so",), replace_needed={"libanswer.so.1": "libother.so.2"}
    )
    patch_file(program, edits)
    assert run(program) == (7, EXPECTED[1].replace("start\n", "start\nextra\n"), "")
    patch_file(program, Edits(remove_needed=("libextra.so",)))
    assert run(program) == EXPECTED


@pytest.mark.parametrize("round_trips", [30])
def test_many_rounds_still_run(tmp_path: Path, round_trips: int) -> None:
    program, _ = compile_pair(Shape("bfd", ("-Wl,--spare-dynamic-tags=0",)), tmp_path)
    size = program.stat().st_size
    for number in range(round_trips):
        path = f"{tmp_path}:{Path(real_libc()).parent}:/round/{number}" + "/long" * (number * 7 % 40)
        patch_file(program, Edits(rpath=path, no_default_lib=number % 2 == 0))
        assert run(program) == EXPECTED
    assert program.stat().st_size < size + 0x4000


@pytest.mark.parametrize("pie", [True, False])
def test_no_room_behind_the_program_headers(tmp_path: Path, pie: bool) -> None:
    """Data right behind the headers cannot move: then the headers do, and the program still runs."""
    mode = "-pie" if pie else "-no-pie"
    script = tool("ld", mode, "-z", "separate-code", "--verbose").stdout.split("=" * 50)[1]
    first, _, rest = script.partition("  .interp ")
    (tmp_path / "script.ld").write_text(f"{first}  .first : {{ KEEP(*(.first)) }}\n  .interp {rest}")
    (tmp_path / "first.c").write_text(
        '__attribute__((section(".first"), used)) const char first[64] = "here";\n'
    )
    program, library = compile_pair(Shape("bfd", ("-Wl,--spare-dynamic-tags=0",)), tmp_path)
    options = (mode, "-fPIE" if pie else "-fno-pie", "-DBIG=16", f"-Wl,-T,{tmp_path}/script.ld")
    sources = (tmp_path / "program.c", tmp_path / "first.c", library)
    made = tool("gcc", "-O1", *options, "-Wl,--spare-dynamic-tags=0", "-o", program, *sources)
    assert made.returncode == 0, made.stderr
    data = bytearray(program.read_bytes())
    # Take the spare header away, too: the note that GNU_PROPERTY repeats becomes one of another type.
    segments = read_file(program).segments
    properties = next(s.offset for s in segments if s.type == PT_GNU_PROPERTY)
    for index, segment in enumerate(segments):
        if segment.type == PT_NOTE and segment.offset == properties:
            data[64 + 56 * index : 64 + 56 * index + 4] = (0x6FFFFFF0).to_bytes(4, "little")
    program.write_bytes(data)
    result = patch_file(program, Edits(rpath=str(tmp_path)))
    assert result.tier is Tier.MOVED_HEADERS
    assert run(program) == EXPECTED
    patch_file(program, Edits(rpath=f"{tmp_path}:/more", interpreter=str(long_loader(tmp_path))))
    assert run(program) == EXPECTED
