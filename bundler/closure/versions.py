"""Symbol versions as glibc checks them when all objects are loaded (``elf/dl-version.c``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bundler.closure.loaded import Loaded, Problem
from bundler.elf.read import ElfFile, VersionNeed

RELR_VERSION = "GLIBC_ABI_DT_RELR"


def check_versions(
    objects: Sequence[Loaded], named: Mapping[str, int], problems: list[Problem], memo: dict[object, object]
) -> None:
    """Add a problem for each version that an object needs and that what is loaded does not define.

    ``named`` finds objects by the names that they were loaded by; ``memo`` keeps the outcome for pairs of
    files, which most programs of a tree share.
    """
    missing = {problem.subject for problem in problems if problem.rule == "needed-missing"}
    for index, item in enumerate(objects):
        for position, need in enumerate(item.elf.version_needs):
            target = named.get(need.file)
            if target is None:
                if need.file in missing:
                    continue
                message = f"versions of {need.file} are needed, and nothing was loaded by that name"
                problems.append(Problem(index, "version-unloaded", need.file, message))
                continue
            key = (item.path, position, objects[target].path)
            found = memo.get(key)
            if found is None:
                found = memo[key] = _compare(need, objects[target], memo)
            assert isinstance(found, tuple)
            problems.extend(Problem(index, rule, need.file, message) for rule, message in found)
        if _lacks_relr(item.elf):
            message = f"DT_RELR without {RELR_VERSION} among the version needs"
            problems.append(Problem(index, "version-relr", "libc.so", message))


def _lacks_relr(facts: ElfFile) -> bool:
    """glibc looks at the names as they are: a libc that is needed by its path is not asked about."""
    return (
        facts.has_relr
        and bool(facts.version_needs)
        and any(name.startswith("libc.so.") for name in facts.needed)
        and not any(v.name == RELR_VERSION for need in facts.version_needs for v in need.versions)
    )


def _compare(need: VersionNeed, library: Loaded, memo: dict[object, object]) -> tuple[tuple[str, str], ...]:
    if not library.elf.version_definitions:
        return (
            ("version-unknown", f"{library.name} has no versions, and {need.versions[0].name} is needed"),
        )
    defined = memo.get(library.path)
    if defined is None:
        defined = memo[library.path] = {(v.hash, v.name) for v in library.elf.version_definitions}
    assert isinstance(defined, set)
    return tuple(
        (
            "version-weak" if version.weak else "version-missing",
            f"{version.name} is needed of {need.file}, and {library.name} does not define it",
        )
        for version in need.versions
        if (version.hash, version.name) not in defined
    )


def highest_versions(files: Sequence[ElfFile]) -> dict[str, str]:
    """The highest needed version of each family, by dotted number: what a libc must at least offer.

    Versions that are not a name and a dotted number (``GLIBC_PRIVATE``, ``GLIBC_ABI_DT_RELR``) are left
    out.
    """
    highest: dict[str, tuple[int, ...]] = {}
    for facts in files:
        for need in facts.version_needs:
            for version in need.versions:
                family, _, number = version.name.rpartition("_")
                try:
                    key = tuple(int(part) for part in number.split("."))
                except ValueError:
                    continue
                if family in FAMILIES and key > highest.get(family, ()):
                    highest[family] = key
    return {name: f"{name}_{'.'.join(map(str, key))}" for name, key in sorted(highest.items())}


FAMILIES = frozenset({"GLIBC", "GLIBCXX", "CXXABI", "GCC"})
