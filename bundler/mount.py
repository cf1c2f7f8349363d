"""Mount recipes: how a runtime is told to show bundles at their prefixes, as text to paste.

Each bundle is mounted at its own prefix, never at a parent that two of them share, and read-only.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bundler.errors import InputError
from bundler.labels import NO_COMMAND, Facts, volume_labels


@dataclass(frozen=True, slots=True)
class Mounted:
    """A bundle, its image's name, and the name of its data container."""

    facts: Facts
    reference: str
    volume: str

    @property
    def prefix(self) -> str:
        return self.facts.prefix


def mount_recipe(runtime: str, bundles: Sequence[Mounted]) -> str:
    """The recipe for a runtime of :data:`RUNTIMES`, what is required first; raises InputError for others."""
    if runtime not in RUNTIMES:
        raise InputError(f"no mount recipe for {runtime!r}", hint="one of " + ", ".join(sorted(RUNTIMES)))
    return RUNTIMES[runtime](bundles)


def _create(engine: str, bundle: Mounted) -> list[str]:
    """The command that makes a data container, as `bundle volume create` does."""
    return [
        *(engine, "create", "--name", bundle.volume),
        *(f"--label={name}={value}" for name, value in volume_labels(bundle.facts).items()),
        f"--volume={bundle.volume}:{bundle.prefix}:ro",
        *("--entrypoint=", bundle.reference, NO_COMMAND),
    ]


def _run(engine: str, bundles: Sequence[Mounted]) -> str:
    words = [engine, "run", "--rm", *(f"--volumes-from={bundle.volume}:ro" for bundle in bundles)]
    return f"{shlex.join(words)} IMAGE COMMAND"


def _docker(bundles: Sequence[Mounted]) -> str:
    names = shlex.join([bundle.facts.name for bundle in bundles])
    return "\n".join(
        [
            f"# Once on each engine, after `bundle load {names}`, or all at once by `bundle volume create`:",
            *(shlex.join(_create("docker", bundle)) for bundle in bundles),
            "# Then, in any image:",
            _run("docker", bundles),
            _programs(bundles),
        ]
    )


def _podman(bundles: Sequence[Mounted]) -> str:
    names = shlex.join([bundle.facts.name for bundle in bundles])
    lines = [f"# Once, after `bundle load {names}`, or all at once by `bundle volume create`."]
    lines += ["# `podman init` fills the volume, and then fails, since there is no such command:"]
    for bundle in bundles:
        lines.append(shlex.join(_create("podman", bundle)))
        lines.append(f"podman init {shlex.quote(bundle.volume)} || true")
    return "\n".join([*lines, "# Then, in any image:", _run("podman", bundles), _programs(bundles)])


def _buildkit(bundles: Sequence[Mounted]) -> str:
    mounts = [
        f"--mount=type=bind,from={bundle.reference},source={bundle.prefix},target={bundle.prefix} \\"
        for bundle in bundles
    ]
    return "\n".join(
        [
            "# Docker 20.10 leaves the empty mount points in the image: `bundle scrub` takes them out.",
            "RUN " + "\n    ".join([*mounts, f"PATH=$PATH:{_search_path(bundles)} COMMAND"]),
        ]
    )


def _compose(bundles: Sequence[Mounted]) -> str:
    lines = ["# Volumes that `bundle volume create` made.", "services:", "  app:", "    volumes:"]
    for bundle in bundles:
        lines += [
            "      - type: volume",
            f"        source: {bundle.volume}",
            f"        target: {json.dumps(bundle.prefix)}",
            "        read_only: true",
            "        volume:",
            "          nocopy: true",
        ]
    lines.append("volumes:")
    for bundle in bundles:
        lines += [f"  {bundle.volume}:", "    external: true"]
    return "\n".join(lines)


def _kubernetes(bundles: Sequence[Mounted]) -> str:
    lines = [
        "# Image volumes: Kubernetes 1.35, or 1.33 with the feature gate ImageVolume.  The container",
        "# runtime applies subPath: containerd from 2.2, CRI-O from 1.33; older ones mount all of it.",
        "# Where it mounts image volumes noexec, as CRI-O did at first, nothing in them can be run.",
        "# References must be those of a registry that the nodes reach (`bundle push`).",
        "spec:",
        "  containers:",
        "    - name: app",
        "      volumeMounts:",
    ]
    for bundle in bundles:
        lines += [
            f"        - name: bundle-{bundle.facts.name}",
            f"          mountPath: {json.dumps(bundle.prefix)}",
            f"          subPath: {json.dumps(bundle.prefix.lstrip('/'))}",
            "          readOnly: true",
        ]
    lines.append("  volumes:")
    for bundle in bundles:
        lines += [
            f"    - name: bundle-{bundle.facts.name}",
            "      image:",
            f"        reference: {json.dumps(bundle.reference)}",
            "        pullPolicy: IfNotPresent",
        ]
    return "\n".join(lines)


def _programs(bundles: Sequence[Mounted]) -> str:
    return f"# The programs are in {_search_path(bundles)}; append that to the PATH there."


def _search_path(bundles: Sequence[Mounted]) -> str:
    return ":".join(f"{bundle.prefix}/bin" for bundle in reversed(bundles))


RUNTIMES: Mapping[str, Callable[[Sequence[Mounted]], str]] = {
    "docker": _docker,
    "podman": _podman,
    "buildkit": _buildkit,
    "compose": _compose,
    "kubernetes": _kubernetes,
}
