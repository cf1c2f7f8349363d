"""Adoption, worked out: where files go, which libraries are taken, what stays tied to the host."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from closure_forge import Forged, forge

from bundler.adopt.archives import choose_wheel
from bundler.adopt.files import Described, bundle_text, recipe_text
from bundler.adopt.layout import Layout, lay_out, place_in_root, place_in_wheel, to_words
from bundler.adopt.needs import Library, Missing, find_needs, libraries_in
from bundler.adopt.packages import Packages
from bundler.adopt.programs import find_programs
from bundler.adopt.source import as_version, spdx
from bundler.adopt.tied import Edit, Facts, edits_for, look_into, moved, settings, tie, variables_for
from bundler.debian import MIRRORS_VARIABLE, Archive
from bundler.digest import digest_bytes, digest_file, hex_of
from bundler.errors import InputError
from bundler.fetch import Fetcher
from bundler.recipe import Accept, Source
from bundler.recipe_file import parse_bundle, parse_recipe
from bundler.target import ARCHITECTURES
from bundler.toml import parse
from bundler.tree import DirectoryTree

AMD64 = ARCHITECTURES["x86_64"]
LOADER = "/lib64/ld-linux-x86-64.so.2"
PLACE = place_in_root("x86_64-linux-gnu")
Contents = Mapping[str, str | bytes | Forged]


def tree(root: Path, files: Contents) -> DirectoryTree:
    """Files by path: ``-> TEXT`` is a link; what begins with ``#!`` or is ELF can be executed."""
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str) and content.startswith("-> "):
            file.symlink_to(content[3:])
            continue
        data = forge(content) if isinstance(content, Forged) else content
        data = data.encode() if isinstance(data, str) else data
        file.write_bytes(data)
        file.chmod(0o755 if data[:2] == b"#!" or data[:4] == b"\x7fELF" else 0o644)
    return DirectoryTree(root)


def program(*needed: str, **more: object) -> Forged:
    return Forged(needed=needed, pie=True, interpreter=LOADER, **more)  # type: ignore[arg-type]


def library(soname: str, *needed: str, **more: object) -> Forged:
    return Forged(soname=soname, needed=needed, **more)  # type: ignore[arg-type]


# ---- places ----


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("usr/bin/psql", "bin/psql"),
        ("usr/sbin/nologin", "bin/nologin"),
        ("sbin/init", "bin/init"),
        ("usr/lib/x86_64-linux-gnu/libz.so.1", "lib/libz.so.1"),
        ("lib/x86_64-linux-gnu/libz.so.1", "lib/libz.so.1"),
        ("usr/lib/x86_64-linux-gnu", "lib"),
        ("usr/lib64/libz.so.1", "lib/libz.so.1"),
        ("usr/lib/postgresql/17/bin/initdb", "lib/postgresql/17/bin/initdb"),
        ("usr/share/postgresql/17/x.sql", "share/postgresql/17/x.sql"),
        ("usr/local/bin/x", "bin/x"),
        ("usr/share/doc/x/copyright", None),
        ("usr/share/documents/x", "share/documents/x"),
        ("usr/lib/x86_64-linux-gnu/libz.la", None),
        ("etc/fonts/fonts.conf", "etc/fonts/fonts.conf"),
        ("opt/x/bin/x", "opt/x/bin/x"),
        ("bin/node", "bin/node"),
        ("", ""),
    ],
)
def test_place_in_root(path: str, place: str | None) -> None:
    assert PLACE(path) == place


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("ruff-1.0.data/scripts/ruff", "bin/ruff"),
        ("ruff-1.0.data/scripts", "bin"),
        ("x-1.0.data/data/share/man/man1/x.1", "share/man/man1/x.1"),
        ("x-1.0.data/headers/x.h", None),
        ("x-1.0.data", None),
        ("x-1.0.dist-info/METADATA", None),
        ("cmake/data/bin/cmake", "lib/cmake/data/bin/cmake"),
    ],
)
def test_place_in_wheel(path: str, place: str | None) -> None:
    assert place_in_wheel(path) == place


def laid_out(source: DirectoryTree, libraries: Mapping[str, str] | None = None) -> Layout:
    return lay_out(source, [entry.path for entry in source.walk()], libraries or {}, PLACE)


