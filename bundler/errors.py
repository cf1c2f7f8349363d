"""One family of errors, one exit code per kind.

The library raises; only the command line prints and exits.  A message says what happened, ``where``
says in which file, ``why`` gives the cause and ``hint`` what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of ``bundle``; the man page lists the same table."""

    DONE = 0
    NOT_IN_ORDER = 1
    """The thing that was checked is not in order (verify, diff, doctor)."""
    USAGE = 2
    """The command line or an input file is wrong."""
    BUILD_FAILED = 3
    ENVIRONMENT = 4
    """The machine lacks something: a tool, a network, a daemon, disk space."""
    INTERRUPTED = 130


class BundleError(Exception):
    """Base of all errors that a user may see.

    ``where`` is a path, or ``path:line:column``; ``detail`` is preformatted text (a source line with a
    caret, the end of a log) that is printed between the message and the hint.  ``at`` is the way to a key
    or to a word in the TOML file that ``where`` names (``("depends", "zlib")``), for who can show its line.
    """

    exit_code: ExitCode = ExitCode.USAGE

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        why: str | None = None,
        hint: str | None = None,
        detail: str | None = None,
        at: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.why = why
        self.hint = hint
        self.detail = detail
        self.at = at

    def __str__(self) -> str:
        lines = [f"{self.where}: error: {self.message}" if self.where else f"error: {self.message}"]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.detail:
            lines.append(self.detail)
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class InputError(BundleError):
    """A file, an archive, an image or an argument is not what it must be."""

    exit_code = ExitCode.USAGE


class CheckError(BundleError):
    """A check found the thing that it looked at wanting."""

    exit_code = ExitCode.NOT_IN_ORDER


class BuildError(BundleError):
    """A step of a recipe failed."""

    exit_code = ExitCode.BUILD_FAILED


class EnvironmentLacks(BundleError):
    """The machine lacks a tool, a service, a network, or room."""

    exit_code = ExitCode.ENVIRONMENT


class Problems(BundleError):
    """Several errors of one file or one run, reported at once, in the order found."""

    def __init__(self, problems: Sequence[BundleError]) -> None:
        if not problems:
            raise ValueError("Problems needs at least one problem")
        super().__init__(f"{len(problems)} problems")
        self.problems = tuple(problems)
        self.exit_code = max(problem.exit_code for problem in problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def raise_all(problems: Sequence[BundleError]) -> None:
    """Raise the problems, if there are any: one as itself, several as :class:`Problems`."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise Problems(problems)
