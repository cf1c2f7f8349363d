"""bash, rsync and the everyday commands at work in foreign roots."""

from __future__ import annotations

import os
import pty
import select
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mounted import Mounted, mount

ROOTS = ["scratch", "musl", "debian"]


@pytest.fixture(params=ROOTS)
def there(request: pytest.FixtureRequest, foreign_root: Callable[[str], Path], tmp_path: Path) -> Mounted:
    return replace(mount(tmp_path, foreign_root(request.param)), environment={"LC_ALL": "C.UTF-8"})


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ('text="äöü€"; echo ${#text} ${text^^}', "4 ÄÖÜ€"),
        ("shopt -s nocasematch; [[ Ä == ä ]] && echo same", "same"),
        ("printf '%s\\n' b ä a | sort | paste -sd ' '", "a b ä"),
        ("diff <(seq 3) <(printf '1\\n2\\n3\\n') && echo same", "same"),
        ("paste -d, <(seq 2) <(seq 3 4) | tee >(wc -l >/w/lines); sleep .2; cat /w/lines", "1,3\n2,4\n2"),
        ("coproc cat; echo over >&${COPROC[1]}; read -r word <&${COPROC[0]}; echo $word", "over"),
        ("set -m; sleep 30 & jobs -r | grep -c Running; kill %1; wait %1 || echo $?", "1\n143"),
        (
            "set -m; (kill -STOP $BASHPID; echo resumed) & sleep .2; jobs -s | wc -l; bg >/w/bg; wait",
            "1\nresumed",
        ),
        ("trap 'echo caught' USR1; kill -USR1 $$; declare -A map=([a]=1); echo ${map[a]}", "caught\n1"),
        ("mapfile -t lines < <(seq 3); echo ${lines[@]@Q}", "'1' '2' '3'"),
        ("cat <<<here; printf '%(%Y)T\\n' 0", "here\n1970"),
        ("printf 'echo no shebang\\n' >/w/script; chmod +x /w/script; /w/script", "no shebang"),
        (
            "unset PATH; exec /.deps/base/1/bin/env -i /.deps/shell/1/bin/bash -c 'echo ${PATH##*:}'",
            "/.deps/shell/1/bin",
        ),
        ("tput -T xterm-256color colors; tput -T dumb colors", "256\n-1"),
    ],
)
def test_bash(there: Mounted, script: str, expected: str) -> None:
    assert there.bash(script).rstrip("\n") == expected


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        # Where a command runs a shell, it is ours.
        (
            """awk 'BEGIN { "echo piped" | getline x; print x; print 1 |& "cat"; close("cat", "to")
                "cat" |& getline; print }'""",
            "piped\n1",
        ),
        (
            "printf 'all:\\n\\t@echo $@ by $(SHELL)\\n' >/w/Makefile; make -C /w -s",
            "all by /.deps/rt/1/bin/sh",
        ),
        ("seq 4 | split -n r/2 --filter='paste -sd+' | sort", "1+3\n2+4"),
        ("find /w -maxdepth 0 -printf '%f\\n' -exec echo found {} +", "w\nfound /w"),
        ("seq 100 | xargs -n 50 -P 2 | wc -l", "2"),
        (
            "cd /w; printf '1\\n2\\n' >a; printf '1\\ntwo\\n' >b; diff -u a b | patch -s a; cmp a b; cat a",
            "1\ntwo",
        ),
        ("echo abc | sed -E 's/(b)/<\\1>/' | grep -oP '<\\w(?=>)'", "<b"),
        ("for pack in gzip bzip2 xz zstd; do echo $pack | $pack | $pack -dc; done", "gzip\nbzip2\nxz\nzstd"),
        (
            "echo text | gzip >/w/t.gz; zcat /w/t.gz; zgrep -c ex /w/t.gz; gunzip /w/t.gz; cat /w/t",
            "text\n1\ntext",
        ),
        (
            "TZ=UTC0 date -d @0 +%FT%TZ; TZDIR=/.deps/libs/1/share/zoneinfo TZ=Europe/Berlin date -d @0 +%H",
            "1970-01-01T00:00:00Z\n01",
        ),
        ("stat -c %u:%g /w; id -u; nproc | grep -c .", "0:0\n0\n1"),
        ("ps -o comm= -p $$; kill -0 $$ && echo alive", "bash\nalive"),
        ("getopt -o ab: -- -b 1 -a; printf 'a b\\n' | column -t; echo abc | rev", " -b '1' -a --\na  b\ncba"),
        ("sqlite3 :memory: \"select sqlite_version() >= '3.46', upper('x')\"", "1|X"),
        ("printf abc | openssl dgst -sha256 -r | cut -c 1-8; openssl rand -hex 4 | wc -c", "ba7816bf\n9"),
        ("echo 1 | less; echo 2 >/w/file; less /w/file", "1\n2"),
    ],
)
def test_everyday_commands(there: Mounted, script: str, expected: str) -> None:
    assert there.bash(script).rstrip("\n") == expected


