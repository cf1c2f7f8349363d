"""Every rule of verify, each broken once in a bundle that is otherwise in order."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from closure_forge import Forged, elf_hash, forge, write
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler.closure import MissingBundle, Report, Scope, Severity, rules, to_json, to_text, verify
from bundler.closure.literals import CHUNK, find_literals
from bundler.closure.scripts import interpreter_of
from bundler.errors import BundleError, InputError
from bundler.recipe import Accept
from bundler.target import ARCHITECTURES
from bundler.tree import DirectoryTree, Entry, Kind

RUNTIME, PREFIX = "/.deps/rt/1", "/.deps/x/1"
LD = f"{RUNTIME}/lib/ld-linux-x86-64.so.2"
RPATH = f"{RUNTIME}/lib:{PREFIX}/lib"
TOOL = Forged(
    needed=["liba.so.1", "libc.so.6"],
    rpath=RPATH,
    nodeflib=True,
    pie=True,
    interpreter=LD,
    versions_needed=[("libc.so.6", "GLIBC_2.34", False)],
)
LIBA = Forged(needed=["libc.so.6"], soname="liba.so.1", rpath=RPATH, nodeflib=True)
LIBC = Forged(
    needed=["ld-linux-x86-64.so.2"],
    soname="libc.so.6",
    rpath=f"{RUNTIME}/lib",
    nodeflib=True,
    versions_defined=["libc.so.6", "GLIBC_2.34"],
)
LOADER = Forged(soname="ld-linux-x86-64.so.2", versions_defined=["ld-linux-x86-64.so.2", "GLIBC_2.34"])
SCOPE = Scope(PREFIX, (RUNTIME,), ARCHITECTURES["x86_64"])
RUNTIME_SCOPE = Scope(RUNTIME, (), ARCHITECTURES["x86_64"])


def sound(root: Path) -> Path:
    """A runtime and a bundle that nothing is wrong with; returns the bundle's prefix."""
    runtime, prefix = root / RUNTIME[1:], root / PREFIX[1:]
    write(runtime / "lib/ld-linux-x86-64.so.2", LOADER)
    write(runtime / "lib/libc.so.6", LIBC)
    write(runtime / "bin/sh", replace(TOOL, needed=["libc.so.6"], rpath=f"{RUNTIME}/lib"))
    write(prefix / "lib/liba.so.1", LIBA)
    write(prefix / "bin/tool", TOOL)
    script(prefix / "bin/script", f"#!{RUNTIME}/bin/sh -e\n")
    (prefix / "lib/liba.so").symlink_to("liba.so.1")
    (prefix / "bin/[").symlink_to("../bin/tool")
    return prefix


def script(path: Path, text: str, mode: int = 0o755) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def judge(root: Path, scope: Scope = SCOPE) -> Report:
    return verify(DirectoryTree(root), scope)


def patched(spec: Forged, segment: int, **fields: int) -> bytes:
    """The forged file with fields of one program header changed."""
    data = bytearray(forge(spec))
    names = {"type": (0, "<I"), "flags": (4, "<I"), "align": (48, "<Q")}
    for name, value in fields.items():
        offset, form = names[name]
        struct.pack_into(form, data, 64 + 56 * segment + offset, value)
    return bytes(data)


def with_dlopen_note(priority: str) -> Forged:
    text = json.dumps([{"soname": ["libnone.so.9"], "feature": "glow", "priority": priority}])
    return replace(TOOL, note=(0x407C0C0A, b"FDO\0", text.encode() + b"\0"))


Break = Callable[[Path], object]