def test_links_lead_to_where_their_targets_went(tmp_path: Path) -> None:
    source = tree(
        tmp_path,
        {
            "usr/bin/a": "a",
            "usr/bin/same": "-> a",
            "usr/bin/absolute": "-> /usr/share/x/data",
            "usr/bin/directory": "-> ../share/x",
            "usr/bin/gone": "-> nothing",
            "usr/bin/doc": "-> ../share/doc/x/readme",
            "usr/lib/x86_64-linux-gnu/libx.so.1": "-> libx.so.1.2",
            "usr/lib/x86_64-linux-gnu/libx.so.1.2": "x",
            "usr/share/x/data": "data",
            "usr/share/doc/x/readme": "read me",
        },
    )
    layout = laid_out(source)
    assert layout.links == {
        "bin/same": "a",
        "bin/absolute": "../share/x/data",
        "bin/directory": "../share/x",
        "lib/libx.so.1": "libx.so.1.2",
    }
    assert layout.left_out == (
        ("usr/bin/doc", "it leads to ../share/doc/x/readme, which is not adopted"),
        ("usr/bin/gone", "it leads to nothing, which is not adopted"),
    )


def test_two_files_of_one_place(tmp_path: Path) -> None:
    layout = laid_out(tree(tmp_path, {"usr/bin/x": "one", "usr/sbin/x": "other"}))
    assert layout.files == {"bin/x": "usr/bin/x"}
    assert layout.left_out == (("usr/sbin/x", "usr/bin/x takes its place"),)


def test_libraries_are_where_the_loader_looks(tmp_path: Path) -> None:
    source = tree(tmp_path, {"usr/lib/x/libprivate.so": "p", "vendor/libz-1.so": "z"})
    layout = lay_out(
        source,
        ["usr/lib/x/libprivate.so"],
        {"libprivate.so": "usr/lib/x/libprivate.so", "libz.so.1": "vendor/libz-1.so"},
        PLACE,
    )
    assert layout.files == {
        "lib/x/libprivate.so": "usr/lib/x/libprivate.so",
        "lib/libz.so.1": "vendor/libz-1.so",
    }
    assert layout.links == {"lib/libprivate.so": "x/libprivate.so"}


def test_whole_directories_in_one_word(tmp_path: Path) -> None:
    source = tree(
        tmp_path,
        {
            "usr/bin/x": "x",
            "usr/bin/gone": "-> nothing",
            "usr/share/x/a/1": "1",
            "usr/share/x/a/link": "-> 1",
            "usr/share/x/b": "2",
            "usr/share/doc/x/readme": "read me",
        },
    )
    present = {e.path: e.target for e in source.walk() if e.kind in ("file", "symlink")}
    words = to_words(laid_out(source), PLACE, present)
    assert words.install == ("usr/bin/x => bin/x", "usr/share/x => share/x")
    assert words.link == ()


def test_a_whole_source_in_one_word(tmp_path: Path) -> None:
    source = tree(tmp_path, {"bin/node": "x", "share/y": "y"})
    words = to_words(laid_out(source), PLACE, dict.fromkeys(["bin/node", "share/y"]))
    assert words.install == (". => .",)


# ---- needs ----

LIBC = Library("/.deps/rt/1/lib/libc.so.6", "runtime", frozenset({"GLIBC_2.2.5", "GLIBC_2.38", "GLIBC_2.41"}))


def test_libraries_come_from_the_source_and_its_search_paths(tmp_path: Path) -> None:
    source = tree(
        tmp_path,
        {
            "opt/x/bin/x": program("libown.so.1", "libc.so.6", runpath="$ORIGIN/../lib"),
            "opt/x/lib/libown.so.1": library("libown.so.1", "libz.so.1"),
            "usr/lib/x86_64-linux-gnu/libz.so.1": "-> libz.so.1.3",
            "usr/lib/x86_64-linux-gnu/libz.so.1.3": library("libz.so.1", "libhidden.so"),
            "usr/lib/deep/down/libhidden.so": library("libhidden.so"),
        },
    )
    needs = find_needs(source, ["opt/x/bin/x"], {"libc.so.6": LIBC}, AMD64)
    assert needs.libraries == {
        "libown.so.1": "opt/x/lib/libown.so.1",
        "libz.so.1": "usr/lib/x86_64-linux-gnu/libz.so.1.3",
        "libhidden.so": "usr/lib/deep/down/libhidden.so",
    }
    assert needs.reached == {"libc.so.6": LIBC}
    assert not (needs.missing or needs.unmet or needs.clashes)
    # What no search path leads to is not looked for all over a machine.
    nearby = find_needs(source, ["opt/x/bin/x"], {"libc.so.6": LIBC}, AMD64, anywhere=False)
    assert nearby.missing == (Missing("libhidden.so", "usr/lib/x86_64-linux-gnu/libz.so.1.3"),)


