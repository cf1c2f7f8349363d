"""Build styles: named steps with defaults, as data in ``styles/*.toml``.

A recipe gives further words for a step's command (its ``"$@"``), replaces a step, or adds one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bundler.errors import InputError
from bundler.recipe import Step
from bundler.toml import Table, load

STYLES = Path(__file__).parent / "styles"

_VARIABLE = re.compile(r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})")
_SPECIAL = re.compile(r'[\\"`$]')


@dataclass(frozen=True, slots=True)
class Style:
    """``steps`` in order; ``directory`` is where they run, below the source directory.

    ``arguments`` maps a step to the keys of ``[build]`` whose words it takes.
    """

    steps: tuple[Step, ...] = ()
    directory: str = "."
    arguments: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of ``[build]`` that give words."""
        return tuple(dict.fromkeys(key for keys in self.arguments.values() for key in keys))


@dataclass(frozen=True, slots=True)
class Change:
    """A recipe's own step: it replaces the step of its name, or is added ``before`` or ``after`` one."""

    step: Step
    before: str | None = None
    after: str | None = None


def style_names() -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in STYLES.glob("*.toml")))


@cache
def read_style(name: str) -> Style:
    """A style by its name; raises InputError where its file is wrong."""
    table = Table(load(STYLES / f"{name}.toml"))
    directory = table.text("directory", default=".")
    steps = tuple(Step(item.text("name"), item.text("run").strip("\n")) for item in table.tables("step"))
    arguments: dict[str, tuple[str, ...]] = {step.name: (step.name,) for step in steps}
    if (given := table.table("arguments")) is not None:
        arguments |= {key: given.words(key) for key in given.all_keys()}
    table.finish()
    return Style(steps, directory, arguments)


def arrange(style: Style, changes: Sequence[Change]) -> tuple[Step, ...]:
    """The style's steps with the changes made in their order.

    Raises InputError, its ``where`` empty, for a step that is not there, or there already.
    """
    steps = list(style.steps)
    for change in changes:
        name = change.step.name
        at = _index(steps, name)
        anchor = change.before or change.after
        if anchor is not None:
            if at is not None:
                raise InputError(
                    f"there already is a step {name!r}", hint="leave 'before' and 'after' out to replace it"
                )
            place = _index(steps, anchor)
            if place is None:
                raise InputError(
                    f"there is no step {anchor!r} to add {name!r} to", hint="the steps are " + _names(steps)
                )
            steps.insert(place if change.before else place + 1, change.step)
        elif at is not None:
            steps[at] = change.step
        elif style.steps:
            raise InputError(
                f"the style has no step {name!r} to replace",
                hint=f"its steps are {_names(steps)}; say 'before' or 'after' to add one",
            )
        else:
            steps.append(change.step)
    return tuple(steps)


def _index(steps: Sequence[Step], name: str) -> int | None:
    return next((index for index, step in enumerate(steps) if step.name == name), None)


def _names(steps: Sequence[Step]) -> str:
    return ", ".join(step.name for step in steps) or "none"


def complete(step: Step, directory: str, words: Sequence[str]) -> Step:
    """The step as it is run: in its directory, ``$SRC`` the way back to the source, its words in ``$@``."""
    lines = []
    if directory == ".":
        lines.append("SRC=.")
    else:
        lines += [
            f"mkdir -p {directory}",
            f"cd {directory}",
            "SRC=" + "/".join([".."] * len(directory.split("/"))),
        ]
    if words:
        lines.append("set -- " + " ".join(quote(word) for word in words))
    return Step(step.name, "\n".join([*lines, step.script.strip("\n"), ""]))


def quote(word: str) -> str:
    """``word`` in double quotes for the shell: ``$NAME`` and ``${NAME}`` expand, nothing else is special."""
    parts, at = [], 0
    for variable in _VARIABLE.finditer(word):
        parts += [_SPECIAL.sub(r"\\\g<0>", word[at : variable.start()]), variable[0]]
        at = variable.end()
    return '"' + "".join(parts) + _SPECIAL.sub(r"\\\g<0>", word[at:]) + '"'
