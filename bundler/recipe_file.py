"""Recipes, bundles and toolchains parsed from their files at the edge; the schema is docs/recipe.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from bundler import digest as digests
from bundler import toml
from bundler.digest import Digest
from bundler.errors import InputError
from bundler.lock_file import read_lock
from bundler.recipe import (
    Accept,
    BinaryEdit,
    Bundle,
    Finish,
    Lock,
    Output,
    Recipe,
    Source,
    Step,
    Toolchain,
    Unpack,
)
from bundler.style import Change, Style, arrange, complete, read_style, style_names
from bundler.toml import Table, form
from bundler.wheel_lock import FILE as WHEEL_LOCK
from bundler.wheel_lock import read_wheel_lock

LOCK = "recipe.lock"
"""Beside a recipe: pins the packages that it takes, instead of the toolchain's lock."""

NAME = form(r"[a-z0-9][a-z0-9+._-]*", "a name (lower-case letters, digits, '+', '.', '_', '-')")
SHORT = form(r"[a-z0-9][a-z0-9-]*", "the short name of a prefix (lower-case letters, digits, '-')")
VERSION = form(r"[A-Za-z0-9][A-Za-z0-9+.~_-]*", "a version (letters, digits, '+', '.', '~', '_', '-')")
STEP_NAME = form(r"[a-z][a-z0-9-]*", "the name of a step (lower-case letters, digits, '-')")
REQUIREMENT = form(
    r"[A-Za-z0-9][A-Za-z0-9 ._,<>=!~*\[\]-]*", "a requirement on a Python distribution (PEP 508)"
)
PACKAGE = form(r"[a-z0-9][a-z0-9+.-]+", "the name of a Debian package")
VARIABLE = form(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")
SHA256 = form(r"[0-9a-f]{64}", "a SHA-256 (64 lower-case hexadecimal digits)")
COMMIT = form(r"[0-9a-f]{40}(?:[0-9a-f]{24})?", "a full commit (40 or 64 lower-case hexadecimal digits)")
GLOB = form(r"(?!/)(?!(?:.*/)?\.\.?(?:/|\Z))[^\0]+", "a glob relative to the prefix")
RELATIVE = form(r"(?!/)(?!(?:.*/)?\.\.?(?:/|\Z))(?!.*//)[^\0]+(?<!/)", "a plain relative path")
DIRECTORY = form(
    r"\.|[A-Za-z0-9_+-][A-Za-z0-9._+-]*(?:/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)*", "a plain directory"
)
URL = form(
    r"(?:https?://[^\s/]+/\S+|file:///\S+|git\+(?:https?|ssh|file|git)://\S+|git://\S+"
    r"|file:[A-Za-z0-9][^\s/]*|debian:(?!/)\S+|pypi:[A-Za-z0-9._-]+/[A-Za-z0-9][^\s/]*"
    r"|npm:(?:@[a-z0-9~][a-z0-9._~-]*/)?[a-z0-9~][A-Za-z0-9._~-]*@[0-9][A-Za-z0-9.+-]*)",
    "a URL of a known scheme (https: http: file:/// file:NAME git+https: git+file: debian:PATH "
    "pypi:NAME/FILE npm:NAME@VERSION)",
)

BYTE = form(r"[ -~]", "one ASCII character")

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def read_recipe(path: Path) -> Recipe:
    """Parse ``<name>/recipe.toml``; raises InputError, or Problems for several."""
    document, own = toml.load(path), path.with_name(LOCK)
    locked: tuple[Source, ...] = ()
    if "wheels" in document.data:
        wheels = read_wheel_lock(path.with_name(WHEEL_LOCK), path.parent.name)
        locked = tuple(wheel.source() for wheel in wheels)
    return parse_recipe(
        document,
        path,
        patches=_patches(path.parent),
        lock=read_lock(own) if own.exists() else None,
        locked=locked,
    )


def parse_recipe(
    document: toml.Document,
    path: Path,
    *,
    patches: tuple[Path, ...] = (),
    lock: Lock | None = None,
    locked: tuple[Source, ...] = (),
) -> Recipe:
    """The recipe that a document holds, as if it lay at ``path``; raises as :func:`read_recipe` does.

    ``locked`` are sources besides those that it lists.
    """
    table = Table(document)
    name = table.text("name", form=NAME)
    if name != path.parent.name and NAME.pattern.match(name):
        table.problem(f"the recipe {name!r} lies in the directory {path.parent.name!r}", "name")
    version = table.text("version", form=VERSION)
    steps, environment = _build(table)
    recipe = Recipe(
        name=name,
        version=version,
        license=_license(table),
        path=path,
        summary=table.text("summary", default=""),
        homepage=table.text("homepage", default=""),
        sources=(
            *(_source(item, name, version, path.parent) for item in table.tables("source")),
            *locked,
        ),
        packages=table.words("packages", form=PACKAGE),
        lock=lock,
        patches=patches,
        depends=table.words("depends", form=NAME),
        build_depends=table.words("build_depends", form=NAME),
        steps=steps,
        environment=environment,
        outputs=_outputs(table),
        drop=table.words("drop", form=GLOB),
        keep=table.words("keep", form=GLOB),
        literals=tuple(_edit(item) for item in table.tables("edit")),
        license_files=table.words("license_files", form=GLOB),
        cpe=table.optional("cpe"),
        purl=table.optional("purl"),
        wheels=table.words("wheels", form=REQUIREMENT),
    )
    for key in ("depends", "build_depends"):
        if name in getattr(recipe, key):
            table.problem("a recipe cannot depend on itself", key, document.data[key].index(name))
    table.finish()
    return recipe


def _patches(directory: Path) -> tuple[Path, ...]:
    """The patches beside a recipe, in the order of their numbers."""
    return tuple(sorted(directory.glob("[0-9][0-9][0-9][0-9]-*.patch")))


def _license(table: Table) -> str:
    text = table.text("license")
    if not text:
        return text
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression as error:
        hint = 'as in "GPL-3.0-or-later WITH GCC-exception-3.1"; for what has no SPDX name, "LicenseRef-…"'
        table.problem("'license' is not an SPDX expression", "license", why=str(error), hint=hint)
        return text


def _source(table: Table, name: str, version: str, home: Path) -> Source:
    urls = tuple(
        _fill(table, "urls", index, url, name, version)
        for index, url in enumerate(table.words("urls", required=True, form=URL))
    )
    unpack = table.choice("unpack", ("auto", "none", "nested"), default="auto")
    commit = table.optional("commit", form=COMMIT)
    is_git = [url.startswith("git") for url in urls]
    if any(is_git) and not all(is_git):
        table.problem("git and other URLs cannot stand for the same source: their digests differ", "urls")
    if any(is_git) and commit is None:
        table.problem("a git source needs its 'commit'", "urls")
    if commit is not None and not any(is_git):
        table.problem("'commit' belongs to a git source", "commit", on="key")
    return Source(
        urls=urls,
        digest=_digest(table),
        unpack=cast(Unpack, unpack),
        directory=table.text("directory", default="", form=DIRECTORY).removeprefix("."),
        strip=table.integer("strip", default=0 if any(is_git) or unpack == "none" else 1),
        commit=commit,
        submodules=table.boolean("submodules", default=False),
        home=home,
        member=table.text("member", default="*"),
    )


def _digest(table: Table) -> Digest:
    text = table.text("sha256", form=SHA256)
    return Digest("sha256:" + text) if SHA256.pattern.match(text) else digests.digest_bytes(b"")


def _fill(table: Table, key: str, index: int, text: str, name: str, version: str) -> str:
    """The text with ``{name}``, ``{version}`` and ``{series}`` (its first two parts) filled in."""
    values = {"name": name, "version": version, "series": ".".join(version.split(".")[:2])}

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            hint = "the placeholders are " + ", ".join(f"{{{known}}}" for known in values)
            table.problem(f"unknown placeholder {match[0][:80]!r}", key, index, hint=hint)
        return values.get(match[1], "")

    return _PLACEHOLDER.sub(value, text)


def _build(table: Table) -> tuple[tuple[Step, ...], dict[str, str]]:
    """The complete steps, and the environment."""
    build = table.table("build")
    changes = [_change(item) for item in table.tables("step")]
    style, directory, environment = Style(), ".", {}
    words: dict[str, tuple[str, ...]] = {}
    if build is not None:
        if "style" in build:
            name = build.choice("style", style_names(), default="")
            if not name:
                build.all_keys()  # which of them the style would take cannot be said
                return (), {}
            style = read_style(name)
        directory = build.text("directory", default=style.directory, form=DIRECTORY)
        environment = build.strings("environment", names=VARIABLE)
        words = {key: build.words(key) for key in style.keys}
    try:
        steps = arrange(style, [change for change in changes if change.step.name])
    except InputError as error:
        at = next((i for i, change in enumerate(changes) if repr(change.step.name) in error.message), 0)
        table.problem(error.message, "step", at, hint=error.hint)
        steps = ()

    def of(step: Step) -> list[str]:
        return [word for key in style.arguments.get(step.name, ()) for word in words.get(key, ())]

    return tuple(complete(step, directory, of(step)) for step in steps), environment


def _change(table: Table) -> Change:
    name = table.text("name", form=STEP_NAME)
    change = Change(
        Step(name, table.text("run")),
        before=table.optional("before", form=STEP_NAME),
        after=table.optional("after", form=STEP_NAME),
    )
    if change.before and change.after:
        table.problem("a step stands either 'before' or 'after' another", "after", on="key")
    return change


def _outputs(table: Table) -> tuple[Output, ...]:
    outputs = table.table("output")
    if outputs is None:
        return ()
    found = []
    for bundle in outputs.all_keys():
        if not NAME.pattern.match(bundle):
            outputs.problem(f"{bundle[:80]!r} is not {NAME.words}", bundle, on="key")
        if (output := outputs.table(bundle)) is not None:
            found.append(Output(bundle, output.words("files", required=True, form=GLOB)))
    return tuple(found)


def _edit(table: Table) -> BinaryEdit:
    return BinaryEdit(
        files=table.words("files", required=True, form=GLOB),
        old=table.text("old").encode(),
        new=table.text("new", default="").encode(),
        count=table.integer("count", default=1, least=1),
        pad=(table.optional("pad", form=BYTE) or "").encode(),
    )


def read_bundle(path: Path) -> Bundle:
    """Parse ``images/<name>.toml``; raises InputError, or Problems for several."""
    return parse_bundle(toml.load(path), path)


def parse_bundle(document: toml.Document, path: Path) -> Bundle:
    """The bundle that a document holds, as if it lay at ``path``."""
    table = Table(document)
    name = table.text("name", form=NAME)
    if name != path.stem and NAME.pattern.match(name):
        table.problem(f"the bundle {name!r} lies in a file called {path.name!r}", "name")
    command = table.words("command")
    if command and not RELATIVE.pattern.match(command[0]):
        table.problem(f"{command[0][:80]!r} is not relative to the prefix", "command", 0)
    bundle = Bundle(
        name=name,
        version=table.text("version", form=VERSION),
        short=table.text("short", default=name, form=SHORT),
        compat=table.integer("compat", least=1),
        recipes=table.words("recipes", form=NAME),
        path=path,
        summary=table.text("summary", default=""),
        requires=table.words("requires", form=NAME),
        commands=table.words("commands", form=RELATIVE),
        command=command,
        environment=tuple(sorted(table.strings("environment", names=VARIABLE).items())),
        finishes=tuple(
            Finish(item.text("name", form=STEP_NAME), item.text("run")) for item in table.tables("finish")
        ),
        accepts=tuple(_accept(item) for item in table.tables("accept")),
    )
    if name in bundle.requires:
        table.problem("a bundle cannot require itself", "requires", document.data["requires"].index(name))
    table.finish()
    return bundle


def _accept(table: Table) -> Accept:
    return Accept(table.text("rule"), table.text("path", form=GLOB), table.text("reason"))


def read_toolchain(path: Path) -> Toolchain:
    """Parse ``toolchain/<name>.toml`` with its recipes, its lock and its build root; raises InputError.

    The toolchain that builds it is read with it, and so on; build root and packages are the last one's.
    """
    return _toolchain(path, ())


def _toolchain(path: Path, builds: tuple[str, ...]) -> Toolchain:
    """``builds`` are the names of those that this one builds."""
    table = Table(toml.load(path))
    name = table.text("name", form=NAME)
    if name != path.stem and NAME.pattern.match(name):
        table.problem(f"the toolchain {name!r} lies in a file called {path.name!r}", "name")
    table.optional("suite", form=NAME)  # for 'bundle lock'
    buildroot = table.text("buildroot", default="buildroot", form=NAME)
    names = table.words("recipes", required=True, form=NAME)
    bootstrap = table.optional("bootstrap", form=NAME)
    if bootstrap in (*builds, name):
        circle = " → ".join([*builds, name, str(bootstrap)])
        table.problem(f"toolchains build each other in a circle: {circle}", "bootstrap")
    if bootstrap and "buildroot" in table:
        table.problem(f"the build root is that of {bootstrap!r}", "buildroot", on="key")
    table.finish()
    builder = _toolchain(path.with_name(f"{bootstrap}.toml"), (*builds, name)) if bootstrap else None
    return Toolchain(
        name=name,
        recipes={recipe: read_recipe(path.with_suffix("") / recipe / "recipe.toml") for recipe in names},
        lock=builder.lock if builder else read_lock(path.with_suffix(".lock")),
        buildroot=builder.buildroot if builder else read_lock(path.with_name(f"{buildroot}.lock")),
        links=builder.links if builder else _links(path.with_name(f"{buildroot}.toml")),
        bootstrap=builder,
    )


def _links(path: Path) -> tuple[tuple[str, str], ...]:
    """``links`` of a build root's file: pairs of a path and what it points to."""
    table = Table(toml.load(path))
    table.optional("suite", form=NAME)
    for key in ("packages", "without"):
        table.words(key, form=PACKAGE)
    links = table.pairs("links")
    table.finish()
    return links
