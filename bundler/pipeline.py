"""The whole way: from the names of bundles to verified images.

Nodes are built as soon as what they see is there, several at once, on one pool of job slots; sources are
fetched meanwhile.  With nothing to do, nothing heavier than a look into the store happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from bundler.assemble import Assembler, Packed, Part
from bundler.catalogue import Catalogue
from bundler.digest import Digest
from bundler.errors import BundleError, Problems
from bundler.events import Message, Sink, TaskFinished, ignore
from bundler.plan import FINISH, Plan, PlannedBundle, make_plan
from bundler.recipe import Source, packages_of
from bundler.settings import Settings
from bundler.store import Store
from bundler.survey import NodeState, Surveyor

if TYPE_CHECKING:
    from bundler.build import BuildOptions
    from bundler.build_request import BuildRequest
    from bundler.fetch import Fetcher
    from bundler.jobserver import Jobserver
    from bundler.sandbox import Sandbox

FETCHES = 6
"""Downloads at once: enough to hide latency, few enough for any mirror."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a build did; ``built`` are the nodes that were not in the cache, ``seconds`` is wall time."""

    packed: tuple[Packed, ...]
    built: tuple[str, ...]
    cached: tuple[str, ...]
    seconds: float


class Pipeline:
    """One plan on its way through the store."""

    def __init__(self, settings: Settings, wanted: Sequence[str], sink: Sink = ignore) -> None:
        self.settings = settings
        self.sink = sink
        catalogue = Catalogue(
            recipes=settings.recipes, images=settings.images, toolchains=settings.toolchains
        )
        self.toolchain = catalogue.toolchain(settings.toolchain)
        self.wanted = tuple(wanted)
        self.plan: Plan = make_plan(
            wanted, catalogue.bundles, catalogue.recipes, self.toolchain, settings.target
        )
        self.store = Store(settings.cache)
        self.surveyor = Surveyor(self.plan, self.toolchain, self.store)

    def build(self) -> Outcome:
        """Build what is missing, then verify and pack the wanted bundles and what they require.

        Raises BuildError where a recipe fails (all that failed, if several do), CheckError where a
        bundle is not in order.
        """
        began = time.monotonic()
        if self.settings.cache_from:
            self._take_shared()
        states = self.surveyor.survey()
        missing = [state for state in states if state.state != "built"]
        work = _Work(self, missing)
        if missing:
            work.run()
        packed = self.pack()
        self._hold()
        if self.settings.cache_to:
            self._give_shared()
        return Outcome(
            packed=packed,
            built=tuple(work.built),
            cached=tuple(name for name in self.plan.nodes if name not in work.built),
            seconds=time.monotonic() - began,
        )

    def _take_shared(self) -> None:
        """Take from shared caches what is missing here; an entry that is not in order is as good as none."""
        from bundler.registry.cache import SharedCache

        caches = [SharedCache(name) for name in self.settings.cache_from]
        for node in self.plan.nodes.values():
            state = self.surveyor.look(node)
            if state.key is None or state.state == "built":
                continue
            for cache in caches:
                try:
                    outputs = cache.pull(state.key, self.store)
                except BundleError as error:
                    self.sink(
                        Message(f"the shared cache is not used for {node.recipe.name}: {error}", "warning")
                    )
                    continue
                if outputs is not None:
                    self.surveyor.built(state, outputs)
                    self.sink(TaskFinished(f"build {node.recipe.name}", "cached"))
                    break

    def _give_shared(self) -> None:
        from bundler.registry.cache import SharedCache

        for cache in map(SharedCache, self.settings.cache_to):
            for key in self.surveyor.keys.values():
                cache.push(key, self.store)

    def _hold(self) -> None:
        """Keep all of the plan from being collected: the next build of these bundles starts from it."""
        from bundler.buildroot import buildroot_key

        root = buildroot_key(self.toolchain.buildroot, self.toolchain.links)
        for name in self.wanted:
            self.store.hold(f"{name}-{self.toolchain.name}", [root, *self.surveyor.keys.values()])

    def visit(self, name: str) -> int:
        """Build what a node sees, then open a shell where its steps would run; returns its status."""
        from bundler.build import open_shell

        states = self.surveyor.survey()
        sees = self.plan.nodes[name].sees
        work = _Work(self, [s for s in states if s.state != "built" and s.node.id in sees])
        work.run()
        request = work.request(self.surveyor.look(self.plan.nodes[name]), work.fetcher.fetch)
        return open_shell(request, self.store, work.sandbox, self.settings.jobs)

    def pack(self) -> tuple[Packed, ...]:
        """Verify and pack the wanted bundles and what they require, from trees that are built."""
        assembler = self.assembler()
        needed = {name for wanted in self.wanted for name in (wanted, *self.plan.bundles[wanted].requires)}
        packed: list[Packed] = []
        for name, bundle in self.plan.bundles.items():
            if name not in needed:
                continue
            began = time.monotonic()
            parts = self.parts(bundle)
            assembler.place(bundle, parts)
            result = assembler.pack(bundle, parts)
            packed.append(result)
            self.sink(
                TaskFinished(f"pack {name}", "cached" if result.cached else "done", time.monotonic() - began)
            )
        return tuple(packed)

    def assembler(self) -> Assembler:
        return Assembler(self.plan, self.toolchain, self.store, self.settings.out)

    def parts(self, bundle: PlannedBundle) -> list[Part]:
        """The trees of a bundle in the order of its layers."""
        return [self.part(bundle, name) for name in bundle.nodes]

    def part(self, bundle: PlannedBundle, name: str) -> Part:
        """The tree of one node, which is built, in a bundle."""
        node = self.plan.nodes[name]
        tree = self.surveyor.outputs[name][bundle.prefix]
        return Part(node.recipe.name, node.recipe.version, tree, None if node.recipe.name == FINISH else node)


