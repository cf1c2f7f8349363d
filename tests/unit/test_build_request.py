from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from bundler.build_request import BuildRequest, OutputSpec, environment
from bundler.digest import digest_bytes
from bundler.errors import InputError
from bundler.recipe import Recipe
from bundler.sandbox import Mount
from bundler.target import parse_target

SHELL, LIBS = "/.deps/shell/1", "/.deps/libs/1"


def request(own: Mapping[str, str] | None = None, search: tuple[str, ...] = (LIBS, SHELL)) -> BuildRequest:
    return BuildRequest(
        recipe=Recipe("curl", "8.1", "curl", Path("curl/recipe.toml"), environment=own or {}),
        key=digest_bytes(b""),
        installed_key=digest_bytes(b"installed"),
        prefix=LIBS,
        outputs=(OutputSpec("libs", LIBS),),
        bundles={"shell": SHELL, "my-libs": LIBS},
        dependencies=(),
        search=search,
        path_directories=(f"{LIBS}/bin", "/.deps/toolchain/1/bin"),
        target=parse_target("aarch64"),
        buildroot=Path("/nowhere"),
    )


@pytest.fixture
def mounts(tmp_path: Path) -> list[Mount]:
    """Two prefixes: one with headers, libraries and .pc files, one with data alone."""
    for path in ("libs/include", "libs/lib/pkgconfig", "shell/share/pkgconfig", "shell/share/aclocal"):
        (tmp_path / path).mkdir(parents=True)
    return [Mount(tmp_path / "libs", LIBS), Mount(tmp_path / "shell", SHELL)]


def test_all_of_it(mounts: list[Mount]) -> None:
    assert environment(request(), mounts, 3) == {
        "PATH": f"{LIBS}/bin:/.deps/toolchain/1/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": "/build",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": "315532800",
        "PYTHONHASHSEED": "0",
        "PERL_HASH_SEED": "0",
        "NAME": "curl",
        "VERSION": "8.1",
        "PREFIX": LIBS,
        "DESTDIR": "/build/dest",
        "JOBS": "3",
        "MAKEFLAGS": "--jobserver-auth=fifo:/build/jobserver",
        "TRIPLET": "aarch64-linux-gnu",
        "CFLAGS": "-O2 -ffile-prefix-map=/build/src=.",
        "CXXFLAGS": "-O2 -ffile-prefix-map=/build/src=.",
        "LDFLAGS": f"-Wl,-rpath,{LIBS}/lib -Wl,-rpath,{SHELL}/lib",
        "C_INCLUDE_PATH": f"{LIBS}/include",
        "CPLUS_INCLUDE_PATH": f"{LIBS}/include",
        "LIBRARY_PATH": f"{LIBS}/lib",
        "PKG_CONFIG_LIBDIR": f"{LIBS}/lib/pkgconfig:{SHELL}/share/pkgconfig",
        "ACLOCAL_PATH": f"{SHELL}/share/aclocal",
        "CMAKE_PREFIX_PATH": f"{LIBS}:{SHELL}",
        "BUNDLE_SHELL": SHELL,
        "BUNDLE_MY_LIBS": LIBS,
    }


def test_empty_search_paths_are_left_out() -> None:
    found = environment(request(), [], 1)
    assert not {"C_INCLUDE_PATH", "LIBRARY_PATH", "PKG_CONFIG_LIBDIR", "CMAKE_PREFIX_PATH"} & set(found)
    assert all(found.values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$CFLAGS -g", "-O2 -ffile-prefix-map=/build/src=. -g"),
        ("${PREFIX}x", f"{LIBS}x"),
        ("$BUNDLE_SHELL/bin", f"{SHELL}/bin"),
        ("a $ b 100%", "a $ b 100%"),
        ("", None),
    ],
)
def test_own_variables(text: str, expected: str | None) -> None:
    assert environment(request({"OWN": text}), [], 1).get("OWN") == expected


def test_own_variables_replace_ours() -> None:
    assert environment(request({"CFLAGS": "-Os", "LDFLAGS": "$CFLAGS"}), [], 1)["LDFLAGS"].startswith("-O2")


def test_unknown_variables() -> None:
    with pytest.raises(InputError) as caught:
        environment(request({"OWN": "$NOPE"}), [], 1)
    assert str(caught.value).startswith(
        "curl/recipe.toml: error: the environment variable 'OWN' names $NOPE, which no step sees\n"
        "  hint: known: ACLOCAL_PATH, "
    )
