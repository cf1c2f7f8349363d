"""``recipes/<name>/wheels.lock``: the Python wheels that a recipe's requirements come to, pinned.

JSON with one wheel a line, so that a refresh is a readable diff.  Each wheel is a source of the recipe,
unpacked into a directory of its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler import digest
from bundler.digest import Digest
from bundler.errors import BundleError, InputError
from bundler.recipe import Source

FILE = "wheels.lock"

_WHEEL = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._]*[A-Za-z0-9])?-[A-Za-z0-9._!+]+(?:-[A-Za-z0-9._]+){3,4}\.whl"
)
"""NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl (packaging.python.org, "Binary distribution format")."""


def normalized(project: str) -> str:
    """A project's name as indexes have it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", project).lower()


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of the Python package index: its file's name tells project and version."""

    file: str
    digest: Digest

    @property
    def project(self) -> str:
        return normalized(self.file.partition("-")[0])

    @property
    def version(self) -> str:
        return self.file.split("-")[1]

    def source(self) -> Source:
        return Source(
            (f"pypi:{self.project}/{self.file}",), self.digest, directory=f"wheels/{self.project}", strip=0
        )


def read_wheel_lock(file: Path, recipe: str) -> tuple[Wheel, ...]:
    """Raises InputError where the file is missing or no lock; ``recipe`` is whose it is."""
    hint = f"'bundle lock {recipe}' writes this file"
    try:
        return parse_wheel_lock(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise InputError("the lock file of the wheels is missing", where=str(file), hint=hint) from error
    except (OSError, ValueError, KeyError, TypeError, BundleError) as error:
        raise InputError("not a lock file of wheels", where=str(file), why=str(error), hint=hint) from error


def parse_wheel_lock(text: str) -> tuple[Wheel, ...]:
    """The inverse of :func:`format_wheel_lock`; raises ValueError, KeyError or TypeError for other text."""
    wheels = []
    for record in json.loads(text)["wheels"]:
        file = record["file"]
        if not isinstance(file, str) or not _WHEEL.fullmatch(file):
            raise ValueError(f"{file!r} is no wheel's name")
        wheels.append(Wheel(file, digest.from_hex(record["sha256"])))
    projects = [wheel.project for wheel in wheels]
    if twice := sorted({name for name in projects if projects.count(name) > 1}):
        raise ValueError(f"there are two wheels of {', '.join(twice)}")
    return tuple(wheels)


def format_wheel_lock(wheels: Sequence[Wheel]) -> str:
    """The text of a lock file, wheels sorted by project."""
    lines = [
        json.dumps({"file": wheel.file, "sha256": digest.hex_of(wheel.digest)})
        for wheel in sorted(wheels, key=lambda wheel: wheel.project)
    ]
    return '{\n"wheels": [\n' + ",\n".join(lines) + "\n]\n}\n"
