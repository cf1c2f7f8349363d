"""The key of a node: everything that decides its outcome, and in words what changed since the last one.

Keys hold the output digests of what a node sees, not their keys, so a change without effect stops where
its outcome is the same ("early cutoff", Mokhov et al., "Build systems à la carte", ICFP 2018).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bundler.digest import Digest, canonical_json, digest_bytes, digest_file
from bundler.plan import Node
from bundler.recipe import Toolchain, packages_of
from bundler.target import Target

FORMAT = 4
"""Raised whenever the same inputs are to be written into a key in another way."""

BUILDER = (
    "build*.py",
    "node_request.py",
    "installed.py",
    "unpack.py",
    "tree_writer.py",
    "sandbox/room.py",
)
"""Our own code that decides what the steps of a recipe install."""

RELOCATION = ("reloc*.py", "elf/*.py", "closure/loade*.py", "closure/paths.py")
"""Our own code that decides what becomes of that: another patcher is another input."""

_AFTERWARDS = ("relocation", "edits")
"""Inputs that count only once the steps have run."""


def key_inputs(
    node: Node,
    outputs: Mapping[str, Mapping[str, Digest]],
    patches: Mapping[Path, Digest],
    toolchain: Toolchain,
    target: Target,
) -> dict[str, Any]:
    """All that decides a node's outcome, as canonical JSON takes it.

    ``outputs`` maps the id of each seen node to its trees by prefix; ``patches`` a patch file to its
    digest.  Where a source comes from does not count, nor where the recipe file lies.
    """
    recipe = node.recipe
    return {
        "format": FORMAT,
        "builder": code_digest(BUILDER),
        "relocation": code_digest(RELOCATION),
        "architecture": target.architecture.name,
        "root": target.root,
        "name": recipe.name,
        "version": recipe.version,
        "license": recipe.license,
        "prefix": node.prefix,
        "outputs": [[o.prefix, list(o.globs), list(o.rpath)] for o in node.outputs],
        "reach": [list(pair) for pair in node.reach],
        "sources": [
            [s.digest, s.unpack, s.directory, s.strip, s.commit, s.submodules]
            + [s.member] * (s.member != "*")
            for s in recipe.sources
        ],
        "packages": [[package.name, package.digest] for package in packages_of(recipe, toolchain)],
        "patches": [[path.name, patches[path]] for path in recipe.patches],
        "steps": [[step.name, step.script] for step in recipe.steps],
        "environment": dict(recipe.environment),
        "drop": list(recipe.drop),
        "keep": list(recipe.keep),
        "edits": [
            {k: v.hex() if isinstance(v, bytes) else v for k, v in dataclasses.asdict(edit).items()}
            for edit in recipe.literals
        ],
        "license_files": list(recipe.license_files),
        "buildroot": buildroot_digest(toolchain),
        "sees": [[_name_seen(name, node), sorted(outputs[name].items())] for name in node.sees],
    }


def _name_seen(name: str, node: Node) -> str:
    """What ``node`` calls another one: of the same toolchain by the recipe alone, wherever both are built."""
    recipe, _, toolchain = name.partition("/")[2].partition("@")
    return recipe if toolchain == node.id.partition("@")[2] else f"{recipe}@{toolchain}"


@cache
def code_digest(patterns: tuple[str, ...]) -> Digest:
    """Identity of our own code: the bytes of its files, whatever the Python that runs them."""
    package = Path(__file__).parent
    files = sorted({file for pattern in patterns for file in package.glob(pattern)})
    return digest_bytes(canonical_json([[file.name, digest_file(file)] for file in files]))


def buildroot_digest(toolchain: Toolchain) -> Digest:
    """Identity of the build root: its packages, and the links that stand for maintainer scripts."""
    packages = [[package.name, package.digest] for package in toolchain.buildroot.packages]
    return digest_bytes(canonical_json([packages, [list(pair) for pair in toolchain.links]]))


def key_of(inputs: Mapping[str, Any]) -> Digest:
    """The key: SHA-256 over the canonical JSON of :func:`key_inputs`."""
    return digest_bytes(canonical_json(inputs))


def installed_key(inputs: Mapping[str, Any]) -> Digest:
    """The key of what the steps install, before it is relocated: what follows them does not count.

    A compiler takes an hour to build and a second to relocate, so another patcher builds nothing anew.
    """
    return key_of({name: value for name, value in inputs.items() if name not in _AFTERWARDS})


def difference(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> tuple[str, ...]:
    """Which inputs changed, in words, for ``bundle plan``; empty if there was nothing before."""
    if before is None:
        return ()
    # What was kept went through JSON, which knows no tuples.
    now = json.loads(json.dumps(now))
    changed: list[str] = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        if name == "sees" and isinstance(old, list) and isinstance(new, list):
            earlier = {entry[0]: entry[1] for entry in old}
            later = {entry[0]: entry[1] for entry in new}
            changed += [
                f"output of {dependency}"
                if dependency in earlier and dependency in later
                else f"dependency {dependency} {'added' if dependency in later else 'gone'}"
                for dependency in sorted({*earlier, *later})
                if earlier.get(dependency) != later.get(dependency)
            ]
        elif name == "steps" and isinstance(old, list) and isinstance(new, list):
            earlier, later = dict(old), dict(new)
            changed += [
                f"step {step}" for step in sorted({*earlier, *later}) if earlier.get(step) != later.get(step)
            ]
        elif name == "version":
            changed.append(f"version {old} → {new}")
        else:
            changed.append(name)
    return tuple(changed)
