"""``bundle provenance``: how a bundle came to be, as SLSA has it."""

from __future__ import annotations

import argparse
import json

from bundler.cli import common
from bundler.errors import ExitCode

NAME = "provenance"
GROUP = "look"
SUMMARY = "print how a bundle was built: SLSA provenance"
EPILOG = """\
The predicate of a SLSA provenance statement: keys and trees of the bundle's recipes, their sources and
packages by digest, the build root, the images that it requires.  It follows from the recipes, so everybody
who builds the same says the same.  'bundle sign' and 'bundle push' sign it.

example:
  bundle provenance shell > shell.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="a bundle that is built")
    common.add_inputs(parser)


def run(arguments: argparse.Namespace) -> int:
    from bundler.pipeline import Pipeline
    from bundler.provenance import provenance

    settings = common.settings(arguments)
    print(json.dumps(provenance(Pipeline(settings, [arguments.bundle]), arguments.bundle), indent=1))
    return ExitCode.DONE
