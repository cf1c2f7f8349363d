"""A toolchain as the pipeline makes it, mounted in an empty root or in one full of decoys."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import foreign

from bundler.pipeline import Pipeline
from bundler.settings import Settings, cache_directory
from bundler.survey import to_build
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
class Compiler:
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
        words += foreign.shown(base, "proc", "dev")
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


def build(toolchain: str, root: str, out: Path, work: Path) -> Compiler:
    """Build what the cache lacks of a toolchain whose bundles lie below ``root``."""
    settings = Settings(
        cache=cache_directory(),
        recipes=(CHECKOUT / "recipes",),
        images=(CHECKOUT / "images",),
        toolchains=CHECKOUT / "toolchain",
        toolchain=toolchain,
        target=parse_target("x86_64", root),
        out=out,
        jobs=2,
    )
    pipeline = Pipeline(settings, ["toolchain"])
    # Trees are all that is needed: what is built is not packed once more.
    if to_build(pipeline.surveyor.survey()):
        pipeline.build()
    trees = {
        bundle.prefix: pipeline.store.union([part.tree for part in pipeline.parts(bundle)])
        for bundle in pipeline.plan.bundles.values()
    }
    (work / "hello.c").write_text(HELLO_C)
    (work / "hello.cc").write_text(HELLO_CC)
    return Compiler(root, trees, work)


def make_decoys(root: Path) -> Path:
    """A root in which everything lies that Debian's own compiler, linker and loader would take, broken."""
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
