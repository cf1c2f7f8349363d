"""The process that test_kill.py kills: builds a chain of small nodes in a store, and prints their trees."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from small_builds import PREFIX, small_request

from bundler.build import build_node
from bundler.build_request import Dependency
from bundler.digest import Digest
from bundler.events import Event, Sink, TaskFinished, ignore
from bundler.jobserver import Jobserver
from bundler.sandbox.bubblewrap import Bubblewrap
from bundler.store import Store

INSTALL = """
d="$DESTDIR$PREFIX/share/$NAME"; mkdir -p "$d"
i=0; while [ $i -lt 40 ]; do echo "$NAME $i {salt}" >"$d/$i"; i=$((i+1)); done
ln "$d/1" "$d/hard"; ln -s 2 "$d/soft"; chmod 700 "$d/3"
cat "$PREFIX"/share/*/1 >"$d/seen" 2>/dev/null || echo first >"$d/seen"
"""


def build_chain(buildroot: Path, cache: Path, salt: str, sink: Sink = ignore) -> dict[str, Digest]:
    """Three nodes, each of which sees those before it; ``salt`` makes other trees of them."""
    store, jobserver, sandbox = Store(cache), Jobserver(2), Bubblewrap()
    found: dict[str, Digest] = {}
    try:
        for name in ("one", "two", "three"):
            seen = tuple(Dependency(other, PREFIX, digest) for other, digest in found.items())
            steps = {"install": INSTALL.replace("{salt}", salt + "".join(sorted(found.values())))}
            request = small_request(buildroot, steps, name=name, dependencies=seen)
            found[name] = build_node(request, store, sandbox, jobserver, sink)[PREFIX]
    finally:
        store.close()
    return found


if __name__ == "__main__":
    print("ready", flush=True)
    events: list[Event] = []
    trees = build_chain(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], events.append)
    built = sum(isinstance(event, TaskFinished) and event.outcome == "done" for event in events)
    print(json.dumps({"trees": trees, "built": built}))
