"""Writes docs/bundle.1 from the parsers, so that the manual cannot say other than the program does.

python tools/manual.py          write it
python tools/manual.py --check  fail if it is not what would be written
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import bundler
from bundler.cli.main import GROUPS, load_verb, parser_of, verb_names

MANUAL = Path(__file__).resolve().parents[1] / "docs" / "bundle.1"

HEAD = r""".TH BUNDLE 1 "" "bundle {version}" "User Commands"
.SH NAME
bundle \- build tools that run inside any container, and use them there
.SH SYNOPSIS
.B bundle
.I VERB
.RI [ OPTION ]...\&
.RI [ ARGUMENT ]...
.SH DESCRIPTION
.B bundle
builds software from source against a private toolchain prefix, so that it needs nothing of the system
that it later runs in: its own program interpreter, C library and libraries lie below one directory,
such as
.IR /.deps/shell/1 .
Each bundle is packed, byte for byte reproducibly, as an image that holds that one directory. Mounted into
a container, it works in any distribution and in an empty image, and leaves nothing behind in what is
committed afterwards.
"""

TAIL = r""".SH EXIT STATUS
.TP
.B 0
done
.TP
.B 1
what was checked is not in order
.TP
.B 2
the command line or an input file is wrong
.TP
.B 3
a step of a recipe failed; its log is shown by
.B bundle log
.TP
.B 4
the machine lacks something: a tool, a network, a daemon, room on a disk
.TP
.B 130
interrupted
.SH ENVIRONMENT
.TP
.B BUNDLE_CACHE
cache directory; the default is
.IR $XDG_CACHE_HOME/bundle ,
or
.I ~/.cache/bundle
.TP
.B BUNDLE_TOOLCHAIN
toolchain to build with where
.B \-\-toolchain
is not given
.TP
.B BUNDLE_OFFLINE
if set, nothing is fetched
.TP
.BR HTTPS_PROXY ", " HTTP_PROXY ", " NO_PROXY ", " REQUESTS_CA_BUNDLE ", " SSL_CERT_FILE
as usual
.TP
.BR NO_COLOR ", " FORCE_COLOR
as usual
.SH FILES
.TP
.I recipes/NAME/recipe.toml
one piece of software
.TP
.I images/NAME.toml
one bundle
.TP
.I toolchain/NAME.toml
one toolchain
"""


def escape(text: str) -> str:
    """Text as roff takes it: backslashes and hyphens literal, no line that begins with a control."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").split("\n")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in lines)


def invocation(action: argparse.Action) -> str:
    """How an option is written; argparse's own form of it depends on Python's version."""
    if action.metavar is not None:
        value = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    elif action.choices is not None:
        value = "{" + ",".join(str(choice) for choice in action.choices) + "}"
    else:
        value = action.dest.upper() if action.option_strings else action.dest
    if not action.option_strings:
        return value
    takes = "" if action.nargs == 0 else f" {value}"
    return ", ".join(action.option_strings) + takes


def options(parser: argparse.ArgumentParser) -> str:
    lines: list[str] = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help is argparse.SUPPRESS:
            continue
        name = invocation(action)
        text = (action.help or "") % {**vars(action), "prog": parser.prog}
        lines += [".TP", f".B {escape(name)}", escape(text)]
    return "\n".join(lines)


def verb(name: str) -> str:
    parser = parser_of(name)
    parts = [f".SS {escape(name)}", escape((parser.description or "").rstrip("\n")), options(parser)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, inner in action.choices.items():
                parts += [".PP", f".B {escape(name)} {escape(word)}", options(inner)]
    if parser.epilog:
        parts += [".PP", ".EX", escape(parser.epilog.rstrip("\n")), ".EE"]
    return "\n".join(part for part in parts if part)


def manual() -> str:
    modules = {name: load_verb(name) for name in verb_names()}
    parts = [HEAD.format(version=bundler.__version__).rstrip("\n")]
    for group, title in GROUPS.items():
        members = [name for name in modules if group == modules[name].GROUP]
        if members:
            parts += [f".SH {title.upper()}", *(verb(name) for name in members)]
    return "\n".join([*parts, TAIL])


def main() -> int:
    text = manual()
    if sys.argv[1:] == ["--check"]:
        same = MANUAL.is_file() and MANUAL.read_text() == text
        print(f"{MANUAL.name} is {'up to date' if same else 'out of date: run python tools/manual.py'}")
        return 0 if same else 1
    MANUAL.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
