"""Which traces of mounted bundles are found, in trees and configurations written as text."""

from typing import Any

import pytest

from bundler.traces import DEFAULT_PATH, clean_config, clean_inner, is_commit, mount_points
from bundler.tree import Entry, Kind

ROOT = "/.deps"


def layer(text: str) -> list[Entry]:
    """Entries of a layer: a word each, ``MODE:`` before some, ``/`` after directories."""
    found = []
    for word in text.split():
        mode, colon, path = word.rpartition(":")
        kind = Kind.DIRECTORY if path.endswith("/") else Kind.FILE
        found.append(Entry(path.rstrip("/"), kind, mode=int(mode, 8) if colon else 0o755))
    return found


@pytest.mark.parametrize(
    ("layers", "kept", "expected"),
    [
        (["etc/ etc/x", ".deps/ .deps/a/ .deps/a/1/ made"], 1, ["", ".deps .deps/a .deps/a/1"]),
        (
            ["etc/", ".deps/ .deps/a/ .deps/a/1/ .deps/b/ .deps/b/1/ .deps/b/1/file"],
            1,
            ["", ".deps/a .deps/a/1"],
        ),
        ([".deps/ .deps/a/ .deps/a/1/", "made"], 0, [".deps .deps/a .deps/a/1", ""]),
        ([".deps/ .deps/a/ .deps/a/1/", "made"], 1, ["", ""]),
        # A later layer that deletes something there had a reason to.
        ([".deps/ .deps/a/ .deps/a/x", ".deps/ .deps/a/ .deps/a/.wh.x"], 0, ["", ""]),
        # What the base has, and only its time changed: not ours to keep.
        ([".deps/ .deps/own/ .deps/own/x", ".deps/ .deps/a/ .deps/a/1/"], 1, ["", ".deps .deps/a .deps/a/1"]),
        ([".deps/ .deps/own/ .deps/own/x", "0700:.deps/ .deps/a/ .deps/a/1/"], 1, ["", ".deps/a .deps/a/1"]),
        ([".deps/ .deps/x", ".deps/ .deps/y"], 1, ["", ""]),
        # A directory of the same beginning is another one.
        (["etc/", ".depsy/ .depsy/a/"], 1, ["", ""]),
        (["bin/", "dev/ proc/ proc/x etc/ etc/y/"], 1, ["", "dev"]),
    ],
)
def test_mount_points(layers: list[str], kept: int, expected: list[str]) -> None:
    found = mount_points([layer(text) for text in layers], ROOT, kept=kept, engine=kept > 0)
    assert [" ".join(sorted(paths)) for paths in found] == expected


def test_further_mount_points() -> None:
    layers = ["srv/ srv/data/", "srv/ srv/data/ from/ a/ a/b/ c/ c/file made"]
    found = mount_points(
        [layer(text) for text in layers],
        ROOT,
        kept=1,
        further=["/from", "/a/b", "/c/file", "/srv/data", "/made"],
    )
    assert sorted(found[1]) == ["a", "a/b", "c", "c/file", "from", "made", "srv", "srv/data"]
    full = [layer("srv/"), [*layer("from/ from/x/ a/"), Entry("a/b", Kind.FILE, size=1)]]
    assert mount_points(full, ROOT, kept=1, further=["/from", "/a/b"])[1] == frozenset()


@pytest.mark.parametrize(
    ("inner", "base", "cleaned"),
    [
        ({"Env": ["PATH=/bin:/.deps/a/1/bin:/usr/bin"]}, None, {"Env": ["PATH=/bin:/usr/bin"]}),
        ({"Env": ["TZDIR=/.deps/a/1/zoneinfo", "A=/.depsy"]}, None, {"Env": ["A=/.depsy"]}),
        ({"Env": ["TZDIR=/.deps/a/1/zoneinfo"]}, None, {}),
        ({"Env": [DEFAULT_PATH]}, None, {"Env": [DEFAULT_PATH]}),
        ({"Env": [DEFAULT_PATH]}, {}, {}),
        ({"Env": [DEFAULT_PATH]}, {"Env": [DEFAULT_PATH]}, {"Env": [DEFAULT_PATH]}),
        ({"Cmd": ["/.deps/a/1/bin/bash"], "User": "0"}, None, {"User": "0"}),
        ({"WorkingDir": "/.deps/a/1", "Entrypoint": ["/run"]}, None, {"Entrypoint": ["/run"]}),
        ({"Volumes": {"/.deps/a/1": {}, "/data": {}}}, None, {"Volumes": {"/data": {}}}),
        ({"Volumes": {"/.deps/a/1": {}}}, None, {}),
        ({"Cmd": ["/bin/sh"], "Env": ["A=b"], "Labels": {"x": "y"}}, None, None),
    ],
)
def test_clean_inner(
    inner: dict[str, Any], base: dict[str, Any] | None, cleaned: dict[str, Any] | None
) -> None:
    assert clean_inner(inner, ROOT, base) == (inner if cleaned is None else cleaned)


def commit(command: list[str], made_by: str, **inner: Any) -> dict[str, Any]:
    return {
        "config": inner,
        "container": "0123",
        "container_config": {"Cmd": command},
        "history": [{"created_by": "base"}, {"created_by": made_by}],
    }


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (commit(["bash", "-c", "x"], "bash -c x"), True),
        (commit([], "", Env=["container=podman"]), True),
        (commit(["/bin/sh", "-c", "#(nop) CMD x"], "/bin/sh -c #(nop) CMD x"), False),
        ({"config": {}, "history": [{"created_by": "RUN x", "comment": "buildkit.dockerfile.v0"}]}, False),
        ({"config": {"Cmd": ["sh", "-c", "x"]}, "history": [{"created_by": "sh -c x"}]}, True),
        ({"config": {"Cmd": ["sh"]}, "history": [{"created_by": "sh -c x"}]}, False),
        ({"config": {}}, False),
    ],
)
def test_is_commit(config: dict[str, Any], expected: bool) -> None:
    assert is_commit(config) is expected


def test_clean_config_forgets_the_container_and_its_command() -> None:
    config = commit(["/.deps/a/1/bin/bash"], "/.deps/a/1/bin/bash")
    config["architecture"] = "amd64"
    cleaned = clean_config(config, {"Cmd": ["sh"]}, diff_ids=["sha256:1", "sha256:2"], dropped=[], root=ROOT)
    assert cleaned == {
        "architecture": "amd64",
        "config": {"Cmd": ["sh"]},
        "history": [{"created_by": "base"}, {"created_by": ""}],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:1", "sha256:2"]},
    }


def test_clean_config_of_a_layer_that_is_gone() -> None:
    built = {
        "history": [{"created_by": "a"}, {"created_by": "ENV", "empty_layer": True}, {"created_by": "RUN"}]
    }
    cleaned = clean_config(built, {}, diff_ids=["sha256:1"], dropped=[1], root=ROOT)
    assert cleaned["history"][2] == {"created_by": "RUN", "empty_layer": True}
    committed = commit(["x"], "x")
    cleaned = clean_config(committed, {}, diff_ids=["sha256:1"], dropped=[1], root=ROOT)
    assert cleaned["history"] == [{"created_by": "base"}]
