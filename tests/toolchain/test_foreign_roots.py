"""C and C++ compiled, linked and run where others live: in an empty root, in musl's and in Debian's.

The toolchain is chosen as in ``tests/integration/test_toolchain.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

import compiler
import foreign
import pytest
from compiler import Compiler

from bundler.elf.read import read_file

TOOLCHAIN = os.environ.get("BUNDLE_TOOLCHAIN", "source")
ROOT = os.environ.get("BUNDLE_ROOT", "/.deps")

THROWN_H = r"""
#include <stdexcept>
struct Thrown : std::runtime_error {
    using std::runtime_error::runtime_error;
    ~Thrown() override;
};
void give(int number);
extern thread_local int given;
"""

GIVE_CC = r"""
#include "thrown.h"
Thrown::~Thrown() = default;
thread_local int given = 0;
struct Unwound {
    int by;
    ~Unwound() { given += by; }
};
void give(int number) {
    Unwound unwound{number};
    throw Thrown("given " + std::to_string(number));
}
"""

TAKE_CC = r"""
#include "thrown.h"
#include <future>
#include <iostream>
#include <vector>
int take(int number) {
    try { give(number); }
    catch (const std::runtime_error &error) {
        std::string said = "given " + std::to_string(number);
        if (dynamic_cast<const Thrown *>(&error) && error.what() == said) return given;
    }
    return -1;
}
int main() {
    std::vector<std::future<int>> taken;
    for (int number = 1; number <= 4; number++) taken.push_back(std::async(std::launch::async, take, number));
    int sum = 0;
    for (auto &one : taken) sum += one.get();
    std::cout << sum << " " << given << std::endl;
}
"""

PLUGIN_CC = r"""
#include "thrown.h"
extern "C" void plugged(int number) { give(number); }
"""

HOST_CC = r"""
#include "thrown.h"
#include <dlfcn.h>
#include <iostream>
int main() {
    void *plugin = dlopen("/w/plugin.so", RTLD_NOW | RTLD_LOCAL);
    if (!plugin) { std::cout << dlerror() << std::endl; return 1; }
    try { reinterpret_cast<void (*)(int)>(dlsym(plugin, "plugged"))(7); }
    catch (const Thrown &thrown) { std::cout << thrown.what() << " " << given << std::endl; }
}
"""

COUNT_C = r"""
#include <stdatomic.h>
#include <stdio.h>
#include <threads.h>
typedef struct { long low, high; } Pair;
static _Atomic Pair pair;
static thread_local int own;
static int count(void *argument) {
    for (int turn = 0; turn < 1000; turn++) {
        Pair was = atomic_load(&pair), next;
        do next = (Pair){was.low + 1, was.high - 1};
        while (!atomic_compare_exchange_weak(&pair, &was, next));
        own++;
    }
    return own;
}
int main(void) {
    thrd_t threads[3];
    int sum = 0, one;
    for (int i = 0; i < 3; i++) thrd_create(&threads[i], count, 0);
    for (int i = 0; i < 3; i++) { thrd_join(threads[i], &one); sum += one; }
    Pair end = atomic_load(&pair);
    printf("%d %ld %ld %d\n", sum, end.low, end.high, own);
}
"""

SHARED = (
    "g++ {flags} -fPIC -shared give.cc -o libgive.so; g++ {flags} take.cc -L. -lgive -Wl,-rpath,/w -o out"
)
PLUGIN = (
    "g++ {flags} -fPIC -shared give.cc -o libgive.so; g++ {flags} -fPIC -shared plugin.cc -L. -lgive"
    " -Wl,-rpath,/w -o plugin.so; g++ {flags} host.cc -L. -lgive -Wl,-rpath,/w -o out"
)
ARCHIVE = (
    "g++ {flags} -c give.cc take.cc; gcc-ar rc libboth.a give.o take.o;"
    " g++ {flags} -Wl,--whole-archive libboth.a -Wl,--no-whole-archive -o out"
)
ALONE = "g++ {flags} give.cc take.cc -o out"
COUNT = "gcc {flags} count.c -latomic -o out"

TAKEN, PLUGGED, COUNTED = "10 0\n", "given 7 7\n", "3000 3000 -3000 0\n"

WAYS = {
    "library": (SHARED, "-O2", TAKEN),
    "library-lto": (SHARED, "-O2 -flto", TAKEN),
    "library-no-pie": (SHARED, "-no-pie", TAKEN),
    "plugin": (PLUGIN, "-O2", PLUGGED),
    "plugin-lto": (PLUGIN, "-flto", PLUGGED),
    "archive": (ARCHIVE, "-O2", TAKEN),
    "archive-lto": (ARCHIVE, "-O2 -flto", TAKEN),
    "static": (ALONE, "-O2 -static", TAKEN),
    "static-pie": (ALONE, "-static-pie", TAKEN),
    "static-lto": (ALONE, "-O2 -static -flto", TAKEN),
    "count": (COUNT, "-O2 -std=c23", COUNTED),
    "count-lto": (COUNT, "-O2 -flto -std=c23", COUNTED),
    "count-static": (COUNT, "-O2 -static -std=c23", COUNTED),
}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    made = compiler.build(TOOLCHAIN, ROOT, tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("work"))
    texts = {
        "thrown.h": THROWN_H,
        "give.cc": GIVE_CC,
        "take.cc": TAKE_CC,
        "plugin.cc": PLUGIN_CC,
        "host.cc": HOST_CC,
        "count.c": COUNT_C,
    }
    for name, text in texts.items():
        (made.work / name).write_text(text)
    return made


@pytest.fixture(scope="module", params=["scratch", "musl", "debian"])
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.unpack(request.param, tmp_path_factory.mktemp("foreign") / request.param)


@pytest.mark.parametrize("way", WAYS)
def test_compiled_linked_and_run(there: Compiler, root: Path, way: str) -> None:
    """Exceptions cross libraries and threads, each thread has variables of its own, whatever the linking."""
    script, flags, said = WAYS[way]
    assert there.run(script.format(flags=flags) + "; ./out", base=root) == said
    program = read_file(str(there.work / "out"))
    if "-static" in flags:
        assert (program.interpreter, program.needed) == (None, ())
        # It needs no bundle.
        assert there.run("/w/out", base=root, bundles=False) == said
    else:
        assert program.interpreter == f"{there.runtime}/lib/ld-linux-x86-64.so.2"
