"""The seed toolchain as the pipeline makes it: it compiles in an empty root, and in one full of decoys."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bundler.elf.read import read_file
from bundler.pipeline import Pipeline
from bundler.settings import Settings, cache_directory
from bundler.target import parse_target

CHECKOUT = Path(__file__).parents[2]

HELLO_C = r"""
#include <iconv.h>
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>

static void *self(void *argument) { return argument; }

static const char *convert(const char *charset, char *text) {
    iconv_t cd = iconv_open("UTF-8", charset);
    if (cd == (iconv_t)-1) return "no such charset";
    static char out[16];
    char *to = out;
    size_t from_left = 2, to_left = sizeof out - 1;
    iconv(cd, &text, &from_left, &to, &to_left);
    *to = 0;
    return out;
}

int main(int argc, char **argv) {
    pthread_t thread;
    void *result = 0;
    pthread_create(&thread, 0, self, argv);
    pthread_join(thread, &result);
    const char *locale = setlocale(LC_ALL, "C.UTF-8");
    printf("%s %s %d %.3f\n", locale ? locale : "none", nl_langinfo(CODESET), result == argv, cos(argc));
    printf("%s ", convert("SHIFT_JIS", "\x83\x5c"));
    printf("%s\n", convert("EUC-KR", "\xb0\xa1"));
}
"""

HELLO_CC = r"""
#include <filesystem>
#include <iostream>
#include <regex>
#include <stdexcept>
#include <thread>

int main() {
    std::exception_ptr caught;
    std::thread([&] {
        try { throw std::runtime_error("thrown in a thread"); }
        catch (...) { caught = std::current_exception(); }
    }).join();
    try { std::rethrow_exception(caught); } catch (const std::exception &error) { std::cout << error.what(); }
    std::cout << " " << std::regex_match("abc", std::regex("a.c"));
    std::cout << std::filesystem::exists("nowhere") << "\n";
}
"""

SAID_BY_C = "C.UTF-8 UTF-8 1 0.540\nソ 가\n"
SAID_BY_CC = "thrown in a thread 10\n"


@dataclass(frozen=True)
class Seed:
    """The trees of the bundles at their prefixes, and a directory that programs see as /w."""

    root: str
    prefixes: dict[str, Path]
    work: Path

    @property
    def runtime(self) -> str:
        return f"{self.root}/rt/1"

    @property
    def toolchain(self) -> str:
        return f"{self.root}/toolchain/1"

    def command(self, script: str, *, base: Path | None = None, bundles: bool = True) -> list[str]:
        """bwrap's words for ``script`` in an empty root, or in ``base``, with the bundles mounted."""
        words = ["bwrap", "--unshare-all", "--clearenv", "--die-with-parent"]
        words += ["--setenv", "PATH", f"{self.toolchain}/bin:{self.runtime}/bin", "--setenv", "TMPDIR", "/w"]
        # Harmless to what obeys it only inside its own prefix.
        words += ["--setenv", "LANGUAGE", "de", "--setenv", "LC_ALL", "C.UTF-8"]
        for entry in sorted(base.iterdir()) if base else ():
            if entry.is_symlink():
                words += ["--symlink", str(entry.readlink()), f"/{entry.name}"]
            elif entry.name not in ("proc", "dev"):
                words += ["--ro-bind", str(entry), f"/{entry.name}"]
        if bundles:
            for prefix, tree in self.prefixes.items():
                words += ["--ro-bind", str(tree), prefix]
        words += ["--bind", str(self.work), "/w", "--chdir", "/w", "--proc", "/proc", "--dev", "/dev"]
        return [*words, *([f"{self.runtime}/bin/sh", "-euc", script] if bundles else [script])]

    def run(self, script: str, *, base: Path | None = None, bundles: bool = True) -> str:
        words = self.command(script, base=base, bundles=bundles)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout


@pytest.fixture(scope="module", params=["/.deps", "/d"])
def seed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seed:
    settings = Settings(
        cache=cache_directory(),
        recipes=(CHECKOUT / "recipes",),
        images=(CHECKOUT / "images",),
        toolchains=CHECKOUT / "toolchain",
        toolchain="seed",
        target=parse_target("x86_64", request.param),
        out=tmp_path_factory.mktemp("out"),
        jobs=2,
    )
    pipeline = Pipeline(settings, ["toolchain"])
    pipeline.build()
    trees = {
        bundle.prefix: pipeline.store.union([part.tree for part in pipeline.parts(bundle)])
        for bundle in pipeline.plan.bundles.values()
    }
    work = tmp_path_factory.mktemp("work")
    (work / "hello.c").write_text(HELLO_C)
    (work / "hello.cc").write_text(HELLO_CC)
    return Seed(request.param, trees, work)