@dataclass
class _Work:
    """The nodes that are being built, and what they need of the machine."""

    pipeline: Pipeline
    missing: list[NodeState]
    failures: list[BundleError] = field(default_factory=list)
    built: list[str] = field(default_factory=list)
    """Nodes that had to be built: what they see had changed in effect, or they never were."""

    def run(self) -> None:
        settings = self.pipeline.settings
        with (
            ThreadPoolExecutor(FETCHES, "fetch") as self.fetches,
            ThreadPoolExecutor(settings.jobs, "build") as builds,
        ):
            try:
                self._start_fetches()
                self.buildroot = self._make_buildroot()
                self.sandbox = self._choose_sandbox()
                self._schedule(builds)
            except BaseException:
                self.options.stop.set()
                self.fetches.shutdown(cancel_futures=True, wait=False)
                builds.shutdown(cancel_futures=True, wait=False)
                raise
            if self.failures:
                self.fetches.shutdown(cancel_futures=True, wait=False)
        if self.failures:
            raise self.failures[0] if len(self.failures) == 1 else Problems(self.failures)

    def _start_fetches(self) -> None:
        """Order the downloads: the build root first, since nothing builds without it, then by plan."""
        from bundler.buildroot import find_buildroot
        from bundler.node_request import package_source

        toolchain = self.pipeline.toolchain
        self.buildroot_path = find_buildroot(self.pipeline.store, toolchain.buildroot, toolchain.links)
        self.files: dict[Digest, Future[Path]] = {}
        if self.buildroot_path is None:
            self._order(map(package_source, toolchain.buildroot.packages))
        for state in self.missing:
            recipe = state.node.recipe
            self._order(map(package_source, packages_of(recipe, toolchain)))
            self._order(recipe.sources)

    def _order(self, sources: Iterable[Source]) -> None:
        for source in sources:
            if source.digest not in self.files:
                self.files[source.digest] = self.fetches.submit(self.fetcher.fetch, source)

    def _schedule(self, builds: ThreadPoolExecutor) -> None:
        """Start each node when all that it sees is built and its files are here, those first on which the
        longest chain waits; no job slot waits for a download.

        After the first failure nothing more is started.
        """
        surveyor = self.pipeline.surveyor
        waiting = {state.node.id: state for state in self.missing}
        heights = self.pipeline.plan.heights()
        running: dict[Future[None], NodeState] = {}
        while waiting or running:
            ready = [
                state
                for state in waiting.values()
                if all(other in surveyor.outputs for other in state.node.sees)
            ]
            coming: set[Future[Path]] = set()
            for state in sorted(ready, key=lambda state: -heights[state.node.id]):
                now = surveyor.look(state.node)
                if now.state == "built":
                    del waiting[state.node.id]
                    self.pipeline.sink(TaskFinished(f"build {now.node.recipe.name}", "cached"))
                elif self.failures or len(running) >= self.pipeline.settings.jobs:
                    break
                elif late := {file for file in self._files(now) if not file.done()}:
                    coming |= late
                else:
                    del waiting[state.node.id]
                    running[builds.submit(self._build, now)] = now
                    self.built.append(now.node.id)
            if self.failures and not running:
                return
            if not running and not coming:
                continue
            wait([cast("Future[object]", future) for future in (*running, *coming)], None, FIRST_COMPLETED)
            for future in [future for future in running if future.done()]:
                del running[future]
                error = future.exception()
                if isinstance(error, BundleError):
                    self.failures.append(error)
                elif error is not None:
                    raise error

    def _files(self, state: NodeState) -> list[Future[Path]]:
        recipe = state.node.recipe
        packages = (package.digest for package in packages_of(recipe, self.pipeline.toolchain))
        return [self.files[digest] for digest in (*packages, *(s.digest for s in recipe.sources))]

    def _build(self, state: NodeState) -> None:
        from bundler.build import build_node

        pipeline = self.pipeline
        request = self.request(state, lambda source: self.files[source.digest].result())
        outputs = build_node(
            request, pipeline.store, self.sandbox, self.jobserver, pipeline.sink, self.options
        )
        pipeline.surveyor.built(state, outputs)

    def request(self, state: NodeState, fetch: Callable[[Source], Path]) -> BuildRequest:
        """The request for a node; ``fetch`` gives the files of its sources and packages."""
        from bundler.node_request import package_source, request_for

        recipe, pipeline = state.node.recipe, self.pipeline
        assert state.inputs is not None
        return request_for(
            state.node,
            state.inputs,
            pipeline.plan,
            pipeline.store,
            pipeline.surveyor.outputs,
            buildroot=self.buildroot,
            sources=[(source, fetch(source)) for source in recipe.sources],
            packages=[fetch(package_source(p)) for p in packages_of(recipe, pipeline.toolchain)],
        )

    @cached_property
    def fetcher(self) -> Fetcher:
        from bundler.fetch import Fetcher

        settings = self.pipeline.settings
        return Fetcher(
            settings.cache, offline=settings.offline, sink=self.pipeline.sink, stop=self.options.stop
        )

    def _make_buildroot(self) -> Path:
        from bundler.buildroot import make_buildroot

        if self.buildroot_path is not None:
            return self.buildroot_path
        toolchain = self.pipeline.toolchain
        packages = (self.files[package.digest].result() for package in toolchain.buildroot.packages)
        return make_buildroot(
            self.pipeline.store, toolchain.buildroot, packages, toolchain.links, self.pipeline.sink
        )

    def _choose_sandbox(self) -> Sandbox:
        from bundler.sandbox import choose_sandbox

        with self.pipeline.store.temporary() as work:
            return choose_sandbox(self.buildroot, work, self.pipeline.settings.sandbox)

    @cached_property
    def jobserver(self) -> Jobserver:
        from bundler.jobserver import Jobserver

        return Jobserver(self.pipeline.settings.jobs)

    @cached_property
    def options(self) -> BuildOptions:
        from bundler.build import BuildOptions

        settings = self.pipeline.settings
        return BuildOptions(keep_failed=settings.keep_failed, debug_shell=settings.debug_shell)
