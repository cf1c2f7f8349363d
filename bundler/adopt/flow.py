"""From a source to a built bundle: gathered, worked out, written down, and sent through the pipeline."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from bundler.adopt.archives import gather_archive, gather_npm, gather_wheel
from bundler.adopt.files import MARK, Described, bundle_text, recipe_text
from bundler.adopt.layout import Layout, lay_out, to_words
from bundler.adopt.needs import Library, Needs, find_needs, libraries_in
from bundler.adopt.packages import Packages
from bundler.adopt.picked import Picked
from bundler.adopt.programs import Programs, find_programs
from bundler.adopt.refuse import refuse
from bundler.adopt.source import Gathered, as_version
from bundler.adopt.tied import (
    DLOPEN,
    GENERIC,
    SHELL,
    USERS,
    Edit,
    Facts,
    Tied,
    edits_for,
    look_into,
    moved,
    tie,
)
from bundler.closure.symbols import read_symbols
from bundler.debian import Archive
from bundler.digest import digest_file
from bundler.errors import BundleError, InputError, Problems, raise_all
from bundler.events import Sink, ignore
from bundler.fetch import Fetcher
from bundler.globs import matches
from bundler.lock_file import format_lock
from bundler.oci.image import Image
from bundler.oci.merged import ImageTree
from bundler.pipeline import Outcome, Pipeline
from bundler.plan import RUNTIME
from bundler.recipe import Accept, Source
from bundler.recipe_file import LOCK, parse_bundle, parse_recipe, read_recipe
from bundler.settings import Settings
from bundler.store import Store, write_file
from bundler.toml import display_name, parse
from bundler.tree import DirectoryTree, FileTree, UnionTree, parents


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be adopted; ``version`` and ``license`` replace what the source says where they are set."""

    name: str
    sources: tuple[str, ...]
    command_line: str
    files: tuple[str, ...] = ()
    """Paths in an image or a directory."""
    requires: tuple[str, ...] = ()
    """Bundles beside the runtime whose libraries and programs may be used."""
    drop: tuple[str, ...] = ()
    """Globs, relative to the prefix, of what is not adopted."""
    commands: tuple[str, ...] = ()
    short: str = ""
    """First part of the prefix, instead of the name."""
    version: str = ""
    license: str = ""
    suite: str = ""


@dataclass(frozen=True, slots=True)
class Adopted:
    """What was worked out.  Paths in ``layout`` are relative to the prefix."""

    about: Described
    prefix: str
    layout: Layout
    needs: Needs
    commands: tuple[str, ...]
    foreign: tuple[tuple[str, str], ...]
    """Scripts, and the program of the container that runs them."""
    edits: tuple[Edit, ...]
    tied: tuple[Tied, ...]
    facts: Mapping[str, Facts]
    written: Mapping[Path, bytes]
    beside: Mapping[Path, Path]
    """Files to be copied, by where they go."""

    @property
    def recipe(self) -> Path:
        return next(path for path in self.written if path.name == "recipe.toml")

    def calling(self, functions: frozenset[str]) -> list[str]:
        """The files below the prefix that call one of these."""
        return sorted(path for path, one in self.facts.items() if not one.calls.isdisjoint(functions))

    @property
    def opened(self) -> dict[str, list[str]]:
        """Libraries that are not in reach, by the files that may open them by name."""
        there = {*self.needs.libraries, *self.needs.reached}
        found = {path: sorted(self.facts[path].libraries - there) for path in self.calling(DLOPEN)}
        return {path: names for path, names in found.items() if names}


@dataclass(frozen=True, slots=True)
class Reach:
    """The bundles that an adopted one may use: libraries by name, and names of programs."""

    libraries: Mapping[str, Library]
    programs: frozenset[str]
    requires: tuple[str, ...]


Images = Callable[[str, ExitStack], Image]
"""Opens the image that a user means, for as long as the stack is."""


