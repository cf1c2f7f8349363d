"""``bundle``: finds the verb, runs it, turns errors into a message and an exit code.

A verb's module is imported when the verb is used, and all of them only for ``bundle --help``: start-up
is part of every command's time.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

import bundler
from bundler import cli
from bundler.errors import BundleError, ExitCode

GROUPS = {
    "build": "Build and check",
    "use": "Use in containers",
    "look": "Look and explain",
    "images": "Work on images",
    "tools": "Prepare and maintain",
}
_NOT_VERBS = {"main", "common"}

EPILOG = """\
examples:
  bundle build shell                      build the bundle and all it needs, verify and pack it
  bundle load shell                       load it, and what it requires, into Docker
  bundle run --from alpine --with shell -- bash -c 'rsync --version'
                                          run a tool in an image that has neither bash nor rsync
  bundle mount shell --for buildkit       print the lines for a Dockerfile
  bundle verify shell                     prove that nothing outside the bundle is needed

exit status: 0 done, 1 what was checked is not in order, 2 wrong usage or input, 3 a build failed,
4 the machine lacks something, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(words)
    except BundleError as error:
        from bundler.toml import located

        print(located(error), file=sys.stderr)
        return int(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (`bundle plan | head`): not an error of ours, and Python
        # must not complain about the pipe again when it closes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.DONE)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return int(ExitCode.ENVIRONMENT)


def _run(words: list[str]) -> int:
    """Output is flushed here, help and all: a reader that went away is noticed while we can act on it."""
    try:
        arguments = _parse(words)
        status: int = arguments.run(arguments)
        return status
    finally:
        sys.stdout.flush()


def _terminate(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def verb_names() -> list[str]:
    return sorted(
        module.name.replace("_", "-")
        for module in pkgutil.iter_modules(cli.__path__)
        if module.name not in _NOT_VERBS
    )


def load_verb(name: str) -> ModuleType:
    return importlib.import_module(f"bundler.cli.{name.replace('-', '_')}")


def _parse(words: list[str]) -> argparse.Namespace:
    names = verb_names()
    if not words or words[0] in ("-h", "--help", "help"):
        if words[:1] == ["help"] and len(words) > 1 and words[1] in names:
            return _parse([words[1], "--help"])
        print(overview(names))
        raise SystemExit(int(ExitCode.DONE if words else ExitCode.USAGE))
    if words[0] == "--version":
        print(f"bundle {bundler.__version__}")
        raise SystemExit(0)
    if words[0] not in names:
        import difflib

        close = difflib.get_close_matches(words[0], names, 1)
        raise BundleError(
            f"there is no verb {words[0]!r}",
            hint=f"did you mean {close[0]!r}?" if close else "'bundle --help' lists them",
        )
    return parser_of(words[0]).parse_args(words[1:])


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of one verb; its result has ``run``, the function that does the work."""
    module = load_verb(name)
    parser = argparse.ArgumentParser(
        prog=f"bundle {name}",
        description=module.SUMMARY[0].upper() + module.SUMMARY[1:] + ".",
        epilog=getattr(module, "EPILOG", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    parser.set_defaults(run=module.run)
    return parser


def overview(names: Sequence[str]) -> str:
    """The text of ``bundle --help``: verbs by purpose, a line each."""
    lines = ["usage: bundle VERB [OPTION]... [ARGUMENT]...", "", "Tools that run inside any container.", ""]
    modules = {name: load_verb(name) for name in names}
    for group, title in GROUPS.items():
        members = [name for name in names if group == modules[name].GROUP]
        if members:
            lines += [f"{title}:", *(f"  {name:<10} {modules[name].SUMMARY}" for name in members), ""]
    lines += ["'bundle VERB --help' explains a verb.", "", EPILOG.rstrip()]
    return "\n".join(lines)
