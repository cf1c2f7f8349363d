"""Recipes, bundles and toolchains: what files become, and what is wrong with them."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

from bundler.catalogue import Catalogue
from bundler.digest import from_hex
from bundler.errors import BundleError, InputError, Problems
from bundler.lock_file import format_lock
from bundler.recipe import BinaryEdit, Bundle, Finish, Lock, Output, Recipe, Source, Step
from bundler.recipe_file import parse_bundle, parse_recipe, read_recipe
from bundler.style import quote, read_style, style_names
from bundler.toml import parse

SHA = "9a93b2b7dfdac77ceba5a558a580e74667dd6fede4585b91eefb60f03b72df23"
HEAD = 'name = "zlib"\nversion = "1.3.1"\nlicense = "Zlib"\n'


def recipe(text: str, name: str = "zlib") -> Recipe:
    path = Path(f"recipes/{name}/recipe.toml")
    return parse_recipe(parse(textwrap.dedent(text), str(path)), path)


def steps(text: str) -> dict[str, str]:
    return {step.name: step.script for step in recipe(HEAD + textwrap.dedent(text)).steps}


def told(text: str) -> list[str]:
    """The problems of a recipe, each ``line: message``."""
    with pytest.raises(BundleError) as caught:
        recipe(text)
    problems = caught.value.problems if isinstance(caught.value, Problems) else [caught.value]
    return [f"{(problem.where or '').split(':')[1]}: {problem.message}" for problem in problems]


def test_a_recipe_in_full() -> None:
    assert recipe(f"""\
        name = "zlib"
        version = "1.3.1"
        license = "zlib or mit"
        summary = "compression"
        homepage = "https://zlib.net/"
        depends = ["bzip2"]
        build_depends = ["perl"]
        packages = ["zlib1g"]
        drop = ["share/doc/**"]
        keep = ["lib/*.a"]
        license_files = ["README"]
        cpe = "cpe:2.3:a:zlib:zlib"
        purl = "pkg:generic/zlib@1.3.1"

        [[source]]
        urls = ["https://zlib.net/zlib-{{version}}.tar.gz", "debian:pool/z/{{name}}_{{series}}.tar.gz"]
        sha256 = "{SHA}"
        unpack = "nested"
        directory = "third/party"
        strip = 2

        [build]
        environment = {{ CC = "gcc" }}

        [[step]]
        name = "all"
        run = "make"

        [output.runtime]
        files = ["lib/*"]
        [output.toolchain]
        files = ["**"]

        [[edit]]
        files = ["lib/libc.so.6"]
        old = "/usr/lib/locale"
        new = "{{bundle:runtime}}/loc"
        count = 3
        """) == Recipe(
        name="zlib",
        version="1.3.1",
        license="Zlib OR MIT",
        path=Path("recipes/zlib/recipe.toml"),
        summary="compression",
        homepage="https://zlib.net/",
        sources=(
            Source(
                ("https://zlib.net/zlib-1.3.1.tar.gz", "debian:pool/z/zlib_1.3.tar.gz"),
                digest=from_hex(SHA),
                unpack="nested",
                directory="third/party",
                strip=2,
            ),
        ),
        packages=("zlib1g",),
        depends=("bzip2",),
        build_depends=("perl",),
        steps=(Step("all", "SRC=.\nmake\n"),),
        environment={"CC": "gcc"},
        outputs=(Output("runtime", ("lib/*",)), Output("toolchain", ("**",))),
        drop=("share/doc/**",),
        keep=("lib/*.a",),
        literals=(BinaryEdit(("lib/libc.so.6",), b"/usr/lib/locale", b"{bundle:runtime}/loc", 3),),
        license_files=("README",),
        cpe="cpe:2.3:a:zlib:zlib",
        purl="pkg:generic/zlib@1.3.1",
    )


def test_the_least_that_a_recipe_needs() -> None:
    assert recipe(HEAD) == Recipe("zlib", "1.3.1", "Zlib", Path("recipes/zlib/recipe.toml"))


def test_a_git_source() -> None:
    (source,) = recipe(
        HEAD + f'[[source]]\nurls = ["git+https://x.org/z.git"]\nsha256 = "{SHA}"\ncommit = "{"a" * 40}"\n'
        "submodules = true\n"
    ).sources
    assert (source.commit, source.submodules, source.strip) == ("a" * 40, True, 0)
    assert source.file_name == "z.git"


WRONG: list[tuple[str, list[str]]] = [
    (
        "",
        [
            "1: the key 'name' is missing",
            "1: the key 'version' is missing",
            "1: the key 'license' is missing",
        ],
    ),
    (HEAD.replace("zlib", "zlip"), ["1: the recipe 'zlip' lies in the directory 'zlib'"]),
    (
        HEAD.replace('"zlib"', '"Z lib"'),
        ["1: 'name' is not a name (lower-case letters, digits, '+', '.', '_', '-'): 'Z lib'"],
    ),
    (HEAD.replace('"Zlib"', '"GPL-3"'), ["3: 'license' is not an SPDX expression"]),
    (HEAD.replace('"Zlib"', '"MIT AND"'), ["3: 'license' is not an SPDX expression"]),
    (HEAD + 'depends = ["zlib"]', ["4: a recipe cannot depend on itself"]),
    (HEAD + 'drop = ["/lib"]', ["4: '/lib' in 'drop' is not a glob relative to the prefix"]),
    (HEAD + 'drop = ["a/../../b"]', ["4: 'a/../../b' in 'drop' is not a glob relative to the prefix"]),
    (
        HEAD + '[[source]]\nurls = []\nsha256 = "12"',
        ["5: 'urls' is empty", "6: 'sha256' is not a SHA-256 (64 lower-case hexadecimal digits): '12'"],
    ),
    (
        HEAD + f'[[source]]\nurls = ["https://x.org/{{v}}"]\nsha256 = "{SHA}"',
        ["5: unknown placeholder '{v}'"],
    ),
    (
        HEAD + f'[[source]]\nurls = ["git+https://x.org/z", "https://x.org/z.tar"]\nsha256 = "{SHA}"',
        [
            "5: git and other URLs cannot stand for the same source: their digests differ",
            "5: a git source needs its 'commit'",
        ],
    ),
    (
        HEAD + f'[[source]]\nurls = ["https://x.org/z"]\nsha256 = "{SHA}"\ncommit = "{"b" * 40}"',
        ["7: 'commit' belongs to a git source"],
    ),
    (
        HEAD + f'[[source]]\nurls = ["https://x.org/z"]\nsha256 = "{SHA}"\ndirectory = "../x"',
        ["7: 'directory' is not a plain directory: '../x'"],
    ),
    (HEAD + '[build]\nstyle = "autotool"\nconfigure = []', ["5: 'style' has no choice 'autotool'"]),
    (HEAD + '[build]\nstyle = "make"\nconfigure = []', ["6: unknown key 'configure' in [build]"]),
    (HEAD + '[build]\nstyle = "make"\nbuild = ["a", 1]', ["6: 'build' holds a number where strings belong"]),
    (HEAD + '[build]\ndirectory = "/tmp"', ["5: 'directory' is not a plain directory: '/tmp'"]),
    (
        HEAD + '[build.environment]\n"A-B" = "x"',
        ["5: the key 'A-B' is not the name of an environment variable"],
    ),
    (
        HEAD + '[build]\nstyle = "make"\n[[step]]\nname = "instal"\nrun = "x"',
        ["6: the style has no step 'instal' to replace"],
    ),
    (
        HEAD + '[build]\nstyle = "make"\n[[step]]\nname = "build"\nrun = "x"\n[[step]]\n'
        'name = "x"\nafter = "configure"\nrun = ""',
        ["9: there is no step 'configure' to add 'x' to", "12: 'run' is empty"],
    ),
    (
        HEAD + '[build]\nstyle = "make"\n[[step]]\nname = "build"\nbefore = "install"\nrun = "x"',
        ["6: there already is a step 'build'"],
    ),
    (
        HEAD + '[[step]]\nname = "a"\nbefore = "b"\nafter = "c"\nrun = "x"',
        ["4: there is no step 'b' to add 'a' to", "7: a step stands either 'before' or 'after' another"],
    ),
    (HEAD + "[output]\nruntime = 1", ["5: 'runtime' must be a table, [runtime], not a number"]),
    (HEAD + "[output.runtime]\nfile = []", ["5: unknown key 'file' in [output.runtime]"]),
    (
        HEAD + '[[edit]]\nfiles = ["x"]\nold = ""\ncount = 0',
        ["6: 'old' is empty", "7: 'count' is less than 1"],
    ),
]


@pytest.mark.parametrize(("text", "expected"), WRONG, ids=range(len(WRONG)))
def test_all_that_is_wrong_with_a_recipe(text: str, expected: list[str]) -> None:
    assert told(text) == expected


# Styles and steps


def test_every_style_can_be_read_and_is_documented() -> None:
    page = Path(__file__).parents[2] / "docs/recipe.md"
    known = "adopt autotools cmake make meson python ruby ruby-library"
    assert set(style_names()) == set(known.split())
    for name in style_names():
        style = read_style(name)
        assert [step.name for step in style.steps][-1] == "install"
        assert f"| `{name}` | {' '.join(f'`{key}`' for key in sorted(style.keys))} |" in sorted_lists(page)


def sorted_lists(page: Path) -> str:
    """The table of styles with the names in its second column sorted."""
    lines = []
    for line in page.read_text().splitlines():
        cells = line.split(" | ")
        if len(cells) == 3 and "`" in cells[1]:
            cells[1] = " ".join(sorted(cells[1].split()))
        lines.append(" | ".join(cells))
    return "\n".join(lines)


@pytest.mark.parametrize("name", style_names())
def test_the_scripts_are_sound_shell(name: str) -> None:
    for step in recipe(HEAD + f'[build]\nstyle = "{name}"\ninstall = ["a b"]').steps:
        done = subprocess.run(["sh", "-n"], input=step.script, text=True, capture_output=True)
        assert done.stderr == ""


CONFIGURE = """\
#!/bin/sh
printf '%s\\n' "$@" > options
cp "$(dirname "$0")/Makefile" . 2>/dev/null || :
"""
MAKEFILE = """\
all:
\techo "$(PREFIX) $(X)" > tool
install: all
\tmkdir -p $(DESTDIR)/.deps/x/1/bin
\tcp tool $(DESTDIR)/.deps/x/1/bin/
"""


@pytest.mark.parametrize(("style", "directory"), [("make", "."), ("autotools", "."), ("autotools", "a/b")])
def test_the_scripts_do_what_they_say(style: str, directory: str, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    (source / "configure").write_text(CONFIGURE)
    (source / "configure").chmod(0o755)
    (source / "Makefile").write_text(MAKEFILE)
    environment = {
        "PATH": os.environ["PATH"],
        "PREFIX": "/.deps/x/1",
        "DESTDIR": str(out),
        "TRIPLET": "x86_64-linux-gnu",
    }
    options = 'configure = ["--with-a=b c"]' if style == "autotools" else ""
    text = f'[build]\nstyle = "{style}"\ndirectory = "{directory}"\nmake = ["X=$PREFIX/y z"]\n{options}'
    for step in recipe(HEAD + text).steps:
        subprocess.run(["sh", "-eu"], input=step.script, text=True, cwd=source, env=environment, check=True)
    assert (out / ".deps/x/1/bin/tool").read_text() == "/.deps/x/1 /.deps/x/1/y z\n"
    if style == "autotools":
        assert (source / directory / "options").read_text().splitlines() == [
            "--build=x86_64-linux-gnu",
            "--prefix=/.deps/x/1",
            "--libdir=/.deps/x/1/lib",
            "--sysconfdir=/.deps/x/1/etc",
            "--localstatedir=/.deps/x/1/var",
            "--disable-dependency-tracking",
            "--enable-shared",
            "--disable-static",
            "--with-a=b c",
        ]


def test_words_and_directory() -> None:
    found = steps("""
        [build]
        style = "autotools"
        directory = "out/shared"
        configure = ["--with-x=$PREFIX"]
        make = ["V=1"]
        install = ["STRIP=:"]
        """)
    begin = "mkdir -p out/shared\ncd out/shared\nSRC=../..\n"
    assert found["configure"].startswith(begin + 'set -- "--with-x=$PREFIX"\n"$SRC/configure" ')
    assert found["build"] == begin + 'set -- "V=1"\nmake "$@"\n'
    assert found["install"] == begin + 'set -- "V=1" "STRIP=:"\nmake DESTDIR="$DESTDIR" "$@" install\n'


def test_steps_replaced_and_added_in_order() -> None:
    text = """
        [build]
        style = "make"
        build = ["all"]
        [[step]]
        name = "build"
        run = 'ninja "$@"'
        [[step]]
        name = "prepare"
        before = "build"
        run = "a"
        [[step]]
        name = "tidy"
        after = "install"
        run = '''
        b
        c'''
        [[step]]
        name = "check"
        before = "tidy"
        run = "d"
        """
    found = steps(text)
    assert list(found) == ["prepare", "build", "install", "check", "tidy"]
    assert found["build"] == 'SRC=.\nset -- "all"\nninja "$@"\n'
    assert found["tidy"] == "SRC=.\nb\nc\n"


QUOTED = [
    "plain",
    "with space",
    "$PREFIX/x and ${PREFIX}y",
    "$(touch x) `id` $1 $$ $",
    "quotes \" ' and \\ back \\\\slash",
    "new\nline*?[a]~#;&|<>!",
    "${PREFIX:-no}",
    "",
]


@pytest.mark.parametrize("word", QUOTED)
def test_only_variables_are_special(word: str) -> None:
    done = subprocess.run(
        ["sh", "-euc", f"printf %s {quote(word)}"],
        env={"PREFIX": "/p"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == word.replace("$PREFIX", "/p").replace("${PREFIX}", "/p")


# Bundles


def bundle(text: str) -> Bundle:
    return parse_bundle(parse(textwrap.dedent(text), "images/shell.toml"), Path("images/shell.toml"))


def test_a_bundle_in_full() -> None:
    found = bundle("""\
        name = "shell"
        version = "1.0"
        summary = "bash and more"
        short = "sh"
        compat = 1
        requires = ["runtime"]
        recipes = ["bash"]
        commands = ["bin/bash"]
        command = ["bin/bash", "-l"]
        environment = { TERM = "dumb", A = "b" }
        [[finish]]
        name = "cache"
        run = "true"
        [[accept]]
        rule = "needed"
        path = "bin/x"
        reason = "because"
        """)
    assert (found.short, found.compat, found.requires) == ("sh", 1, ("runtime",))
    assert found.environment == (("A", "b"), ("TERM", "dumb"))
    assert found.finishes == (Finish("cache", "true"),)
    assert found.accepts[0].reason == "because"


def test_all_that_is_wrong_with_a_bundle() -> None:
    with pytest.raises(Problems) as caught:
        bundle("""\
            name = "shall"
            version = "1"
            compat = 0
            requires = ["shall"]
            recipes = ["Bash"]
            commands = ["/bin/bash", "a//b"]
            command = ["/bin/bash"]
            [[accept]]
            rule = "x"
            path = "y"
            """)
    assert [problem.message for problem in caught.value.problems] == [
        "the bundle 'shall' lies in a file called 'shell.toml'",
        "'compat' is less than 1",
        "a bundle cannot require itself",
        "'Bash' in 'recipes' is not a name (lower-case letters, digits, '+', '.', '_', '-')",
        "'/bin/bash' in 'commands' is not a plain relative path",
        "'a//b' in 'commands' is not a plain relative path",
        "'/bin/bash' is not relative to the prefix",
        "the key 'reason' is missing in [[accept]]",
    ]


# Directories


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


LOCK = format_lock(Lock("trixie", "now", ()))


def catalogue(tmp_path: Path) -> Catalogue:
    write(
        tmp_path,
        {
            "recipes/zlib/recipe.toml": HEAD,
            "recipes/zlib/0002-b.patch": "",
            "recipes/zlib/0001-a.patch": "",
            "recipes/zlib/notes.patch": "",
            "recipes/xz/recipe.toml": "name =",
            "mine/zlib/recipe.toml": HEAD.replace("1.3.1", "99"),
            "images/shell.toml": 'name = "shell"\nversion = "1"\ncompat = 1\nrecipes = ["zlib"]',
            "toolchain/seed.toml": 'name = "seed"\nrecipes = ["gcc"]\nsuite = "trixie"',
            "toolchain/seed/gcc/recipe.toml": HEAD.replace("zlib", "gcc"),
            "toolchain/seed.lock": LOCK,
            "toolchain/buildroot.toml": 'packages = ["bash"]\nlinks = [["bin", "usr/bin"]]',
            "toolchain/buildroot.lock": LOCK,
        },
    )
    return Catalogue(
        recipes=[tmp_path / "recipes"], images=[tmp_path / "images"], toolchains=tmp_path / "toolchain"
    )


def test_a_catalogue_reads_what_is_asked_for(tmp_path: Path) -> None:
    found = catalogue(tmp_path)
    assert [path.name for path in found.recipe("zlib").patches] == ["0001-a.patch", "0002-b.patch"]
    assert found.recipe("zlib") is found.recipes["zlib"]
    assert list(found.recipes) == ["xz", "zlib"] and "xz" in found.recipes and "bash" not in found.recipes
    assert found.bundle("shell").short == "shell"
    toolchain = found.toolchain("seed")
    assert list(toolchain.recipes) == ["gcc"] and toolchain.links == (("bin", "usr/bin"),)
    assert list(found.toolchains) == ["seed"]


def test_a_toolchain_is_read_with_those_that_build_it(tmp_path: Path) -> None:
    catalogue(tmp_path)
    gcc = HEAD.replace("zlib", "gcc")
    write(
        tmp_path,
        {
            "toolchain/source.toml": 'name = "source"\nrecipes = ["gcc"]\nbootstrap = "stage"',
            "toolchain/source/gcc/recipe.toml": gcc,
            "toolchain/stage.toml": 'name = "stage"\nrecipes = ["gcc"]\nbootstrap = "seed"',
        },
    )
    (tmp_path / "toolchain/stage").symlink_to("source")
    found = catalogue(tmp_path).toolchain("source")
    assert found.chain == ("source", "stage", "seed")
    assert found.bootstrap and found.bootstrap.bootstrap_root == "/.stage"
    seed = catalogue(tmp_path).toolchain("seed")
    assert (found.lock, found.buildroot, found.links) == (seed.lock, seed.buildroot, seed.links)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ('bootstrap = "mine"', "build each other in a circle: mine → mine"),
        ('bootstrap = "seed"\nbuildroot = "buildroot"', "the build root is that of 'seed'"),
        ('bootstrap = "sead"', "sead.toml"),
    ],
)
def test_mistakes_about_what_builds_a_toolchain(tmp_path: Path, file: str, said: str) -> None:
    catalogue(tmp_path)
    gcc = HEAD.replace("zlib", "gcc")
    text = f'name = "mine"\nrecipes = ["gcc"]\n{file}'
    write(tmp_path, {"toolchain/mine.toml": text, "toolchain/mine/gcc/recipe.toml": gcc})
    with pytest.raises(BundleError) as caught:
        catalogue(tmp_path).toolchain("mine")
    assert said in str(caught.value)


def test_ones_own_recipes_come_first(tmp_path: Path) -> None:
    catalogue(tmp_path)
    found = Catalogue(
        recipes=[tmp_path / "mine", tmp_path / "recipes", tmp_path / "none"],
        images=[],
        toolchains=tmp_path / "toolchain",
    )
    assert found.recipe("zlib").version == "99"
    assert list(found.recipes) == ["xz", "zlib"]


@pytest.mark.parametrize("name", ["zlip", "../zlib", ".", "a/b", ""])
def test_unknown_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no recipe"):
        catalogue(tmp_path).recipe(name)


def test_check_reports_every_file(tmp_path: Path) -> None:
    found = catalogue(tmp_path)
    (tmp_path / "images/shell.toml").write_text('name = "shell"')
    with pytest.raises(Problems) as caught:
        found.check()
    assert "xz/recipe.toml:1:7: error: invalid value" in str(caught.value)
    assert "shell.toml:1:1: error: the key 'compat' is missing" in str(caught.value)


def test_our_own_files_are_in_order() -> None:
    root = Path(__file__).parents[2]
    ours = Catalogue(recipes=[root / "recipes"], images=[root / "images"], toolchains=root / "toolchain")
    ours.check()
    for name in ours.toolchains:
        ours.toolchain(name)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_recipe(tmp_path / "x/recipe.toml")


DOCUMENTATION = Path(__file__).parents[2] / "docs/recipe.md"


def test_the_examples_of_the_documentation_are_right() -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", DOCUMENTATION.read_text(), re.MULTILINE | re.DOTALL)
    rsync, outputs, shell = blocks
    assert [step.name for step in recipe(rsync, "rsync").steps] == ["configure", "build", "install", "tidy"]
    assert [output.bundle for output in recipe(HEAD + outputs).outputs] == ["runtime", "toolchain"]
    assert bundle(shell).commands == ("bin/bash",)


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ("Recipe", ""),
        ("`[[source]]`", "[[source]]\nx = 1"),
        ("`[build]`", "[build]\nx = 1"),
        ("`[[step]]`", "[[step]]\nx = 1"),
        ("`[[edit]]`", "[[edit]]\nx = 1"),
    ],
)
def test_every_key_is_documented(section: str, text: str) -> None:
    with pytest.raises(BundleError) as caught:
        recipe("x = 1\n" + text)
    problems = caught.value.problems if isinstance(caught.value, Problems) else (caught.value,)
    unknown = [problem for problem in problems if problem.message.startswith("unknown key 'x'")]
    keys = (unknown[-1].hint or "").removeprefix("known keys: ").split(", ")
    page = re.split(r"^##+ ", DOCUMENTATION.read_text(), flags=re.MULTILINE)
    (told,) = [part for part in page if part.startswith((section + "\n", section + ": "))]
    tables = ("source", "build", "step", "output", "edit")
    assert [
        key for key in keys if f"`{key}`" not in told and not (section == "Recipe" and key in tables)
    ] == []
