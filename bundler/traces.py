"""Traces that mounting bundles leaves in an image, and which of them to take out: decisions alone.

`docker commit` writes how the container was started (Cmd, Env, User, WorkingDir, its host name) into the
configuration, and Docker 20.10's BuildKit a PATH; both leave the mount points, empty, and their parents.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from bundler.tree import Entry, Kind, parents

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What an engine sets where an image says nothing; BuildKit writes it down (moby, oci/defaults.go)."""
ENGINE_DIRECTORIES = ("dev", "etc", "proc", "run", "sys")
"""Where engines mount what is theirs; podman and BuildKit leave such of them as the image lacks."""

_CONTAINER_KEYS = ("container", "container_config", "parent", "id")
"""Outer keys that only tell of the container that an image was committed from."""

Inner = Mapping[str, Any]


def mount_points(
    layers: Sequence[Sequence[Entry]],
    root: str,
    *,
    kept: int = 0,
    engine: bool = False,
    further: Iterable[str] = (),
) -> list[frozenset[str]]:
    """For each layer, the paths of entries that are there for a mount only.

    Those are ``root`` and the directories below it, where no layer has anything but directories there.
    The lowest ``kept`` layers stay as they are.  What those lack, is empty, and is one of
    :data:`ENGINE_DIRECTORIES` (with ``engine``) or of the mount points ``further`` with their parents is
    found, too; of these, a file may be empty as well.
    """
    root = root.strip("/")
    points = {path.strip("/") for path in further}
    exact = {*points, *(parent for path in points for parent in parents(path))}
    exact |= {*ENGINE_DIRECTORIES} if engine else set()
    below = {entry.path: entry for entries in layers[:kept] for entry in entries}
    occupied: set[str] = set()
    for entry in (entry for entries in layers for entry in entries):
        if entry.kind is not Kind.DIRECTORY and not (entry.path in points and _is_empty_file(entry)):
            occupied.update(parents(entry.path))
            occupied.add(entry.path)

    def is_for_a_mount(entry: Entry) -> bool:
        if entry.kind is not Kind.DIRECTORY:
            return entry.path in points and entry.path not in below and _is_empty_file(entry)
        if not (is_below(entry.path, root) or entry.path in exact):
            return False
        if entry.path in below:
            return _alike(entry, below[entry.path])
        return entry.path not in occupied

    found = [frozenset[str]()] * kept
    for entries in layers[kept:]:
        here = {entry.path for entry in entries if is_for_a_mount(entry)}
        needed = {parent for entry in entries if entry.path not in here for parent in parents(entry.path)}
        found.append(frozenset(here - needed))
    return found


def _is_empty_file(entry: Entry) -> bool:
    return entry.kind is Kind.FILE and not entry.size and entry.hardlink is None


def _alike(one: Entry, other: Entry) -> bool:
    """Whether two directories differ in their times alone."""
    return (one.kind, one.mode, one.uid, one.gid, one.xattrs) == (
        other.kind,
        other.mode,
        other.uid,
        other.gid,
        other.xattrs,
    )


def is_commit(config: Mapping[str, Any]) -> bool:
    """Whether an image's configuration was written by a commit, and not by a build.

    A commit's history item has the container's command, where a build's has an instruction.
    """
    if is_podman_commit(config):
        return True
    last = (config.get("history") or [{}])[-1]
    made_by = str(last.get("created_by") or "")
    if "#(nop)" in made_by or "buildkit" in str(last.get("comment") or ""):
        return False
    if (container := config.get("container_config")) is not None:
        return made_by == _joined(container)
    # With containerd's store, Docker says no more of the container.
    return bool(made_by) and made_by == _joined(config.get("config") or {})


def _joined(inner: Inner) -> str:
    """A command as a commit's history item has it."""
    return " ".join(map(str, inner.get("Cmd") or ()))


def is_podman_commit(config: Mapping[str, Any]) -> bool:
    """podman writes a variable of its own into what it commits."""
    return "container=podman" in ((config.get("config") or {}).get("Env") or ())


def clean_inner(inner: Inner, root: str, base: Inner | None = None) -> dict[str, Any]:
    """The configuration of a container without what names a bundle, and without BuildKit's PATH.

    The PATH is known to be BuildKit's where the image below (``base``) is known to have none.
    """
    cleaned = dict(inner)
    variables = [kept for text in inner.get("Env") or () if (kept := _clean_variable(str(text), root))]
    if base is not None and not any(str(text).startswith("PATH=") for text in base.get("Env") or ()):
        variables = [text for text in variables if text != DEFAULT_PATH]
    if variables != list(inner.get("Env") or ()):
        cleaned["Env"] = variables
        if not variables:
            del cleaned["Env"]
    for key in ("Cmd", "Entrypoint"):
        words = inner.get(key)
        if words and is_below(str(words[0]), root):
            del cleaned[key]
    if is_below(str(inner.get("WorkingDir") or ""), root):
        del cleaned["WorkingDir"]
    for key in ("Volumes", "Labels"):
        kept_items = {
            name: value
            for name, value in (inner.get(key) or {}).items()
            if not (is_below(name, root) if key == "Volumes" else name == "bundle.run")
        }
        if len(kept_items) != len(inner.get(key) or {}):
            cleaned[key] = kept_items
            if not kept_items:
                del cleaned[key]
    return cleaned


def _clean_variable(text: str, root: str) -> str | None:
    name, equals, value = text.partition("=")
    parts = value.split(":")
    kept = [part for part in parts if not is_below(part, root)]
    if len(kept) == len(parts):
        return text
    return name + equals + ":".join(kept) if kept else None


def is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")


def clean_config(
    config: Mapping[str, Any],
    inner: Inner,
    *,
    diff_ids: Sequence[str],
    dropped: Collection[int],
    root: str,
) -> dict[str, Any]:
    """An image's whole configuration with another inner part, and layers changed or dropped.

    ``diff_ids`` are those that remain, ``dropped`` the numbers of the layers that do not: their history
    items stay as steps that changed no file, but for those of a commit, which go.
    """
    committed = is_commit(config)
    cleaned = {key: value for key, value in config.items() if key not in _CONTAINER_KEYS}
    cleaned["config"] = dict(inner)
    cleaned["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)}
    history = [dict(item) for item in config.get("history") or ()]
    with_layers = [item for item in history if not item.get("empty_layer")]
    if committed and history:
        # It holds the command that ran, which may well name the bundle's.
        last = history[-1]
        if root in str(last.get("created_by") or ""):
            last["created_by"] = ""
        if len(with_layers) - 1 in dropped and last is with_layers[-1]:
            history.pop()
    for number in dropped:
        if number < len(with_layers):
            with_layers[number]["empty_layer"] = True
    if history:
        cleaned["history"] = history
    return cleaned


def describe(before: Inner, after: Inner) -> list[str]:
    """What differs between two inner configurations, a line each."""
    keys: Iterable[str] = sorted({*before, *after})
    return [
        f"config: {key} {_shown(before.get(key))} → {_shown(after.get(key))}"
        for key in keys
        if (before.get(key) or None) != (after.get(key) or None)
    ]


def _shown(value: Any) -> str:
    return "(none)" if value in (None, "", [], {}) else str(value)
