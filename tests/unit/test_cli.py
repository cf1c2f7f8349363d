import json
import subprocess
import sys
from pathlib import Path

import pytest

from bundler.cli.main import load_verb, main, verb_names

ROOT = Path(__file__).resolve().parents[2]


def test_every_verb_has_a_purpose_and_one_line() -> None:
    from bundler.cli.main import GROUPS

    for name in verb_names():
        module = load_verb(name)
        assert name == module.NAME
        assert module.GROUP in GROUPS
        assert module.SUMMARY[0].islower(), name
        assert "\n" not in module.SUMMARY
        assert len(module.SUMMARY) < 90, name


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["nonsense"], 2, "there is no verb 'nonsense'"),
        (["plna"], 2, "did you mean 'plan'?"),
        (["plan", "shel"], 2, "did you mean 'shell'?"),
        (["plan", "shell", "--arch", "pdp11"], 2, "one of aarch64, x86_64"),
        (["plan", "shell", "--root", "deps"], 2, "not a plain absolute path"),
        (["graph", "shell", "--output", "/no/such/place/x.svg"], 2, "no such directory"),
    ],
)
def test_mistakes_get_a_message_and_their_exit_code(
    words: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == status
    assert says in capsys.readouterr().err


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert [name for name in verb_names() if f"\n  {name}" not in text] == []


@pytest.mark.parametrize("name", verb_names())
def test_help_of_each_verb(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([name, "--help"])
    assert done.value.code == 0
    assert f"usage: bundle {name}" in capsys.readouterr().out


def test_plan_as_json_names_every_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "shell", "--all", "--format", "json", "--cache", str(tmp_path)]) == 0
    nodes = {record["node"]: record for record in json.loads(capsys.readouterr().out)}
    assert nodes["shell/bash"]["state"] == "waits"
    assert nodes["runtime/glibc"]["state"] == "missing"


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m bundler --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_manual_is_what_the_parsers_say() -> None:
    done = subprocess.run(
        [sys.executable, "tools/manual.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_start_up_imports_nothing_heavy() -> None:
    code = "import sys, bundler.cli.main as m; m.load_verb('build'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint({"requests", "docker", "lief", "tqdm", "elftools", "urllib3", "tarfile"})
