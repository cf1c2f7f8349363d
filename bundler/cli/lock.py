"""``bundle lock``: pin what toolchains and the build root take from Debian, and recipes from PyPI."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler import digest
from bundler.cli import common
from bundler.errors import BundleError, ExitCode, InputError
from bundler.lock_file import format_lock, read_lock
from bundler.recipe import Lock
from bundler.settings import Settings
from bundler.toml import Table, did_you_mean, load

NAME = "lock"
GROUP = "tools"
SUMMARY = "pin packages of toolchains and build roots, and wheels of recipes, to what is newest"
EPILOG = """\
The indexes come through the machine's apt, with its mirrors and proxies, into lists of their own; their
signature is checked against the archive's keyring.

examples:
  bundle lock                       refresh every lock file, and show what changed
  bundle lock --check seed          say whether seed.lock is as the archive has it, and write nothing
  bundle lock ansible               the wheels that the recipe's requirements come to, by pip
  bundle lock --sources rsync bash  print the files of source packages, as a recipe's [[source]] wants them
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a lock file is to pin: ``packages``, with all that they depend on where ``closed``."""

    lock: Path
    suite: str
    packages: tuple[str, ...]
    without: tuple[str, ...] = ()
    closed: bool = False


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        help="toolchain, build root, or recipe with wheels (default: all but recipes)",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if a lock would change"
    )
    parser.add_argument("--sources", action="store_true", help="NAMEs are source packages: print their files")
    parser.add_argument(
        "--suite", metavar="SUITE", help="with --sources: the suite to look in (default: the seed's)"
    )
    common.add_format(parser)
    common.add_inputs(parser)


def run(arguments: argparse.Namespace) -> int:
    settings = common.settings(arguments)
    if arguments.sources:
        suite = arguments.suite or wanted(settings.toolchains / "seed.toml").suite
        _print_sources(settings, suite, arguments.names, arguments.format)
        return ExitCode.DONE
    recipes = {name: file for name in arguments.names if (file := _with_wheels(settings, name))}
    names = [name for name in arguments.names if name not in recipes]
    files = _files(settings.toolchains, names) if names or not recipes else []
    write = not arguments.check
    changed = [file for file in files if _refresh(settings, wanted(file), write=write)]
    changed += [file for file in recipes.values() if _refresh_wheels(settings, file, write=write)]
    return ExitCode.NOT_IN_ORDER if changed and arguments.check else ExitCode.DONE


def _with_wheels(settings: Settings, name: str) -> Path | None:
    """The file of a recipe of this name that asks for wheels."""
    files = (directory / name / "recipe.toml" for directory in settings.recipes)
    file = next((file for file in files if "/" not in name and file.is_file()), None)
    return file if file and "wheels" in load(file).data else None


def _refresh_wheels(settings: Settings, file: Path, *, write: bool) -> bool:
    """The same as :func:`_refresh` for the wheels of a recipe, for the Python that it depends on."""
    from bundler.catalogue import Catalogue
    from bundler.pypi import resolve
    from bundler.recipe_file import REQUIREMENT
    from bundler.wheel_lock import FILE, format_wheel_lock, read_wheel_lock

    requirements = Table(load(file)).words("wheels", form=REQUIREMENT)
    python = Catalogue(
        recipes=settings.recipes, images=settings.images, toolchains=settings.toolchains
    ).recipe("python")
    found = resolve(requirements, python.version, settings.target.architecture)
    lock = file.with_name(FILE)
    try:
        before = {wheel.project: wheel for wheel in read_wheel_lock(lock, file.parent.name)}
    except BundleError:
        before = {}
    after = {wheel.project: wheel for wheel in found}
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    for name in names:
        old, new = (table[name].version if name in table else "none" for table in (before, after))
        print(f"{file.parent.name}: {name} {old} → {new}")
    if names and write:
        common.write_text(lock, format_wheel_lock(found))
    state = f"{len(names)} changes" if names else "nothing changed"
    print(f"{file.parent.name}: {len(found)} wheels; {state}", file=sys.stderr)
    return bool(names)


def _files(directory: Path, names: Sequence[str]) -> list[Path]:
    """The files that name a suite, or those of the given names; raises InputError."""
    if not names:
        return [file for file in sorted(directory.glob("*.toml")) if "suite" in load(file).data]
    known = [file.stem for file in directory.glob("*.toml")]
    for name in names:
        if name not in known:
            raise InputError(f"there is no toolchain or build root {name!r}", hint=did_you_mean(name, known))
    return [directory / f"{name}.toml" for name in names]


def wanted(file: Path) -> Wanted:
    """What the lock beside a toolchain's or a build root's file is to hold; raises InputError."""
    from bundler.recipe_file import NAME as NAME_FORM
    from bundler.recipe_file import PACKAGE, read_recipe

    table = Table(load(file))
    suite = table.text("suite", form=NAME_FORM)
    packages, without = (table.words(key, form=PACKAGE) for key in ("packages", "without"))
    recipes = table.words("recipes", form=NAME_FORM)
    table.all_keys()
    table.finish()
    for name in recipes:
        packages += read_recipe(file.with_suffix("") / name / "recipe.toml").packages
    return Wanted(file.with_suffix(".lock"), suite, packages, without, closed=not recipes)


def _refresh(settings: Settings, wanted: Wanted, *, write: bool) -> bool:
    """Whether the lock is another one now; says on standard output what changed."""
    from bundler.debian import open_archive, refresh

    architecture = settings.target.architecture
    archive = open_archive(wanted.suite, architecture, settings.cache / "debian" / wanted.suite)
    lock = refresh(archive, architecture, wanted.packages, without=wanted.without, close_over=wanted.closed)
    try:
        before = read_lock(wanted.lock).packages
    except BundleError:
        before = ()
    lines = list(changes(Lock(wanted.suite, "", before), lock))
    for line in lines:
        print(f"{wanted.lock.name}: {line}")
    if lines and write:
        common.write_text(wanted.lock, format_lock(lock))
    count, size = len(lock.packages), sum(package.size for package in lock.packages)
    state = f"{len(lines)} changes" if lines else "nothing changed"
    print(f"{wanted.lock.name}: {count} packages, {size / 1e6:.1f} MB; {state}", file=sys.stderr)
    return bool(lines)


def changes(before: Lock, after: Lock) -> Iterator[str]:
    """One line for each package that came, went, or is another one now."""
    old, new = ({package.name: package for package in lock.packages} for lock in (before, after))
    for name in sorted(old.keys() | new.keys()):
        match old.get(name), new.get(name):
            case None, package if package is not None:
                yield f"+ {name} {package.version}"
            case package, None if package is not None:
                yield f"- {name} {package.version}"
            case was, now if was is not None and now is not None and was != now:
                same = was.version == now.version
                yield f"{name} {was.version} → {now.version}" + (" (another file)" if same else "")


def _print_sources(settings: Settings, suite: str, names: Sequence[str], form: str) -> None:
    from bundler.debian import open_archive

    if not names:
        raise InputError("--sources needs the names of source packages")
    archive = open_archive(suite, settings.target.architecture, settings.cache / "debian" / suite)
    found = archive.sources(names)
    for name in names:
        if name not in found:
            raise InputError(f"{suite} has no source package {name!r}", hint="apt-cache showsrc knows them")
    if form == "json":
        records = [
            {
                "name": package.name,
                "version": package.version,
                "homepage": package.homepage,
                "files": [
                    {"url": f"debian:{file.path}", "sha256": digest.hex_of(file.digest), "size": file.size}
                    for file in package.files
                ],
            }
            for package in (found[name] for name in names)
        ]
        print(json.dumps(records, indent=1))
        return
    for name in names:
        print(f"# {name} {found[name].version}  {found[name].homepage}")
        for file in found[name].files:
            print(f'urls = ["debian:{file.path}"]\nsha256 = "{digest.hex_of(file.digest)}"')
