"""How a bundle came to be, as SLSA provenance (slsa.dev/spec/v1.0/provenance): its recipes' keys and inputs.

It is a function of the plan: nothing is read of when, where or by whom it was built, so that two who build
the same say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import bundler
from bundler.digest import Digest, hex_of
from bundler.errors import InputError
from bundler.key import BUILDER, RELOCATION, buildroot_digest, code_digest
from bundler.pipeline import Pipeline
from bundler.recipe import LockedPackage, packages_of

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:bundle:build:1"


def provenance(pipeline: Pipeline, name: str) -> dict[str, Any]:
    """The predicate for a bundle as the recipes give it; raises InputError unless it is built and packed."""
    states = {state.node.id: state for state in pipeline.surveyor.survey()}
    assembler = pipeline.assembler()
    bundle = pipeline.plan.bundles[name]
    images: dict[str, Digest] = {}
    for other in (*bundle.requires, name):
        planned = pipeline.plan.bundles[other]
        built = all(states[node].state == "built" for node in planned.nodes)
        packed = assembler.recall(planned, pipeline.parts(planned)) if built else None
        if packed is None:
            raise InputError(
                f"the bundle {other!r} is not built as its recipes are now", hint=f"bundle build {name}"
            )
        images[other] = packed.image
    toolchain, target = pipeline.toolchain, pipeline.plan.target
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "bundle": name,
                "version": bundle.bundle.version,
                "toolchain": toolchain.name,
                "architecture": target.architecture.oci,
                "prefix": bundle.prefix,
            },
            "internalParameters": {
                "image": images.pop(name),
                "builder": code_digest(BUILDER + RELOCATION),
                "recipes": {
                    states[node].node.recipe.name: {
                        "version": states[node].node.recipe.version,
                        "key": states[node].key,
                        "tree": pipeline.surveyor.outputs[node][bundle.prefix],
                    }
                    for node in bundle.nodes
                },
            },
            "resolvedDependencies": list(_dependencies(pipeline, name, images)),
        },
        "runDetails": {"builder": {"id": "urn:bundle:builder", "version": {"bundler": bundler.__version__}}},
    }


def image_of(predicate: Any) -> Digest | None:
    """The image ID that a predicate of ours is about; None for one that someone else made."""
    try:
        definition = predicate["buildDefinition"]
        return (
            Digest(definition["internalParameters"]["image"])
            if definition["buildType"] == BUILD_TYPE
            else None
        )
    except (KeyError, TypeError):
        return None


def _dependencies(pipeline: Pipeline, name: str, required: Mapping[str, Digest]) -> Iterator[dict[str, Any]]:
    """Sources, binary packages, patches, the build root, and the images of the bundles that it requires."""
    toolchain = pipeline.toolchain
    bundle = pipeline.plan.bundles[name]
    yield _dependency("build root", "", buildroot_digest(toolchain))
    for other, image in required.items():
        yield _dependency(f"bundle {other}", "", image)
    for node in bundle.nodes:
        recipe = pipeline.plan.nodes[node].recipe
        for source in recipe.sources:
            yield _dependency(recipe.name, source.urls[0], source.digest)
        for package in packages_of(recipe, toolchain):
            yield _package(package)


def _package(package: LockedPackage) -> dict[str, Any]:
    return _dependency(package.name, f"debian:{package.path}", package.digest)


def _dependency(name: str, uri: str, digest: Digest) -> dict[str, Any]:
    record: dict[str, Any] = {"name": name, "digest": {"sha256": hex_of(digest)}}
    if uri:
        record["uri"] = uri
    return record
