"""Python in foreign roots: the standard library, its own tests, what people install, whose settings count."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mounted import CHECKOUT, HOSTILE, Mounted, mount
from upstream import fixed_source, furnished

from bundler.fetch import Fetcher
from bundler.settings import cache_directory
from bundler.wheel_lock import FILE, Wheel, read_wheel_lock

NAMES = ("runtime", "shell", "libs", "base", "ansible")
PYTHON = "/.deps/ansible/1/bin/python3"

FOREIGN = {
    # Of other systems, or of no use but to those who develop Python.
    "_android_support", "_apple_support", "_ios_support", "_msi", "_osx_support", "_overlapped", "_pyrepl",
    "_scproxy", "_winapi", "_wmi", "msvcrt", "nt", "ntpath", "nturl2path", "winreg", "winsound",
}  # fmt: skip
LEFT_OUT = {"_tkinter", "idlelib", "tkinter", "turtle", "turtledemo"}
"""Standard modules that want Tk."""

TESTED = [
    "test_array", "test_ast", "test_asyncio.test_subprocess", "test_base64", "test_bz2",
    "test_codecs", "test_configparser", "test_csv", "test_ctypes", "test_curses",
    "test_datetime", "test_dbm", "test_dbm_gnu", "test_dbm_ndbm", "test_decimal", "test_dict", "test_email",
    "test_float", "test_fork1", "test_gzip", "test_hashlib", "test_io", "test_json", "test_locale",
    "test_lzma", "test_math", "test_os", "test_pathlib", "test_pickle", "test_posix", "test_pty",
    "test_pyexpat", "test_re", "test_readline", "test_selectors", "test_shutil", "test_signal",
    "test_sqlite3", "test_ssl",
    "test_str", "test_struct", "test_subprocess", "test_sysconfig", "test_tarfile", "test_tempfile",
    "test_threading", "test_time", "test_unicodedata", "test_uuid", "test_venv", "test_zipfile", "test_zlib",
    "test_zoneinfo",
]  # fmt: skip
"""What of Python's own tests looks at us: what is linked, configured, or asks the system."""
BRIEFLY = [
    "test_bz2", "test_dbm", "test_dbm_gnu", "test_dbm_ndbm", "test_hashlib", "test_locale", "test_lzma",
    "test_posix", "test_pyexpat", "test_readline", "test_sqlite3", "test_struct", "test_uuid", "test_zlib",
]  # fmt: skip
"""Those that take seconds."""
EXCLUDED = {
    "test_pipe2_c_limits": "wants _testcapi, which is not installed",
    "test_unpickle_module_race": "removes byte code in all of sys.path, which is read-only",
}
"""Single tests that fail, and why."""
NOT_IN = {
    "scratch": {
        "test_args_string": "writes a script for /bin/sh",
        "test_call_string": "writes a script for /bin/sh",
    },
}
"""Those that fail in one root alone, and why."""


@pytest.fixture(params=["scratch", "musl", "debian"])
def there(request: pytest.FixtureRequest, foreign_root: Callable[[str], Path], tmp_path: Path) -> Mounted:
    return mount(tmp_path, foreign_root(request.param), NAMES)


def python(there: Mounted, script: str, *words: str) -> str:
    """What a script prints, which must succeed and complain of nothing."""
    done = there.attempt([PYTHON, *words, "-c", script])
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.strip()


def test_every_standard_module_is_there(there: Mounted) -> None:
    script = """
import importlib, json, sys
missing = {}
for name in sorted(sys.stdlib_module_names - set(json.loads(sys.argv[1]))):
    if name in ("antigravity", "this", "test"):
        continue
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing[name] = str(error)
print(json.dumps(missing))
"""
    done = there.attempt([PYTHON, "-c", script, json.dumps(sorted(FOREIGN))])
    assert done.returncode == 0, done
    assert set(json.loads(done.stdout)) == LEFT_OUT, done.stdout


def test_libraries_and_data_are_our_own(there: Mounted) -> None:
    script = """
import bz2, ctypes.util, curses, dbm.gnu, dbm.ndbm, dbm.sqlite3, lzma, readline, sqlite3, ssl, subprocess
import uuid, zoneinfo
from datetime import datetime
assert lzma.decompress(lzma.compress(b"x")) == bz2.decompress(bz2.compress(b"x")) == b"x"
assert sqlite3.connect(":memory:").execute("select json('[1]')").fetchone() == ("[1]",)
for kind in (dbm.gnu, dbm.ndbm, dbm.sqlite3):
    with kind.open(f"/w/{kind.__name__}", "c") as database:
        database["key"] = "value"
assert ctypes.CDLL(None).abs(-3) == 3
callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda number: number + 1)
assert callback(1) == 2
assert uuid._generate_time_safe is not None and uuid.uuid1().version == 1
zone = zoneinfo.ZoneInfo("Europe/Berlin")
assert datetime(2024, 7, 1, tzinfo=zone).utcoffset().total_seconds() == 7200
context = ssl.create_default_context()
assert len(context.get_ca_certs()) > 100
curses.setupterm("xterm-256color", 1)
assert curses.tigetnum("colors") == 256
assert subprocess.check_output("echo from $0", shell=True, text=True) == "from /.deps/rt/1/bin/sh\\n"
readline.parse_and_bind("tab: complete")
# What is found can be loaded; what the container alone has is not found.
for name in ("c", "ssl", "ncursesw", "gdbm", "mpdec"):
    ctypes.CDLL(ctypes.util.find_library(name))
assert ctypes.util.find_library("ssl") == "libssl.so.3"
assert ctypes.util.find_library("apt-pkg") is ctypes.util.find_library("musl") is None
"""
    assert python(there, script) == ""


