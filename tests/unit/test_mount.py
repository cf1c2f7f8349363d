"""Mount recipes, as golden files: tests/golden/mount/<runtime>.txt."""

from pathlib import Path

import pytest

from bundler.digest import Digest
from bundler.errors import InputError
from bundler.labels import Facts, Required, volume_name
from bundler.mount import RUNTIMES, Mounted, mount_recipe

GOLDEN = Path(__file__).parents[1] / "golden" / "mount"
RUNTIME_ID, SHELL_ID = (Digest("sha256:" + digit * 64) for digit in "ab")


def bundles() -> list[Mounted]:
    runtime = Facts("runtime", "0.1.0", "/.deps/rt/1", 1)
    shell = Facts("shell", "5.2.37", "/.deps/shell/1", 1, (Required("runtime", RUNTIME_ID),))
    return [
        Mounted(runtime, "runtime:0.1.0", volume_name(runtime, RUNTIME_ID)),
        Mounted(shell, "shell:5.2.37", volume_name(shell, SHELL_ID)),
    ]


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
def test_recipes(runtime: str) -> None:
    assert mount_recipe(runtime, bundles()) + "\n" == (GOLDEN / f"{runtime}.txt").read_text()


@pytest.mark.parametrize("runtime", sorted(RUNTIMES))
def test_every_prefix_is_mounted_at_its_own_place(runtime: str) -> None:
    recipe = mount_recipe(runtime, bundles())
    for bundle in bundles():
        assert bundle.prefix in recipe
    assert "/.deps:" not in recipe and "/.deps " not in recipe


def test_unknown_runtime() -> None:
    with pytest.raises(InputError, match="no mount recipe for 'lxc'"):
        mount_recipe("lxc", bundles())
