"""The bundle's manifest, ``share/bundle/manifest.jsonl`` in its prefix: what each file is and where from.

JSON lines that need no tool of ours: first the bundle, then its recipes by name, then its entries in byte
order of their paths, which are relative to the image's root.  Each recipe's layer carries the lines of that
recipe, so that a layer which went its own way still says what it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bundler.digest import Digest, canonical_json, hex_of, parse_digest
from bundler.errors import InputError
from bundler.labels import Facts, Required
from bundler.recipe import LockedPackage, Recipe
from bundler.tree import Entry, Kind, entry_from_dict, sort_key
from bundler.wheel_lock import normalized

FORMAT = 1
PLACE = "share/bundle"
"""Directory in the prefix that holds the manifest and the SBOMs."""
MANIFEST = f"{PLACE}/manifest.jsonl"
PARTS = f"{PLACE}/recipes"
"""Directory in the prefix where each recipe's layer says what is in it: ``NAME.jsonl`` and its SBOMs."""

_POOL = re.compile(r"debian:pool/[^/]+/[^/]+/([^/]+)/[^/]+_([^/_]+?)(?:\.orig.*|\.tar.*)\Z")
_BINARY = re.compile(r"pool/[^/]+/[^/]+/([^/]+)/")
_PYPI = re.compile(r"pypi:([^/]+)/")
_DISTRIBUTION = re.compile(r"(.+?)-(\d[^-]*?)(?:-.*\.whl|\.tar\.\w+|\.zip)\Z")


@dataclass(frozen=True, slots=True)
class Component:
    """One recipe inside a bundle: what scanners ask for, and the entries that came from it.

    ``entries`` have their paths as in the image; ``layer`` is the diff ID of their layer, None as long as
    that is not packed.  Without a ``license`` it is no software of its own (what a finishing step made),
    and in no SBOM.
    """

    name: str
    version: str
    license: str
    layer: Digest | None
    entries: tuple[Entry, ...] = field(repr=False)
    summary: str = ""
    homepage: str = ""
    purls: tuple[str, ...] = ()
    cpe: str = ""
    sources: tuple[tuple[str, Digest], ...] = ()
    """Where each source is fetched from, first choice, and its digest."""


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """A bundle as a whole; ``symbols`` are the highest symbol versions that it needs, as ``GLIBC_2.38``."""

    facts: Facts
    architecture: str
    commands: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    summary: str = ""
    toolchain: tuple[str, ...] = ()
    """The toolchain that built it, the one that built that, and so on; empty if none of ours did."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest read back."""

    facts: Facts
    architecture: str
    recipes: Mapping[str, Mapping[str, Any]]
    entries: Mapping[str, Entry]
    owners: Mapping[str, str]
    """Name of the recipe that each path is from."""


def component_of(
    recipe: Recipe,
    entries: tuple[Entry, ...],
    layer: Digest | None = None,
    packages: Iterable[LockedPackage] = (),
) -> Component:
    """The component that a recipe makes; ``packages`` are the Debian packages that it unpacked."""
    return Component(
        name=recipe.name,
        version=recipe.version,
        license=recipe.license,
        layer=layer,
        entries=entries,
        summary=recipe.summary,
        homepage=recipe.homepage,
        purls=package_urls(recipe, packages),
        cpe=cpe_of(recipe),
        sources=tuple((source.urls[0], source.digest) for source in recipe.sources if source.urls),
    )


def package_urls(recipe: Recipe, packages: Iterable[LockedPackage] = ()) -> tuple[str, ...]:
    """Package URLs: of Debian's packages where it is made of them, else of where its sources come from."""
    if recipe.purl:
        return (recipe.purl.replace("{version}", recipe.version),)
    debian = tuple(map(_binary_package, packages))
    if debian:
        return debian
    urls = [url for source in recipe.sources for url in source.urls]
    if pypi := tuple(dict.fromkeys(_pypi_package(url, recipe.version) for url in urls if _PYPI.match(url))):
        return pypi
    qualifiers = []
    if recipe.sources:
        upstream = next((url for url in urls if url.startswith(("https:", "http:"))), None)
        qualifiers.append(f"checksum=sha256:{hex_of(recipe.sources[0].digest)}")
        if upstream:
            qualifiers.append(f"download_url={_escape(upstream)}")
    generic = f"pkg:generic/{_escape(recipe.name)}@{_escape(recipe.version)}"
    found_in_debian = next((found for url in urls if (found := _POOL.match(url))), None)
    return (
        generic + ("?" + "&".join(qualifiers) if qualifiers else ""),
        *(
            (f"pkg:deb/debian/{_escape(found_in_debian[1])}@{_escape(found_in_debian[2])}?arch=source",)
            if found_in_debian
            else ()
        ),
    )


def _binary_package(package: LockedPackage) -> str:
    """A binary package, with the source package that it was built from: advisories name that one."""
    url = f"pkg:deb/debian/{_escape(package.name)}@{_escape(package.version)}?arch={package.architecture}"
    found = _BINARY.match(package.path)
    return f"{url}&upstream={_escape(found[1])}" if found and found[1] != package.name else url


def _pypi_package(url: str, version: str) -> str:
    """A distribution, with the version in its file's name; ``version`` where that is built in another way."""
    project, _, file = url.removeprefix("pypi:").partition("/")
    name = normalized(project)
    found = _DISTRIBUTION.match(file)
    if found and normalized(found[1]) == name:
        version = found[2]
    return f"pkg:pypi/{_escape(name)}@{_escape(version)}"


