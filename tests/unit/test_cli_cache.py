"""The verbs that look into the cache: log and gc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bundler.cli.main import main
from bundler.digest import digest_bytes
from bundler.errors import ExitCode
from bundler.store import Store


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    store = Store(tmp_path)
    for name, seconds in (("zlib", 2_000), ("rsync", 3_000)):
        for version in ("old", "new"):
            log = store.log_path(name, digest_bytes(version.encode()))
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_bytes(f"==> build\n{name} {version}\n\xff\n".encode("latin-1"))
            os.utime(log, (seconds + (version == "new"),) * 2)
    return tmp_path


def run(cache: Path, *words: str) -> int:
    return main([*words, "--cache", str(cache)])


def test_the_newest_log(cache: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(cache, "log", "zlib") == ExitCode.DONE
    assert capfdbinary.readouterr().out == b"==> build\nzlib new\n\xff\n"


def test_the_end_of_a_log(cache: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(cache, "log", "zlib", "--tail", "2") == ExitCode.DONE
    assert capfdbinary.readouterr().out == b"zlib new\n\xff\n"


def test_where_a_log_lies(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cache, "log", "rsync", "--path") == ExitCode.DONE
    path = Path(capsys.readouterr().out.strip())
    assert path.parent == cache / "logs/rsync"
    assert b"rsync new" in path.read_bytes()


def test_which_logs_there_are(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cache, "log") == ExitCode.DONE
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == [
        "rsync", "rsync", "zlib", "zlib",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("zilb", "did you mean 'zlib'?"),
        ("x", "'bundle log' lists the logs"),
        ("../zlib", "did you mean 'zlib'?"),
    ],
)
def test_no_such_log(cache: Path, capsys: pytest.CaptureFixture[str], name: str, hint: str) -> None:
    assert run(cache, "log", name) == ExitCode.USAGE
    message = capsys.readouterr().err
    assert f"there is no log of '{name}'" in message
    assert hint in message


def test_collect(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cache, "gc") == ExitCode.DONE
    assert capsys.readouterr().out.startswith(f"{cache}: ")
    assert run(cache, "log", "zlib", "--path") == ExitCode.DONE
    assert run(cache, "gc", "--limit", "0") == ExitCode.DONE
    assert "0 B now" in capsys.readouterr().out
    assert run(cache, "log", "zlib") == ExitCode.USAGE


def test_collect_all_lets_go_of_roots(cache: Path) -> None:
    store = Store(cache)
    with store.temporary() as work:
        (work / "tree").mkdir()
        tree = store.add_tree(work / "tree")
    key = digest_bytes(b"key")
    store.record(key, {"p": tree})
    store.hold("bundle", [key])
    store.close()
    assert run(cache, "gc", "--limit", "0") == ExitCode.DONE
    assert store.outputs(key)
    store.close()
    assert run(cache, "gc", "--all", "--limit", "0") == ExitCode.DONE
    assert store.outputs(key) is None


def test_a_limit_that_is_none(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cache, "gc", "--limit", "much") == ExitCode.USAGE
    assert "--limit much: not a size\n  hint: as in 500M or 20G" in capsys.readouterr().err