def test_a_bundle_in_reach_goes_before_the_source(tmp_path: Path) -> None:
    reach = tree(
        tmp_path / "reach",
        {
            ".deps/rt/1/lib/libstdc++.so.6": library(
                "libstdc++.so.6", versions_defined=("GLIBCXX_3.4", "GLIBCXX_3.4.33")
            )
        },
    )
    source = tree(
        tmp_path / "source",
        {
            "bin/old": program("libstdc++.so.6", versions_needed=[("libstdc++.so.6", "GLIBCXX_3.4", False)]),
            "bin/new": program(
                "libstdc++.so.6",
                versions_needed=[
                    ("libstdc++.so.6", "GLIBCXX_3.4.99", False),
                    ("libstdc++.so.6", "GLIBCXX_3.4.98", True),
                ],
            ),
            "lib/libstdc++.so.6": library("libstdc++.so.6"),
        },
    )
    found = libraries_in(reach, [("runtime", "/.deps/rt/1/lib")])
    needs = find_needs(source, ["bin/old", "bin/new"], found, AMD64)
    assert needs.libraries == {}
    assert [(one.needed_by, one.versions) for one in needs.unmet] == [("bin/new", ("GLIBCXX_3.4.99",))]


def test_one_name_for_two_files(tmp_path: Path) -> None:
    source = tree(
        tmp_path,
        {
            "a/x": program("libx.so", runpath="$ORIGIN"),
            "a/libx.so": library("libx.so", "libone.so"),
            "b/x": program("libx.so", runpath="$ORIGIN"),
            "b/libx.so": library("libx.so"),
        },
    )
    assert find_needs(source, ["a/x", "b/x"], {}, AMD64).clashes == (("libx.so", "a/libx.so", "b/libx.so"),)


# ---- programs ----


def programs(
    source: DirectoryTree, *, interpreters: Sequence[str] = ("sh",), chosen: Sequence[str] = ()
) -> tuple[tuple[str, ...], Mapping[str, str], tuple[tuple[str, str], ...]]:
    paths = [entry.path for entry in source.walk()]
    needs = find_needs(source, paths, {}, AMD64)
    found = find_programs(source, laid_out(source), needs.objects, interpreters, chosen)
    return found.commands, found.layout.links, found.foreign


def test_commands(tmp_path: Path) -> None:
    source = tree(
        tmp_path,
        {
            "usr/bin/node": program(),
            "usr/bin/npm": "-> ../lib/npm/cli.js",
            "usr/bin/script": "#!/bin/sh\n",
            "usr/bin/perl-script": "#!/usr/bin/perl -w\n",
            "usr/bin/data": "data",
            "usr/lib/npm/cli.js": "#!/usr/bin/env node\n",
            "usr/lib/npm/gyp.py": "#!/usr/bin/env -S python3 -I\n",
            "usr/lib/npm/bin/helper": program(),
        },
    )
    commands, links, foreign = programs(source)
    assert commands == ("bin/node", "bin/npm", "bin/script")
    assert links == {"bin/npm": "../lib/npm/cli.js"}
    assert foreign == (("bin/perl-script", "/usr/bin/perl"), ("lib/npm/gyp.py", "python3"))


def test_commands_of_other_bin_directories(tmp_path: Path) -> None:
    source = tree(
        tmp_path,
        {
            "usr/lib/17/bin/initdb": program(),
            "usr/lib/17/bin/psql": program(),
            "usr/lib/17/deeper/bin/psql": program(),
            "usr/lib/17/helper": program(),
            "usr/bin/psql": "#!/usr/bin/perl\n",
        },
    )
    commands, links, _ = programs(source)
    # A name that is taken stays what it is.
    assert commands == ("bin/initdb",)
    assert links == {"bin/initdb": "../lib/17/bin/initdb"}


