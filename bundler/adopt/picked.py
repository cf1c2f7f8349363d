"""Files of an image or of a machine's root file system as a source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bundler.adopt.files import Described
from bundler.adopt.layout import Layout, place_in_root
from bundler.adopt.needs import Missing
from bundler.adopt.source import Origin
from bundler.errors import InputError
from bundler.oci.layer import LayerSource, layer_entries, write_layer
from bundler.recipe import Source
from bundler.target import Architecture
from bundler.tree import Entry, FileTree, Kind, resolve, walk


class Picked:
    """Chosen files of a root file system, and the libraries that they need; kept as one tarball."""

    anywhere = False

    def __init__(
        self, tree: FileTree, chosen: Sequence[str], name: str, work: Path, architecture: Architecture
    ) -> None:
        """Raises InputError for a path that is not there."""
        self.tree = tree
        self.place = place_in_root(architecture.triplet)
        self._name = name
        self._work = work
        wanted: dict[str, None] = {}
        for path in chosen:
            led = resolve(tree, path)
            if led.error is not None or led.entry is None:
                raise InputError(f"there is no {path}", where=name, why=led.error)
            if led.entry.kind is Kind.DIRECTORY:
                wanted.update(dict.fromkeys(entry.path for entry in walk(tree, led.path)))
            else:
                # By the name that was asked for, too, where that is a link.
                named = resolve(tree, path, follow_last=False)
                wanted.update({led.path: None, named.path: None})
        self.wanted = tuple(wanted)

    def more(self, missing: Sequence[Missing]) -> bool:
        return False

    def owner(self, path: str) -> str | None:
        # Settings are the container's own affair, data are not.
        is_data = path.startswith(("usr/", "opt/")) and self.tree.get(path) is not None
        return f"--file /{path}" if is_data else None

    def origin(self, layout: Layout) -> Origin:
        file = self._work / f"{self._name}.tar"
        entries = layer_entries(self._entry(path) for path in sorted(set(layout.files.values())))
        with file.open("wb") as out:
            written = write_layer(LayerSource(self._name, "1", self.tree, entries), out)
        source = Source((f"file:{file.name}",), written.diff_id, strip=0)
        return Origin(Described(self._name, "1"), (source,), beside={file.name: file})

    def _entry(self, path: str) -> Entry:
        found = self.tree.get(path)
        assert found is not None
        size = found.size
        if found.hardlink is not None and (first := self.tree.get(found.hardlink)) is not None:
            size = first.size
        return Entry(path, Kind.FILE, 0o755 if found.mode & 0o111 else 0o644, size)

    def present(self, layout: Layout) -> dict[str, str | None]:
        return dict.fromkeys(layout.files.values())
