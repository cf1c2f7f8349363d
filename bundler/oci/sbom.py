"""Software bills of materials of a bundle, as scanners read them: SPDX 2.3 and CycloneDX 1.5, both JSON.

Times and identifiers are functions of the content, so that the same bundle has the same bytes.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Any

from bundler.digest import canonical_json, digest_bytes, hex_of
from bundler.oci.image import CREATED
from bundler.oci.manifest import PLACE, BundleFacts, Component

SPDX = f"{PLACE}/sbom.spdx.json"
CYCLONEDX = f"{PLACE}/sbom.cdx.json"

_ROOT = "SPDXRef-Bundle"
_REFERENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")


def spdx(bundle: BundleFacts, components: Sequence[Component]) -> bytes:
    """The SPDX 2.3 document (spdx.github.io/spdx-spec/v2.3) of a bundle."""
    software = _software(components)
    facts = bundle.facts
    name = f"{facts.name}-{facts.version}"
    root = {
        "SPDXID": _ROOT,
        "name": facts.name,
        "versionInfo": facts.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "supplier": "NOASSERTION",
        "primaryPackagePurpose": "CONTAINER",
    }
    packages = [root, *(_spdx_package(component) for component in software)]
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", _ROOT)]
    relations += [(_ROOT, "CONTAINS", _spdx_id(component.name)) for component in software]
    return _spdx_document(name, packages, relations, software)


def recipe_spdx(component: Component) -> bytes:
    """The SPDX 2.3 document of one recipe, for its layer."""
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", _spdx_id(component.name))]
    name = _plain(f"{component.name}-{component.version}")
    return _spdx_document(name, [_spdx_package(component)], relations, [component])


def _spdx_document(
    name: str,
    packages: Sequence[dict[str, Any]],
    relations: Sequence[tuple[str, str, str]],
    software: Sequence[Component],
) -> bytes:
    document: dict[str, Any] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "creationInfo": {"created": CREATED, "creators": ["Tool: bundler"]},
        "packages": list(packages),
        "relationships": [
            {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}
            for one, kind, other in relations
        ],
    }
    if references := _license_references(software):
        document["hasExtractedLicensingInfos"] = references
    identity = hex_of(digest_bytes(canonical_json(document)))
    document["documentNamespace"] = f"https://spdx.org/spdxdocs/{name}-{identity}"
    return canonical_json(document)


def _spdx_package(component: Component) -> dict[str, Any]:
    package: dict[str, Any] = {
        "SPDXID": _spdx_id(component.name),
        "name": component.name,
        "versionInfo": component.version,
        "downloadLocation": next(
            (url for url, _ in component.sources if url.startswith(("https://", "http://"))), "NOASSERTION"
        ),
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": component.license,
        "copyrightText": "NOASSERTION",
        "supplier": "NOASSERTION",
        "externalRefs": [
            {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl}
            for purl in component.purls
        ]
        + [
            {"referenceCategory": "SECURITY", "referenceType": "cpe23Type", "referenceLocator": component.cpe}
        ],
    }
    if component.summary:
        package["summary"] = component.summary
    if component.homepage:
        package["homepage"] = component.homepage
    if len(component.sources) == 1:
        package["checksums"] = [{"algorithm": "SHA256", "checksumValue": hex_of(component.sources[0][1])}]
    return package


def _license_references(software: Sequence[Component]) -> list[dict[str, str]]:
    """SPDX wants the text of each licence that its list does not have; ours lies beside the files."""
    found: dict[str, str] = {}
    for component in software:
        for reference in _REFERENCE.findall(component.license):
            found.setdefault(reference, component.name)
    return [
        {
            "licenseId": reference,
            "extractedText": f"See share/licenses/{name} in the prefix.",
            "name": reference,
        }
        for reference, name in sorted(found.items())
    ]


def cyclonedx(bundle: BundleFacts, components: Sequence[Component]) -> bytes:
    """The CycloneDX 1.5 document (cyclonedx.org/docs/1.5/json) of a bundle."""
    facts = bundle.facts
    listed = [_cyclonedx_component(component) for component in _software(components)]
    root = {"type": "container", "bom-ref": facts.name, "name": facts.name, "version": facts.version}
    depends = [{"ref": facts.name, "dependsOn": [item["bom-ref"] for item in listed]}]
    return _cyclonedx_document({"component": root}, listed, {"dependencies": depends})


def recipe_cyclonedx(component: Component) -> bytes:
    """The CycloneDX 1.5 document of one recipe, for its layer."""
    return _cyclonedx_document({}, [_cyclonedx_component(component)], {})


def _cyclonedx_document(
    about: dict[str, Any], listed: Sequence[dict[str, Any]], more: dict[str, Any]
) -> bytes:
    document: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": CREATED, **about},
        "components": list(listed),
        **more,
    }
    identity = uuid.uuid5(uuid.NAMESPACE_OID, digest_bytes(canonical_json(document)))
    document["serialNumber"] = f"urn:uuid:{identity}"
    return canonical_json(document)


def _cyclonedx_component(component: Component) -> dict[str, Any]:
    record: dict[str, Any] = {
        "type": "application",
        "bom-ref": f"recipe:{component.name}",
        "name": component.name,
        "version": component.version,
        "cpe": component.cpe,
        "licenses": [{"expression": component.license}],
    }
    if component.purls:
        record["purl"] = component.purls[0]
    if component.summary:
        record["description"] = component.summary
    references = [{"type": "distribution", "url": url} for url, _ in component.sources if "://" in url]
    if component.homepage:
        references.append({"type": "website", "url": component.homepage})
    if references:
        record["externalReferences"] = references
    return record


def _software(components: Sequence[Component]) -> list[Component]:
    return sorted((component for component in components if component.license), key=lambda item: item.name)


def _spdx_id(name: str) -> str:
    return "SPDXRef-Recipe-" + _plain(name)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", text)
