"""A cold build, against the same steps by hand, one recipe after the other.

By hand means the recipes' own steps in plan order, with the same toolchain and in the same sandbox, with
``make -j``: without fetching, keys, dropping, stripping, relocating, verifying or packing.  The cold build
unpacks build root and toolchain, too; only the sources are there in both cases.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from bundler.build import room_of
from bundler.build_layout import lay_out
from bundler.buildroot import find_buildroot
from bundler.cli.common import CHECKOUT
from bundler.fetch import Fetcher
from bundler.node_request import request_for
from bundler.pipeline import Pipeline
from bundler.sandbox import choose_sandbox
from bundler.settings import Settings, cache_directory
from bundler.target import parse_target
from tests.bench.measure import Report, call

SUMMARY = "a cold `bundle build` against plain configure, make, make install of the same recipes"
BUNDLE = os.environ.get("BENCH_COLD_BUNDLE", "shell")
"""``base`` takes about half an hour on two cores."""


def run(report: Report) -> None:
    with tempfile.TemporaryDirectory(dir=cache_directory()) as work:
        cache = Path(work) / "cache"
        (cache / "sources").mkdir(parents=True)
        for source in (cache_directory() / "sources").iterdir():
            if source.is_file():
                os.link(source, cache / "sources" / source.name)
        settings = Settings(
            cache=cache,
            recipes=(CHECKOUT / "recipes",),
            images=(CHECKOUT / "images",),
            toolchains=CHECKOUT / "toolchain",
            toolchain="seed",
            target=parse_target(),
            out=Path(work) / "out",
            jobs=len(os.sched_getaffinity(0)),
        )
        pipeline = Pipeline(settings, [BUNDLE])
        ours = call(pipeline.build)
        theirs = call(lambda: by_hand(pipeline, Path(work) / "hand"))
        report.ratio(f"bundle build {BUNDLE}, cold", [ours], "by hand", [theirs], 1.3)


def by_hand(pipeline: Pipeline, work: Path) -> None:
    """Every recipe's steps, for what the pipeline has just built; raises if one fails."""
    toolchain, store = pipeline.toolchain, pipeline.store
    buildroot = find_buildroot(store, toolchain.buildroot, toolchain.links)
    assert buildroot is not None
    work.mkdir()
    sandbox = choose_sandbox(buildroot, work)
    fetcher = Fetcher(store.root, offline=True)
    for state in pipeline.surveyor.survey():
        node = state.node
        if node.bootstraps or state.key is None:
            continue
        request = request_for(
            node,
            state.key,
            pipeline.plan,
            store,
            pipeline.surveyor.outputs,
            buildroot=buildroot,
            sources=[(source, fetcher.fetch(source)) for source in node.recipe.sources],
            packages=(),
        )
        place = work / node.recipe.name
        place.mkdir()
        lay_out(request, place)
        room = room_of(request, store, place, pipeline.settings.jobs)
        flags = f"-j{pipeline.settings.jobs}"
        room = replace(room, environment={**room.environment, "MAKEFLAGS": flags})
        for script in sorted((place / "steps").iterdir()):
            said: list[bytes] = []
            if sandbox.run(room, ["/bin/sh", "-eu", f"/build/steps/{script.name}"], said.append):
                raise RuntimeError(b"".join(said)[-2000:].decode(errors="replace"))
        shutil.rmtree(place)
