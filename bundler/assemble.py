"""From built trees to verified images: the closure proven, one layer per recipe, the layout on disk.

What was verified and hashed once is remembered in the store under a key of its own: with nothing
changed, nothing is read but that record.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundler.digest import Digest, canonical_json, digest_bytes, digest_file
from bundler.errors import CheckError
from bundler.labels import Facts, Required
from bundler.plan import Node, Plan, PlannedBundle
from bundler.recipe import Toolchain, packages_of
from bundler.store import Store
from bundler.tree import DirectoryTree, Entry, FileTree, UnionTree, tree_digest

if TYPE_CHECKING:
    from bundler.closure.report import Report, Scope
    from bundler.oci.image import Image, Layer
    from bundler.oci.layer import LayerSource
    from bundler.oci.manifest import Component

FORMAT = 1
"""Raised whenever the same trees would give another image, or another verdict."""


@dataclass(frozen=True, slots=True)
class Part:
    """A tree inside a bundle that becomes a layer; ``node`` is None for what finishing steps made."""

    name: str
    version: str
    tree: Digest
    node: Node | None


@dataclass(frozen=True, slots=True)
class Packed:
    """A bundle whose image lies in ``layout``; ``size`` counts the layers' bytes, uncompressed."""

    name: str
    version: str
    prefix: str
    image: Digest
    """The image ID: digest of the configuration."""
    manifest: Digest
    layout: Path
    layers: int
    files: int
    size: int
    cached: bool

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.version}"


