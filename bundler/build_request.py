"""What a build of one node is given, and the environment that follows from it.  Pure but for one look at
which directories the dependencies have."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bundler.digest import Digest
from bundler.errors import InputError
from bundler.jobserver import makeflags
from bundler.recipe import Recipe, Source
from bundler.relocate import DESTINATION, SOURCE
from bundler.sandbox import HOME, Mount
from bundler.target import Target
from bundler.tree import EPOCH

FIFO = f"{HOME}/jobserver"
SYSTEM_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """A part of what is installed: globs relative to the prefix of a bundle."""

    bundle: str
    prefix: str
    globs: tuple[str, ...] = ("**",)


@dataclass(frozen=True, slots=True)
class Dependency:
    """A tree of the store that is seen at a prefix; ``name`` says in errors what it is."""

    name: str
    prefix: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """All that decides what a build of one recipe at one prefix gives."""

    recipe: Recipe
    key: Digest
    installed_key: Digest
    """The key of what the steps install, before it is relocated."""
    prefix: str
    outputs: tuple[OutputSpec, ...]
    bundles: Mapping[str, str]
    """Prefixes of the bundles in reach, for the variables ``BUNDLE_<NAME>``."""
    dependencies: tuple[Dependency, ...]
    """Seen read-only; those of one prefix are seen as one directory."""
    search: tuple[str, ...]
    """Prefixes whose headers and libraries the compiler is told of: not the toolchain's own."""
    path_directories: tuple[str, ...]
    """First part of ``PATH``, absolute."""
    target: Target
    buildroot: Path
    sources: tuple[tuple[Source, Path], ...] = ()
    """The recipe's sources, fetched and checked."""
    packages: tuple[Path, ...] = ()
    """The recipe's packages, fetched and checked, unpacked in this order."""
    relocate: Callable[[Path], Sequence[str]] | None = None
    """Called with the install directory; returns the absolute paths of files that still name the build."""


def environment(request: BuildRequest, mounts: Sequence[Mount], jobs: int) -> dict[str, str]:
    """The environment of every step, as ``docs/architecture.md`` lists it under "Inside a build".

    Raises InputError where the recipe's own environment names a variable that is not there.
    """
    recipe = request.recipe
    source = {mount.target: mount.source for mount in mounts}

    def existing(*places: str) -> str:
        found = (
            f"{prefix}/{place}"
            for prefix in request.search
            for place in places
            if prefix in source and (source[prefix] / place).is_dir()
        )
        return ":".join(found)

    flags = f"-O2 -ffile-prefix-map={SOURCE}=."
    libraries = dict.fromkeys([*request.search, *(output.prefix for output in request.outputs)])
    values = {
        "PATH": ":".join([*request.path_directories, SYSTEM_PATH]),
        "HOME": HOME,
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(EPOCH),
        # Interpreters that order hashes by chance would order what they generate by chance.
        "PYTHONHASHSEED": "0",
        "PERL_HASH_SEED": "0",
        "NAME": recipe.name,
        "VERSION": recipe.version,
        "PREFIX": request.prefix,
        "DESTDIR": DESTINATION,
        "JOBS": str(jobs),
        "MAKEFLAGS": makeflags(FIFO),
        "TRIPLET": request.target.architecture.triplet,
        "CFLAGS": flags,
        "CXXFLAGS": flags,
        # Programs that run while the recipe is built find the libraries of what it depends on.
        "LDFLAGS": " ".join(f"-Wl,-rpath,{prefix}/lib" for prefix in libraries),
        "C_INCLUDE_PATH": existing("include"),
        "CPLUS_INCLUDE_PATH": existing("include"),
        "LIBRARY_PATH": existing("lib"),
        "PKG_CONFIG_LIBDIR": existing("lib/pkgconfig", "share/pkgconfig"),
        "ACLOCAL_PATH": existing("share/aclocal"),
        "CMAKE_PREFIX_PATH": ":".join(prefix for prefix in request.search if prefix in source),
    }
    for bundle, prefix in request.bundles.items():
        values["BUNDLE_" + re.sub(r"\W", "_", bundle).upper()] = prefix
    values |= {name: _expand(text, values, recipe, name) for name, text in recipe.environment.items()}
    # gcc takes an empty part of a search path for the working directory.
    return {name: value for name, value in values.items() if value}


def _expand(text: str, values: Mapping[str, str], recipe: Recipe, name: str) -> str:
    def value(match: re.Match[str]) -> str:
        variable = match[1] or match[2]
        if variable not in values:
            raise InputError(
                f"the environment variable {name!r} names ${variable}, which no step sees",
                where=str(recipe.path),
                hint="known: " + ", ".join(sorted(values)),
            )
        return values[variable]

    return _VARIABLE.sub(value, text)
