"""Builds one node: from fetched sources to trees in the store.

Unpack, patch, run the steps in the sandbox, drop, strip, check: what is installed then goes to the store
under a key of its own; then relocate a copy of it, and store that.  ``docs/architecture.md`` shows what a
build sees.  All of it happens in a temporary directory of the store, so a build that is
killed leaves nothing that another one could meet.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bundler import installed, process
from bundler.build_layout import lay_out, scripts
from bundler.build_log import BuildLog
from bundler.build_request import FIFO, BuildRequest, environment
from bundler.digest import Digest
from bundler.errors import BuildError, BundleError
from bundler.events import Message, Sink, TaskFinished, TaskStarted, ignore
from bundler.globs import matches
from bundler.jobserver import Jobserver
from bundler.relocate import DESTINATION
from bundler.sandbox import HOME, Mount, Room, Sandbox
from bundler.store import Store, remove_tree

TAIL = 20
"""Lines of the log that an error shows."""

_BATCH = 500
"""Files given to one run of strip: far below the kernel's limit on arguments."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What to do about a failure, and when to stop: once ``stop`` is set, running steps are killed."""

    keep_failed: bool = False
    debug_shell: bool = False
    stop: threading.Event = field(default_factory=threading.Event)


def build_node(
    request: BuildRequest,
    store: Store,
    sandbox: Sandbox,
    jobserver: Jobserver,
    sink: Sink = ignore,
    options: BuildOptions | None = None,
) -> Mapping[str, Digest]:
    """Build what ``request`` says, or take it from the store; returns the tree of each output's prefix.

    Several threads and processes may call it for one key: one builds, the others wait and take it over.
    Raises BuildError, with the end of the log, where a step fails or installs what it must not.
    """
    task = f"build {request.recipe.name}"
    store.open()

    def waiting() -> None:
        sink(Message(f"{request.recipe.name}: another process builds it; waiting"))

    with store.key_lock(request.key, waiting):
        found = store.outputs(request.key)
        if found is not None:
            sink(TaskFinished(task, "cached"))
            return found
        with store.temporary() as place_of_work:
            work = place_of_work / "work"
            work.mkdir()
            with jobserver.client(work / os.path.basename(FIFO)):
                return _Build(
                    request, store, sandbox, jobserver.jobs, sink, options or BuildOptions(), work
                ).run()


def open_shell(request: BuildRequest, store: Store, sandbox: Sandbox, jobs: int) -> int:
    """Lay a build out up to its patches and open a shell where its steps would run; returns its status.

    What the shell leaves behind goes with it.  Raises BuildError where a patch does not fit.
    """
    with store.temporary() as place_of_work:
        work = place_of_work / "work"
        work.mkdir()
        lay_out(request, work)
        room = room_of(request, store, work, jobs)
        if request.recipe.patches:
            heard: list[bytes] = []
            script = f"{HOME}/steps/{scripts(request)[0][0]}"
            if sandbox.run(room, ["/bin/sh", "-eu", script], heard.append) != 0:
                said = b"".join(heard).decode(errors="replace")
                raise BuildError("the patches do not fit", where=str(request.recipe.path), detail=said)
        sandbox.prepare(room)
        shell = "bash" if (request.buildroot / "usr/bin/bash").exists() else "sh"
        command = sandbox.command(_attended(room, request.recipe.name), [shell], interactive=True)
        return process.run_attached(command, environment=os.environ)


def _attended(room: Room, name: str) -> Room:
    """The room without the jobserver of a build that runs, and with what a person at a terminal needs."""
    values = {"MAKEFLAGS": f"-j{room.environment['JOBS']}", "PS1": f"{name}:\\w$ "}
    if terminal := os.environ.get("TERM"):
        values["TERM"] = terminal
    return replace(room, environment={**room.environment, **values})


