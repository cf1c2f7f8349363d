"""``bundle upgrade``: an image that was made before, as the recipes give it now."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from bundler.cli import common
from bundler.cli.build import size
from bundler.errors import ExitCode, InputError
from bundler.oci.compare import changes, transfer
from bundler.oci.compose import BASE_DIGEST, PARTS, Part, compose
from bundler.oci.image import TITLE, VERSION, Image
from bundler.oci.layout import write_archive, write_layout
from bundler.oci.merged import ImageTree
from bundler.oci.read import find_image, open_image
from bundler.pipeline import Pipeline
from bundler.progress import renderer
from bundler.tree import shown
from bundler.upgrade import RecipeStep, State, Upgrade, compare, known_bundles, packed, planned

NAME = "upgrade"
GROUP = "images"
SUMMARY = "make an image again from what the recipes give now, or say what would change"
EPILOG = """\
The image says in its manifests which bundles, recipes and files it holds.  With --plan nothing is built:
files and layers are known of recipes that are in the cache, of others the version and why they are to be
built.
Without it the bundles are built, verified and written to out/BUNDLE, and what became of them is shown.  An
image that 'bundle compose' made is put together again in the same order, and needs --output.
With --to nothing is built either: the OCI layout is replaced by another image, of which only what is new is
written.  That one may be of any kind.

examples:
  bundle upgrade --plan shell
  bundle upgrade --plan --files docker:shell:5.2.37
  bundle upgrade tools.tar -o tools-new.tar
  bundle upgrade deployed/shell --to shell
