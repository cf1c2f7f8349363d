"""The source toolchain, and what it can that the seed cannot.

It is chosen as in ``tests/integration/test_toolchain.py``, which holds what both can; ``make toolchain``
builds it first.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import compiler
import pytest
from command import Bundle
from compiler import Compiler

from bundler import relocate
from bundler.elf.patch import patch_file
from bundler.elf.read import read_file
from bundler.relocate import Context
from bundler.tree import DirectoryTree, Kind, walk

TOOLCHAIN = os.environ.get("BUNDLE_TOOLCHAIN", "source")
ROOT = os.environ.get("BUNDLE_ROOT", "/.deps")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def there(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return compiler.build(TOOLCHAIN, ROOT, out, tmp_path_factory.mktemp("work"))


# In one partition: without make, gcc says that it does several one after the other.
@pytest.mark.parametrize("flags", ["", "-shared -fPIC", "-no-pie", "-O2 -flto -flto-partition=one"])
@pytest.mark.parametrize("tool", ["gcc", "g++"])
def test_what_it_links_needs_no_patch(there: Compiler, tool: str, flags: str) -> None:
    """Interpreter, DT_RPATH and flags are as relocation would make them."""
    there.run(f"{tool} {flags} {'hello.c' if tool == 'gcc' else 'hello.cc'} -o linked -lm")
    file = there.work / "linked"
    runtime = f"{there.runtime}/lib"
    context = Context(f"{runtime}/ld-linux-x86-64.so.2", (runtime,), (there.runtime,), {})
    edits = relocate.elf_edits(read_file(str(file)), file.name, context, {})
    assert edits is not None and edits.rpath == runtime and edits.no_default_lib
    assert not patch_file(file, edits).changed
    edits = relocate.elf_edits(read_file(str(file)), file.name, Context("/x", ("/x",), (), {}), {})
    assert edits is not None and patch_file(file, edits).changed  # the judge can say no


def test_preloads_of_the_container_pass_by(there: Compiler) -> None:
    """They neither reach our programs nor are lost on the way to others."""
    script = "LD_PRELOAD=/nowhere.so LD_AUDIT=/nowhere.so sh -c 'echo $LD_PRELOAD $LD_AUDIT'"
    assert there.run(script) == "/nowhere.so /nowhere.so\n"


RUNS_A_SHELL = r"""
#include <paths.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <wordexp.h>

int main(void) {
    unsetenv("PATH");
    printf("%d ", WEXITSTATUS(system("exit 3")));
    char line[16] = "";
    FILE *pipe = popen("echo piped", "r");
    printf("%s", fgets(line, sizeof line, pipe) ? line : "nothing\n");
    pclose(pipe);
    wordexp_t words;
    printf("%s ", wordexp("$(echo word)", &words, 0) ? "none" : words.we_wordv[0]);
    confstr(_CS_PATH, line, 0);
    fflush(stdout);
    execlp("sh", "sh", "-c", "echo found; echo " _PATH_BSHELL, (char *)0);
}
"""


def test_programs_run_a_shell_in_an_empty_root(there: Compiler) -> None:
    (there.work / "shell.c").write_text(RUNS_A_SHELL)
    said = there.run("gcc -w -D_GNU_SOURCE shell.c -o shell && ./shell")
    assert said == f"3 piped\nword found\n{there.runtime}/bin/sh\n"
    assert there.run("getconf PATH") == f"{there.runtime}/bin:/bin:/usr/bin\n"


@pytest.mark.parametrize(
    ("locale", "said"), [("de_DE", "3,5 Samstag"), ("ja_JP", "3.5 土曜日"), ("ru_RU", "3,5 Суббота")]
)
def test_locales(there: Compiler, locale: str, said: str) -> None:
    program = r"""
    #include <locale.h>
    #include <stdio.h>
    #include <time.h>
    int main(void) {
        char day[64];
        struct tm sixth = {.tm_wday = 6};
        if (!setlocale(LC_ALL, "")) return 1;
        strftime(day, sizeof day, "%A", &sixth);
        printf("%.1f %s\n", 3.5, day);
    }
    """
    (there.work / "locale.c").write_text(program)
    assert there.run(f"gcc locale.c -o locale && LC_ALL={locale}.UTF-8 ./locale") == said + "\n"


def test_the_oldest_kernel_is_written_down(there: Compiler) -> None:
    library = there.prefixes[there.runtime] / "lib/libc.so.6"
    assert read_file(str(library)).kernel == (3, 10, 0)


def test_verify_finds_neither_violations_nor_limits(there: Compiler, out: Path) -> None:
    reports = json.loads(Bundle(out, {})("verify", "toolchain", "--out", str(out), "--format", "json"))
    assert [(one["violations"], one["limits"]) for one in reports] == [([], [])]


def test_the_runtime_is_small(there: Compiler) -> None:
    """Bytes unpacked, and compressed as a registry would take them."""
    tree = there.prefixes[there.runtime]
    packer, unpacked, packed, seen = zlib.compressobj(9), 0, 0, set()
    for entry in walk(DirectoryTree(tree)):
        status = (tree / entry.path).lstat()
        if entry.kind is Kind.FILE and status.st_ino not in seen:
            seen.add(status.st_ino)
            data = (tree / entry.path).read_bytes()
            unpacked += len(data)
            packed += len(packer.compress(data))
    packed += len(packer.flush())
    assert unpacked < 30e6 and packed < 10e6, (unpacked, packed)