# rule, file below the prefix (or absolute), what breaks it
CASES: list[tuple[str, str, Break]] = [
    (
        "interpreter-outside",
        "bin/tool",
        lambda p: write(p / "bin/tool", replace(TOOL, interpreter="/lib64/ld-linux-x86-64.so.2")),
    ),
    (
        "interpreter-missing",
        "bin/tool",
        lambda p: write(p / "bin/tool", replace(TOOL, interpreter=f"{RUNTIME}/lib/ld-none.so.2")),
    ),
    (
        "interpreter-unfit",
        "bin/tool",
        lambda p: write(p / "bin/tool", replace(TOOL, interpreter=f"{RUNTIME}/bin/sh")),
    ),
    ("interpreter-unfit", "bin/tool", lambda p: write(p / "bin/tool", replace(TOOL, interpreter="ld.so"))),
    (
        "interpreter-mismatch",
        "bin/tool",
        lambda p: (
            write(p / "lib/libc.so.6", LIBC),
            write(p / "lib/liba.so.1", replace(LIBA, rpath=f"{PREFIX}/lib")),
            write(p / "bin/tool", replace(TOOL, rpath=f"{PREFIX}/lib:{RUNTIME}/lib")),
        ),
    ),
    ("runpath", "bin/tool", lambda p: write(p / "bin/tool", replace(TOOL, rpath=None, runpath=RPATH))),
    ("runpath", "lib/liba.so.1", lambda p: write(p / "lib/liba.so.1", replace(LIBA, runpath=RPATH))),
    (
        "rpath-outside",
        "bin/tool",
        lambda p: write(p / "bin/tool", replace(TOOL, rpath=f"{RPATH}:/usr/lib")),
    ),
    (
        "rpath-outside",
        "bin/tool",
        lambda p: write(p / "bin/tool", replace(TOOL, rpath=f"{PREFIX}/../../y/1/lib:{RPATH}")),
    ),
    ("rpath-relative", "bin/tool", lambda p: write(p / "bin/tool", replace(TOOL, rpath=f"{RPATH}:"))),
    ("rpath-relative", "bin/tool", lambda p: write(p / "bin/tool", replace(TOOL, rpath=f"lib:{RPATH}"))),
    (
        "rpath-token",
        "bin/tool",
        lambda p: write(p / "bin/tool", replace(TOOL, rpath=f"{RUNTIME}/lib:$ORIGIN/../lib")),
    ),
    (
        "rpath-missing-directory",
        "bin/tool",
        lambda p: write(p / "bin/tool", replace(TOOL, rpath=f"{RPATH}:{PREFIX}/lib64")),
    ),
    (
        "default-directories",
        "lib/liba.so.1",
        lambda p: write(p / "lib/liba.so.1", replace(LIBA, nodeflib=False)),
    ),
    ("needed-missing", "bin/tool", lambda p: (p / "lib/liba.so.1").rename(p / "lib/other.so")),
    (
        "needed-missing",
        "lib/liba.so.1",
        lambda p: write(p / "lib/liba.so.1", replace(LIBA, needed=["libgone.so.4"])),
    ),
    (
        "needed-outside",
        "bin/tool",
        lambda p: (
            write(p.parents[2] / "usr/lib/liba.so.1", LIBA),
            (p / "lib/liba.so.1").unlink(),
            write(p / "bin/tool", replace(TOOL, needed=["/usr/lib/liba.so.1", "libc.so.6"])),
        ),
    ),
    (
        "needed-relative",
        "bin/tool",
        lambda p: write(p / "bin/tool", replace(TOOL, needed=["lib/liba.so.1", "libc.so.6"])),
    ),
    (
        "needed-unfit",
        "bin/tool",
        lambda p: (p / "lib/liba.so.1").write_bytes(b"not at all"),
    ),
    (
        "needed-by-accident",
        "lib/libb.so.1",
        lambda p: (
            write(p / "lib/libb.so.1", Forged(needed=["liba.so.1"], soname="libb.so.1", nodeflib=True)),
            write(p / "bin/tool", replace(TOOL, needed=["liba.so.1", "libb.so.1", "libc.so.6"])),
        ),
    ),
    (
        "soname-mismatch",
        "bin/tool",
        lambda p: write(p / "lib/liba.so.1", replace(LIBA, soname="liba.so.2")),
    ),
    (
        "soname-twice",
        "bin/tool",
        lambda p: (
            write(p / "lib/copy.so", replace(LIBA, soname="liba.so.1")),
            write(p / "bin/tool", replace(TOOL, needed=["liba.so.1", f"{PREFIX}/lib/copy.so", "libc.so.6"])),
        ),
    ),
    (
        "order-changed",
        "bin/tool",
        lambda p: (
            write(p / "other/liba.so.1", LIBA),
            write(p / "bin/tool", replace(TOOL, needed=[f"{PREFIX}/other/liba.so.1", "libc.so.6"])),
        ),
    ),
    (
        "version-missing",
        "bin/tool",
        lambda p: write(p / "bin/tool", replace(TOOL, versions_needed=[("libc.so.6", "GLIBC_2.99", False)])),
    ),
    (
        "version-weak",
        "bin/tool",
        lambda p: write(p / "bin/tool", replace(TOOL, versions_needed=[("libc.so.6", "GLIBC_2.99", True)])),
    ),
    (
        "version-unknown",
        "bin/tool",
        lambda p: write(p / "bin/tool", replace(TOOL, versions_needed=[("liba.so.1", "A_1", False)])),
    ),
    (
        "version-unloaded",
        "bin/tool",
        lambda p: write(p / "bin/tool", replace(TOOL, versions_needed=[("libz.so.1", "Z_1", False)])),
    ),
    ("version-relr", "bin/tool", lambda p: write(p / "bin/tool", replace(TOOL, relr=True))),
    ("dlopen-missing", "bin/tool", lambda p: write(p / "bin/tool", with_dlopen_note("required"))),
    ("dlopen-absent", "bin/tool", lambda p: write(p / "bin/tool", with_dlopen_note("recommended"))),
    ("audit", "bin/tool", lambda p: write(p / "bin/tool", replace(TOOL, audit="libaudit.so"))),
    ("elf-damaged", "bin/tool", lambda p: write(p / "bin/tool", forge(TOOL)[:400])),
    ("machine-foreign", "bin/tool", lambda p: write(p / "bin/tool", replace(TOOL, machine=183))),
    (
        "isa-level",
        "bin/tool",
        lambda p: write(
            p / "bin/tool",
            replace(TOOL, note=(5, b"GNU\0", struct.pack("<III", 0xC0008002, 4, 7) + bytes(4))),
        ),
    ),
    (
        "kernel-floor",
        "bin/tool",
        lambda p: write(p / "bin/tool", replace(TOOL, note=(1, b"GNU\0", struct.pack("<IIII", 0, 9, 1, 0)))),
    ),
    ("executable-stack", "bin/tool", lambda p: write(p / "bin/tool", patched(TOOL, 3, flags=7))),
    ("text-relocations", "bin/tool", lambda p: write(p / "bin/tool", replace(TOOL, textrel=True))),
    ("page-size", "bin/tool", lambda p: write(p / "bin/tool", patched(TOOL, 1, align=0x100))),
    ("shebang-outside", "bin/script", lambda p: script(p / "bin/script", "#!/usr/bin/env python3\n")),
    (
        "shebang-outside",
        "bin/script",
        lambda p: (
            script(p / "bin/middle", "#! /bin/bash\n"),
            script(p / "bin/script", f"#!{PREFIX}/bin/middle\n"),
        ),
    ),
    ("shebang-missing", "bin/script", lambda p: script(p / "bin/script", f"#!{RUNTIME}/bin/none\n")),
    ("shebang-missing", "bin/script", lambda p: script(p / "bin/script", f"#!{PREFIX}/share/data\n")),
    (
        "shebang-long",
        "bin/script",
        lambda p: script(p / "bin/script", f"#!{RUNTIME}/bin/sh {'x' * 300}\n"),
    ),
    ("shebang-relative", "bin/script", lambda p: script(p / "bin/script", "#!sh\n")),
    ("shebang-loop", "bin/script", lambda p: script(p / "bin/script", f"#!{PREFIX}/bin/script\n")),
    ("shebang-dormant", "share/x.py", lambda p: script(p / "share/x.py", "#!/usr/bin/python3\n", 0o644)),
    ("link-dangling", "bin/gone", lambda p: (p / "bin/gone").symlink_to("nothing")),
    ("link-outside", "bin/out", lambda p: (p / "bin/out").symlink_to("/usr/bin/env")),
    ("link-outside", "bin/out", lambda p: (p / "bin/out").symlink_to("../../../y/1/bin/tool")),
    ("link-loop", "bin/loop", lambda p: (p / "bin/loop").symlink_to("loop")),
    ("link-absolute", "bin/abs", lambda p: (p / "bin/abs").symlink_to(f"{PREFIX}/bin/tool")),
    ("setuid", "bin/tool", lambda p: (p / "bin/tool").chmod(0o4755)),
    ("setuid", "bin/tool", lambda p: (p / "bin/tool").chmod(0o2755)),
    ("world-writable", "share/data", lambda p: (p / "share/data").chmod(0o666)),
    ("unreadable", "share/data", lambda p: (p / "share/data").chmod(0o600)),
    ("unreadable", "share", lambda p: (p / "share").chmod(0o750)),
    ("special-file", "share/pipe", lambda p: os.mkfifo(p / "share/pipe")),
    ("libtool-archive", "lib/liba.la", lambda p: script(p / "lib/liba.la", "# libtool\n", 0o644)),
    (
        "build-destination",
        "share/data",
        lambda p: script(p / "share/data", "dir=/build/dest/.deps\n", 0o644),
    ),
    ("build-source", "share/data", lambda p: script(p / "share/data", "x /build/src/a.c\n", 0o644)),
    (
        "libc-literal",
        "lib/libc.so.6",
        lambda p: write(p / "lib/libc.so.6", forge(LIBC) + b"\0/usr/lib/locale\0"),
    ),
    (
        "build-file-host",
        "lib/pkgconfig/a.pc",
        lambda p: script(p / "lib/pkgconfig/a.pc", "Libs: -L/usr/lib -la\n", 0o644),
    ),
    (
        "host-literal",
        "bin/tool",
        lambda p: write(p / "bin/tool", forge(TOOL) + b"\0/bin/sh\0"),
    ),
]


