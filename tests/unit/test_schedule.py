"""The order in which nodes are started, with builds and downloads that only note when they were."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bundler.digest import Digest, digest_bytes
from bundler.pipeline import _Work


@dataclass
class Outside:
    """What the scheduler sees of the pipeline: a plan, a surveyor, one job slot."""

    sees: dict[str, tuple[str, ...]]
    outputs: dict[str, object] = field(default_factory=dict)

    def work(self) -> _Work:
        states = {name: self.state(name) for name in self.sees}
        surveyor = SimpleNamespace(outputs=self.outputs, look=lambda node: states[node.id])
        heights = {name: number for number, name in enumerate(reversed(self.sees))}
        pipeline: Any = SimpleNamespace(
            surveyor=surveyor,
            plan=SimpleNamespace(heights=lambda: heights),
            settings=SimpleNamespace(jobs=1),
            toolchain=None,
        )
        work = _Work(pipeline, list(states.values()))
        work.files = {digest_of(name): Future() for name in self.sees}
        return work

    def state(self, name: str) -> Any:
        recipe = SimpleNamespace(name=name, packages=(), sources=(SimpleNamespace(digest=digest_of(name)),))
        return SimpleNamespace(
            node=SimpleNamespace(id=name, recipe=recipe, sees=self.sees[name]), state="missing"
        )


def digest_of(name: str) -> Digest:
    return digest_bytes(name.encode())


def test_no_job_slot_waits_for_a_download(monkeypatch: Any) -> None:
    """The download of what comes first is over only when the other is built: one slot must do."""
    outside = Outside({"first": (), "second": (), "third": ("first",)})
    work = outside.work()
    order: list[str] = []

    def build(self: _Work, state: Any) -> None:
        name = state.node.id
        assert self.files[digest_of(name)].done()
        order.append(name)
        outside.outputs[name] = {}
        if name == "second":
            work.files[digest_of("first")].set_result(Path("first"))

    monkeypatch.setattr(_Work, "_build", build)
    for name in ("second", "third"):
        work.files[digest_of(name)].set_result(Path(name))
    with ThreadPoolExecutor(1) as builds:
        work._schedule(builds)
    assert order == ["second", "first", "third"]
