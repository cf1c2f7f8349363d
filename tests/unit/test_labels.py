"""Labels of bundles: round trip, refusals, and the order of what is required."""

import pytest

from bundler.digest import Digest
from bundler.errors import BundleError, InputError
from bundler.labels import Facts, Required, read_facts, volume_name, with_required

ID = Digest("sha256:" + "0123456789abcdef" * 4)
SHELL = Facts("shell", "5.2.37", "/.deps/shell/1", 1, (Required("runtime", ID),))


def test_round_trip() -> None:
    assert read_facts(SHELL.to_labels(), where="x") == SHELL


def test_volume_name() -> None:
    assert volume_name(SHELL, ID) == "bundle-shell-0123456789ab"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bundle.name": ""}, "no label bundle.name"),
        ({"bundle.name": "a b"}, "is not plain"),
        ({"bundle.version": "1\n2"}, "is not plain"),
        ({"bundle.prefix": "/"}, "no plain absolute path"),
        ({"bundle.prefix": "/.deps"}, "no plain absolute path"),
        ({"bundle.prefix": "/.deps/../1"}, "no plain absolute path"),
        ({"bundle.prefix": "/.deps/a:b/1"}, "no plain absolute path"),
        ({"bundle.prefix": ".deps/shell/1"}, "no plain absolute path"),
        ({"bundle.compat": "2"}, "does not end in its compat"),
        ({"bundle.prefix": "/.deps/shell/x", "bundle.compat": "x"}, "does not end in its compat"),
        ({"bundle.requires": "runtime"}, "not a digest"),
        ({"bundle.requires": f"={ID}"}, "has no name"),
    ],
)
def test_refusals(change: dict[str, str], message: str) -> None:
    with pytest.raises(BundleError) as caught:
        read_facts({**SHELL.to_labels(), **change}, where="image.tar")
    assert message in str(caught.value)
    assert "image.tar" in str(caught.value)


def bundle(name: str, *requires: str, prefix: str = "") -> Facts:
    return Facts(name, "1", prefix or f"/.deps/{name}/1", 1, tuple(Required(one, ID) for one in requires))


def order(names: list[str], *bundles: Facts) -> list[str]:
    known = {facts.name: facts for facts in bundles}
    return [facts.name for facts in with_required(names, known.__getitem__, lambda facts: facts)]


def test_what_is_required_comes_first_and_once() -> None:
    all_of = [bundle("rt"), bundle("sh", "rt"), bundle("libs", "rt", "sh"), bundle("git", "rt", "sh", "libs")]
    assert order(["git", "sh"], *all_of) == ["rt", "sh", "libs", "git"]


def test_circle() -> None:
    with pytest.raises(InputError, match="circle: a → b → a"):
        order(["a"], bundle("a", "b"), bundle("b", "a"))


def test_one_prefix_for_two() -> None:
    with pytest.raises(InputError, match="one prefix"):
        order(["a", "b"], bundle("a"), bundle("b", prefix="/.deps/a/1"))
