"""The recipe for Kubernetes, judged by the schemas of its API; those for engines run in ``test_use_*.py``."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from command import Bundle
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from bundler.digest import Digest
from bundler.fetch import Fetcher
from bundler.recipe import Source
from bundler.settings import cache_directory

SCHEMAS = Source(
    ("pypi:kubernetes-validate/kubernetes_validate-1.37.0-py3-none-any.whl",),
    Digest("sha256:85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9"),
)
"""The OpenAPI schemas of every release, as JSON schema."""

Judge = Callable[[str, Any], list[str]]


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    """What the schema of a release says against a pod."""
    with zipfile.ZipFile(Fetcher(cache_directory()).fetch(SCHEMAS)) as wheel:

        def faults(release: str, pod: Any) -> list[str]:
            place = f"kubernetes_validate/kubernetes-json-schema/v{release}.0-local-strict"
            definitions = json.loads(wheel.read(f"{place}/_definitions.json"))
            where = "/api/_definitions.json"
            schema = {"$ref": f"{where}#/$defs/io.k8s.api.core.v1.Pod"}
            registry: Registry[Any] = Registry().with_resource(
                where, DRAFT202012.create_resource(definitions)
            )
            found = jsonschema.Draft202012Validator(schema, registry=registry).iter_errors(pod)
            return sorted(f"{'/'.join(map(str, error.path))}: {error.message}" for error in found)

        yield faults


@pytest.fixture
def pod(sample_bundles: Path) -> Any:
    """A pod with what is printed for the sample bundles."""
    bundle = Bundle(sample_bundles, {})
    recipe = yaml.safe_load(
        bundle("mount", "tools", "--for", "kubernetes", "--repository", "registry.example/x")
    )
    recipe["spec"]["containers"][0]["image"] = "alpine"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **recipe}


@pytest.mark.parametrize("release", ["1.33", "1.35", "1.37"])
def test_a_pod_as_the_api_has_it(judge: Judge, pod: Any, release: str) -> None:
    assert judge(release, pod) == []
    mounts = pod["spec"]["containers"][0]["volumeMounts"]
    assert [(mount["mountPath"], mount["subPath"]) for mount in mounts] == [
        ("/.deps/rt/1", ".deps/rt/1"),
        ("/.deps/tools/1", ".deps/tools/1"),
    ]
    assert {volume["name"] for volume in pod["spec"]["volumes"]} == {mount["name"] for mount in mounts}


def test_the_schema_would_tell(judge: Judge, pod: Any) -> None:
    """Releases without image volumes refuse them, and all of them refuse what is misspelt."""
    assert any("'image' was unexpected" in fault for fault in judge("1.30", pod))
    pod["spec"]["containers"][0]["volumeMounts"][0]["subpath"] = pod["spec"]["containers"][0]["volumeMounts"][
        0
    ].pop("subPath")
    assert any("'subpath' was unexpected" in fault for fault in judge("1.37", pod))
