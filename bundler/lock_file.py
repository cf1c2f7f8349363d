"""Lock files, ``toolchain/*.lock``: JSON with one package a line, so that a refresh is a readable diff."""

from __future__ import annotations

import json
from pathlib import Path

from bundler import digest
from bundler.errors import BundleError, InputError
from bundler.recipe import Lock, LockedPackage
from bundler.tree import check_path

HINT = "'bundle lock' writes this file"


def read_lock(file: Path) -> Lock:
    """Raises InputError where the file is missing or no lock."""
    try:
        return parse_lock(file.read_text("utf-8"), where=str(file))
    except FileNotFoundError as error:
        raise InputError("the lock file is missing", where=str(file), hint=HINT) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("cannot read the lock file", where=str(file), why=str(error), hint=HINT) from error


def parse_lock(text: str, *, where: str | None = None) -> Lock:
    """The inverse of :func:`format_lock`; raises InputError for any other text."""
    try:
        record = json.loads(text)
        packages = tuple(
            LockedPackage(
                name=_text(package["name"]),
                version=_text(package["version"]),
                architecture=_text(package["architecture"]),
                path=check_path(_text(package["path"])),
                digest=digest.from_hex(_text(package["sha256"])),
                size=int(package["size"]),
            )
            for package in record["packages"]
        )
        return Lock(_text(record["suite"]), _text(record["date"]), packages)
    except (ValueError, KeyError, TypeError, BundleError) as error:
        raise InputError("not a lock file", where=where, why=str(error), hint=HINT) from error


def format_lock(lock: Lock) -> str:
    """The text of a lock file, packages sorted by name."""
    lines = [
        json.dumps(
            {
                "name": package.name,
                "version": package.version,
                "architecture": package.architecture,
                "path": package.path,
                "sha256": digest.hex_of(package.digest),
                "size": package.size,
            }
        )
        for package in sorted(lock.packages, key=lambda package: package.name)
    ]
    head = f'{{\n"suite": {json.dumps(lock.suite)},\n"date": {json.dumps(lock.date)},\n"packages": [\n'
    return head + ",\n".join(lines) + "\n]\n}\n"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, not {value!r}")
    return value
