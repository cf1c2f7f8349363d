"""Ansible in foreign roots, and the module apt where no Python is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mounted import HOSTILE, Mounted, mount

NAMES = ("runtime", "shell", "libs", "base", "ansible")
BIN = "/.deps/ansible/1/bin"

PLAY = """
- hosts: all
  gather_facts: true
  vars:
    greeting: hello
  tasks:
    - ansible.builtin.copy: {dest: /w/made/text, content: "{{ greeting }}\\n", mode: "0644"}
    - ansible.builtin.template: {src: page.j2, dest: /w/made/page}
    - ansible.builtin.lineinfile: {path: /w/made/lines, line: a line, create: true, mode: "0644"}
    - ansible.builtin.shell: echo "$0 $(basename /a/shell)" > /w/made/shell
      args: {creates: /w/made/shell}
    - ansible.builtin.unarchive: {src: some.tar.gz, dest: /w/made}
    - community.general.ini_file: {path: /w/made/ini, section: a, option: b, value: c, mode: "0644"}
    - ansible.builtin.assert:
        that:
          - ansible_facts.python.executable == "/.deps/ansible/1/bin/python-isolated"
          - greeting | password_hash("sha512", "salt") is match("[$]6[$].*[$]salt[$]")
          - "{'a': [{'b': 3}]} | community.general.json_query('a[0].b') == 3"
"""


@pytest.fixture(params=["scratch", "musl", "debian"])
def there(request: pytest.FixtureRequest, foreign_root: Callable[[str], Path], tmp_path: Path) -> Mounted:
    return mount(tmp_path, foreign_root(request.param), NAMES)


def test_local_hosts_answer_whatever_the_environment(there: Mounted) -> None:
    (there.work / "bad").mkdir()
    (there.work / "bad" / "os.py").write_text("raise SystemExit('taken from PYTHONPATH')\n")
    variables = {"PYTHONHOME": "/w/bad", "PYTHONPATH": "/w/bad", "PYTHONSTARTUP": "/w/bad/os.py", **HOSTILE}
    hostile = replace(there, environment=variables)
    for words in (["localhost"], ["all", "-i", "localhost,", "-c", "local"]):
        done = hostile.attempt([f"{BIN}/ansible", *words, "-m", "ping"])
        assert '"ping": "pong"' in done.stdout, done
        assert "WARNING" not in done.stderr.replace("[WARNING]: No inventory was parsed", ""), done.stderr


def test_a_play_is_done_once_and_leaves_nothing_at_home(there: Mounted) -> None:
    (there.work / "made").mkdir()
    (there.work / "play.yml").write_text(PLAY)
    (there.work / "page.j2").write_text("{{ greeting | upper }} {{ ansible_facts.system }}\n")
    there.bash("cd /w; echo packed > inside; tar -czf some.tar.gz inside; rm inside")
    words = [f"{BIN}/ansible-playbook", "-i", "localhost,", "-c", "local", "/w/play.yml"]
    recaps: list[str] = []
    for _ in range(2):
        done = there.attempt(words)
        assert done.returncode == 0, done
        recaps.append(done.stdout.strip().splitlines()[-1])
    assert [" changed=6 " in recaps[0], " changed=0 " in recaps[1]] == [True, True], recaps
    made = {path.name: path.read_text() for path in sorted((there.work / "made").iterdir())}
    assert made == {
        "ini": "\n[a]\nb = c\n",
        "inside": "packed\n",
        "lines": "a line\n",
        "page": "HELLO Linux\n",
        "shell": "/.deps/rt/1/bin/sh shell\n",
        "text": "hello\n",
    }
    assert sorted(path.name for path in there.work.iterdir()) == [
        "made",
        "page.j2",
        "play.yml",
        "some.tar.gz",
    ]