@pytest.mark.parametrize("pack", ["", "z", "j", "J", "--zstd"])
def test_tar_packs_and_unpacks(there: Mounted, pack: str) -> None:
    option = pack if pack.startswith("--") else f"-{pack}" if pack else ""
    there.bash("mkdir -p /w/from/sub; cd /w/from; echo x >sub/file; ln sub/file hard; ln -s hard soft")
    there.bash(f"tar {option} -C /w/from -cf /w/archive . && mkdir /w/to && tar -C /w/to -xf /w/archive")
    assert there.bash("cd /w/to; cat soft; [ hard -ef sub/file ] && echo linked") == "x\nlinked\n"


def test_rsync_keeps_acls_attributes_and_links(there: Mounted) -> None:
    there.bash(
        "mkdir /w/from; cd /w/from; echo data >file; ln file hard; ln -s file soft; truncate -s 1M sparse;"
        "setfacl -m u:12345:r-x,g:54321:-w- file; setfacl -d -m u:12345:rwx .;"
        "setfattr -n user.colour -v blue file;"
        "touch -d @1000000000 file; chmod 2750 ."
    )
    there.bash("rsync -aAXHS --quiet /w/from/ /w/to/")
    facts = (
        "getfacl -nR . ; getfattr -dR . ; [ file -ef hard ] && echo linked; readlink soft;"
        "stat -c '%a %Y %n' . file; cat file; stat -c %s sparse"
    )
    there_from, there_to = (there.bash(f"cd /w/{name}; {facts}") for name in ("from", "to"))
    assert there_from == there_to
    for fact in (
        "user:12345:r-x",
        "default:user:12345:rwx",
        'user.colour="blue"',
        "linked",
        "2750 ",
        "1000000000 ",
    ):
        assert fact in there_to


def test_rsync_talks_to_itself_and_compresses(there: Mounted) -> None:
    """Over a pipe, as ssh would be one: the other side is found by its path."""
    there.bash(
        "mkdir /w/from; seq 100000 >/w/from/numbers; printf 'shift; exec \"$@\"' >/w/rsh; chmod +x /w/rsh"
    )
    bash, rsync = there.path("shell", "bin/bash"), there.path("shell", "bin/rsync")
    for choice in ("zstd", "lz4", "zlibx"):
        there.bash(
            f"rsync -a --rsh='{bash} /w/rsh' --rsync-path={rsync} --checksum-choice=xxh128 --compress"
            f" --compress-choice={choice} /w/from/ host:/w/{choice}/; cmp /w/{{from,{choice}}}/numbers"
        )


def test_an_interactive_bash_controls_jobs(there: Mounted) -> None:
    """In a terminal: a prompt, line editing by readline, jobs."""
    leader, follower = pty.openpty()
    terminal = replace(there, environment={"TERM": "xterm-256color", "PS1": "ready> "})
    bash = [there.path("shell", "bin/bash"), "--norc", "--noprofile", "-i"]
    shell = subprocess.Popen(
        [*terminal.words(), there.path("base", "bin/setsid"), "--ctty", "--wait", *bash],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    os.close(follower)
    seen = b""

    def expect(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            assert select.select([leader], [], [], 20)[0], seen
            seen += os.read(leader, 4096)
        seen = seen.partition(text)[2]

    try:
        expect(b"ready> ")
        # The cursor goes to the start of the word, and a letter in: readline's work.
        os.write(leader, b"echo ord$((1+1))" + b"\x1b[D" * len("ord$((1+1))") + b"w\r")
        expect(b"word2")
        os.write(leader, b"sleep 100 &\r")
        expect(b"[1]")
        os.write(leader, b"kill %1; wait; echo end$((2+1))\r")
        expect(b"end3")
        os.write(leader, b"exit\r")
        assert shell.wait(timeout=20) == 0
        assert b"no job control" not in seen
    finally:
        shell.kill()
        shell.wait()
        os.close(leader)