class Assembler:
    """Verifies and packs the bundles of one plan, in the plan's order."""

    def __init__(self, plan: Plan, toolchain: Toolchain, store: Store, out: Path) -> None:
        self.plan = plan
        self.toolchain = toolchain
        self.store = store
        self.out = out
        self._packed: dict[str, Packed] = {}
        self._trees: dict[str, FileTree] = {}

    def key(self, bundle: PlannedBundle, parts: Sequence[Part]) -> Digest:
        """Everything that decides the image's bytes and the verifier's verdict."""
        file = bundle.bundle
        return digest_bytes(
            canonical_json(
                {
                    "format": FORMAT,
                    "code": _code_digest(),
                    "architecture": self.plan.target.architecture.name,
                    "toolchain": list(self.toolchain.chain),
                    "bundle": [file.name, file.version, bundle.prefix, file.summary],
                    "commands": list(file.commands),
                    "command": list(file.command),
                    "environment": [list(pair) for pair in file.environment],
                    "accepts": [[a.rule, a.path, a.reason] for a in file.accepts],
                    "requires": [[name, self._packed[name].image] for name in bundle.requires],
                    "parts": [[p.name, p.version, p.tree, _about(p)] for p in parts],
                }
            )
        )

    def pack(self, bundle: PlannedBundle, parts: Sequence[Part]) -> Packed:
        """Verify the bundle and write its image; what it requires must have been packed before.

        Raises CheckError with every violation where it is not in order.
        """
        key = self.key(bundle, parts)
        layout = self.out / bundle.bundle.name
        known = self.store.lookup(key)
        packed = self._from_record(bundle, known.meta, layout) if known else None
        if packed is None or digest_of_layout(layout) != packed.manifest:
            packed = self._pack(bundle, parts, layout)
            self.store.record(key, {}, _to_record(packed))
        self._packed[bundle.bundle.name] = packed
        return packed

    def recall(self, bundle: PlannedBundle, parts: Sequence[Part]) -> Packed | None:
        """The bundle as it was packed from the same inputs before, or None; nothing is read or written.

        What it requires must have been recalled before.
        """
        if any(name not in self._packed for name in bundle.requires):
            return None
        known = self.store.lookup(self.key(bundle, parts))
        packed = self._from_record(bundle, known.meta, self.out / bundle.bundle.name) if known else None
        if packed is not None:
            self._packed[bundle.bundle.name] = packed
        return packed

    def _pack(self, bundle: PlannedBundle, parts: Sequence[Part], layout: Path) -> Packed:
        from bundler.oci.layout import write_layout

        report = self.verify(bundle, parts)
        if not report.ok:
            from bundler.closure.report import to_text

            raise CheckError(
                f"the bundle {bundle.bundle.name!r} is not in order: {len(report.violations)} violations",
                where=str(bundle.bundle.path),
                detail=to_text(report),
                hint="'bundle verify' explains each rule with --explain",
            )
        image, entries = self._image(bundle, parts, report)
        layout.parent.mkdir(parents=True, exist_ok=True)
        write_layout(layout, image)
        return Packed(
            name=bundle.bundle.name,
            version=bundle.bundle.version,
            prefix=bundle.prefix,
            image=image.id,
            manifest=image.digest,
            layout=layout,
            layers=len(image.layers),
            files=entries,
            size=sum(layer.descriptor.size for layer in image.layers),
            cached=False,
        )

    def tree(self, bundle: PlannedBundle, parts: Sequence[Part]) -> FileTree:
        """The bundle's files at their prefix."""
        union = self.store.union([part.tree for part in parts], {part.tree: part.name for part in parts})
        return DirectoryTree(union, at=bundle.prefix.strip("/"))

    def place(self, bundle: PlannedBundle, parts: Sequence[Part]) -> None:
        """Make the bundle's files known to those that require it, packed or not."""
        self._trees[bundle.bundle.name] = self.tree(bundle, parts)

    def scope(self, bundle: PlannedBundle) -> Scope:
        from bundler.closure.report import Scope

        return Scope(
            prefix=bundle.prefix,
            allowed=tuple(self.plan.bundles[name].prefix for name in bundle.requires),
            architecture=self.plan.target.architecture,
            accepts=bundle.bundle.accepts,
            seed=_is_seed(self.toolchain),
            commands=bundle.bundle.commands,
        )

    def verify(self, bundle: PlannedBundle, parts: Sequence[Part]) -> Report:
        """The verifier's report over the bundle and all that it requires."""
        from bundler.closure.verify import verify

        self.place(bundle, parts)
        trees = [self._trees[name] for name in (bundle.bundle.name, *bundle.requires)]
        return verify(UnionTree(trees), self.scope(bundle))

    def _image(self, bundle: PlannedBundle, parts: Sequence[Part], report: Report) -> tuple[Image, int]:
        from bundler.oci.manifest import BundleFacts
        from bundler.oci.pack import bundle_image

        file = bundle.bundle
        facts = Facts(
            name=file.name,
            version=file.version,
            prefix=bundle.prefix,
            compat=file.compat,
            requires=tuple(Required(name, self._packed[name].image) for name in bundle.requires),
        )
        layers: list[Layer] = []
        components: list[Component] = []
        for layer, component in self.components(bundle, parts):
            layers.append(layer)
            components.append(component)
        files = sum(1 for component in components for entry in component.entries if entry.kind == "file")
        described = BundleFacts(
            facts=facts,
            architecture=self.plan.target.architecture.oci,
            commands=file.commands,
            symbols=tuple(sorted(report.versions.values())),
            summary=file.summary,
            toolchain=self.toolchain.chain,
        )
        command = [f"{bundle.prefix}/{file.command[0]}", *file.command[1:]] if file.command else ["/nop"]
        image = bundle_image(
            described,
            # A layer that several share comes behind those that have one of their own.
            list({layer.diff_id: layer for layer in sorted(layers, key=layers.count)}.values()),
            components,
            command=command,
            environment=file.environment,
            reference=f"{file.name}:{file.version}",
        )
        return image, files

    def components(self, bundle: PlannedBundle, parts: Sequence[Part]) -> list[tuple[Layer, Component]]:
        """The layer of each tree, and what manifest and SBOMs say of it."""
        from bundler.oci.pack import within_budget

        described = [self._source(bundle, part) for part in parts]
        sources = within_budget([source for source, _ in described])
        layers = {id(source): self._layer(source) for source in sources}
        return [
            (layers[id(source)], replace(component, layer=layers[id(source)].diff_id))
            for source, (_, component) in zip(sources, described, strict=True)
        ]

    def _source(self, bundle: PlannedBundle, part: Part) -> tuple[LayerSource, Component]:
        from bundler.oci.layer import source_of_tree
        from bundler.oci.pack import recipe_layer

        tree = source_of_tree(
            self.store.entries(part.tree),
            self.store.tree_path(part.tree),
            bundle.prefix,
            name=part.name,
            version=part.version,
        )
        component = self._described(part, tree.entries)
        source = recipe_layer(tree, bundle.prefix, component)
        return source, replace(component, entries=source.entries)

    def _described(self, part: Part, entries: tuple[Entry, ...]) -> Component:
        from bundler.oci.manifest import Component, component_of

        if part.node is None:
            return Component(part.name, part.version, "", None, entries)
        recipe = part.node.recipe
        return component_of(recipe, entries, packages=packages_of(recipe, self.toolchain))

    def _layer(self, source: LayerSource) -> Layer:
        """The layer of a source; its diff ID is computed once for the same entries."""
        from bundler.oci import layer as layers
        from bundler.oci.image import layer_of

        key = digest_bytes(canonical_json(["layer", layers.FORMAT, tree_digest(source.entries)]))
        known = self.store.lookup(key)
        if known is not None:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                identity = layers.LayerIdentity(Digest(known.meta["diff_id"]), int(known.meta["size"]))
                return layer_of(source, identity)
        layer = layer_of(source)
        self.store.record(key, {}, {"diff_id": layer.diff_id, "size": layer.descriptor.size})
        return layer

    def _from_record(self, bundle: PlannedBundle, meta: Mapping[str, Any], layout: Path) -> Packed | None:
        try:
            return Packed(
                name=bundle.bundle.name,
                version=bundle.bundle.version,
                prefix=bundle.prefix,
                image=Digest(meta["image"]),
                manifest=Digest(meta["manifest"]),
                layout=layout,
                layers=int(meta["layers"]),
                files=int(meta["files"]),
                size=int(meta["size"]),
                cached=True,
            )
        except (KeyError, TypeError, ValueError):
            return None


def _to_record(packed: Packed) -> dict[str, Any]:
    return {name: getattr(packed, name) for name in ("image", "manifest", "layers", "files", "size")}


def digest_of_layout(layout: Path) -> Digest | None:
    """The manifest that an OCI layout's index names first, or None where there is no sound index."""
    try:
        index = json.loads((layout / "index.json").read_bytes())
        return Digest(str(index["manifests"][0]["digest"]))
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def _about(part: Part) -> list[Any]:
    """What of a recipe goes into the image beside its tree: the facts in manifest and SBOM."""
    if part.node is None:
        return []
    recipe = part.node.recipe
    sources = [[source.urls[:1], source.digest] for source in recipe.sources]
    return [
        recipe.license,
        recipe.summary,
        recipe.homepage,
        recipe.cpe,
        recipe.purl,
        sources,
        recipe.packages,
    ]


def _is_seed(toolchain: Toolchain) -> bool:
    return toolchain.bootstrap is None


def _code_digest() -> list[Digest]:
    """The rules and the code that judge and pack, so that a new rule looks at old bundles too."""
    package = Path(__file__).parent
    files = sorted([*package.glob("closure/*"), *package.glob("oci/*.py"), *package.glob("elf/*.py")])
    return [digest_file(file) for file in files if file.is_file()]