@pytest.mark.parametrize(("rule", "path", "damage"), CASES)
def test_each_rule_is_found_by_name(rule: str, path: str, damage: Break, tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    script(prefix / "share/data", "data\n", 0o644)
    assert not judge(tmp_path).violations
    damage(prefix)
    report = judge(tmp_path)
    found = {(item.rule, item.path) for item in (*report.violations, *report.notes)}
    assert (rule, f"{PREFIX}/{path}") in found
    assert report.ok == (rules()[rule].severity is not Severity.ERROR)
    for item in report.violations:
        assert item.hint
        assert item.message


def test_the_sound_bundle_has_nothing_to_say(tmp_path: Path) -> None:
    sound(tmp_path)
    report = judge(tmp_path)
    assert report.ok
    assert {note.rule for note in report.notes} == {"relro"}  # forged files have no such segment
    assert report.limits == report.accepted == ()
    assert report.versions == {"GLIBC": "GLIBC_2.34"}
    assert report.counts == {
        "files": 3,
        "links": 2,
        "scripts": 1,
        "programs": 1,
        "libraries": 1,
        "look-ups": 6,
    }


def test_no_rule_is_without_a_case() -> None:
    # Those with a test of their own.
    elsewhere = {
        "closure-too-large",
        "symbol-missing",
        "capabilities",
        "owner",
        "preload",
        "relro",
        "accept-unused",
        "beside-prefix",
        "command-missing",
        "dlopen-named",
    }
    assert {rule for rule, _, _ in CASES} | elsewhere == set(rules())


def test_the_documentation_names_every_rule() -> None:
    text = (Path(__file__).parents[2] / "docs/verify.md").read_text()
    assert set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", text)) >= set(rules())


def test_the_chain_leads_to_what_is_wanting(tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    write(prefix / "lib/liba.so.1", replace(LIBA, needed=["libgone.so.4"]))
    (violation,) = judge(tmp_path).violations
    assert violation.rule == "needed-missing"
    assert violation.path == f"{PREFIX}/lib/liba.so.1"
    assert violation.chain == (f"{PREFIX}/bin/tool", f"{PREFIX}/lib/liba.so.1", "libgone.so.4")
    assert str(violation) == (
        f"{PREFIX}/lib/liba.so.1: error: libgone.so.4 is not found in {RUNTIME}/lib, {PREFIX}/lib"
        " [needed-missing]\n"
        f"    chain: {PREFIX}/bin/tool → {PREFIX}/lib/liba.so.1 → libgone.so.4"
    )


def test_a_planted_host_library_in_a_directory_that_is_searched_first(tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    write(tmp_path / "usr/lib/liba.so.1", LIBA)
    write(prefix / "bin/tool", replace(TOOL, rpath=f"/usr/lib:{RPATH}"))
    assert {item.rule for item in judge(tmp_path).violations} == {"needed-outside", "rpath-outside"}


def test_libc_is_on_no_list(tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    write(tmp_path / "lib/libc.so.6", LIBC)
    write(prefix / "bin/tool", replace(TOOL, needed=["liba.so.1", "/lib/libc.so.6"], versions_needed=()))
    assert "needed-outside" in {item.rule for item in judge(tmp_path).violations}


def test_a_required_bundle_that_is_not_at_hand_is_no_violation(tmp_path: Path) -> None:
    sound(tmp_path)
    with pytest.raises(MissingBundle, match=r"/\.deps/none/1 is not at hand") as caught:
        judge(tmp_path, replace(SCOPE, allowed=(RUNTIME, "/.deps/none/1")))
    assert "--with" in str(caught.value)


def test_an_accepted_finding_keeps_its_reason(tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    (prefix / "bin/out").symlink_to("/usr/bin/env")
    accepts = (Accept("link-outside", "bin/*", "the container's own env is meant"),)
    report = judge(tmp_path, replace(SCOPE, accepts=accepts))
    assert report.ok
    assert [(item.path, reason) for item, reason in report.accepted] == [
        (f"{PREFIX}/bin/out", "the container's own env is meant")
    ]


def test_nothing_in_libc_is_accepted(tmp_path: Path) -> None:
    sound(tmp_path)
    write(tmp_path / RUNTIME[1:] / "lib/libc.so.6", forge(LIBC) + b"\0/bin/sh\0")
    report = judge(tmp_path, replace(RUNTIME_SCOPE, accepts=(Accept("libc-literal", "**", "because"),)))
    assert {item.rule for item in report.violations} == {"libc-literal"}
    assert "accept-unused" in {item.rule for item in report.notes}


@pytest.mark.parametrize(
    ("accept", "message"),
    [
        (Accept("no-such-rule", "**", "because"), "no rule 'no-such-rule'"),
        (Accept("runpath", "**", " "), "has no reason"),
    ],
)
def test_accepts_that_cannot_be(accept: Accept, message: str, tmp_path: Path) -> None:
    sound(tmp_path)
    with pytest.raises(InputError, match=message):
        judge(tmp_path, replace(SCOPE, accepts=(accept,)))


def test_limits_of_the_seed_are_named_and_only_there(tmp_path: Path) -> None:
    sound(tmp_path)
    write(tmp_path / RUNTIME[1:] / "lib/libc.so.6", forge(LIBC) + b"\0/bin/sh\0/usr/lib/locale\0")
    report = judge(tmp_path, replace(RUNTIME_SCOPE, seed=True))
    assert [item.message for item in report.violations] == ["holds /usr/lib/locale"]
    assert [(item.rule, item.path) for item in report.limits] == [
        ("libc-literal", f"{RUNTIME}/lib/libc.so.6"),
        ("preload", RUNTIME),
    ]
    assert judge(tmp_path, RUNTIME_SCOPE).limits == ()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"\0/bin:/usr/bin\0", True),
        (b"\0/usr/local/bin:/bin:/usr/bin\0", False),
        (b"\0/.deps/rt/1/bin:/bin:/usr/bin\0", False),
    ],
)
def test_directories_of_the_container_may_follow_others(path: bytes, found: bool) -> None:
    assert bool(find_literals(io.BytesIO(path), ["/bin:/usr/bin"])) is found


class Marked(DirectoryTree):
    """A tree whose program has what only root can give: an owner, and a file capability."""

    def get(self, path: str) -> Entry | None:
        entry = super().get(path)
        if entry is not None and path == f"{PREFIX[1:]}/bin/tool":
            return replace(entry, uid=1000, xattrs=(("security.capability", b"\1"),))
        return entry


def test_owners_and_capabilities(tmp_path: Path) -> None:
    sound(tmp_path)
    report = verify(Marked(tmp_path), SCOPE)
    assert [(item.rule, item.path) for item in report.violations] == [("capabilities", f"{PREFIX}/bin/tool")]
    assert ("owner", f"{PREFIX}/bin/tool") in {(item.rule, item.path) for item in report.notes}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"\0/bin/sh\0", True),
        (b"/bin/sh", True),
        (b"'/bin/sh' -c", True),
        (b"/.deps/rt/1/bin/sh\0", False),
        (b"/bin/shred\0", False),
        (b"/bin/sh/x", True),
        (b"x/bin/sh", False),
    ],
)
@pytest.mark.parametrize("before", [0, 1, CHUNK - 8, CHUNK - 7, CHUNK - 4, CHUNK - 1, CHUNK])
def test_literals_are_found_as_paths_wherever_a_read_cuts_them(text: bytes, found: bool, before: int) -> None:
    stream = io.BytesIO(b"\n" * before + text)
    assert find_literals(stream, ["/bin/sh"]) == ({"/bin/sh"} if found else set())


