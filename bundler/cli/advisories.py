"""``bundle advisories``: what security advisories mean for recipes, bundles and images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundler.advisories import Finding, Index, Software, Undecided
from bundler.cli import common
from bundler.errors import ExitCode, InputError
from bundler.holders import held_by, recipes_held, requirers
from bundler.oci.read import is_image
from bundler.osv import Advisory, read_advisories
from bundler.tree import shown

NAME = "advisories"
GROUP = "look"
SUMMARY = "say which recipes, bundles and images security advisories affect"
EPILOG = """\
FILE is a record in OSV's JSON, an array of them, or a directory or zip archive full of them, as osv.dev
offers them.  Nothing is fetched.  Recipes are found by package URL, by CPE, or by name where a record names
the project itself.  Images are judged by what their manifests say is inside them: those in out/, or those
that --image names.  Exit status 1 says that something is affected.

examples:
  bundle advisories CVE-2025-15467.json
  bundle advisories --image docker:tools:1 --image shell.tar all.zip
  bundle advisories --format json advisories/ > affected.json
"""
RELEASES = {"bullseye": "11", "bookworm": "12", "trixie": "13", "forky": "14"}
"""Debian's releases by the name that a lock file has."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", metavar="FILE", nargs="+", type=Path, help="advisories: JSON, a directory or a zip archive"
    )
    parser.add_argument(
        "--image",
        metavar="IMAGE",
        action="append",
        default=[],
        help="image to judge: a layout, an archive, a bundle's name or docker:IMAGE (default: all in out/)",
    )
    parser.add_argument(
        "--debian",
        metavar="N",
        default=None,
        help="Debian release whose advisories count (default: the lock's)",
    )
    common.add_format(parser)
    common.add_inputs(parser)
    common.add_engine(parser)


@dataclass(slots=True)
class _Holders:
    """Where each piece of software is."""

    recipes: Mapping[Software, tuple[Path, tuple[str, ...]]]
    requirers: Mapping[str, tuple[str, ...]]
    images: dict[Software, list[str]] = field(default_factory=dict)
    """Names of the images that hold it."""
    inside: dict[Software, list[str]] = field(default_factory=dict)
    """Names of the bundles that it belongs to in those images."""

    def bundles(self, software: Software) -> tuple[str, ...]:
        listed = self.recipes[software][1] if software in self.recipes else ()
        return tuple(sorted({*listed, *self.inside.get(software, ())}))

    def required_by(self, bundles: Iterable[str]) -> tuple[str, ...]:
        return tuple(
            sorted({other for name in bundles for other in self.requirers.get(name, ())} - {*bundles})
        )


def run(arguments: argparse.Namespace) -> int:
    settings = common.settings(arguments)
    catalogue = common.catalogue(settings)
    toolchain = catalogue.toolchain(settings.toolchain)
    debian = arguments.debian or RELEASES.get(toolchain.lock.suite)
    if debian is None:
        raise InputError(f"the lock is of Debian's suite {toolchain.lock.suite!r}", hint="say --debian N")
    holders = _Holders(recipes_held(catalogue, toolchain), requirers(catalogue))
    notes = _look_into_images(arguments, settings.out, holders)
    index = Index([*holders.recipes, *holders.images], debian)
    # One record may come from several files.
    findings: dict[Finding, None] = {}
    count = 0
    for path in arguments.files:
        for advisory in read_advisories(path):
            count += 1
            for result in index.judge(advisory):
                if isinstance(result, Undecided):
                    notes.append(_undecided(result))
                else:
                    findings[result] = None
    if arguments.format == "json":
        print(json.dumps(_report([*findings], holders, notes, count), indent=1))
    else:
        for line in _lines([*findings], holders, notes, count):
            print(line)
    return ExitCode.NOT_IN_ORDER if findings else ExitCode.DONE


def _look_into_images(arguments: argparse.Namespace, out: Path, holders: _Holders) -> list[str]:
    """Note what the images hold; returns a line for each in ``out`` that cannot be judged."""
    notes = []
    built = sorted(path.name for path in out.iterdir() if is_image(path)) if out.is_dir() else []
    with ExitStack() as stack:
        for name in arguments.image or built:
            place = name if arguments.image else str(out / name)
            try:
                image = common.image(place, out, stack, lambda: common.engine(arguments))
                held = held_by(image, name)
            except InputError as error:
                if arguments.image:
                    raise
                notes.append(f"{out / name}: {error.message}")
                continue
            for one in held:
                holders.images.setdefault(one.software, []).append(name)
                if one.bundle:
                    holders.inside.setdefault(one.software, []).append(one.bundle)
    return notes


