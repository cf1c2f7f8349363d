"""Nothing to do: everything is built, verified and packed."""

from __future__ import annotations

import tempfile

from bundler.cli.common import CHECKOUT
from tests.bench.measure import BUNDLE, Report, command, rounds

SUMMARY = "`bundle build base` with everything cached, against starting Python and importing argparse"
ROUNDS = 7


def run(report: Report) -> None:
    with tempfile.TemporaryDirectory() as out:
        build = (*BUNDLE, "build", "base", "--out", out, "--progress", "none")
        idle = (BUNDLE[0], "-c", "import argparse, json, hashlib")
        ours, theirs = rounds(
            ROUNDS,
            lambda: command(build, cwd=str(CHECKOUT)),
            lambda: command(idle),
        )
        report.ratio("bundle build base", ours, "python, nothing done", theirs, 8)
        report.line(f"  goal: less than 0.3 s of processor time; worst here {max(c.cpu for c in ours):.3f} s")