def test_programs_without_a_bin_directory(tmp_path: Path) -> None:
    source = tree(tmp_path, {"esbuild": program(), "opt/helper": program(), "libx.so": library("libx.so")})
    assert programs(source)[0] == ("bin/esbuild", "bin/helper")
    assert programs(source, chosen=["helper"])[:2] == (("bin/helper",), {"bin/helper": "../opt/helper"})
    with pytest.raises(InputError, match="'gone' is no program of the source"):
        programs(source, chosen=["gone"])


# ---- what stays tied to the host ----


def test_paths_are_whole_strings() -> None:
    data = (
        b"\0/etc/fonts\0/usr/share/alsa/alsa.conf\0xx/usr/share/inside\0https://x/usr/share/y\0"
        b"/usr/share/%s/z\0/usr/local/lib/x\0libcuda.so.1\0libcuda.so\0FONTCONFIG_PATH\0XFONTCONFIG_FILE"
    )
    facts = look_into(data, {"system"})
    assert facts.paths == {"/etc/fonts", "/usr/share/alsa/alsa.conf", "/usr/local/lib/x"}
    assert facts.libraries == {"libcuda.so.1"}
    assert facts.variables == {"FONTCONFIG_PATH"}
    assert facts.calls == {"system"}


def test_variables_are_told_only_where_they_are_asked_for() -> None:
    assert variables_for("/etc/fonts/conf.d") == ("FONTCONFIG_FILE", "FONTCONFIG_PATH")
    assert variables_for("/etc/fontsx") == ()
    # The nearest setting counts.
    assert "TZDIR" in variables_for("/usr/share/zoneinfo") and "XDG_DATA_DIRS" not in variables_for(
        "/usr/share/zoneinfo"
    )
    asking = Facts(frozenset({"/etc/fonts"}), frozenset(), frozenset({"FONTCONFIG_PATH"}))
    silent = Facts(frozenset({"/etc/fonts", "/etc/x/"}), frozenset(), frozenset())
    found = tie({"lib/a": asking, "lib/b": silent}, {"/etc/x": "/.deps/x/1/etc/x"}, {})
    assert [(one.path, one.files, one.variables, one.held) for one in found] == [
        ("/etc/fonts", ("lib/a", "lib/b"), ("FONTCONFIG_PATH",), None),
        ("/etc/x", ("lib/b",), (), "/.deps/x/1/etc/x"),
    ]


def test_the_table_of_settings_is_sound() -> None:
    for paths, variables in settings():
        assert all(path.startswith("/") and not path.endswith("/") for path in paths)
        assert all(name.isupper() and name.isidentifier() for name in variables)


@pytest.mark.parametrize(
    ("path", "target", "expected"),
    [
        # Filled up where the prefix ends, so that the string keeps its tail.
        ("/usr/lib/x86_64-linux-gnu/gio", "/.deps/x/1/lib/gio", ("/.deps/x/1///////////" + "/lib/gio", None)),
        ("/usr/share/alsa", "/.deps/x/1/share/alsa", ("/.deps/x/1/alsa", ("alsa", "share/alsa"))),
        ("/usr/share/a/b", "/.deps/x/1/share/a/b", ("/.deps/x/1/a/b", ("a", "share/a"))),
        ("/usr/share/alsa", "/.deps/ab/1/share/alsa", None),
        ("/etc/fonts", "/.deps/x/1/etc/fonts", None),
    ],
)
def test_what_can_stand_in_the_place_of_a_path(
    path: str, target: str, expected: tuple[str, tuple[str, str] | None] | None
) -> None:
    prefix = "/".join(target.split("/")[:4])
    assert moved(path, target, prefix) == expected
    if expected is not None:
        assert len(expected[0]) == len(path)


def test_edits_leave_longer_strings_alone() -> None:
    files = {
        "once": b"\0/usr/share/x\0",
        "twice": b"\0/usr/share/x\0/usr/share/x\0",
        "tail": b"\0/chroot/usr/share/x\0\0/usr/share/x\0",
        "longer": b"\0/usr/share/xyz\0",
    }
    assert edits_for("/usr/share/x", "/.deps/x/1/x", files) == [
        Edit(("once",), "/usr/share/x", "/.deps/x/1/x", 1),
        Edit(("twice",), "/usr/share/x", "/.deps/x/1/x", 2),
    ]


