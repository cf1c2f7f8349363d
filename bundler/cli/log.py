"""``bundle log``: what a build said."""

from __future__ import annotations

import argparse
import difflib
import sys
import time
from pathlib import Path

from bundler.cli import common
from bundler.errors import ExitCode, InputError

NAME = "log"
GROUP = "look"
SUMMARY = "show the log of a recipe's last build"
EPILOG = """\
examples:
  bundle log                   which logs there are, the newest first
  bundle log zlib | less
  bundle log zlib --tail 50
  bundle log zlib --path       where the file lies, for other tools
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="recipe whose log to show")
    parser.add_argument("--tail", metavar="LINES", type=int, help="only so many lines from the end")
    parser.add_argument("--path", action="store_true", help="print the file's path instead")
    common.add_inputs(parser)


def run(arguments: argparse.Namespace) -> int:
    logs = common.settings(arguments).cache / "logs"
    if arguments.recipe is None:
        for log in sorted(logs.glob("*/*.log"), key=_when, reverse=True):
            print(f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(_when(log)))}  {log.parent.name}")
        return ExitCode.DONE
    log = _newest(logs, arguments.recipe)
    if arguments.path:
        print(log)
        return ExitCode.DONE
    lines = log.read_bytes().splitlines(keepends=True)
    sys.stdout.buffer.writelines(lines[-arguments.tail :] if arguments.tail else lines)
    return ExitCode.DONE


def _newest(logs: Path, recipe: str) -> Path:
    # A recipe's name is one part of a path; anything else must not lead out of the directory.
    found = list((logs / recipe).glob("*.log")) if Path(recipe).name == recipe else []
    if not found:
        known = sorted({log.parent.name for log in logs.glob("*/*.log")})
        close = difflib.get_close_matches(recipe, known, 1)
        raise InputError(
            f"there is no log of {recipe!r}: it was not built here",
            hint=f"did you mean {close[0]!r}?" if close else "'bundle log' lists the logs",
        )
    return max(found, key=_when)


def _when(log: Path) -> float:
    return log.stat().st_mtime
