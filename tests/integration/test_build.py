"""Building one node, from archives to trees, with a build root of busybox."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from small_builds import PREFIX, busybox_root, small_request, tarball

from bundler.build import BuildOptions, build_node
from bundler.build_request import BuildRequest, Dependency, OutputSpec
from bundler.digest import Digest, digest_bytes
from bundler.errors import BuildError, BundleError, ExitCode, InputError
from bundler.events import Event, Message, TaskAdvanced, TaskFinished
from bundler.jobserver import Jobserver
from bundler.sandbox.bubblewrap import Bubblewrap
from bundler.sandbox.docker import DockerSandbox
from bundler.store import Store
from bundler.tree import Kind

INSTALL = 'mkdir -p "$DESTDIR$PREFIX/bin"; echo x >"$DESTDIR$PREFIX/bin/x"'


@pytest.fixture(scope="module")
def buildroot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return busybox_root(tmp_path_factory.mktemp("buildroot") / "root")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def build(
    request: BuildRequest,
    store: Store,
    options: BuildOptions | None = None,
    events: list[Event] | None = None,
) -> Digest:
    sink = events.append if events is not None else lambda event: None
    outputs = build_node(request, store, Bubblewrap(), Jobserver(2), sink, options)
    return outputs[request.outputs[0].prefix]


def paths(store: Store, digest: Digest) -> list[str]:
    return [entry.path for entry in store.entries(digest) if entry.kind is not Kind.DIRECTORY]


def test_from_archives_to_a_tree(buildroot: Path, store: Store, tmp_path: Path) -> None:
    files = {"hello": "hi\n", "COPYING": "free\n", "docs/LICENSE": "also\n", "License.txt": "t\n"}
    patch = tmp_path / "0001-say-more.patch"
    patch.write_text("--- a/hello\n+++ b/hello\n@@ -1 +1 @@\n-hi\n+hello\n")
    steps = {"build": "cp hello greeting", "install": INSTALL + '; cp greeting "$DESTDIR$PREFIX/bin/"'}
    request = small_request(
        buildroot, steps, sources=(tarball(tmp_path / "a.tar.gz", files),), patches=(patch,)
    )
    digest = build(request, store)
    assert paths(store, digest) == [
        "bin/greeting",
        "bin/x",
        "share/licenses/small/COPYING",
        "share/licenses/small/License.txt",
    ]
    assert (store.tree_path(digest) / "bin/greeting").read_text() == "hello\n"
    log = store.log_path("small", request.key).read_text()
    assert "==> patch\n0001-say-more.patch\n" in log
    assert not list((store.root / "tmp").iterdir())


def test_what_was_built_is_not_built_again(buildroot: Path, store: Store) -> None:
    request = small_request(buildroot, {"install": INSTALL})
    events: list[Event] = []
    first = build(request, store)
    assert build(request, store, events=events) == first
    assert [event.outcome for event in events if isinstance(event, TaskFinished)] == ["cached"]


def test_another_relocation_runs_no_step(buildroot: Path, store: Store) -> None:
    """Nor does it reach what is kept of the installed files, their hard links included."""
    install = INSTALL + '; cd "$DESTDIR$PREFIX/bin"; cat /proc/sys/kernel/random/uuid >once; ln once twice'
    request = small_request(buildroot, {"install": install})
    found: list[bytes] = []
    for text in (b"one way\n", b"another\n"):

        def relocate(dest: Path, text: bytes = text) -> Sequence[str]:
            with (dest / PREFIX.strip("/") / "bin/once").open("ab") as stream:
                stream.write(text)
            return ()

        changed = replace(request, key=digest_bytes(text), relocate=relocate)
        tree = store.tree_path(build(changed, store)) / "bin"
        assert (tree / "once").samefile(tree / "twice")
        found.append((tree / "once").read_bytes())
    assert found[0].startswith(found[1].removesuffix(b"another\n"))
    assert [text.partition(b"\n")[2] for text in found] == [b"one way\n", b"another\n"]
    installed = store.outputs(request.installed_key)
    assert installed is not None
    assert store.check(installed["/"])


def test_threads_that_need_one_key_build_it_once(buildroot: Path, store: Store) -> None:
    events: list[Event] = []
    request = small_request(buildroot, {"install": INSTALL + "; sleep 0.3"})
    threads = [threading.Thread(target=build, args=(request, store, None, events)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcomes = [event.outcome for event in events if isinstance(event, TaskFinished)]
    assert sorted(outcomes) == ["cached", "cached", "done"]
    assert sum(isinstance(event, Message) for event in events) == 2


def test_dependencies_are_seen_at_their_prefix(buildroot: Path, store: Store) -> None:
    script = 'd="$DESTDIR$PREFIX"; mkdir -p "$d/include" "$d/lib/pkgconfig"; echo {0} >"$d/include/{0}.h"'
    found = [
        build(small_request(buildroot, {"install": script.format(name)}, name=name), store) for name in "ab"
    ]
    dependencies = tuple(Dependency(name, PREFIX, digest) for name, digest in zip("ab", found, strict=True))
    steps = {
        "look": f"ls {PREFIX}/include; cat {PREFIX}/include/b.h; echo $C_INCLUDE_PATH; "
        'echo "[$LIBRARY_PATH]"; echo $PKG_CONFIG_LIBDIR; touch /.deps/small/1/x || echo no',
        "install": INSTALL,
    }
    request = small_request(buildroot, steps, name="c", dependencies=dependencies)
    build(request, store)
    log = store.log_path("c", request.key).read_text()
    assert "a.h\nb.h\nb\n" in log
    assert f"{PREFIX}/include\n[{PREFIX}/lib]\n{PREFIX}/lib/pkgconfig\n" in log
    assert "Read-only file system\nno\n" in log


def test_the_environment_is_built_and_expanded(
    buildroot: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKS", "in")
    steps = {"look": 'echo "$FLAGS|$OWN|${LEAKS-none}|$BUNDLE_SMALL|$SOURCE_DATE_EPOCH"', "install": INSTALL}
    request = small_request(buildroot, steps, environment={"FLAGS": "$CFLAGS -x", "OWN": "${PREFIX}/etc"})
    build(request, store)
    log = store.log_path("small", request.key).read_text()
    assert f"-O2 -ffile-prefix-map=/build/src=. -x|{PREFIX}/etc|none|{PREFIX}|315532800\n" in log


def test_an_environment_that_names_nothing(buildroot: Path, store: Store) -> None:
    request = small_request(buildroot, {"install": INSTALL}, environment={"X": "$NO_SUCH"})
    with pytest.raises(InputError, match=r"names \$NO_SUCH, which no step sees"):
        build(request, store)


def test_drops(buildroot: Path, store: Store) -> None:
    script = """
        d="$DESTDIR$PREFIX"
        mkdir -p "$d/lib/deep" "$d/share/info" "$d/share/man/cat1" "$d/share/doc/x" "$d/bin"
        touch "$d/bin/x" "$d/lib/liba.la" "$d/lib/deep/libb.la" "$d/share/info/dir" "$d/share/man/cat1/x.1"
        touch "$d/share/doc/x/a" "$d/lib/keep.la"
    """
    request = small_request(buildroot, {"install": script}, drop=("share/doc/**", "no/such/*"))
    request = replace(request, recipe=replace(request.recipe, keep=("lib/keep.la",)))
    events: list[Event] = []
    digest = build(request, store, events=events)
    assert [entry.path for entry in store.entries(digest)] == ["bin", "bin/x", "lib", "lib/keep.la"]
    assert [event.text for event in events if isinstance(event, Message)] == [
        'small: drop = ["no/such/*"] matches nothing'
    ]


def test_outputs(buildroot: Path, store: Store) -> None:
    outputs = (OutputSpec("run", "/.deps/rt/1", ("lib/*.so",)), OutputSpec("dev", "/.deps/dev/1", ("**",)))
    script = """
        mkdir -p "$DESTDIR$BUNDLE_RUN/lib" "$DESTDIR$BUNDLE_DEV/include"
        touch "$DESTDIR$BUNDLE_RUN/lib/a.so" "$DESTDIR$BUNDLE_DEV/include/a.h"
    """
    request = small_request(buildroot, {"install": script}, outputs=outputs)
    found = build_node(request, store, Bubblewrap(), Jobserver(1))
    assert {prefix: paths(store, digest) for prefix, digest in found.items()} == {
        "/.deps/rt/1": ["lib/a.so"],
        "/.deps/dev/1": ["include/a.h"],
    }


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ('mkdir -p "$DESTDIR/usr/bin"; touch "$DESTDIR/usr/bin/x"', "installs /usr, which is outside"),
        ("true", "installs nothing for the bundle 'small'"),
        ('mkdir -p "$DESTDIR/.deps"; ln -s /etc "$DESTDIR/.deps/small"', "installs /.deps/small, which"),
        ('mkdir -p "$DESTDIR/.deps/small"; ln -s /etc "$DESTDIR$PREFIX"', "installs /.deps/small/1, which"),
        ("rm -r /build/dest; ln -s /etc /build/dest", "replaced its install directory"),
        (INSTALL + '; mkfifo "$DESTDIR$PREFIX/pipe"', "not a fifo"),
        (INSTALL + '; mkdir "$DESTDIR$PREFIX/share"; ln -s /tmp "$DESTDIR$PREFIX/share/licenses"', "a link"),
    ],
)
def test_what_must_not_be_installed(
    buildroot: Path, store: Store, tmp_path: Path, script: str, message: str
) -> None:
    source = tarball(tmp_path / "a.tar.gz", {"COPYING": "free\n"})
    before = sorted(os.listdir("/etc"))
    with pytest.raises(BundleError, match=message):
        build(small_request(buildroot, {"install": script}, sources=(source,)), store)
    assert sorted(os.listdir("/etc")) == before
    assert not list((store.root / "keys").iterdir())


def test_a_file_in_no_output(buildroot: Path, store: Store) -> None:
    outputs = (OutputSpec("small", PREFIX, ("bin/*",)),)
    script = INSTALL + '; mkdir "$DESTDIR$PREFIX/lib"; touch "$DESTDIR$PREFIX/lib/a"'
    with pytest.raises(BuildError, match=f"installs {PREFIX}/lib/a, which is in no output"):
        build(small_request(buildroot, {"install": script}, outputs=outputs), store)


def test_a_licence_that_is_a_link_out_is_not_read(buildroot: Path, store: Store) -> None:
    script = "ln -s /etc/passwd COPYING; ln -s real LICENSE; echo free >real;" + INSTALL
    digest = build(small_request(buildroot, {"install": script}), store)
    assert paths(store, digest) == ["bin/x", "share/licenses/small/LICENSE"]


def test_a_source_directory_that_became_a_link_is_not_read(buildroot: Path, store: Store) -> None:
    script = INSTALL + "; cd ..; rm -r src; ln -s / src"
    digest = build(small_request(buildroot, {"install": script}), store)
    assert paths(store, digest) == ["bin/x"]


def test_a_step_whose_name_is_a_path(buildroot: Path, store: Store) -> None:
    build(small_request(buildroot, {"../../x y": "echo $0", "install": INSTALL}), store)
    (log,) = (store.root / "logs/small").iterdir()
    assert log.read_text().startswith("==> .._.._x_y\n/build/steps/01-.._.._x_y\n")


def test_a_step_that_fails(buildroot: Path, store: Store) -> None:
    script = 'i=0; while [ $i -lt 30 ]; do echo "line $i"; i=$((i+1)); done; printf "\\033[31mred\\n"; exit 3'
    request = small_request(buildroot, {"configure": "echo fine", "build": script, "install": "true"})
    events: list[Event] = []
    with pytest.raises(BuildError) as caught:
        build(request, store, events=events)
    text = str(caught.value)
    assert caught.value.exit_code is ExitCode.BUILD_FAILED
    assert text.startswith(
        "recipes/small/recipe.toml: error: small 1.0: the step 'build' failed (exit status 3)"
    )
    assert "  | line 11\n" in text
    assert "line 10\n" not in text
    assert "  | ?[31mred\n" in text
    assert "'bundle log small' shows all of it; --keep-failed keeps" in text
    assert (
        store.log_path("small", request.key)
        .read_text()
        .startswith("==> configure\nfine\n==> build\nline 0\n")
    )
    assert [event.outcome for event in events if isinstance(event, TaskFinished)] == ["failed"]
    assert TaskAdvanced("build small", 1, "build") in events


def test_a_step_that_is_killed(buildroot: Path, store: Store) -> None:
    with pytest.raises(BuildError, match="killed by signal 9"):
        build(small_request(buildroot, {"build": "kill -9 $$"}), store)


def test_a_failed_build_can_be_entered(buildroot: Path, store: Store) -> None:
    request = small_request(buildroot, {"build": "echo here >trace; false"})
    with pytest.raises(BuildError) as caught:
        build(request, store, BuildOptions(keep_failed=True))
    enter = store.root / "failed/small/enter"
    assert f"to enter it: {enter}" in str(caught.value)
    script = b"cat trace; pwd; sh -eu /build/steps/01-build || echo again\n"
    done = subprocess.run([enter], input=script, capture_output=True, check=False)
    assert done.stdout == b"here\n/build/src\nagain\n"
    assert not list((store.root / "tmp").iterdir())


def test_a_patch_that_does_not_fit(buildroot: Path, store: Store, tmp_path: Path) -> None:
    patch = tmp_path / "0001-x.patch"
    patch.write_text("--- a/hello\n+++ b/hello\n@@ -1 +1 @@\n-other\n+hello\n")
    source = tarball(tmp_path / "a.tar.gz", {"hello": "hi\n"})
    with pytest.raises(BuildError, match="the step 'patch' failed"):
        build(small_request(buildroot, {"install": INSTALL}, sources=(source,), patches=(patch,)), store)


def test_nothing_is_newer_than_what_was_made_of_it(buildroot: Path, store: Store, tmp_path: Path) -> None:
    source = tarball(tmp_path / "a.tar.gz", {"configure.ac": "1\n", "configure": "1\n"})
    patch = tmp_path / "0001-x.patch"
    patch.write_text("--- a/configure.ac\n+++ b/configure.ac\n@@ -1 +1 @@\n-1\n+2\n")
    steps = {
        "look": "test ! configure.ac -nt configure; test ! configure -nt configure.ac",
        "install": INSTALL,
    }
    build(small_request(buildroot, steps, sources=(source,), patches=(patch,)), store)


def test_stop(buildroot: Path, store: Store) -> None:
    options = BuildOptions()
    threading.Timer(0.5, options.stop.set).start()
    began = time.monotonic()
    with pytest.raises(BuildError, match="was stopped"):
        build(small_request(buildroot, {"build": "sleep 20"}), store, options)
    assert time.monotonic() - began < 5


def test_relocation_sees_the_install_directory(buildroot: Path, store: Store) -> None:
    def relocate(root: Path) -> Sequence[str]:
        (root / PREFIX.strip("/") / "bin/x").write_text("changed\n")
        return [f"{PREFIX}/bin/x"]

    events: list[Event] = []
    request = replace(small_request(buildroot, {"install": INSTALL}), relocate=relocate)
    digest = build(request, store, events=events)
    assert (store.tree_path(digest) / "bin/x").read_text() == "changed\n"
    found = store.lookup(request.key)
    assert found is not None
    assert found.meta["leaks"] == [f"{PREFIX}/bin/x"]
    assert Message(f"small: the build's own paths are left in {PREFIX}/bin/x", "warning") in events


def test_strip_and_hard_links(buildroot: Path, store: Store, tmp_path: Path) -> None:
    """The machine's own strip, laid out as a dependency; gcc's output as what was installed."""
    (tmp_path / "a.c").write_text("int f(void) { return 1; }\nint main(void) { return f(); }\n")
    subprocess.run(["gcc", "-g", "-o", tmp_path / "a", tmp_path / "a.c"], check=True)
    subprocess.run(["gcc", "-g", "-c", "-o", tmp_path / "a.o", tmp_path / "a.c"], check=True)
    with store.temporary() as work:
        top = work / "tree"
        (top / "bin").mkdir(parents=True)
        shutil.copy(shutil.which("strip") or "", top / "bin/strip")
        for line in subprocess.run(
            ["ldd", top / "bin/strip"], capture_output=True, text=True, check=True
        ).stdout.splitlines():
            library = Path(line.split("=>")[-1].split("(")[0].strip())
            if library.is_file():
                (top / "lib").mkdir(exist_ok=True)
                shutil.copy(library, top / "lib" / library.name)
        tools = store.add_tree(top)
    source = tmp_path / "a.tar.gz"
    subprocess.run(["tar", "czf", source, "--transform=s,^,top/,", "a", "a.o"], cwd=tmp_path, check=True)
    script = """
        d="$DESTDIR$PREFIX"; mkdir -p "$d/bin" "$d/lib"
        cp a "$d/bin/a"; ln "$d/bin/a" "$d/bin/b"; cp a "$d/bin/kept"; cp a.o "$d/lib/"; echo text >"$d/bin/c"
    """
    base = small_request(
        buildroot,
        {"install": script},
        sources=(tarball(tmp_path / "unused.tar.gz", {"x": ""}),),
        dependencies=(Dependency("tools", "/.deps/tools/1", tools),),
        environment={"LD_LIBRARY_PATH": "/.deps/tools/1/lib"},
    )
    (wanted, _) = base.sources[0]
    request = replace(
        base,
        sources=((wanted, source),),
        recipe=replace(base.recipe, keep=("bin/kept",)),
        path_directories=("/.deps/tools/1/bin",),
    )
    digest = build(request, store)
    tree = store.tree_path(digest)
    sizes = {name: (tree / name).stat().st_size for name in ("bin/a", "bin/kept", "lib/a.o")}
    assert sizes["bin/kept"] == (tmp_path / "a").stat().st_size > sizes["bin/a"]
    assert sizes["lib/a.o"] < (tmp_path / "a.o").stat().st_size
    assert os.path.samefile(tree / "bin/a", tree / "bin/b")
    symbols = subprocess.run(["nm", tree / "lib/a.o"], capture_output=True, text=True, check=True).stdout
    assert " T main" in symbols


@pytest.mark.engine
def test_both_backends_give_the_same_tree(buildroot: Path, tmp_path: Path, docker_host: str) -> None:
    source = tarball(tmp_path / "a.tar.gz", {"hello": "hi\n", "COPYING": "free\n"})
    patch = tmp_path / "0001-x.patch"
    patch.write_text("--- a/hello\n+++ b/hello\n@@ -1 +1 @@\n-hi\n+hello\n")
    steps = {
        "look": "env | sort; id -u; id -g; umask; ulimit -n; pwd; hostname; ls /build /tmp",
        "install": INSTALL + '; cp hello "$DESTDIR$PREFIX/bin"; cd "$DESTDIR$PREFIX"; ln bin/x y',
    }
    request = small_request(buildroot, steps, sources=(source,), patches=(patch,))
    logs, trees = [], []
    for number, sandbox in enumerate((Bubblewrap(), DockerSandbox())):
        store = Store(tmp_path / f"cache-{number}")
        trees.append(build_node(request, store, sandbox, Jobserver(2))[PREFIX])
        logs.append(store.log_path("small", request.key).read_text())
        assert not list((store.root / "tmp").iterdir())
    assert trees[0] == trees[1]
    assert logs[0] == logs[1]


DEBUG = """
import sys
from pathlib import Path
from small_builds import small_request
from bundler.build import BuildOptions, build_node
from bundler.errors import BuildError
from bundler.jobserver import Jobserver
from bundler.sandbox.bubblewrap import Bubblewrap
from bundler.store import Store

request = small_request(Path(sys.argv[1]), {"build": "echo here >trace; false"})
try:
    options = BuildOptions(debug_shell=True)
    build_node(request, Store(Path(sys.argv[2])), Bubblewrap(), Jobserver(1), options=options)
except BuildError as error:
    print(error.message)
"""


def test_debug_shell(buildroot: Path, tmp_path: Path) -> None:
    """On a terminal, as a user has it."""
    here = Path(__file__).parent
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", DEBUG, buildroot, tmp_path / "cache"],
        env={**os.environ, "PYTHONPATH": f"{here}:{here.parents[1]}", "TERM": "dumb"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    os.write(master, b"cat trace; echo $TERM $MAKEFLAGS; exit 3\n")
    heard = b""
    with process:
        while True:
            try:
                data = os.read(master, 4096)
            except OSError:  # EIO: nobody has the terminal open any more.
                break
            heard += data
    os.close(master)
    assert b"here\r\ndumb -j1\r\n" in heard
    assert b"small 1.0: the step 'build' failed (exit status 1)" in heard