# ---- what is written ----


def test_what_is_written_is_a_recipe_and_a_bundle(tmp_path: Path) -> None:
    about = Described("x", "1.0+b1", "MIT", 'a "quoted" \\ summary', purl="pkg:npm/x@{version}")
    layout = laid_out(tree(tmp_path, {"usr/bin/x": "x", "usr/share/y z/ü": "y", "usr/bin/l": "-> x"}))
    words = to_words(
        layout, PLACE, {"usr/bin/x": None, "usr/share/y z/ü": None, "usr/bin/l": "x", "usr/gone": None}
    )
    source = Source(("npm:x@1.0",), digest_bytes(b"x"), strip=0)
    text = recipe_text(
        about,
        "bundle adopt npm:x --name x",
        sources=[source],
        packages=["libx1"],
        license_files=["LICENSE"],
        words=words,
        edits=[Edit(("bin/x",), "/usr/lib/somewhere/x", "/.deps/x/1//////lib/x", 2)],
        prefix="/.deps/x/1",
    )
    recipe = parse_recipe(parse(text, "test"), tmp_path / "x/recipe.toml")
    assert (recipe.version, recipe.summary, recipe.packages) == (
        "1.0+b1",
        'a "quoted" \\ summary',
        ("libx1",),
    )
    assert recipe.sources == (source,)
    assert recipe.keep == ("**",)
    assert '"usr/share => share"' in text and '"usr/bin => bin"' in text
    (edit,) = recipe.literals
    assert (edit.old, edit.new) == (b"/usr/lib/somewhere/x\0", b"{bundle:x}//////lib/x\0")
    bundle = parse_bundle(
        parse(
            bundle_text(
                about,
                "bundle adopt npm:x --name x",
                short="y",
                requires=["runtime"],
                commands=["bin/a", "bin/x"],
                accepts=[Accept("shebang-outside", "bin/p", "a script")],
            ),
            "test",
        ),
        tmp_path / "x.toml",
    )
    assert (bundle.short, bundle.command, bundle.accepts[0].path) == ("y", ("bin/x",), "bin/p")


@pytest.mark.parametrize("name", ["a$HOME", "a => b", "a\nb"])
def test_paths_that_a_recipe_cannot_hold(tmp_path: Path, name: str) -> None:
    layout = laid_out(tree(tmp_path, {f"bin/{name}": "x"}))
    with pytest.raises(InputError, match="cannot be written into a recipe"):
        recipe_text(
            Described("x", "1"),
            "",
            sources=[],
            packages=[],
            license_files=[],
            words=to_words(layout, PLACE, {f"bin/{name}": None, "y": None, "bin/z": None}),
            edits=[],
            prefix="/.deps/x/1",
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mit", "MIT"),
        ("Apache-2.0 OR MIT", "Apache-2.0 OR MIT"),
        ("BSD License", "LicenseRef-unknown"),
        ("", "LicenseRef-unknown"),
    ],
)
def test_licences(text: str, expected: str) -> None:
    assert spdx(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.2+dfsg-1~bpo", "1.2+dfsg-1~bpo"), ("1:2", "1-2"), ("-", "1"), ("", "1"), ("1.0\n", "1.0-")],
)
def test_versions(text: str, expected: str) -> None:
    assert as_version(text) == expected


WHEELS = [
    "ruff-0.9.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "ruff-0.10.0-py3-none-musllinux_1_2_x86_64.whl",
    "ruff-0.10.0-py3-none-manylinux_2_17_aarch64.whl",
    "ruff-0.10.0-cp311-cp311-manylinux_2_17_x86_64.whl",
    "ruff-0.10.0-py3-none-manylinux_2_17_x86_64.whl",
    "ruff-0.11.0rc1-py3-none-manylinux_2_17_x86_64.whl",
    "other-9.0-py3-none-manylinux_2_17_x86_64.whl",
    "ruff-0.10.0.tar.gz",
    "no wheel.whl",
]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("", "ruff-0.10.0-py3-none-manylinux_2_17_x86_64.whl"),
        ("0.9.0", "ruff-0.9.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"),
        ("0.11.0rc1", "ruff-0.11.0rc1-py3-none-manylinux_2_17_x86_64.whl"),
    ],
)
def test_choosing_a_wheel(version: str, expected: str) -> None:
    assert choose_wheel("Ruff", WHEELS, version, AMD64) == expected