def room_of(request: BuildRequest, store: Store, work: Path, jobs: int) -> Room:
    """What the steps of ``request`` see, with ``work`` at ``/build``."""
    by_prefix: dict[str, dict[Digest, str]] = {}
    for dependency in request.dependencies:
        by_prefix.setdefault(dependency.prefix, {})[dependency.digest] = dependency.name
    mounts = tuple(
        Mount(store.union(tuple(names), names), prefix) for prefix, names in sorted(by_prefix.items())
    )
    return Room(request.buildroot, work, mounts, environment(request, mounts, jobs))


class _Build:
    """One build while it runs."""

    def __init__(
        self,
        request: BuildRequest,
        store: Store,
        sandbox: Sandbox,
        jobs: int,
        sink: Sink,
        options: BuildOptions,
        work: Path,
    ) -> None:
        self.request = request
        self.recipe = request.recipe
        self.store = store
        self.sandbox = sandbox
        self.sink = sink
        self.options = options
        self.work = work
        self.dest = work / "dest"
        self.task = f"build {self.recipe.name}"
        self.room = room_of(request, store, work, jobs)
        self.scripts = scripts(request)

    def run(self) -> Mapping[str, Digest]:
        began = time.monotonic()
        self.sink(TaskStarted(self.task, len(self.scripts) + 1))
        outcome = "failed"
        try:
            with BuildLog(
                self.store.log_path(self.recipe.name, self.request.key), self.task, self.sink
            ) as self.log:
                outputs = self._run(began)
            outcome = "done"
        finally:
            seconds = time.monotonic() - began
            self.sink(TaskFinished(self.task, "done" if outcome == "done" else "failed", seconds))
        return outputs

    def _run(self, began: float) -> Mapping[str, Digest]:
        request = self.request
        known = self.store.outputs(request.installed_key)
        if known is None:
            tree = self._install()
            self.store.record(request.installed_key, {"/": tree}, self._meta(began))
        else:
            tree = known["/"]
            self.log.write(b"its steps ran before; what they installed is relocated anew\n")
        self.log.step("relocate", len(self.scripts))
        self.store.copy(tree, self.dest)
        with self._dest_kept_on_failure():
            leaks = self._relocate()
        outputs = {
            output.prefix: self.store.add_tree(self.dest / output.prefix.strip("/"))
            for output in request.outputs
        }
        self.store.record(request.key, outputs, {**self._meta(began), "leaks": list(leaks)})
        return outputs

    def _install(self) -> Digest:
        """Run the steps; returns the tree of what they installed, sorted out but not relocated."""
        lay_out(self.request, self.work)
        for done, (script, _) in enumerate(self.scripts):
            self.log.step(script.partition("-")[2], done)
            self._step(script.partition("-")[2], ["/bin/sh", "-eu", f"{HOME}/steps/{script}"])
        with self._dest_kept_on_failure():
            self._sort_out()
        return self.store.add_tree(self.dest)

    def _meta(self, began: float) -> dict[str, object]:
        """What is worth knowing of what was made; ``seconds`` are those since the build began."""
        return {
            "name": self.recipe.name,
            "version": self.recipe.version,
            "prefix": self.request.prefix,
            "seconds": round(time.monotonic() - began, 1),
        }

    @contextlib.contextmanager
    def _dest_kept_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BundleError as error:
            self.log.write(f"{error}\n".encode("utf-8", "surrogateescape"))
            if self.options.keep_failed:
                self.sink(
                    Message(f"{self.recipe.name}: what it installed is kept in {self._keep()}/work/dest")
                )
            raise

    def _step(self, name: str, argv: Sequence[str], room: Room | None = None) -> None:
        status = self.sandbox.run(room or self.room, argv, self.log.write, self.options.stop)
        if self.options.stop.is_set():
            raise BuildError(f"the build of {self.recipe.name} was stopped")
        if status != 0:
            raise self._failure(name, status)

    def _failure(self, step: str, status: int) -> BuildError:
        kept = self._keep() if self.options.keep_failed or self.options.debug_shell else None
        if kept and self.options.debug_shell:
            self.sink(
                Message(f"{self.recipe.name}: a shell where the step {step!r} failed; 'exit' leaves it")
            )
            process.run_attached([str(kept / "enter")], environment=os.environ)
        what = (
            f"killed by signal {-status if status < 0 else status - 128}"
            if status < 0 or status > 128
            else ""
        )
        hints = [f"'bundle log {self.recipe.name}' shows all of it"]
        if kept:
            hints.append(f"the build directory is kept; to enter it: {kept}/enter")
        else:
            hints.append("--keep-failed keeps the build directory, --debug-shell opens a shell in it")
        return BuildError(
            f"{self.recipe.name} {self.recipe.version}: the step {step!r} failed "
            f"({what or f'exit status {status}'})",
            where=str(self.recipe.path),
            detail="\n".join(f"  | {line}" for line in self.log.tail(TAIL)),
            hint="; ".join(hints),
        )

    def _keep(self) -> Path:
        """Move the build directory to where it stays, with a script that enters it as a step does."""
        kept = self.store.root / "failed" / self.recipe.name
        if kept.is_symlink() or kept.exists():
            remove_tree(kept)
        (self.work / os.path.basename(FIFO)).unlink(missing_ok=True)
        kept.mkdir(parents=True)
        for path in list(self.work.parent.iterdir()):
            path.rename(kept / path.name)
        room = _attended(replace(self.room, work=kept / "work"), self.recipe.name)
        command = self.sandbox.command(room, ["/bin/sh"], interactive=True)
        enter = kept / "enter"
        enter.write_text(
            f"#!/bin/sh\n# The steps are in {HOME}/steps: sh -eu {HOME}/steps/{self.scripts[0][0]}\n"
            f"exec {shlex.join(command)}\n"
        )
        enter.chmod(0o755)
        return kept

    def _sort_out(self) -> None:
        """Drop and strip what the steps installed, check where it lies, add the licences."""
        request, recipe = self.request, self.recipe
        installed.check_place(self.dest, request.outputs, recipe)
        tops = [output.prefix.strip("/") for output in request.outputs]
        unused = set(recipe.drop)
        for top in tops:
            dropped = installed.drop(self.dest / top, recipe.drop, ())
            unused -= {glob for glob in unused if any(matches(path, [glob]) for path in dropped)}
            installed.drop(self.dest / top, installed.DROPPED, recipe.keep)
        for glob in sorted(unused):
            self.sink(Message(f"{recipe.name}: drop = [{json.dumps(glob)}] matches nothing", "warning"))
        self._strip(tops)
        installed.check_outputs(self.dest, request.outputs, recipe)
        files = installed.licenses(self.work / "src", recipe.license_files)
        for top in tops:
            installed.add_licenses(self.dest / top, recipe.name, files)

    def _relocate(self) -> Sequence[str]:
        """Make what is installed run from its prefix; returns files that name the build."""
        leaks: Sequence[str] = self.request.relocate(self.dest) if self.request.relocate else ()
        for path in leaks:
            self.log.write(f"names the build directory: {path}\n".encode("utf-8", "surrogateescape"))
        if leaks:
            shown = ", ".join(leaks[:3]) + (f" and {len(leaks) - 3} more" if len(leaks) > 3 else "")
            self.sink(Message(f"{self.recipe.name}: the build's own paths are left in {shown}", "warning"))
        return leaks

    def _strip(self, tops: Sequence[str]) -> None:
        """Strip with the toolchain's own program; a toolchain that is being built has none."""
        seen = {mount.target: mount.source for mount in self.room.mounts}
        if not any(
            os.path.lexists(source / os.path.relpath(f"{directory}/strip", prefix))
            for directory in self.request.path_directories
            for prefix, source in seen.items()
            if directory.startswith(prefix + "/")
        ):
            return
        found = installed.strippable(self.dest, tops, self.recipe.keep, self.request.target.architecture)
        room = replace(self.room, directory=DESTINATION)
        for flag, files in (("--strip-unneeded", found.programs), ("--strip-debug", found.objects)):
            for start in range(0, len(files), _BATCH):
                batch = [f"./{file}" for file in files[start : start + _BATCH]]
                self._step("strip", ["strip", flag, "--enable-deterministic-archives", *batch], room)
