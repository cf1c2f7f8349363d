"""Test suites that others wrote, run on a toolchain by DejaGnu: gcc's torture tests, and those of gas.

python tests/toolchain/suites.py [NAME…]    run them (all of them): status 1 where something fails
python tests/toolchain/suites.py --lock     pin what the archive has now of the packages that run them

``BUNDLE_TOOLCHAIN`` and ``BUNDLE_ROOT`` choose the toolchain, as for ``tests/integration/test_toolchain.py``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent / "integration")]

import compiler  # noqa: E402
import foreign  # noqa: E402
from compiler import CHECKOUT, Compiler  # noqa: E402

from bundler.buildroot import make_buildroot  # noqa: E402
from bundler.catalogue import Catalogue  # noqa: E402
from bundler.debian import open_archive, refresh  # noqa: E402
from bundler.fetch import Fetcher  # noqa: E402
from bundler.lock_file import format_lock, read_lock  # noqa: E402
from bundler.node_request import package_source  # noqa: E402
from bundler.recipe_file import read_recipe  # noqa: E402
from bundler.settings import cache_directory  # noqa: E402
from bundler.store import Store  # noqa: E402
from bundler.target import ARCHITECTURES  # noqa: E402
from bundler.unpack import place  # noqa: E402

SUITE = "trixie"
LOCK = HERE / "suites.lock"
PACKAGES = ("dejagnu", "expect", "tcl-expect")
"""What a build root lacks to run DejaGnu."""


BINUTILS = ("as", "ld", "nm", "objcopy", "objdump", "readelf", "size", "strip")


@dataclass(frozen=True)
class Suite:
    """A recipe's own tests; ``site`` is what DejaGnu reads before it starts them."""

    recipe: str
    tool: str
    directory: str
    scripts: tuple[str, ...]
    site: str


SUITES = {
    # Each with one level of optimisation: the compiler is as others made it, its surroundings are ours.
    "torture": Suite(
        "gcc",
        "gcc",
        "gcc/testsuite",
        ("execute.exp",),
        'set GCC_UNDER_TEST "{bin}/gcc"\nset TORTURE_OPTIONS [list {{ -O2 }}]\n',
    ),
    "gas": Suite(
        "binutils",
        "gas",
        "gas/testsuite",
        (),
        "set development false\nset experimental false\n"
        + "".join(f'set {name.upper()} "{{bin}}/{name}"\n' for name in BINUTILS),
    ),
}

SITE = """set host_triplet {triplet}
set build_triplet {triplet}
set target_triplet {triplet}
set srcdir /w/src/{directory}
set objdir /w/run/{directory}
set tmpdir /w/run/{directory}
"""


def root_of_tools() -> Path:
    """The root that builds run in, and DejaGnu."""
    cache = cache_directory()
    catalogue = Catalogue(recipes=[CHECKOUT / "recipes"], images=[], toolchains=CHECKOUT / "toolchain")
    toolchain = catalogue.toolchain("seed")
    basic, more = toolchain.buildroot, read_lock(LOCK)
    both = replace(basic, packages=(*basic.packages, *more.packages))
    packages = Fetcher(cache).fetch_all([package_source(package) for package in both.packages])
    return make_buildroot(Store(cache), both, packages, toolchain.links)


def run(name: str, there: Compiler, root: Path, work: Path) -> Counter[str]:
    """Run the suite ``name`` in ``work``; returns how often each outcome came.  What failed is printed."""
    suite, architecture = SUITES[name], ARCHITECTURES["x86_64"]
    recipe = read_recipe(CHECKOUT / f"toolchain/source/{suite.recipe}/recipe.toml")
    fetcher = Fetcher(cache_directory())
    (work / "src").mkdir(parents=True)
    # Some tests look for the last names of the directory that they run in.
    here = work / "run" / suite.directory
    here.mkdir(parents=True)
    place(recipe.sources[0], fetcher.fetch(recipe.sources[0]), work / "src")
    site = SITE.format(triplet=architecture.triplet, directory=suite.directory)
    (here / "site.exp").write_text(site + suite.site.format(bin=f"{there.toolchain}/bin"))
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--clearenv", "--setenv", "LC_ALL", "C"]
    words += ["--setenv", "PATH", f"{there.toolchain}/bin:/usr/bin:/bin", "--setenv", "HOME", "/w"]
    words += foreign.shown(root, "proc", "dev", "tmp")
    for prefix, tree in there.prefixes.items():
        words += ["--ro-bind", str(tree), prefix]
    words += ["--bind", str(work), "/w", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    words += ["--chdir", f"/w/run/{suite.directory}"]
    words += ["runtest", "--tool", suite.tool, "--srcdir", f"/w/src/{suite.directory}", *suite.scripts]
    subprocess.run(words, stdout=subprocess.DEVNULL, check=False)
    lines = (here / f"{suite.tool}.sum").read_text(errors="replace").splitlines()
    outcomes = Counter(found[1] for line in lines if (found := re.match(r"([A-Z]+): ", line)))
    for line in lines:
        if re.match(r"(FAIL|XPASS|UNRESOLVED|ERROR|WARNING): ", line):
            print(f"  {line}", flush=True)
    return outcomes


def main(arguments: list[str]) -> int:
    """Run what is asked for; returns the exit status."""
    if arguments == ["--lock"]:
        architecture = ARCHITECTURES["x86_64"]
        archive = open_archive(SUITE, architecture, cache_directory() / "debian" / SUITE)
        LOCK.write_text(format_lock(refresh(archive, architecture, PACKAGES, close_over=False)))
        return 0
    toolchain, root = os.environ.get("BUNDLE_TOOLCHAIN", "source"), os.environ.get("BUNDLE_ROOT", "/.deps")
    failed = False
    with tempfile.TemporaryDirectory() as place_of_work:
        work = Path(place_of_work)
        (work / "hello").mkdir()
        there, tools = compiler.build(toolchain, root, work / "out", work / "hello"), root_of_tools()
        for name in arguments or SUITES:
            outcomes = run(name, there, tools, work / name)
            print(f"{name} on {toolchain}: " + ", ".join(f"{n} {what}" for what, n in outcomes.most_common()))
            failed |= not outcomes["PASS"] or any(outcomes[bad] for bad in ("FAIL", "UNRESOLVED", "ERROR"))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
