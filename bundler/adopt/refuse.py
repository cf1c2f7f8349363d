"""What stands against an adoption, in words.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bundler.adopt.needs import Library, Needs
from bundler.debian_index import VersionKey
from bundler.errors import BundleError, InputError, raise_all
from bundler.plan import RUNTIME
from bundler.target import Architecture


def refuse(needs: Needs, architecture: Architecture, requires: Sequence[str]) -> None:
    """Raise what stands against the adoption, all at once."""
    problems: list[BundleError] = []
    for path, facts in needs.objects.items():
        if facts.machine != architecture.elf_machine or facts.elf_class != architecture.elf_class:
            problems.append(
                InputError(
                    f"is for another machine (ELF machine {facts.machine}), not {architecture.name}",
                    where=path,
                    hint="leave it out: --drop GLOB",
                )
            )
        elif facts.interpreter and "ld-musl" in facts.interpreter:
            problems.append(
                InputError(
                    "is linked to musl, and the runtime is glibc",
                    where=path,
                    why=f"its interpreter is {facts.interpreter}",
                    hint="adopt the build for glibc",
                )
            )
    for unmet in needs.unmet:
        library = unmet.library
        has = _highest(library, unmet.versions[0])
        problems.append(
            InputError(
                f"needs {', '.join(unmet.versions)} of {unmet.name}",
                where=unmet.needed_by,
                why=f"{library.path}, of the bundle {library.bundle!r}, defines {has}",
                hint="adopt an older build, or build it from source"
                if library.bundle == RUNTIME
                else f"do without --with {library.bundle}",
            )
        )
    bundles = ", ".join(map(repr, dict.fromkeys((RUNTIME, *requires))))
    for missing in needs.missing:
        problems.append(
            InputError(
                f"needs {missing.name}, which is neither in the source nor in {bundles}",
                where=missing.needed_by,
                hint="--with BUNDLE names one that has it; --drop GLOB leaves out what needs it",
            )
        )
    for name, one, other in needs.clashes:
        problems.append(InputError(f"{name} means two files: {one} and {other}", hint="adopt them apart"))
    raise_all(problems)


def _highest(library: Library, like: str) -> str:
    family = like.partition("_")[0] + "_"
    same = [
        version
        for version in library.versions
        if version.startswith(family) and version[len(family) :][:1].isdigit()
    ]
    return f"versions up to {max(same, key=VersionKey)}" if same else f"no versions {family}…"
