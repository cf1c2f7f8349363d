"""Carries out, in an installed tree, what ``relocate.py`` decides.

The tree is a build's own and not yet seen by anyone, so files are changed in place; a build that is
killed here is thrown away whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bundler import relocate
from bundler.errors import InputError
from bundler.globs import matches
from bundler.recipe import BinaryEdit
from bundler.relocate import Context
from bundler.tree import DirectoryTree, FileTree, UnionTree

if TYPE_CHECKING:
    from bundler.closure.files import Files
    from bundler.elf.edits import Edits
    from bundler.elf.read import ElfFile


@dataclass(frozen=True, slots=True)
class Place:
    """A prefix that the build installed into, with what relocation knows there."""

    prefix: str
    context: Context


@dataclass(frozen=True, slots=True)
class Relocated:
    """How many files were looked at and changed; ``leaks`` are paths that still name the build."""

    elf_files: int
    elf_changed: int
    texts_changed: int
    links_changed: int
    leaks: tuple[str, ...]


def relocate_tree(
    root: Path,
    places: Sequence[Place],
    *,
    edits: Sequence[BinaryEdit] = (),
    bundles: Mapping[str, str] | None = None,
    deps_root: str = "/.deps",
    dependencies: FileTree,
    core: bool = False,
) -> Relocated:
    """Relocate the files below ``root`` (DESTDIR), prefix by prefix.

    ``edits`` are the recipe's edits inside binaries, ``bundles`` the prefixes that they may name;
    ``dependencies`` shows the files of what the recipe links to; ``core`` says that a C library is
    among the files.  Raises InputError for an edit that does not fit and for files that are no sound ELF.
    """
    from bundler.closure.files import Files
    from bundler.elf.patch import patch_files

    texts = links = 0
    suspects: list[tuple[Path, str, bool]] = []
    elves: list[tuple[Path, Place, ElfFile]] = []
    _edit_binaries([root / place.prefix.lstrip("/") for place in places], edits, deps_root, bundles or {})
    for place in places:
        top = root / place.prefix.lstrip("/")
        for file in _files(top):
            path = place.prefix + file[len(os.fspath(top)) :]
            if os.path.islink(file):
                links += _relocate_link(file, path, place.context)
                continue
            data, elf = _read(file)
            if elf is not None:
                elves.append((Path(file), place, elf))
            elif len(data) <= relocate.TEXT_LIMIT:
                changed = relocate.relocate_text(data, place.context)
                if changed != data:
                    Path(file).write_bytes(changed)
                    data, texts = changed, texts + 1
            if _names_build(data):
                suspects.append((Path(file), path, elf is not None))
    everything = Files(UnionTree([DirectoryTree(root), dependencies]))
    wanted = [(file, _edits(file, place, elf, everything, root, core)) for file, place, elf in elves]
    results = patch_files([(file, found) for file, found in wanted if found is not None], in_place=True)
    # Patching takes a run path of the build out, so ELF files are judged by what they are now.
    leaks = [path for file, path, patched in suspects if not patched or _names_build(file.read_bytes())]
    return Relocated(
        elf_files=len(elves),
        elf_changed=sum(result.changed for result in results),
        texts_changed=texts,
        links_changed=links,
        leaks=tuple(leaks),
    )


def _names_build(data: bytes) -> bool:
    return relocate.DESTINATION.encode() in data or relocate.SOURCE.encode() in data


def _files(top: Path) -> Iterator[str]:
    """Every file and symbolic link below ``top``, in byte order, as the host names it."""
    pending = [os.fspath(top)] if top.is_dir() else []
    while pending:
        with os.scandir(pending.pop()) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif entry.is_symlink() or entry.is_file(follow_symlinks=False):
                yield entry.path


def _read(file: str) -> tuple[bytes, ElfFile | None]:
    """A file's bytes, and its facts if it is an ELF file that a loader or a kernel takes."""
    from bundler.elf.read import is_elf, read_file

    data = Path(file).read_bytes()
    return data, read_file(file) if is_elf(data[:64]) else None


def _relocate_link(file: str, path: str, context: Context) -> int:
    target = os.readlink(file)
    changed = relocate.relocate_link(path, target, context)
    if changed == target:
        return 0
    os.unlink(file)
    os.symlink(changed, file)
    return 1


def _edits(file: Path, place: Place, elf: ElfFile, files: Files, root: Path, core: bool) -> Edits | None:
    from bundler.closure.loader import resolve_needed

    needed: Mapping[str, str] = {}
    if elf.is_dynamic and elf.needed:
        path = "/" + os.fspath(file.relative_to(root))
        found = resolve_needed(files, path, elf, search=place.context.rpath)
        # The loader is in the process before it reads a name: PT_INTERP alone says where it is.
        own = os.path.basename(place.context.loader)
        needed = {name: target for name, target in found if name != own}
    return relocate.elf_edits(elf, file.name, place.context, needed, core=core)


def _edit_binaries(
    tops: Sequence[Path], edits: Sequence[BinaryEdit], deps_root: str, bundles: Mapping[str, str]
) -> None:
    """Apply each edit to the files that its glob names, relative to the prefix where they are."""
    for edit in edits:
        old = relocate.expand(edit.old, deps_root, bundles)
        new = relocate.expand(edit.new, deps_root, bundles)
        edited: set[str] = set()
        for top in tops:
            for file in _files(top):
                path = file[len(os.fspath(top)) + 1 :]
                if matches(path, edit.files) and not os.path.islink(file):
                    data = Path(file).read_bytes()
                    Path(file).write_bytes(relocate.edit_binary(data, old, new, edit.count, path, edit.pad))
                    edited.update(glob for glob in edit.files if matches(path, (glob,)))
        for glob in edit.files:
            if glob not in edited:
                raise InputError(
                    f"[[edit]] names {glob!r}, which the recipe does not install",
                    why="an edit that does nothing in silence would leave a path of the host behind",
                )


def command_table(prefixes: Sequence[str], trees: FileTree) -> dict[str, str]:
    """Names of commands in the ``bin`` directories of ``prefixes``, the first one winning."""
    commands: dict[str, str] = {}
    for prefix in prefixes:
        for name in trees.names(f"{prefix.lstrip('/')}/bin"):
            commands.setdefault(name, f"{prefix}/bin/{name}")
    return commands