def adopt(settings: Settings, request: Request, images: Images, sink: Sink = ignore) -> Adopted:
    """Work out what a bundle of the sources is; nothing is written.

    Raises InputError for sources that cannot be adopted, saying of each library and version why.
    """
    prefix = settings.target.prefix(request.short or request.name, 1)
    reach = _reach(settings, request, sink)
    store = Store(settings.cache)
    with store.temporary() as work, ExitStack() as stack:
        fetcher = Fetcher(settings.cache, offline=settings.offline, sink=sink)
        found = _gather(settings, request, fetcher, work, images, stack)
        wanted = _wanted(found, request.drop)
        while True:
            needs = find_needs(
                found.tree, wanted, reach.libraries, settings.target.architecture, anywhere=found.anywhere
            )
            if not needs.missing or not found.more(needs.missing):
                break
        refuse(needs, settings.target.architecture, request.requires)
        # Run paths lead to the bundles in reach first: a second copy would never be loaded, or beside theirs.
        held = {
            path: f"the bundle {reach.libraries[facts.soname].bundle} has it"
            for path, facts in needs.objects.items()
            if facts.is_library and facts.soname is not None and facts.soname in reach.libraries
        }
        kept = [path for path in wanted if path not in held]
        layout = lay_out(found.tree, kept, needs.libraries, found.place)
        layout = replace(layout, left_out=(*layout.left_out, *sorted(held.items())))
        if not layout.files:
            raise InputError("there is nothing to adopt", where=" ".join(request.sources))
        programs = find_programs(found.tree, layout, needs.objects, reach.programs, request.commands)
        return _describe(settings, request, prefix, reach, found, needs, programs)


def _reach(settings: Settings, request: Request, sink: Sink) -> Reach:
    """Build the bundles that may be used, from the cache what is there."""
    pipeline = Pipeline(settings, (RUNTIME, *request.requires), sink)
    pipeline.build()
    assembler = pipeline.assembler()
    needed = {n for name in pipeline.wanted for n in (name, *pipeline.plan.bundles[name].requires)}
    bundles = [bundle for name, bundle in pipeline.plan.bundles.items() if name in needed]
    tree = UnionTree([assembler.tree(bundle, pipeline.parts(bundle)) for bundle in bundles])
    libraries = libraries_in(tree, [(bundle.bundle.name, f"{bundle.prefix}/lib") for bundle in bundles])
    programs = {name for bundle in bundles for name in tree.names(f"{bundle.prefix.lstrip('/')}/bin")}
    requires = tuple(dict.fromkeys((RUNTIME, *request.requires)))
    return Reach(libraries, frozenset(programs), requires)


def _gather(
    settings: Settings, request: Request, fetcher: Fetcher, work: Path, images: Images, stack: ExitStack
) -> Gathered:
    """Fetch and unpack the source; the kind of each is in its name."""
    architecture = settings.target.architecture
    kinds = {source.partition(":")[0] for source in request.sources if ":" in source}
    if kinds == {"debian"} and all(source.startswith("debian:") for source in request.sources):
        names = [source.partition(":")[2] for source in request.sources]
        archive = _archive(settings, request.suite)
        return Packages(names, request.name, archive, fetcher, work, architecture)
    if len(request.sources) > 1:
        raise InputError("several sources can be adopted at once only if they are Debian packages")
    source = request.sources[0]
    kind, _, rest = source.partition(":")
    if kind in ("docker", "podman") or request.files:
        if not request.files:
            raise InputError("an image is not adopted whole", where=source, hint="--file PATH, once or more")
        path = Path(source)
        tree: FileTree = (
            DirectoryTree(path) if path.is_dir() and not (path / "index.json").exists()
            else stack.enter_context(ImageTree(images(source, stack)))
        )  # fmt: skip
        return Picked(tree, request.files, request.name, work, architecture)
    if kind == "pypi":
        project, _, version = rest.partition("==")
        return gather_wheel(project, version, request.name, fetcher, work, architecture)
    if kind == "npm":
        scope, name = ("@", rest[1:]) if rest.startswith("@") else ("", rest)
        package, _, version = name.partition("@")
        return gather_npm(scope + package, version, request.name, fetcher, work, architecture)
    return gather_archive(source, request.name, fetcher, work, architecture)