def _undecided(result: Undecided) -> str:
    return (
        f"{shown(result.advisory.id)} names {result.software.name} ({shown(result.subject)}), "
        "but no versions: commits of a repository cannot be compared with them"
    )


def _rebuild(findings: Sequence[Finding], holders: _Holders) -> tuple[list[str], list[str]]:
    """Bundles and images that are to be made again once the recipes have versions without the fault."""
    software = {finding.software for finding in findings}
    bundles = {name for one in software for name in holders.bundles(one)}
    images = {name for one in software for name in holders.images.get(one, ())}
    return sorted(bundles), sorted(images)


def _report(
    findings: Sequence[Finding], holders: _Holders, notes: Sequence[str], count: int
) -> dict[str, Any]:
    bundles, images = _rebuild(findings, holders)
    return {
        "advisories": [
            {
                "id": advisory.id,
                "aliases": list(advisory.aliases),
                "summary": advisory.summary,
                "severity": list(advisory.severity),
                "modified": advisory.modified,
                "affects": [_affects(finding, holders) for finding in found],
            }
            for advisory, found in _grouped(findings)
        ],
        "rebuild": {"bundles": bundles, "images": images},
        "notes": list(notes),
        "records": count,
    }


def _affects(finding: Finding, holders: _Holders) -> dict[str, Any]:
    software = finding.software
    path, _ = holders.recipes.get(software, (None, ()))
    bundles = holders.bundles(software)
    return {
        "name": software.name,
        "version": software.version,
        "by": finding.by,
        "subject": finding.subject,
        "fixed": list(finding.fixed),
        "recipe": str(path) if path else None,
        "bundles": list(bundles),
        "required_by": list(holders.required_by(bundles)),
        "images": holders.images.get(software, []),
    }


def _grouped(findings: Sequence[Finding]) -> list[tuple[Advisory, list[Finding]]]:
    found: dict[Advisory, list[Finding]] = {}
    for finding in findings:
        found.setdefault(finding.advisory, []).append(finding)
    return list(found.items())


def _lines(findings: Sequence[Finding], holders: _Holders, notes: Sequence[str], count: int) -> Iterable[str]:
    for advisory, found in _grouped(findings):
        names = ", ".join((advisory.id, *advisory.aliases[:4]))
        severity = f"  [{', '.join(advisory.severity)}]" if advisory.severity else ""
        yield f"{shown(names)}{shown(severity)}"
        if advisory.summary:
            yield f"  {shown(advisory.summary)}"
        for finding in found:
            yield from _finding(finding, holders)
        yield ""
    bundles, images = _rebuild(findings, holders)
    for note in notes:
        yield f"note: {note}"
    if findings:
        told = len({finding.advisory.id for finding in findings})
        yield f"{told} of {count} advisories affect {len({f.software for f in findings})} recipes"
        yield f"to rebuild: {', '.join(bundles) or 'no bundle'}; images: {', '.join(images) or 'none'}"
    else:
        yield f"none of {count} advisories affects what is here"


def _finding(finding: Finding, holders: _Holders) -> Iterable[str]:
    software = finding.software
    fixed = f"fixed in {shown(' or '.join(finding.fixed))}" if finding.fixed else "no fixed version is named"
    yield f"  {shown(software.name)} {shown(software.version)}, {fixed}"
    yield f"    found by   {finding.by} {shown(finding.subject)}"
    if software in holders.recipes:
        yield f"    recipe     {holders.recipes[software][0]}"
    else:
        yield "    recipe     has another version by now: building again is enough"
    bundles = holders.bundles(software)
    above = holders.required_by(bundles)
    if bundles:
        more = f" (required by {', '.join(above)})" if above else ""
        yield f"    bundles    {shown(', '.join(bundles))}{more}"
    if software in holders.images:
        yield f"    images     {', '.join(holders.images[software])}"