@pytest.fixture(scope="module")
def decoys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which everything lies that Debian's own compiler, linker and loader would take, broken."""
    root = tmp_path_factory.mktemp("decoys")
    gcc = "usr/lib/gcc/x86_64-linux-gnu"
    broken = {
        **dict.fromkeys(
            [f"usr/include/{name}" for name in ("stdio.h", "features.h", "c++/14/iostream")], "#error\n"
        ),
        "usr/local/include/stdio.h": "#error a header of the host\n",
        "usr/include/x86_64-linux-gnu/bits/types.h": "#error a header of the host\n",
        f"{gcc}/14/include/stddef.h": "#error a header of the host\n",
        f"{gcc}/specs": "*link:\n-lhost\n\n",
        f"{gcc}/14/specs": "*link:\n-lhost\n\n",
        "usr/lib/ld.so.conf": "",
        "etc/ld.so.preload": "/usr/lib/x86_64-linux-gnu/libhost.so\n",
        "etc/ld.so.conf": "/usr/lib/x86_64-linux-gnu\n",
        "etc/ld.so.cache": "not a cache",
        "usr/share/locale/de/LC_MESSAGES/gcc.mo": "not a catalogue",
        "usr/lib/locale/C.utf8/LC_CTYPE": "not a locale",
        "usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache": "not a cache",
    }
    for directory in ("usr/lib/x86_64-linux-gnu", "usr/lib", f"{gcc}/14"):
        for name in (
            "libc.so",
            "libc.so.6",
            "libm.so.6",
            "libgcc_s.so.1",
            "Scrt1.o",
            "crti.o",
            "crtbeginS.o",
        ):
            broken[f"{directory}/{name}"] = "not an ELF file"
    for directory in ("usr/bin", "usr/libexec/gcc/x86_64-linux-gnu/14"):
        for name in ("as", "ld", "cc1", "collect2", "x86_64-linux-gnu-as"):
            broken[f"{directory}/{name}"] = "#!/nowhere\n"
    for path, text in broken.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        (root / path).chmod(0o755)
    (root / "lib").symlink_to("usr/lib")
    (root / "bin").symlink_to("usr/bin")
    return root


def test_c_in_an_empty_root(seed: Seed) -> None:
    assert seed.run("gcc -Wall hello.c -o hello -lm && ./hello") == SAID_BY_C
    program = read_file(str(seed.work / "hello"))
    assert program.interpreter == f"{seed.runtime}/lib/ld-linux-x86-64.so.2"
    assert (program.rpath, program.runpath) == (f"{seed.runtime}/lib", None)
    dynamic = seed.run("readelf -dW hello")
    assert re.search(r"FLAGS_1.*NODEFLIB", dynamic)


def test_cxx_with_exceptions_and_threads(seed: Seed) -> None:
    assert seed.run("g++ -O2 hello.cc -o hellocc && ./hellocc") == SAID_BY_CC
    assert seed.run("g++ -static-libstdc++ -static-libgcc hello.cc -o alone && ./alone") == SAID_BY_CC


@pytest.mark.parametrize(
    ("flags", "said"), [("-flto -O2", SAID_BY_C), ("-fopenmp", SAID_BY_C), ("-no-pie -g3", SAID_BY_C)]
)
def test_ways_to_compile(seed: Seed, flags: str, said: str) -> None:
    assert seed.run(f"gcc {flags} hello.c -o other -lm && ./other") == said


def test_libraries_get_the_same_flags(seed: Seed) -> None:
    seed.run("echo 'int seven(void) { return 7; }' > seven.c; gcc -shared -fPIC seven.c -o libseven.so")
    library = read_file(str(seed.work / "libseven.so"))
    assert (library.interpreter, library.rpath) == (None, f"{seed.runtime}/lib")
    script = "echo 'int seven(void); int main() { return seven() - 7; }' > main.c; gcc main.c -L. -lseven"
    seed.run(script + " -Wl,-rpath,/w -o main && ./main && ldd main")


def test_static_programs_need_no_bundle(seed: Seed) -> None:
    for flag in ("-static", "-static-pie"):
        seed.run(f"echo 'int main() {{ return 0; }}' | gcc {flag} -xc - -o static")
        seed.run("/w/static", bundles=False)


