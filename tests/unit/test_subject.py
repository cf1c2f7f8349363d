"""What verify takes from a bundle's own manifest."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from bundler.engine import connect
from bundler.labels import Facts
from bundler.oci.manifest import MANIFEST, BundleFacts, manifest_lines
from bundler.subject import Opener


@pytest.mark.parametrize(
    ("toolchain", "seed"),
    [(("seed",), True), (("stage", "seed"), False), (("source", "stage", "seed"), False), ((), False)],
)
def test_limits_of_the_seed_are_for_what_it_built(
    tmp_path: Path, toolchain: tuple[str, ...], seed: bool
) -> None:
    facts = BundleFacts(Facts("x", "1", "/.deps/x/1", 1), "amd64", toolchain=toolchain)
    (tmp_path / MANIFEST).parent.mkdir(parents=True)
    (tmp_path / MANIFEST).write_bytes(manifest_lines(facts, []))
    with ExitStack() as stack:
        subject = Opener(stack, tmp_path / "out", connect).open(str(tmp_path))
    assert (subject.name, subject.seed) == ("x", seed)


def test_a_toolchain_that_is_no_list_is_none(tmp_path: Path) -> None:
    facts = BundleFacts(Facts("x", "1", "/.deps/x/1", 1), "amd64", toolchain=("seed",))
    (tmp_path / MANIFEST).parent.mkdir(parents=True)
    lines = manifest_lines(facts, [])
    assert b'["seed"]' in lines
    (tmp_path / MANIFEST).write_bytes(lines.replace(b'["seed"]', b"7"))
    with ExitStack() as stack:
        assert not Opener(stack, tmp_path / "out", connect).open(str(tmp_path)).seed