def test_nothing_of_the_build_is_told(there: Mounted) -> None:
    script = "import sysconfig; print(*sysconfig.get_config_vars().values(), sep='\\n')"
    told = python(there, script).splitlines()
    assert [line for line in told if "/build/src" in line or "/build/dest" in line] == []


def test_the_containers_environment_is_not_for_our_tools(there: Mounted) -> None:
    (there.work / "bad").mkdir()
    for name in ("os.py", "json.py", "startup.py"):
        (there.work / "bad" / name).write_text("raise SystemExit('taken from PYTHONPATH')\n")
    variables = {
        "PYTHONHOME": "/w/bad",
        "PYTHONPATH": "/w/bad",
        "PYTHONSTARTUP": "/w/bad/startup.py",
        **HOSTILE,
    }
    hostile = replace(there, environment=variables)
    isolated = "/.deps/ansible/1/bin/python-isolated"
    # The second Python is started as ansible starts modules; the shell stands for a foreign program.
    script = """
import json, subprocess, sys
print(sys.flags.isolated)
subprocess.run([sys.executable, "-c", "import json, sys; print(sys.flags.isolated)"], check=True)
subprocess.run('echo "$PYTHONHOME $PYTHONPATH $PYTHONSTARTUP $LD_LIBRARY_PATH"', shell=True, check=True)
"""
    done = hostile.attempt([isolated, "-uc", script])
    told = f"/w/bad /w/bad /w/bad/startup.py {HOSTILE['LD_LIBRARY_PATH']}"
    assert (done.stdout, done.stderr) == (f"1\n1\n{told}\n", ""), done
    pip = hostile.attempt(["/.deps/ansible/1/bin/pip", "--version"])
    assert pip.stdout.startswith("pip ") and (pip.returncode, pip.stderr) == (0, ""), pip
    # For who uses Python itself PYTHONPATH counts, as ever, and PYTHONHOME does not.
    assert python(replace(there, environment={"PYTHONHOME": "/w/bad"}), "import json; print(1)") == "1"
    used = replace(there, environment={"PYTHONPATH": "/w/bad"}).attempt([PYTHON, "-c", "import json"])
    assert used.stderr == "taken from PYTHONPATH\n"


def wheel(there: Mounted, project: str) -> str:
    """A wheel of the lock, where the container sees it."""
    locked = {one.project: one for one in read_wheel_lock(CHECKOUT / "recipes/ansible" / FILE, "ansible")}
    found: Wheel = locked[project]
    file = Fetcher(cache_directory()).fetch(found.source())
    (there.work / found.file).write_bytes(file.read_bytes())
    return f"/w/{found.file}"


def test_a_compiled_wheel_can_be_installed_elsewhere(there: Mounted) -> None:
    file = wheel(there, "markupsafe")
    words = ["--no-index", "--no-deps", "--quiet", "--root-user-action=ignore", "--target", "/w/site", file]
    done = there.attempt(["/.deps/ansible/1/bin/pip", "install", *words])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
    ours = replace(there, environment={"PYTHONPATH": "/w/site"})
    assert python(ours, "import markupsafe._speedups as s; print(s.__file__)").startswith("/w/site/")


def test_a_virtual_environment(there: Mounted) -> None:
    file = wheel(there, "markupsafe")
    made = there.attempt([PYTHON, "-m", "venv", "/w/env"])
    assert (made.returncode, made.stderr) == (0, ""), made
    pip = ["/w/env/bin/python", "-m", "pip", "--disable-pip-version-check"]
    done = there.attempt([*pip, "install", "--no-index", "--no-deps", "--quiet", file])
    assert (done.returncode, done.stderr) == (0, ""), done
    shown = there.attempt(["/w/env/bin/python", "-c", "import markupsafe, sys; print(sys.prefix)"])
    assert (shown.stdout, shown.stderr) == ("/w/env\n", "")


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with Python's own tests as the package ``test``, which is not installed."""
    root = tmp_path_factory.mktemp("python")
    (root / "site").mkdir()
    return fixed_source("python", root / "source").joinpath("Lib/test").rename(root / "site/test").parent


def own_tests(work: Path, root: Path, suite: Path, names: list[str]) -> None:
    (work / "w").mkdir()
    there = mount(work / "w", furnished(root, work), NAMES)
    # In place of what is installed, since some tests start their Python with -I.
    site = "/.deps/ansible/1/lib/python3.13/site-packages"
    there = replace(
        there,
        trees={**there.trees, "tests": suite},
        prefixes={**there.prefixes, "tests": site},
        environment={"TERM": "xterm"},
    )
    excluded = [word for name in EXCLUDED | NOT_IN.get(root.name, {}) for word in ("--ignore", name)]
    words = ["-m", "test", "-j2", "--timeout", "900", "--use", "none,curses", *excluded, *names]
    done = there.attempt([PYTHON, *words], timeout=3600)
    assert not re.search(r"^\d+ tests? skipped", done.stdout, re.MULTILINE), done.stdout[-2000:]
    assert "Result: SUCCESS" in done.stdout, done.stdout[-8000:] + done.stderr[-2000:]


def test_pythons_own_tests_on_musl(foreign_root: Callable[[str], Path], tmp_path: Path, suite: Path) -> None:
    own_tests(tmp_path, foreign_root("musl"), suite, BRIEFLY)


@pytest.mark.slow
@pytest.mark.parametrize("root", ["scratch", "musl", "debian"])
def test_more_of_pythons_own_tests(
    foreign_root: Callable[[str], Path], tmp_path: Path, suite: Path, root: str
) -> None:
    own_tests(tmp_path, foreign_root(root), suite, TESTED)
