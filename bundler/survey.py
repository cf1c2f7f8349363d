"""What the store holds of a plan: which nodes are built, which must be, and why.

A node's key is known once all that it sees is built; until then it may or may not be built anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bundler import key as keys
from bundler.digest import Digest, digest_file
from bundler.plan import Node, Plan
from bundler.recipe import Toolchain
from bundler.store import Store, write_file

State = Literal["built", "missing", "changed", "waits"]


@dataclass(frozen=True, slots=True)
class NodeState:
    """``key`` and ``inputs`` are None while something that the node sees is not built.

    ``why`` says what changed since it was built last, or what it waits for.
    """

    node: Node
    state: State
    key: Digest | None = None
    inputs: Mapping[str, Any] | None = field(default=None, repr=False)
    outputs: Mapping[str, Digest] | None = None
    why: tuple[str, ...] = ()


class Surveyor:
    """Computes keys and looks them up; remembers what it has seen of patches and outputs."""

    def __init__(self, plan: Plan, toolchain: Toolchain, store: Store) -> None:
        self.plan = plan
        self.toolchain = toolchain
        self.store = store
        self.outputs: dict[str, Mapping[str, Digest]] = {}
        """Trees by prefix of every node that is known to be built."""
        self.keys: dict[str, Digest] = {}
        """Keys of all nodes that were looked at when all that they see was built."""
        self._patches: dict[Path, Digest] = {}

    def survey(self) -> list[NodeState]:
        """The state of every node, in plan order."""
        return [self.look(node) for node in self.plan.nodes.values()]

    def look(self, node: Node) -> NodeState:
        """The state of one node; what it sees must have been looked at before."""
        waiting = tuple(name for name in node.sees if name not in self.outputs)
        if waiting:
            return NodeState(node, "waits", why=tuple(self.plan.nodes[name].recipe.name for name in waiting))
        for patch in node.recipe.patches:
            if patch not in self._patches:
                self._patches[patch] = digest_file(patch)
        inputs = keys.key_inputs(node, self.outputs, self._patches, self.toolchain, node.target)
        key = self.keys[node.id] = keys.key_of(inputs)
        outputs = self.store.outputs(key)
        if outputs is not None:
            self.outputs[node.id] = outputs
            return NodeState(node, "built", key, inputs, outputs)
        changed = keys.difference(self._latest(node), inputs)
        return NodeState(node, "changed" if changed else "missing", key, inputs, None, changed)

    def built(self, state: NodeState, outputs: Mapping[str, Digest]) -> None:
        """Note that a node was built, with what, so that a later plan can say what changed."""
        self.outputs[state.node.id] = outputs
        write_file(self._latest_path(state.node), json.dumps(state.inputs, sort_keys=True).encode())

    def _latest_path(self, node: Node) -> Path:
        place = node.prefix.strip("/").replace("/", "-")
        return self.store.root / "latest" / f"{node.recipe.name}@{place}.json"

    def _latest(self, node: Node) -> Mapping[str, Any] | None:
        try:
            found = json.loads(self._latest_path(node).read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def to_build(states: Sequence[NodeState]) -> list[NodeState]:
    """The states that are not built."""
    return [state for state in states if state.state != "built"]
