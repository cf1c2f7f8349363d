"""Lays a build directory out: sources, patches and the steps' scripts where the steps see them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

from bundler.build_request import BuildRequest
from bundler.sandbox import HOME
from bundler.tree import EPOCH
from bundler.unpack import place, unpack_deb


def lay_out(request: BuildRequest, work: Path) -> None:
    """Put sources, patches and the steps' scripts where the steps see them.

    Every source file gets one modification time: nothing is then newer than what was generated from it,
    so a patch to `configure.ac` does not call for an automake that is not there.
    """
    source = work / "src"
    for directory in (source, work / "dest", work / "patches", work / "steps"):
        directory.mkdir()
    for package in request.packages:
        unpack_deb(package, source)
    for wanted, file in request.sources:
        place(wanted, file, source)
    for patch in request.recipe.patches:
        shutil.copyfile(patch, work / "patches" / patch.name)
    for name, script in scripts(request):
        (work / "steps" / name).write_text(script + "\n")
    _set_times(source)


def scripts(request: BuildRequest) -> list[tuple[str, str]]:
    """File names and texts of the steps, in order."""
    steps = [(step.name, step.script) for step in request.recipe.steps]
    if request.recipe.patches:
        steps.insert(0, ("patch", _patch_script(request)))
    names = [re.sub(r"[^\w.-]", "_", name) for name, _ in steps]
    return [(f"{number:02}-{name}", steps[number - 1][1]) for number, name in enumerate(names, 1)]


def _patch_script(request: BuildRequest) -> str:
    commands = [
        f"echo {shlex.quote(patch.name)}\n"
        "patch -p1 --batch --forward --no-backup-if-mismatch "
        f"-i {shlex.quote(f'{HOME}/patches/{patch.name}')}"
        for patch in request.recipe.patches
    ]
    return "\n".join([*commands, f"find . -exec touch -h -d @{EPOCH} {{}} +"])


def _set_times(directory: Path) -> None:
    """One time for all that was unpacked, links included."""
    for parent, directories, files in os.walk(directory):
        for name in (*directories, *files):
            os.utime(os.path.join(parent, name), (EPOCH, EPOCH), follow_symlinks=False)
    os.utime(directory, (EPOCH, EPOCH))
