"""SBOMs before the official validators of both formats."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from test_oci_pack import BUNDLE, component

from bundler.oci.manifest import Component
from bundler.oci.sbom import cyclonedx, recipe_cyclonedx, recipe_spdx, spdx


@pytest.fixture
def components() -> list[Component]:
    return [
        component({"bin/bash": b"elf"}, cpe="gnu:bash", summary="a shell", homepage="https://bash.example/")[
            0
        ],
        component({"lib/libz.so": b"elf"}, name="zlib", license="Zlib")[0],
        component({"lib/odd": b"x"}, name="odd+name", license="LicenseRef-odd AND (MIT OR Apache-2.0)")[0],
        component({"lib/made": b"x"}, name="finish", license="")[0],
    ]


Documents = Callable[[list[Component]], list[bytes]]


@pytest.mark.parametrize(
    "documents",
    [
        pytest.param(lambda components: [spdx(BUNDLE, components)], id="bundle"),
        pytest.param(lambda components: [recipe_spdx(one) for one in components if one.license], id="layers"),
    ],
)
def test_spdx(documents: Documents, components: list[Component], tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.spdx.json" for number in range(len(documents(components)))]
    for file, data in zip(files, documents(components), strict=True):
        file.write_bytes(data)
    # In a process of its own: the validator's libraries warn, and warnings are errors here.
    program = (
        "import sys; from spdx_tools.spdx.clitools.pyspdxtools import main\n"
        "for file in sys.argv[1:]: main(['--infile', file], standalone_mode=False)\n"
    )
    words = [sys.executable, "-W", "ignore", "-c", program, *map(str, files)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "documents",
    [
        pytest.param(lambda components: [cyclonedx(BUNDLE, components)], id="bundle"),
        pytest.param(
            lambda components: [recipe_cyclonedx(one) for one in components if one.license], id="layers"
        ),
    ],
)
def test_cyclonedx(documents: Documents, components: list[Component], tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.cdx.json" for number in range(len(documents(components)))]
    for file, data in zip(files, documents(components), strict=True):
        file.write_bytes(data)
    program = (
        "import sys; from pathlib import Path\n"
        "from cyclonedx.schema import SchemaVersion\n"
        "from cyclonedx.validation.json import JsonStrictValidator\n"
        "judge = JsonStrictValidator(SchemaVersion.V1_5)\n"
        "found = [judge.validate_str(Path(file).read_text()) for file in sys.argv[1:]]\n"
        "sys.exit(str(found) if any(found) else 0)\n"
    )
    words = [sys.executable, "-W", "ignore", "-c", program, *map(str, files)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def test_both_name_the_same_software(components: list[Component]) -> None:
    one = {(p["name"], p["versionInfo"]) for p in json.loads(spdx(BUNDLE, components))["packages"]}
    other = {(c["name"], c["version"]) for c in json.loads(cyclonedx(BUNDLE, components))["components"]}
    assert one == other | {("shell", "0.1.0")}
    assert {name for name, _ in other} == {"bash", "zlib", "odd+name"}


def test_the_order_of_recipes_does_not_matter(components: list[Component]) -> None:
    assert spdx(BUNDLE, components) == spdx(BUNDLE, components[::-1])
    assert cyclonedx(BUNDLE, components) == cyclonedx(BUNDLE, components[::-1])