def test_specs_for_the_container_own_libc(seed: Seed, foreign_root: Callable[[str], Path]) -> None:
    program = '#include <stdio.h>\\nint main() { puts("of the host"); }\\n'
    seed.run(f"printf '{program}' > plain.c; gcc -specs=host.specs plain.c -o plain")
    assert read_file(str(seed.work / "plain")).rpath is None
    assert seed.run("/w/plain", base=foreign_root("debian"), bundles=False) == "of the host\n"


def test_commands_of_the_c_library(seed: Seed) -> None:
    assert "C.utf8" in seed.run("locale -a").split()
    assert seed.run("printf 'a\\344' | iconv -f LATIN1 -t UTF-8") == "aä"
    assert seed.run("getconf LONG_BIT") == "64\n"
    seed.run("gcc hello.c -o hello -lm")
    listed = dict(re.findall(r"\t(\S+) => (\S+)", seed.run("ldd hello")))
    assert listed["libm.so.6"] == f"{seed.runtime}/lib/libm.so.6"


def test_every_character_set_converts(seed: Seed) -> None:
    """Each module loads, with the libraries that it needs."""
    cache_only = (
        "for charset in $(iconv -l); do iconv -f ${charset%//} -t UTF-8 </dev/null || echo $charset; done"
    )
    assert seed.run(cache_only) == ""


def test_nothing_of_the_host_is_looked_at(seed: Seed, decoys: Path) -> None:
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
    trace = seed.work / "trace"
    words = ["strace", "-f", "-s", "4096", "-e", "trace=%file", "-o", str(trace)]
    done = subprocess.run(
        [*words, *seed.command(script, base=decoys)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(SAID_BY_C + SAID_BY_CC)
    started = f'execve("{seed.runtime}/bin/sh"'
    lines = trace.read_text().splitlines()
    lines = lines[next(number for number, line in enumerate(lines) if started in line) :]
    allowed = re.compile(rf"(?:{re.escape(seed.root)}|/w|/proc|/dev)(?:/|\Z)|/\Z")
    named = (re.search(r'\((?:AT_FDCWD, )?"(/[^"]*)"', line) for line in lines)
    paths = {re.sub("/+", "/", found[1]) for found in named if found}
    assert len(paths) > 100
    assert sorted(path for path in paths if not allowed.match(path)) == []
    shutil.rmtree(trace, ignore_errors=True)


def test_linker_by_itself_stays_inside(seed: Seed, decoys: Path) -> None:
    searched = re.findall(r'SEARCH_DIR\("([^"]*)"\)', seed.run("ld --verbose", base=decoys))
    assert searched == [f"{seed.toolchain}/lib", f"{seed.runtime}/lib"]
    seed.run("gcc -c hello.c && ld -shared hello.o -lc -lm -o byhand.so", base=decoys)
    assert read_file(str(seed.work / "byhand.so")).needed == ("libc.so.6", "libm.so.6")


def test_search_paths_of_the_environment_hold(seed: Seed) -> None:
    """A build tells gcc of its dependencies through these variables."""
    script = """
    echo '#define EIGHT 8' > dep/include/eight.h
    echo 'int eight(void) { return 8; }' | gcc -shared -fPIC -xc - -o dep/lib/libeight.so
    echo '#include <eight.h>
    int eight(void); int main() { return eight() - EIGHT; }' > usesit.c
    export C_INCLUDE_PATH=/w/dep/include LIBRARY_PATH=/w/dep/lib
    gcc usesit.c -leight -Wl,-rpath,/w/dep/lib -o usesit; ./usesit
    """
    (seed.work / "dep/include").mkdir(parents=True)
    (seed.work / "dep/lib").mkdir()
    seed.run(script)


def test_hostile_environment(seed: Seed, decoys: Path) -> None:
    place = "/usr/lib/x86_64-linux-gnu"
    environment = f"LD_LIBRARY_PATH={place} LOCPATH=/usr/lib/locale GCONV_PATH={place}/gconv"
    script = f"{environment} gcc hello.c -o hello -lm; LD_LIBRARY_PATH={place} ./hello"
    assert seed.run(script, base=decoys) == SAID_BY_C


def test_a_root_that_is_too_long_is_refused(tmp_path: Path) -> None:
    words = ["--cache", str(cache_directory()), "--out", str(tmp_path), "--progress", "none"]
    done = subprocess.run(
        [str(CHECKOUT / ".venv/bin/bundle"), "build", "runtime", "--root", "/.much-longer", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (2, 3), done.stderr
    assert "cannot take the place of" in done.stderr and "Traceback" not in done.stderr
