"""The recipes, bundles and toolchains at hand, each file parsed when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from bundler.errors import BundleError, InputError, raise_all
from bundler.recipe import Bundle, Recipe, Toolchain
from bundler.recipe_file import read_bundle, read_recipe, read_toolchain
from bundler.toml import did_you_mean

Value = TypeVar("Value")


class Files(Mapping[str, Value], Generic[Value]):
    """Values by name, in directories of which the earlier hide the later.

    ``names[name]`` raises InputError where the file is wrong, and KeyError where there is none.
    """

    def __init__(
        self,
        directories: Sequence[Path],
        file_of: Callable[[Path, str], Path],
        names_in: Callable[[Path], list[str]],
        read: Callable[[Path], Value],
    ) -> None:
        self._directories = tuple(directories)
        self._file_of = file_of
        self._names_in = names_in
        self._read = read
        self._values: dict[str, Value] = {}

    def path(self, name: str) -> Path | None:
        """The file that holds ``name``, not parsed."""
        if "/" in name or name.startswith("."):
            return None
        files = (self._file_of(directory, name) for directory in self._directories)
        return next((file for file in files if file.is_file()), None)

    def __getitem__(self, name: str) -> Value:
        if name not in self._values:
            path = self.path(name)
            if path is None:
                raise KeyError(name)
            self._values[name] = self._read(path)
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values or (isinstance(name, str) and self.path(name) is not None)

    def __iter__(self) -> Iterator[str]:
        names: set[str] = set()
        for directory in self._directories:
            if directory.is_dir():
                names.update(self._names_in(directory))
        return iter(sorted(names))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Catalogue:
    """What the given directories hold: ``recipes``, ``bundles`` and ``toolchains``, as lazy mappings."""

    def __init__(self, *, recipes: Sequence[Path], images: Sequence[Path], toolchains: Path) -> None:
        self.recipes: Files[Recipe] = Files(
            recipes, lambda d, n: d / n / "recipe.toml", _directories, read_recipe
        )
        self.bundles: Files[Bundle] = Files(images, lambda d, n: d / f"{n}.toml", _toml_files, read_bundle)
        self.toolchains: Files[Toolchain] = Files(
            [toolchains], lambda d, n: d / f"{n}.toml", _toolchain_files, read_toolchain
        )

    def recipe(self, name: str) -> Recipe:
        """A recipe by name; raises InputError for a name or a file that is wrong."""
        return _get(self.recipes, name, "recipe")

    def bundle(self, name: str) -> Bundle:
        """A bundle by name; raises InputError for a name or a file that is wrong."""
        return _get(self.bundles, name, "bundle")

    def toolchain(self, name: str) -> Toolchain:
        """A toolchain by name; raises InputError for a name or a file that is wrong."""
        return _get(self.toolchains, name, "toolchain")

    def check(self) -> None:
        """Parse every recipe and bundle and raise all their problems at once."""
        problems: list[BundleError] = []
        for files in (self.recipes, self.bundles):
            for name in files:
                try:
                    files[name]
                except BundleError as error:
                    problems.append(error)
        raise_all(problems)


def _get(files: Files[Value], name: str, what: str) -> Value:
    try:
        return files[name]
    except KeyError:
        hint = did_you_mean(name, files) or "there are " + (", ".join(files) or "none at all")
        raise InputError(f"there is no {what} {name[:80]!r}", hint=hint) from None


def _directories(directory: Path) -> list[str]:
    return [file.parent.name for file in directory.glob("*/recipe.toml")]


def _toml_files(directory: Path) -> list[str]:
    return [file.stem for file in directory.glob("*.toml")]


def _toolchain_files(directory: Path) -> list[str]:
    """Toolchains have a directory of recipes beside their file; the build root has not."""
    return [file.stem for file in directory.glob("*.toml") if file.with_suffix("").is_dir()]
