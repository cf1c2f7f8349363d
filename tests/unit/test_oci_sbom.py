"""SBOMs before the official validators of both formats."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_oci_pack import BUNDLE, component

from bundler.oci.manifest import Component
from bundler.oci.sbom import cyclonedx, spdx


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


def test_spdx(components: list[Component], tmp_path: Path) -> None:
    (tmp_path / "x.spdx.json").write_bytes(spdx(BUNDLE, components))
    # In a process of its own: the validator's libraries warn, and warnings are errors here.
    program = "import sys; from spdx_tools.spdx.clitools.pyspdxtools import main; main()"
    words = [sys.executable, "-W", "ignore", "-c", program, "--infile", str(tmp_path / "x.spdx.json")]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


def test_cyclonedx(components: list[Component], tmp_path: Path) -> None:
    (tmp_path / "x.cdx.json").write_bytes(cyclonedx(BUNDLE, components))
    program = (
        "import sys; from pathlib import Path\n"
        "from cyclonedx.schema import SchemaVersion\n"
        "from cyclonedx.validation.json import JsonStrictValidator\n"
        "found = JsonStrictValidator(SchemaVersion.V1_5).validate_str(Path(sys.argv[1]).read_text())\n"
        "sys.exit(str(found) if found else 0)\n"
    )
    words = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "x.cdx.json")]
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
