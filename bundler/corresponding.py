"""The corresponding source of bundles: all that made them, in one directory, as licences ask for.

For each recipe: the files that it fetches, under their names, its recipe file and patches, and the scripts
that were run.  For a binary package of the toolchain: Debian's source package of that very version.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.debian import Archive
from bundler.debian_index import SourcePackage
from bundler.digest import digest_file, hex_of
from bundler.errors import BundleError, EnvironmentLacks, raise_all
from bundler.fetch import Fetcher
from bundler.recipe import LockedPackage, Recipe, Source
from bundler.store import write_file
from bundler.target import Architecture

INDEX = "SHA256SUMS"
"""Lists every file, as sha256sum(1) checks them."""


@dataclass(frozen=True, slots=True)
class Part:
    """What belongs to one recipe: sources with the names that they get, below ``directory``."""

    directory: str
    recipe: Recipe
    files: tuple[tuple[str, Source], ...]


def source_packages(
    packages: Sequence[LockedPackage], archive: Archive, architecture: Architecture
) -> dict[LockedPackage, SourcePackage]:
    """The source package of each binary package.

    Raises EnvironmentLacks, all at once, where the archive has gone on to another version.
    """
    index = archive.packages(architecture)
    wanted: dict[str, tuple[str, str | None]] = {}
    for package in packages:
        fields: Mapping[str, str] = index.stanza(package.name) or {}
        name, _, version = fields.get("Source", package.name).partition(" ")
        # Where the archive has another binary by now, its source is another, too.
        is_same = fields.get("Version") == package.version
        wanted[package.name] = (name, (version.strip("()") or package.version) if is_same else None)
    found = archive.sources(sorted({name for name, _ in wanted.values()}))
    problems: list[BundleError] = [
        EnvironmentLacks(
            f"the source of {package.name} {package.version} is not in {archive.suite} any more",
            why=f"it has {found[name].version} of {name}" if name in found else f"it has no source {name!r}",
            hint="run 'bundle lock', build again, and collect then",
        )
        for package in packages
        for name, version in [wanted[package.name]]
        if name not in found or found[name].version != version
    ]
    raise_all(problems)
    return {package: found[wanted[package.name][0]] for package in packages}


def part_of(
    recipe: Recipe, packages: Iterable[LockedPackage], known: Mapping[LockedPackage, SourcePackage]
) -> Part:
    """The files of one recipe, which takes ``packages``; ``known`` has the source of each of them."""
    files = [(source.file_name, source) for source in recipe.sources]
    for source_package in dict.fromkeys(known[package] for package in packages):
        for file in source_package.files:
            source = Source((f"debian:{file.path}",), file.digest, unpack="none")
            files.append((source.file_name, source))
    return Part(f"{recipe.name}-{recipe.version}", recipe, tuple(_distinct(files)))


def _distinct(files: Sequence[tuple[str, Source]]) -> list[tuple[str, Source]]:
    """Every file once, and names that two files would have told apart by their digest."""
    found: dict[str, Source] = {}
    for name, source in files:
        if name in found and found[name].digest != source.digest:
            name = f"{hex_of(source.digest)[:12]}-{name}"
        found[name] = source
    return list(found.items())


def collect(parts: Sequence[Part], fetcher: Fetcher, out: Path) -> list[Path]:
    """Write the parts below ``out``, a new directory; returns the files, relative, in order.

    Raises as the fetcher does, and EnvironmentLacks where ``out`` cannot be written.
    """
    sources = [source for part in parts for _, source in part.files]
    fetched = dict(zip(sources, fetcher.fetch_all(sources), strict=True))
    scratch = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        scratch.mkdir(parents=True)
        for part in parts:
            _write(part, fetched, scratch / part.directory)
        files = sorted(path for path in scratch.rglob("*") if path.is_file() and not path.is_symlink())
        lines = [f"{hex_of(digest_file(file))}  {file.relative_to(scratch)}\n" for file in files]
        write_file(scratch / INDEX, "".join(lines).encode("utf-8", "surrogateescape"))
        scratch.rename(out)
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise EnvironmentLacks("cannot be written", where=str(out), why=why) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [*(file.relative_to(scratch) for file in files), Path(INDEX)]


def _write(part: Part, fetched: Mapping[Source, Path], directory: Path) -> None:
    directory.mkdir(parents=True)
    for file in (part.recipe.path, *part.recipe.patches):
        shutil.copyfile(file, directory / file.name)
    for name, source in part.files:
        if fetched[source].is_dir():
            shutil.copytree(fetched[source], directory / name, symlinks=True)
        else:
            shutil.copyfile(fetched[source], directory / name)
    if part.recipe.steps:
        (directory / "steps").mkdir()
    for number, step in enumerate(part.recipe.steps, 1):
        (directory / "steps" / f"{number}-{step.name}.sh").write_text(step.script)
