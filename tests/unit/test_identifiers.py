"""Every recipe of the checkout by its package URLs and its CPE, before independent judges."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packageurl import PackageURL
from test_oci_pack import BUNDLE

from bundler.catalogue import Catalogue
from bundler.cli.common import CHECKOUT
from bundler.digest import digest_bytes
from bundler.oci.manifest import Component, component_of
from bundler.oci.sbom import cyclonedx, spdx
from bundler.recipe import Recipe, Toolchain

CATALOGUE = Catalogue(
    recipes=[CHECKOUT / "recipes"], images=[CHECKOUT / "images"], toolchains=CHECKOUT / "toolchain"
)
LAYER = digest_bytes(b"layer")

# The expression of the CPE 2.3 XML schema (NISTIR 7695, "Formatted String Binding"), taken apart.
_PART = r"(?:\?*|\*?)(?:[a-zA-Z0-9\-._]|\\[\\*?!\"#$%&'()+,/:;<=>@\[\]^`{|}~])+(?:\?*|\*?)"
CPE = re.compile(
    rf"cpe:2\.3:[aho](?::(?:{_PART}|[*\-])){{5}}:(?:[a-zA-Z]{{2,3}}(?:-[a-zA-Z0-9]+)?|[*\-])(?::(?:{_PART}|[*\-])){{4}}"
)


def recipes() -> Iterator[tuple[str, Recipe, Toolchain]]:
    seed = CATALOGUE.toolchain("seed")
    for name in CATALOGUE.recipes:
        yield name, CATALOGUE.recipes[name], seed
    for toolchain in (CATALOGUE.toolchain(name) for name in CATALOGUE.toolchains):
        for name, recipe in toolchain.recipes.items():
            yield f"{toolchain.name}/{name}", recipe, toolchain


def component(recipe: Recipe, toolchain: Toolchain) -> Component:
    locked = {package.name: package for package in toolchain.lock.packages}
    return component_of(recipe, (), LAYER, [locked[name] for name in recipe.packages])


ALL = {name: component(recipe, toolchain) for name, recipe, toolchain in recipes()}


@pytest.mark.parametrize("name", ALL)
def test_package_urls_are_canonical(name: str) -> None:
    found = ALL[name]
    assert found.purls
    for text in found.purls:
        parsed = PackageURL.from_string(text)
        # The judge leaves slashes in qualifiers as they are; the specification's examples have them escaped.
        assert parsed.to_string() == text.replace("%2F", "/")
        assert parsed.version


@pytest.mark.parametrize("name", ALL)
def test_cpes_are_formatted_strings(name: str) -> None:
    assert CPE.fullmatch(ALL[name].cpe), ALL[name].cpe


def test_no_two_recipes_go_by_one_name() -> None:
    ours = [found for name, found in ALL.items() if "/" not in name]
    assert len({found.cpe for found in ours}) == len(ours)
    assert len({purl for found in ours for purl in found.purls}) == sum(len(found.purls) for found in ours)


def test_the_whole_catalogue_before_the_official_validators(tmp_path: Path) -> None:
    ours = [found for name, found in ALL.items() if "/" not in name or name.startswith("seed/")]
    (tmp_path / "x.spdx.json").write_bytes(spdx(BUNDLE, ours))
    (tmp_path / "x.cdx.json").write_bytes(cyclonedx(BUNDLE, ours))
    judge(tmp_path / "x.spdx.json", tmp_path / "x.cdx.json")
    assert len(json.loads((tmp_path / "x.cdx.json").read_bytes())["components"]) == len(ours)


def judge(*files: Path) -> None:
    """SPDX and CycloneDX documents, by turns, before both validators.

    In a process of their own: their libraries warn, and warnings are errors here.
    """
    program = (
        "import sys; from pathlib import Path\n"
        "from cyclonedx.schema import SchemaVersion\n"
        "from cyclonedx.validation.json import JsonStrictValidator\n"
        "from spdx_tools.spdx.parser.parse_anything import parse_file\n"
        "from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document\n"
        "spdx, cyclonedx = sys.argv[1::2], sys.argv[2::2]\n"
        "wrong = [m.validation_message for f in spdx for m in validate_full_spdx_document(parse_file(f))]\n"
        "judge = JsonStrictValidator(SchemaVersion.V1_5)\n"
        "found = [judge.validate_str(Path(file).read_text()) for file in cyclonedx]\n"
        "sys.exit('\\n'.join([*wrong, *(str(one) for one in found if one)]) or 0)\n"
    )
    words = [sys.executable, "-W", "ignore", "-c", program, *map(str, files)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