def cpe_of(recipe: Recipe) -> str:
    """The CPE 2.3 name; ``vendor:product`` in the recipe is enough, and its name stands for both without."""
    text = recipe.cpe or f"{recipe.name}:{recipe.name}"
    if text.startswith("cpe:2.3:"):
        return text.replace("{version}", recipe.version)
    vendor, _, product = text.partition(":")
    parts = (
        re.sub(r"([^A-Za-z0-9._-])", r"\\\1", part) for part in (vendor, product or vendor, recipe.version)
    )
    return "cpe:2.3:a:" + ":".join(parts) + ":*:*:*:*:*:*:*"


def _escape(text: str) -> str:
    """Percent-encoding as the package URL specification asks: all but unreserved characters and colons."""
    return "".join(
        character
        if re.match(r"[A-Za-z0-9._~:-]", character)
        else "".join(f"%{b:02X}" for b in character.encode())
        for character in text
    )


def manifest_lines(bundle: BundleFacts, components: Sequence[Component]) -> bytes:
    """The manifest's bytes; raises InputError where two recipes have one path and it is no directory."""
    facts = bundle.facts
    lines = [
        canonical_json(
            {
                "type": "bundle",
                "format": FORMAT,
                "name": facts.name,
                "version": facts.version,
                "prefix": facts.prefix,
                "compat": facts.compat,
                "architecture": bundle.architecture,
                "requires": {required.name: required.digest for required in facts.requires},
                "commands": list(bundle.commands),
                "symbols": list(bundle.symbols),
                "toolchain": list(bundle.toolchain),
            }
        )
    ]
    for component in sorted(components, key=lambda item: item.name):
        lines.append(canonical_json(recipe_record(component)))
    owners = owners_of(components)
    lines += [
        _entry_line(owner, entry)
        for _, (owner, entry) in sorted(owners.items(), key=lambda item: sort_key(item[0]))
    ]
    return b"\n".join(lines) + b"\n"


def part_lines(prefix: str, component: Component) -> bytes:
    """What a recipe's layer says of itself: where it belongs, the recipe, and the entries that it had.

    It names no other layer and not its own diff ID, so it changes only when the recipe or its files do.
    """
    own = recipe_record(replace(component, layer=None))
    lines = [canonical_json({"type": "layer", "format": FORMAT, "prefix": prefix}), canonical_json(own)]
    lines += [
        _entry_line(component.name, entry)
        for entry in sorted(component.entries, key=lambda entry: sort_key(entry.path))
    ]
    return b"\n".join(lines) + b"\n"


def _entry_line(owner: str, entry: Entry) -> bytes:
    return canonical_json({"type": "entry", "recipe": owner, **entry.to_dict()})


def owners_of(components: Sequence[Component]) -> dict[str, tuple[str, Entry]]:
    """Each path with the recipe that it is from and its entry; of shared directories the first recipe."""
    owners: dict[str, tuple[str, Entry]] = {}
    for component in components:
        for entry in component.entries:
            owner, other = owners.setdefault(entry.path, (component.name, entry))
            if other is not entry and not (entry.kind is other.kind is Kind.DIRECTORY):
                raise InputError(
                    f"both {owner} and {component.name} install this path",
                    where="/" + entry.path,
                    hint="let one of the two recipes drop it",
                )
    return owners


def recipe_record(component: Component) -> dict[str, Any]:
    """The line of a manifest that says what a recipe is."""
    record: dict[str, Any] = {
        "type": "recipe",
        "name": component.name,
        "version": component.version,
    }
    optional = {
        "layer": component.layer,
        "license": component.license,
        "homepage": component.homepage,
        "purls": list(component.purls),
        "cpe": component.cpe if component.license else "",
        "sources": [{"url": url, "digest": digest} for url, digest in component.sources],
    }
    record.update((key, value) for key, value in optional.items() if value)
    return record


def read_manifest(data: bytes, *, where: str) -> Manifest:
    """The inverse of :func:`manifest_lines`; raises InputError with the line for what is none."""
    facts: Facts | None = None
    architecture = ""
    recipes: dict[str, Mapping[str, Any]] = {}
    entries: dict[str, Entry] = {}
    owners: dict[str, str] = {}
    for number, line in enumerate(data.splitlines(), 1):
        place = f"{where}:{number}"
        try:
            record = json.loads(line.decode("utf-8", "surrogateescape"))
            kind = record["type"]
            if kind == "bundle":
                facts, architecture = _facts(record, place), str(record["architecture"])
            elif kind == "recipe":
                recipes[str(record["name"])] = record
            elif kind == "entry":
                entry = entry_from_dict(record, where=place)
                entries[entry.path] = entry
                owners[entry.path] = str(record["recipe"])
        except InputError as error:
            raise InputError(error.message, where=place, why=error.why) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError("is no line of a manifest", where=place, why=repr(error)) from error
    if facts is None:
        raise InputError("is no bundle's manifest: it names no bundle", where=where)
    return Manifest(facts, architecture, recipes, entries, owners)


def _facts(record: Mapping[str, Any], where: str) -> Facts:
    if record["format"] != FORMAT:
        raise InputError(f"has the format {record['format']}, not {FORMAT}", where=where)
    requires = tuple(
        Required(str(name), parse_digest(str(digest), where=where))
        for name, digest in record["requires"].items()
    )
    return Facts(
        str(record["name"]), str(record["version"]), str(record["prefix"]), int(record["compat"]), requires
    )
