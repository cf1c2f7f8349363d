"""git over https with a test authority, with submodules and scripts, in foreign roots; curl and ssh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from https_git import bare, https_git
from mounted import Mounted, mount

IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "T. Ester"), ("EMAIL", "t@example.org"))
}


@pytest.fixture(params=["scratch", "musl", "debian"])
def there(request: pytest.FixtureRequest, foreign_root: Callable[[str], Path], tmp_path: Path) -> Mounted:
    root = foreign_root(request.param)
    return replace(mount(tmp_path, root), environment={"LC_ALL": "C.UTF-8", **IDENTITY}, network=True)


@pytest.fixture
def url(there: Mounted) -> Iterator[str]:
    with https_git(there) as url:
        yield url


def trusting(there: Mounted) -> Mounted:
    return replace(there, environment={**there.environment, "SSL_CERT_FILE": "/w/ca.pem"})


def test_push_and_clone_over_https(there: Mounted, url: str) -> None:
    bare(there, "one.git")
    client = trusting(there)
    client.bash(
        "git init -q -b main /w/made; cd /w/made; echo 'naïve' >text; git add text; git commit -qm first;"
        f"git push -q {url}/one.git main"
    )
    said = client.bash(
        f"git clone -q {url}/one.git /w/cloned; cd /w/cloned; cat text; git log --format='%an %s';"
        "git grep -nP 'na(?=ï)'; git fsck --strict 2>&1; git fetch -q; git status --porcelain"
    )
    assert said == "naïve\nT. Ester first\ntext:1:naïve\n"
    assert (
        client.bash(
            f"git clone -q --depth 1 {url}/one.git /w/shallow; git -C /w/shallow log --oneline | wc -l"
        )
        == "1\n"
    )


def test_an_unknown_authority_is_refused(there: Mounted, url: str) -> None:
    bare(there, "one.git")
    git, curl = there.path("gitartifact", "bin/git"), there.path("gitartifact", "bin/curl")
    refused = there.attempt([git, "clone", f"{url}/one.git", "/w/cloned"])
    assert refused.returncode == 128
    assert "unable to get local issuer certificate" in refused.stderr
    assert there.attempt([curl, "-sS", url]).returncode == 60
    named = ["--cacert", "/w/ca.pem", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url]
    assert there.attempt([curl, *named]).stdout == "404"
    assert trusting(there).bash(f"curl -sS -o /dev/null -w '%{{http_code}}' {url}") == "404"


def test_known_authorities_are_there(there: Mounted) -> None:
    said = there.bash(
        "cd /.deps/libs/1/etc/ssl; openssl storeutl -noout -certs cert.pem | tail -1;"
        "openssl verify -CAfile cert.pem cert.pem"
    )
    total, verified = said.splitlines()
    assert int(total.removeprefix("Total found: ")) > 100
    assert verified == "cert.pem: OK"


def test_submodules(there: Mounted, url: str) -> None:
    for name in ("inner.git", "outer.git"):
        bare(there, name)
    client = trusting(there)
    client.bash(
        "git init -q -b main /w/inner; cd /w/inner; echo inside >file; git add .; git commit -qm inner;"
        f"git push -q {url}/inner.git main;"
        f"git clone -q {url}/outer.git /w/outer 2>/dev/null; cd /w/outer;"
        "git submodule --quiet add ../inner.git parts/inner; git commit -qm outer; git push -q origin main"
    )
    assert (
        client.bash(
            f"cd /w; git clone -q --recurse-submodules {url}/outer.git all 2>/dev/null; cd all;"
            "cat parts/inner/file; git submodule foreach --quiet 'echo $sm_path in $(basename $toplevel)';"
            "git submodule status | cut -c 1"
        )
        == "inside\nparts/inner in all\n \n"
    )


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 2 >>f; git stash -q; cat f; git stash pop -q; cat f", "1\n1\n2"),
        (
            "echo 2 >>f; git commit -qam two; export GIT_SEQUENCE_EDITOR='sed -i s/^pick/reword/';"
            "GIT_EDITOR='sed -i s/two/three/' git rebase -qi HEAD~1 >/w/said; git log --format=%s",
            "three\none",
        ),
        ("git -c alias.hello='!f() { echo hello $1; }; f' hello you", "hello you"),
        ("git filter-branch -f --msg-filter 'tr a-z A-Z' >/dev/null 2>&1; git log --format=%s", "ONE"),
        ("git worktree add -q ../tree -b other; git -C ../tree branch --show-current", "other"),
        ("git archive --format=tar.gz HEAD | tar -tzf -", "f"),
        ("git bundle create -q ../b HEAD; git clone -q ../b ../c 2>/dev/null; cat ../c/f", "1"),
        (
            "export TERM=xterm; git var GIT_PAGER; git var GIT_EDITOR",
            "/.deps/base/1/bin/less\n/.deps/base/1/bin/nano",
        ),
    ],
)
def test_git_runs_its_helpers_from_the_bundles(there: Mounted, script: str, expected: str) -> None:
    there.bash("git init -q -b main /w/repo; cd /w/repo; echo 1 >f; git add f; git commit -qm one")
    assert (
        there.bash(f"cd /w/repo; export FILTER_BRANCH_SQUELCH_WARNING=1; {script}").rstrip("\n") == expected
    )


def test_a_new_repository_holds_no_path_of_ours(there: Mounted) -> None:
    there.bash("git init -q /w/repo; cd /w/repo; echo 1 >f; git add f; git commit -qm one; git gc -q")
    assert there.bash("grep -rl /.deps /w/repo || echo none") == "none\n"


def test_what_perl_would_do_is_refused_clearly(there: Mounted) -> None:
    refused = there.attempt([there.path("gitartifact", "bin/git"), "send-email"])
    assert refused.returncode == 128
    assert "git was built without support for git-send-email (NO_PERL=1)" in refused.stderr


def test_ssh_needs_no_user_database(there: Mounted) -> None:
    """Where /etc/passwd does not know who runs it, HOME and USER say it."""
    lone = replace(there, uid=12345, environment={"HOME": "/w", "USER": "somebody"})
    lone.work.chmod(0o777)
    said = lone.bash(
        "ssh-keygen -q -t ed25519 -N '' -f /w/key; ssh-keygen -l -f /w/key.pub | cut -d ' ' -f 1;"
        "ssh -T -G -o IdentityFile=~/key host | grep -E '^(user|identityfile) '"
    )
    assert said == "256\nuser somebody\nidentityfile /w/key\n"
    refused = lone.attempt([lone.path("gitartifact", "bin/git"), "clone", "ssh://127.0.0.1:1/x", "/w/x"])
    assert "port 1: Connection refused" in refused.stderr
