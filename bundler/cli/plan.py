"""``bundle plan``: what a build would do, and why."""

from __future__ import annotations

import argparse
import json

from bundler.cli import common
from bundler.errors import ExitCode
from bundler.survey import NodeState, Surveyor

NAME = "plan"
GROUP = "look"
SUMMARY = "show what would be built, and why"
EPILOG = """\
states:
  built     in the cache, with this very key
  missing   never built here
  changed   built before from other inputs; what changed is named
  waits     sees something that is to be built; if that comes out as before, it is not built anew

examples:
  bundle plan gitartifact
  bundle plan --all --format json shell
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", help="bundle to plan for")
    parser.add_argument("--all", action="store_true", help="show what is built already, too")
    common.add_format(parser)
    common.add_inputs(parser)


def run(arguments: argparse.Namespace) -> int:
    settings = common.settings(arguments)
    catalogue, store = common.catalogue(settings), common.store(settings)
    toolchain = catalogue.toolchain(settings.toolchain)
    plan = common.plan(settings, catalogue, arguments.bundles)
    states = Surveyor(plan, toolchain, store).survey()
    if arguments.format == "json":
        print(json.dumps([_record(state) for state in states], indent=1))
        return ExitCode.DONE
    work = [state for state in states if state.state != "built"]
    for state in states if arguments.all else work:
        print(_line(state))
    print(f"{len(work)} of {len(states)} to build" if work else f"all {len(states)} are built")
    return ExitCode.DONE


def _line(state: NodeState) -> str:
    text = f"{state.state:<8} {state.node.id} {state.node.recipe.version}"
    if not state.why:
        return text
    shown = ", ".join(state.why[:6]) + (", …" if len(state.why) > 6 else "")
    return f"{text}  ({'for ' if state.state == 'waits' else ''}{shown})"


def _record(state: NodeState) -> dict[str, object]:
    return {
        "node": state.node.id,
        "recipe": state.node.recipe.name,
        "version": state.node.recipe.version,
        "prefix": state.node.prefix,
        "state": state.state,
        "why": list(state.why),
        "key": state.key,
        "outputs": dict(state.outputs or {}),
    }
