"""Every command that a bundle exports starts in an empty root, on musl with busybox, and in Debian."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mounted import BUNDLES, CHECKOUT, HOSTILE, mount, with_required

ARGUMENTS = {
    # Those that do not know --version: what they can do without input, a terminal or a file.
    "attr": "-l /w",
    "bunzip2": "--help",
    "bzip2": "--help",
    "bzcat": "--help",
    "[": "1 = 1 ]",
    "chacl": "-l /w",
    "clear": "-V",
    "dir": "/w",
    "expr": "1 + 1",
    "false": "|| :",
    "git": "version",
    "git-receive-pack": "-h || [ $? = 129 ]",
    "git-upload-archive": "-h || [ $? = 129 ]",
    "git-upload-pack": "-h || [ $? = 129 ]",
    "infocmp": "-V",
    "openssl": "version",
    "reset": "-V",
    "scalar": "version",
    "scp": "|| [ $? = 1 ]",
    "sftp": "|| [ $? = 1 ]",
    "sh": "-c true",
    "ssh": "-V",
    "ssh-add": "-l || [ $? = 2 ]",
    "ssh-agent": "-c true || :",
    "ssh-keygen": "-l -f /w/nothing || [ $? = 255 ]",
    "ssh-keyscan": "|| [ $? = 1 ]",
    "tabs": "-V",
    "test": "1 = 1",
    "tic": "-V",
    "toe": "-V",
    "tput": "-V",
    "tset": "-V",
}
"""What each command is given, and the status that stands for "it ran" where that is not 0."""


def _commands(bundle: str) -> list[str]:
    return list(tomllib.loads((CHECKOUT / "images" / f"{bundle}.toml").read_text())["commands"])


def test_no_word_is_given_to_a_command_that_is_not_there() -> None:
    exported = {Path(command).name for bundle in BUNDLES for command in _commands(bundle)}
    assert set(ARGUMENTS) <= exported


@pytest.mark.parametrize("uid", [0, 12345])
@pytest.mark.parametrize("root", ["scratch", "musl", "debian"])
@pytest.mark.parametrize("bundle", BUNDLES)
def test_exported_commands_start(
    foreign_root: Callable[[str], Path], tmp_path: Path, bundle: str, root: str, uid: int
) -> None:
    tmp_path.chmod(0o777)
    there = replace(
        mount(tmp_path, foreign_root(root), with_required(bundle)),
        environment={**HOSTILE, "TERM": "xterm"},
        uid=uid,
    )
    script = ""
    for command in _commands(bundle):
        path, words = there.path(bundle, command), ARGUMENTS.get(Path(command).name, "--version")
        # A subshell: what fails is named, and the others still run.
        script += f"(eval {shlex.quote(f'{path} {words}')}) </dev/null >/tmp/said 2>&1 || "
        script += f"{{ echo {path} {words}: $?; cat_said; }}\n"
    said = 'cat_said() { while read -r line; do echo "  $line"; done </tmp/said; }\n'
    done = there.attempt([there.path("runtime", "bin/sh"), "-uc", said + script])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