"""
_SIGNS = {"kept": "=", "changed": "~", "added": "+", "removed": "-", "to build": "?"}
_FILE_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "targets",
        metavar="IMAGE|BUNDLE",
        nargs="+",
        help="a layout, an archive, docker:IMAGE, or the name of a bundle that was built",
    )
    parser.add_argument("--plan", action="store_true", help="show what would change, and build nothing")
    parser.add_argument("--files", action="store_true", help="list every file that changes")
    parser.add_argument("--all", action="store_true", help="list recipes that stay as they are, too")
    parser.add_argument(
        "-o", "--output", metavar="PATH", type=Path, help="also write the new image: OCI layout, or FILE.tar"
    )
    parser.add_argument("--to", metavar="IMAGE", help="image to replace an OCI layout by")
    common.add_format(parser)
    common.add_work(parser)
    common.add_inputs(parser)
    common.add_engine(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.to is not None:
        return _replace(arguments)
    if arguments.output and (arguments.plan or len(arguments.targets) > 1):
        raise InputError("--output takes one image at a time, and goes without --plan")
    settings = common.settings(arguments)
    catalogue = common.catalogue(settings)
    upgrades: list[tuple[str, list[Upgrade]]] = []
    with ExitStack() as stack, renderer(arguments.progress) as sink:
        for name in arguments.targets:
            image = common.image(name, settings.out, stack, lambda: common.engine(arguments))
            before = packed(image, name)
            bundles = known_bundles(before, catalogue.bundles, name)
            pipeline = Pipeline(settings, bundles, sink)
            if arguments.plan:
                after = planned(pipeline, bundles)
            else:
                _check_remade(image, name, arguments.output)
                pipeline.build()
                after = [_built(settings.out / bundle, bundle) for bundle in bundles]
                if arguments.output:
                    _write(arguments.output.absolute(), image, [(b, settings.out / b) for b in bundles])
            upgrades.append((name, [compare(*pair) for pair in zip(before, after, strict=True)]))
    if arguments.format == "json":
        print(json.dumps([_record(name, found) for name, found in upgrades], indent=1))
    else:
        for name, found in upgrades:
            for line in _lines(name, found, arguments):
                print(line)
    return ExitCode.DONE


def _check_remade(image: Image, name: str, output: Path | None) -> None:
    """Raise InputError, before anything is built, for an image that building bundles does not make again."""
    if BASE_DIGEST in dict(image.annotations):
        raise InputError(
            "was put on another image, which is not at hand",
            where=name,
            hint="'bundle upgrade' its bundle, then 'bundle delta BUNDLE --on BASE'",
        )
    if PARTS in image.labels and output is None:
        raise InputError("was put together out of several", where=name, hint="say where to: --output PATH")


def _built(layout: Path, name: str) -> State:
    (state,) = packed(open_image(layout), name)
    return state


def _write(output: Path, former: Image, layouts: Sequence[tuple[str, Path]]) -> None:
    """Write the new image as the former one was made: a bundle as it is, or several put together."""
    built = {name: open_image(layout) for name, layout in layouts}
    if PARTS in former.labels:
        order = [word.partition("=")[0] for word in former.labels[PARTS].split()]
        if set(order) != set(built):
            raise InputError(
                "was put together out of more than bundles",
                why=f"its parts are {', '.join(order)}",
                hint="'bundle compose' them again",
            )
        image = compose([Part(name, built[name]) for name in order], reference=former.reference)
    else:
        (image,) = built.values()
    if output.suffix == ".tar":
        write_archive(output, image)
    else:
        write_layout(output, image)


def _record(name: str, upgrades: Iterable[Upgrade]) -> dict[str, object]:
    return {
        "image": name,
        "bundles": [
            {
                "name": upgrade.after.name,
                "before": {"version": upgrade.before.version, "prefix": upgrade.before.prefix},
                "after": {"version": upgrade.after.version, "prefix": upgrade.after.prefix},
                "changes": not upgrade.is_empty,
                "image_before": upgrade.images[0],
                "image_after": upgrade.images[1],
                "layers_kept": upgrade.kept[0],
                "bytes_kept": upgrade.kept[1],
                "bytes_fetched": sum(one.fetched for one in upgrade.recipes),
                "recipes": [asdict(one) for one in upgrade.recipes],
            }
            for upgrade in upgrades
        ],
    }


def _lines(name: str, upgrades: Iterable[Upgrade], arguments: argparse.Namespace) -> Iterable[str]:
    for upgrade in upgrades:
        before, after = upgrade.before, upgrade.after
        title = after.name if name == after.name else f"{shown(name)}: {after.name}"
        if upgrade.is_empty:
            yield f"{title} {after.version}: as the recipes give it"
        elif upgrade.keeps_recipes:
            known = upgrade.images[1] is not None
            other = "its labels or what it requires are others" if known else "packed anew, it may differ"
            yield f"{title} {after.version}: its recipes stay; {other}"
        else:
            yield f"{title} {_change(before.version, after.version)}"
        if before.prefix != after.prefix:
            yield f"  its prefix moves: {before.prefix} → {after.prefix}"
        for one in upgrade.recipes:
            if one.step != "kept" or arguments.all:
                yield _recipe(one)
            if arguments.files:
                yield from (
                    f"      {_FILE_SIGNS[change.kind]} /{shown(change.path)}"
                    + (f"  ({', '.join(change.what)})" if change.what else "")
                    for change in one.files
                )
        pending = sum(one.step == "to build" for one in upgrade.recipes)
        fetched = sum(one.fetched for one in upgrade.recipes)
        if not upgrade.keeps_recipes:
            told = f"  {upgrade.kept[0]} layers stay ({size(upgrade.kept[1])}), {size(fetched)} in new ones"
            yield told + (f", {pending} recipes to build first" if pending else "")


def _change(before: str | None, after: str | None) -> str:
    if before == after or before is None or after is None:
        return shown(after or before or "")
    return f"{shown(before)} → {shown(after)}"


def _recipe(one: RecipeStep) -> str:
    text = f"  {_SIGNS[one.step]} {shown(one.name):<16} {_change(one.before, one.after):<20}"
    if one.step == "to build":
        return f"{text} to build: {', '.join(one.why) or 'never built here'}"
    counts = [
        f"{count} {kind}"
        for kind in ("added", "changed", "removed")
        if (count := sum(change.kind == kind for change in one.files))
    ]
    layer = f", layer of {size(one.fetched)}" if one.fetched else ""
    about = [word for word in one.why if word not in ("layer", "version")]
    told = f", other {' and '.join(about)}" if about else ""
    return f"{text} files: {', '.join(counts) or 'the same'}{layer}{told}"


def _replace(arguments: argparse.Namespace) -> int:
    """Put another image in the place of a layout, or say what that would change."""
    if arguments.output or arguments.format != "text" or len(arguments.targets) > 1:
        raise InputError("--to takes one layout, and goes without --output and --format")
    layout = Path(arguments.targets[0])
    old, new = open_image(layout), find_image(arguments.to, arguments.out)
    _print_plan(old, new)
    if not arguments.plan:
        write_layout(layout.absolute(), new)
    return ExitCode.DONE


def _print_plan(old: Image, new: Image) -> None:
    before, after = _versions(old), _versions(new)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            print(f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}")
    with ImageTree(old) as one, ImageTree(new) as other:
        found = list(changes(one, other))
    counts = Counter(change.kind for change in found)
    told = ", ".join(f"{counts[kind]} {kind}" for kind in ("added", "changed", "removed"))
    print(f"files: {told}; {sum(change.size for change in found)} bytes")
    fetched = transfer(old, new)
    count = f"{len(fetched.layers)} of {len(new.layers)} layers"
    print(f"layers: {count} are new, {fetched.fetched} of {fetched.total} bytes")


def _versions(image: Image) -> dict[str, str]:
    """Versions by component, as the layers' annotations have them."""
    notes = [dict(layer.descriptor.annotations) for layer in image.layers]
    return {note[TITLE]: note[VERSION] for note in notes if TITLE in note and VERSION in note}