def _archive(settings: Settings, suite: str) -> Archive:
    """The suite as it is now; offline, as it was when it was last asked for."""
    from bundler.debian import KEYRING, KEYRING_VARIABLE, open_archive, read_archive

    state = settings.cache / "debian" / suite
    if settings.offline:
        return read_archive(suite, state / "lists", keyring=Path(os.environ.get(KEYRING_VARIABLE) or KEYRING))
    return open_archive(suite, settings.target.architecture, state)


def _wanted(found: Gathered, drop: Sequence[str]) -> list[str]:
    """The paths to adopt that have a place, and are not dropped."""
    kept = []
    unused = set(drop)
    for path in found.wanted:
        target = found.place(path)
        if target is None:
            continue
        dropping = [
            glob for glob in drop if any(matches(part, [glob]) for part in (target, *parents(target)))
        ]
        unused.difference_update(dropping)
        if not dropping:
            kept.append(path)
    raise_all(
        [
            InputError(f"--drop {glob} matches nothing", hint="globs are relative to the prefix")
            for glob in sorted(unused)
        ]
    )
    return kept


def _describe(
    settings: Settings,
    request: Request,
    prefix: str,
    reach: Reach,
    found: Gathered,
    needs: Needs,
    programs: Programs,
) -> Adopted:
    layout = programs.layout
    origin = found.origin(layout)
    about = replace(
        origin.about,
        version=as_version(request.version or origin.about.version),
        license=request.license or origin.about.license,
    )
    facts = _facts(found.tree, layout, needs)
    layout, edits, tied = _tie(found, layout, prefix, facts)
    home, images = settings.recipes[0] / request.name, settings.images[0]
    command = request.command_line
    recipe = recipe_text(
        about,
        command,
        sources=origin.sources,
        packages=[package.name for package in origin.lock.packages] if origin.lock else (),
        license_files=origin.license_files,
        words=to_words(layout, found.place, found.present(layout)),
        edits=edits,
        prefix=prefix,
    )
    bundle = bundle_text(
        about,
        command,
        short=request.short or request.name,
        requires=reach.requires,
        commands=programs.commands,
        accepts=[
            Accept("shebang-outside", path, f"a script of the source, which the container's {name} runs")
            for path, name in programs.foreign
        ],
    )
    written = {home / "recipe.toml": recipe.encode(), images / f"{request.name}.toml": bundle.encode()}
    if origin.lock is not None:
        written = {home / LOCK: format_lock(origin.lock).encode(), **written}
    # What is written must be right: better to say so now.
    parse_recipe(parse(recipe, "the new recipe"), home / "recipe.toml", lock=origin.lock)
    parse_bundle(parse(bundle, "the new bundle"), images / f"{request.name}.toml")
    kept = {}
    for name, file in origin.beside.items():
        kept[home / name] = _keep(file, settings.cache)
    return Adopted(
        about, prefix, layout, needs, programs.commands, programs.foreign, edits, tied, facts, written, kept
    )


def _keep(file: Path, cache: Path) -> Path:
    """The file as a source of the cache, where it stays when the work directory goes."""
    source = Source((file.absolute().as_uri(),), digest_file(file), strip=0)
    return Fetcher(cache).fetch(source)


def _facts(tree: FileTree, layout: Layout, needs: Needs) -> dict[str, Facts]:
    found = {}
    sources = layout.sources
    for path, facts in needs.objects.items():
        if path not in sources:
            continue
        with tree.open(path) as stream:
            try:
                calls = {reference.name for reference in read_symbols(stream, facts).undefined}
            except InputError:
                calls = set()
            stream.seek(0)
            seen = look_into(stream.read(), calls & (SHELL | USERS | DLOPEN))
            found[sources[path]] = replace(seen, paths=seen.paths - {facts.interpreter})
    return found


