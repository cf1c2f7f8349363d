"""A toolchain at work: it compiles in an empty root, and in one full of decoys.

``BUNDLE_TOOLCHAIN`` chooses it, and ``BUNDLE_ROOT`` where it lies; by default it is the seed, in two places.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import compiler
import pytest
from compiler import SAID_BY_C, SAID_BY_CC, Compiler

from bundler.elf.read import read_file

TOOLCHAIN = os.environ.get("BUNDLE_TOOLCHAIN", "seed")
ROOTS = os.environ.get("BUNDLE_ROOT", "/.deps /d" if TOOLCHAIN == "seed" else "/.deps").split()


@pytest.fixture(scope="module", params=ROOTS)
def there(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return compiler.build(
        TOOLCHAIN, request.param, tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("work")
    )


@pytest.fixture(scope="module")
def decoys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiler.make_decoys(tmp_path_factory.mktemp("decoys"))


def test_c_in_an_empty_root(there: Compiler) -> None:
    assert there.run("gcc -Wall hello.c -o hello -lm && ./hello") == SAID_BY_C
    program = read_file(str(there.work / "hello"))
    assert program.interpreter == f"{there.runtime}/lib/ld-linux-x86-64.so.2"
    assert (program.rpath, program.runpath) == (f"{there.runtime}/lib", None)
    dynamic = there.run("readelf -dW hello")
    assert re.search(r"FLAGS_1.*NODEFLIB", dynamic)


def test_cxx_with_exceptions_and_threads(there: Compiler) -> None:
    assert there.run("g++ -O2 hello.cc -o hellocc && ./hellocc") == SAID_BY_CC
    assert there.run("g++ -static-libstdc++ -static-libgcc hello.cc -o alone && ./alone") == SAID_BY_CC


@pytest.mark.parametrize(
    ("flags", "said"), [("-flto -O2", SAID_BY_C), ("-fopenmp", SAID_BY_C), ("-no-pie -g3", SAID_BY_C)]
)
def test_ways_to_compile(there: Compiler, flags: str, said: str) -> None:
    assert there.run(f"gcc {flags} hello.c -o other -lm && ./other") == said


def test_libraries_get_the_same_flags(there: Compiler) -> None:
    there.run("echo 'int seven(void) { return 7; }' > seven.c; gcc -shared -fPIC seven.c -o libseven.so")
    library = read_file(str(there.work / "libseven.so"))
    assert (library.interpreter, library.rpath) == (None, f"{there.runtime}/lib")
    script = "echo 'int seven(void); int main() { return seven() - 7; }' > main.c; gcc main.c -L. -lseven"
    there.run(script + " -Wl,-rpath,/w -o main && ./main && ldd main")


def test_static_programs_need_no_bundle(there: Compiler) -> None:
    for flag in ("-static", "-static-pie"):
        there.run(f"echo 'int main() {{ return 0; }}' | gcc {flag} -xc - -o static")
        there.run("/w/static", bundles=False)


def test_specs_for_the_container_own_libc(there: Compiler, foreign_root: Callable[[str], Path]) -> None:
    program = '#include <stdio.h>\\nint main() { puts("of the host"); }\\n'
    there.run(f"printf '{program}' > plain.c; gcc -specs=host.specs plain.c -o plain")
    assert read_file(str(there.work / "plain")).rpath is None
    assert there.run("/w/plain", base=foreign_root("debian"), bundles=False) == "of the host\n"


def test_commands_of_the_c_library(there: Compiler) -> None:
    assert "C.utf8" in there.run("locale -a").split()
    assert there.run("printf 'a\\344' | iconv -f LATIN1 -t UTF-8") == "aä"
    assert there.run("getconf LONG_BIT") == "64\n"
    there.run("gcc hello.c -o hello -lm")
    listed = dict(re.findall(r"\t(\S+) => (\S+)", there.run("ldd hello")))
    assert listed["libm.so.6"] == f"{there.runtime}/lib/libm.so.6"


def test_every_character_set_converts(there: Compiler) -> None:
    """Each module loads, with the libraries that it needs."""
    cache_only = (
        "for charset in $(iconv -l); do iconv -f ${charset%//} -t UTF-8 </dev/null || echo $charset; done"
    )
    assert there.run(cache_only) == ""


def test_nothing_of_the_host_is_looked_at(there: Compiler, decoys: Path) -> None:
    """Not even in vain: a file that is not there today may be there tomorrow."""
    script = """
    gcc -Wall hello.c -o hello -lm; ./hello
    g++ -O2 -flto hello.cc -o hellocc; ./hellocc
    gcc -print-file-name=libgfortran.so
    gcc -flto -c hello.c; ar rc liblto.a hello.o; gcc-ar rc liblto.a hello.o; nm liblto.a >/dev/null
    gcc -flto -Wl,--whole-archive liblto.a -Wl,--no-whole-archive -lm -o hello; strip hello; ./hello
    as --version >/dev/null; objdump -d hello >/dev/null; cpp -v </dev/null 2>/dev/null
    gcc nowhere.c || true
    """
    trace = there.work / "trace"
    words = ["strace", "-f", "-s", "4096", "-e", "trace=%file", "-o", str(trace)]
    done = subprocess.run(
        [*words, *there.command(script, base=decoys)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(SAID_BY_C + SAID_BY_CC)
    started = f'execve("{there.runtime}/bin/sh"'
    lines = trace.read_text().splitlines()
    lines = lines[next(number for number, line in enumerate(lines) if started in line) :]
    allowed = re.compile(rf"(?:{re.escape(there.root)}|/w|/proc|/dev)(?:/|\Z)|/\Z")
    named = (re.search(r'\((?:AT_FDCWD, )?"(/[^"]*)"', line) for line in lines)
    paths = {re.sub("/+", "/", found[1]) for found in named if found}
    assert len(paths) > 100
    assert sorted(path for path in paths if not allowed.match(path)) == []
    shutil.rmtree(trace, ignore_errors=True)


def test_linker_by_itself_stays_inside(there: Compiler, decoys: Path) -> None:
    searched = re.findall(r'SEARCH_DIR\("([^"]*)"\)', there.run("ld --verbose", base=decoys))
    both = [f"{there.toolchain}/lib", f"{there.runtime}/lib"]
    assert [place for place in searched if place in both] == both
    assert all(place.startswith(f"{there.toolchain}/") for place in searched if place not in both)
    there.run("gcc -c hello.c && ld -shared hello.o -lc -lm -o byhand.so", base=decoys)
    assert read_file(str(there.work / "byhand.so")).needed == ("libc.so.6", "libm.so.6")


def test_search_paths_of_the_environment_hold(there: Compiler) -> None:
    """A build tells gcc of its dependencies through these variables."""
    script = """
    echo '#define EIGHT 8' > dep/include/eight.h
    echo 'int eight(void) { return 8; }' | gcc -shared -fPIC -xc - -o dep/lib/libeight.so
    echo '#include <eight.h>
    int eight(void); int main() { return eight() - EIGHT; }' > usesit.c
    export C_INCLUDE_PATH=/w/dep/include LIBRARY_PATH=/w/dep/lib
    gcc usesit.c -leight -Wl,-rpath,/w/dep/lib -o usesit; ./usesit
    """
    (there.work / "dep/include").mkdir(parents=True)
    (there.work / "dep/lib").mkdir()
    there.run(script)


def test_hostile_environment(there: Compiler, decoys: Path) -> None:
    place = "/usr/lib/x86_64-linux-gnu"
    environment = f"LD_LIBRARY_PATH={place} LOCPATH=/usr/lib/locale GCONV_PATH={place}/gconv"
    script = f"{environment} gcc hello.c -o hello -lm; LD_LIBRARY_PATH={place} ./hello"
    assert there.run(script, base=decoys) == SAID_BY_C