@pytest.mark.parametrize(
    ("head", "interpreter"),
    [
        (b"#!/bin/sh\n", "/bin/sh"),
        (b"#! /bin/sh -e\n", "/bin/sh"),
        (b"#!\t/bin/sh\t-e x", "/bin/sh"),
        (b"#!/bin/sh\0x\n", "/bin/sh"),
        (b"#!/bin/caf\xe9\n", "/bin/caf\udce9"),
        (b"#!\n/bin/sh", ""),
        (b"#", None),
        (b" #!/bin/sh", None),
    ],
)
def test_first_lines_are_read_as_the_kernel_does(head: bytes, interpreter: str | None) -> None:
    assert interpreter_of(head) == interpreter


NAMES = st.sampled_from(["a", "b", "lib", "bin", "..", ".", "", "tool", "\0", "\udcff", "x" * 300])
TEXTS = st.lists(NAMES, max_size=12).map("/".join)


class Hostile(DirectoryTree):
    """A sound bundle whose links lead where an attacker wants, and whose scripts start what he wants."""

    def __init__(self, root: Path, target: str, line: bytes) -> None:
        super().__init__(root)
        self._target, self._line = target, line

    def get(self, path: str) -> Entry | None:
        entry = super().get(path)
        return replace(entry, target=self._target) if entry and entry.kind is Kind.SYMLINK else entry

    def open(self, path: str) -> BinaryIO:
        return io.BytesIO(b"#!" + self._line) if path.endswith("bin/script") else super().open(path)