def _tie(
    found: Gathered, layout: Layout, prefix: str, facts: Mapping[str, Facts]
) -> tuple[Layout, tuple[Edit, ...], tuple[Tied, ...]]:
    """Edits for paths that lead into the bundle where they fit, and what is tied to the host after them.

    The layout has the links that such paths lead over.
    """
    held = _held(found, layout, prefix)
    left = {path for one in facts.values() for path in one.paths} - held.keys() - GENERIC
    owners = {path: owner for path in left if (owner := found.owner(path.strip("/"))) is not None}
    tops = {path.partition("/")[0] for path in (*layout.files, *layout.links)}
    links: dict[str, str] = {}
    edits: list[Edit] = []
    tied: list[Tied] = []
    for one in tie(facts, held, owners):
        new = moved(one.path, one.held, prefix) if one.held is not None else None
        done: set[str] = set()
        if new is not None and (new[1] is None or new[1][0] not in tops):
            data = {}
            for file in one.files:
                with found.tree.open(layout.files[file]) as stream:
                    data[file] = stream.read()
            mine = edits_for(one.path, new[0], data)
            done = {file for edit in mine for file in edit.files}
            edits += mine
            if done and new[1] is not None:
                links[new[1][0]] = new[1][1]
        rest = tuple(file for file in one.files if file not in done)
        if rest:
            tied.append(replace(one, files=rest))
    return replace(layout, links={**layout.links, **links}), tuple(edits), tuple(tied)


def _held(found: Gathered, layout: Layout, prefix: str) -> dict[str, str]:
    """Absolute paths of the source that are in the bundle, directories too, and where they are there."""
    held = {f"/{source}": f"{prefix}/{target}" for source, target in layout.sources.items()}
    full = {parent for target in layout.files for parent in parents(target)}
    for source in layout.sources:
        for above in parents(source):
            target = found.place(above)
            # What is merged with others is no directory of its own.
            if target in full and "/" in (target or "") and f"/{above}" not in GENERIC:
                held[f"/{above}"] = f"{prefix}/{target}"
    return held


def write(adopted: Adopted) -> None:
    """Write recipe and bundle file, the latter last; raises InputError where others wrote what is there.

    What an earlier adoption kept beside the recipe, and this one does not, goes.
    """
    problems: list[BundleError] = []
    for path in adopted.written:
        if path.suffix == ".toml" and path.exists() and not path.read_bytes().startswith(MARK.encode()):
            message = "is there already, and 'bundle adopt' did not write it"
            problems.append(InputError(message, where=display_name(path)))
    raise_all(problems)
    before = _beside(adopted.recipe)
    for path, source in adopted.beside.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.part")
        shutil.copyfile(source, partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.rename(path)
    for path, data in adopted.written.items():
        write_file(path, data)
    for path in before - {*adopted.beside, *adopted.written}:
        path.unlink(missing_ok=True)


def _beside(recipe: Path) -> set[Path]:
    """Files that an earlier adoption keeps beside its recipe; none where it cannot be read any more."""
    try:
        sources = read_recipe(recipe).sources
    except BundleError:
        return set()
    return {recipe.with_name(LOCK), *(recipe.with_name(s.file_name) for s in sources if _is_beside(s))}


def _is_beside(source: Source) -> bool:
    return source.urls[0].startswith("file:") and not source.urls[0].startswith("file:/")


def build(settings: Settings, adopted: Adopted, sink: Sink = ignore) -> Outcome:
    """Build, verify and pack the bundle that was written; raises as the pipeline does, with what to do."""
    try:
        return Pipeline(settings, (adopted.about.name,), sink).build()
    except Problems:
        raise
    except BundleError as error:
        error.hint = (
            error.hint or f"the recipe is {display_name(adopted.recipe)}: correct it, and 'bundle build' it"
        )
        raise


def command_line(words: Sequence[str]) -> str:
    """How the command was called, as a comment shows it."""
    return shlex.join(["bundle", "adopt", *words])