def test_no_wheel_that_fits() -> None:
    with pytest.raises(InputError, match=r"ruff==1\.0 has no wheel for x86_64 and glibc"):
        choose_wheel("ruff", WHEELS, "1.0", AMD64)


# ---- Debian's packages ----


def package(root: Path, files: Contents) -> bytes:
    """A Debian binary package with these files."""
    tree(root, files)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as archive:
        archive.add(root, ".")
    parts = [("debian-binary", b"2.0\n"), ("control.tar", b""), ("data.tar.xz", packed.getvalue())]
    members = (
        f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        + data
        + b"\n" * (len(data) % 2)
        for name, data in parts
    )
    return b"!<arch>\n" + b"".join(members)


def archive(root: Path, packages: Mapping[str, tuple[str, Contents]]) -> Archive:
    """An archive of packages, each with its ``Depends`` and its files, as a directory that is a mirror."""
    stanzas = []
    for name, (depends, files) in packages.items():
        file = root / f"mirror/pool/{name}.deb"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(package(root / name, files))
        stanzas.append(
            f"Package: {name}\nVersion: 1:2.0-1\nArchitecture: amd64\nFilename: pool/{name}.deb\n"
            f"Size: {file.stat().st_size}\nSHA256: {hex_of(digest_file(file))}\n"
            + (f"Depends: {depends}\n" if depends else "")
        )
    text = "\n".join(stanzas)
    (root / "mirror_dists_x_main_binary-amd64_Packages").write_text(text)
    digests = {"main/binary-amd64/Packages": hashlib.sha256(text.encode()).hexdigest()}
    return Archive("x", "now", root, digests)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Packages]:
    monkeypatch.setenv(MIRRORS_VARIABLE, (tmp_path / "mirror").as_uri())

    def make(named: Sequence[str], held: Mapping[str, tuple[str, Contents]]) -> Packages:
        work = tmp_path / "work"
        work.mkdir()
        return Packages(named, "app", archive(tmp_path, held), Fetcher(tmp_path / "cache"), work, AMD64)

    return make


def test_packages_bring_what_they_need_and_no_more(packages: Callable[..., Packages]) -> None:
    """Only the packages whose libraries are needed are asked for theirs; what gave nothing is not pinned."""
    found = packages(
        ["app"],
        {
            "app": ("liba1, data, perl", {"usr/bin/app": program("liba.so.1")}),
            "liba1": ("libb1", {"usr/lib/x86_64-linux-gnu/liba.so.1": library("liba.so.1", "libb.so.1")}),
            "libb1": ("never", {"usr/lib/x86_64-linux-gnu/libb.so.1": library("libb.so.1")}),
            "data": ("never", {"usr/share/app/data": "data"}),
            "perl": ("never", {"usr/bin/perl": program()}),
            "never": ("", {"usr/bin/never": program()}),
        },
    )
    assert found.wanted == ("usr/bin/app",)
    while True:
        needs = find_needs(found.tree, found.wanted, {}, AMD64)
        if not needs.missing or not found.more(needs.missing):
            break
    assert sorted(needs.libraries) == ["liba.so.1", "libb.so.1"]
    layout = lay_out(found.tree, found.wanted, needs.libraries, found.place)
    origin = found.origin(layout)
    assert origin.lock is not None
    assert [one.name for one in origin.lock.packages] == ["app", "liba1", "libb1"]
    assert origin.about.version == "2.0-1"
    assert to_words(layout, found.place, found.present(layout)).install == (
        "usr/bin => bin",
        "usr/lib/x86_64-linux-gnu => lib",
    )
    assert (found.owner("usr/share/app"), found.owner("usr/bin/never")) == ("debian:data", None)


def test_a_package_that_writes_below_the_link_of_another(
    tmp_path: Path, packages: Callable[..., Packages]
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    with pytest.raises(InputError, match="/usr/lib/x/planted of b lies below a link of a, /usr/lib/x"):
        packages(
            ["a", "b"], {"a": ("", {"usr/lib/x": f"-> {victim}"}), "b": ("", {"usr/lib/x/planted": "p"})}
        )
    assert not list(victim.iterdir())
