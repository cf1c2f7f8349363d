"""``bundle doctor``: does this machine have what bundles need?"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from bundler.cli import common
from bundler.errors import ExitCode

NAME = "doctor"
GROUP = "tools"
SUMMARY = "check what this machine has for building and using bundles"
EPILOG = """\
Ends with 1 if there is a problem, with 0 if there are warnings at most.

examples:
  bundle doctor
  bundle doctor --engine podman --format json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    common.add_format(parser)
    common.add_engine(parser)


def run(arguments: argparse.Namespace) -> int:
    from bundler.doctor import examine, worst
    from bundler.settings import cache_directory

    findings = examine(cache_directory(), arguments.engine)
    if arguments.format == "json":
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(f"{finding.level:<8} {finding.name:<{width}}  {finding.message}")
            if finding.hint and finding.level != "ok":
                print(f"{'':<8} {'':<{width}}  → {finding.hint}")
    return ExitCode.NOT_IN_ORDER if worst(findings) == "problem" else ExitCode.DONE