@settings(max_examples=150, deadline=None)
@given(target=TEXTS, line=st.one_of(TEXTS.map(os.fsencode), st.binary(max_size=600)))
def test_hostile_links_and_scripts_give_findings_and_no_other_error(
    target: str, line: bytes, hostile_root: Path
) -> None:
    report = verify(Hostile(hostile_root, target, line), SCOPE)
    json.loads(to_json([report]))
    to_text(report, verbose=True).encode()


@pytest.fixture(scope="module")
def hostile_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    sound(root)
    return root


def test_exported_commands_must_be_there(tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    script(prefix / "bin/plain", "text\n", 0o644)
    scope = replace(SCOPE, commands=("bin/tool", "bin/[", "bin/script", "bin/gone", "bin/plain", "lib"))
    assert [(item.rule, item.path, item.message) for item in judge(tmp_path, scope).violations] == [
        ("command-missing", f"{PREFIX}/bin/gone", "is exported, and does not exist"),
        ("command-missing", f"{PREFIX}/bin/plain", "is exported, and has mode 0644"),
        ("command-missing", f"{PREFIX}/lib", "is exported, and has mode 0755"),
    ]


def test_an_image_holds_nothing_but_the_prefix(tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    write(tmp_path / "etc/passwd", b"root")
    write(prefix.parent / "2/bin/tool", TOOL)
    tree = DirectoryTree(tmp_path)
    found = [item.path for item in verify(tree, SCOPE, image=tree).violations]
    assert found == ["/.deps/rt", "/.deps/x/2", "/etc"]


def test_a_finding_is_reported_once_however_many_programs_share_it(tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    for name in ("one", "two", "three"):
        write(prefix / "bin" / name, TOOL)
    write(prefix / "lib/liba.so.1", replace(LIBA, needed=["libgone.so.4"]))
    assert len(judge(tmp_path).violations) == 1


def test_reports_as_text_and_json(tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    (prefix / "bin/out").symlink_to("/usr/bin/env")
    report = judge(tmp_path)
    assert to_text(report).splitlines() == [
        f"{PREFIX}/bin/out: error: leads to /usr/bin/env: outside at /usr [link-outside]",
        "  why: The container decides what is found there.",
        "  hint: make it relative, inside the prefix",
        f"{PREFIX}: NOT in order: 1 violation, 3 notes",
        "  looked at 3 files, 3 links, 1 script, 1 program, 1 library, 6 look-ups",
        "  needs GLIBC_2.34",
    ]
    (record,) = json.loads(to_json([report]))
    assert record["ok"] is False
    assert [item["rule"] for item in record["violations"]] == ["link-outside"]
    assert record["violations"][0]["severity"] == "error"


def test_names_are_printed_without_what_a_terminal_obeys(tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    os.symlink(b"/usr/\x1b[2J\xff", os.fsencode(prefix / "bin") + b"/\xfe\n")
    text = to_text(judge(tmp_path))
    assert "\x1b" not in text
    assert "\\xfe\\n: error" in text
    text.encode("utf-8")
    json.loads(to_json([judge(tmp_path)]))


@pytest.mark.parametrize("cut", [0, 3, 4, 5, 16, 63, 64, 100, 300, 500])
def test_a_truncated_file_is_damaged_and_nothing_more(cut: int, tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    (prefix / "lib/extra.so").write_bytes(forge(LIBA)[:cut])
    found = {item.rule for item in judge(tmp_path).violations}
    assert found == ({"elf-damaged"} if cut >= 4 else set())


def test_random_bytes_in_a_program_give_findings_and_no_other_error(tmp_path: Path) -> None:
    import random

    prefix = sound(tmp_path)
    data = forge(TOOL)
    chance = random.Random(7)
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(chance.randint(1, 8)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        write(prefix / "bin/tool", bytes(broken))
        try:
            judge(tmp_path)
        except BundleError:  # our own errors are fine
            continue


def test_a_closure_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundler.closure.loader.MAX_OBJECTS", 2)
    sound(tmp_path)
    assert {item.rule for item in judge(tmp_path).violations} == {"closure-too-large"}
    monkeypatch.setattr(sys.modules["bundler.closure.verify"], "MAX_LOOKUPS_IN_ALL", 1)
    assert "none was done after" in judge(tmp_path).violations[0].message


def test_long_search_paths_cost_a_bounded_time(tmp_path: Path) -> None:
    prefix = sound(tmp_path)
    for number in range(12):
        search = ":".join(f"{PREFIX}/{number}/{place}" for place in range(100)) + f":{RPATH}"
        needed = [f"n{number + 1}.so"] if number < 11 else [f"gone{n}.so" for n in range(500)]
        write(
            prefix / f"lib/n{number}.so", replace(LIBA, soname=f"n{number}.so", needed=needed, rpath=search)
        )
    write(prefix / "bin/tool", replace(TOOL, needed=["n0.so", "libc.so.6"]))
    began = time.process_time()
    report = judge(tmp_path)
    assert time.process_time() - began < 20
    messages = [item.message for item in report.violations if item.rule == "needed-missing"]
    assert len(messages) == 500
    assert all(len(message) < 400 for message in messages)


def test_elf_hash_is_the_one_that_the_specification_gives() -> None:
    assert elf_hash("GLIBC_2.2.5") == 0x09691A75
