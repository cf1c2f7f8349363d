"""What an upgrade changes: recipes, files and layers of two states of a bundle; and how the verb shows it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from test_advisories import small_image

from bundler.cli.main import main
from bundler.digest import digest_bytes
from bundler.errors import InputError
from bundler.labels import Facts
from bundler.oci.compare import Change
from bundler.oci.compose import BASE_DIGEST, Part, compose
from bundler.oci.layout import write_archive, write_layout
from bundler.tree import Entry, Kind, parents
from bundler.upgrade import Made, Pending, State, compare, known_bundles, packed

FACTS = Facts("tools", "1", "/.deps/tools/1", 1)


def state(
    recipes: Mapping[str, Mapping[str, str]], version: str = "1", pending: Mapping[str, str] | None = None
) -> State:
    """A bundle whose recipes, ``name version``, have these files: content by path, ``-> x`` for a link."""
    made, entries, owners = {}, {}, {}
    for told, files in recipes.items():
        name, _, number = told.partition(" ")
        text = json.dumps([name, dict(files)]).encode()
        made[name] = Made(
            number, digest_bytes(text), len(text), {"version": number, "layer": digest_bytes(text)}
        )
        for path, content in files.items():
            for above in parents(path):
                entries[above], owners[above] = Entry(above, Kind.DIRECTORY), name
            data = content.encode()
            link = content.removeprefix("-> ") if content.startswith("-> ") else None
            entries[path] = (
                Entry(path, Kind.FILE, 0o644, len(data), digest_bytes(data))
                if link is None
                else Entry(path, Kind.SYMLINK, 0o777, target=link)
            )
            owners[path] = name
    waits = {name: Pending(number, ("version",)) for name, number in (pending or {}).items()}
    return State(Facts("tools", version, FACTS.prefix, 1), made, entries, owners, waits)


OLD = {"a 1": {"bin/a": "one", "lib/x": "x"}, "b 1": {"bin/b": "b"}}
Expected = dict[str, tuple[str, list[Change]]]
CASES: list[tuple[State, Expected, int]] = [
    (state(OLD), {"a": ("kept", []), "b": ("kept", [])}, 2),
    (
        state({"a 2": {"bin/a": "two!", "lib/x": "y", "lib/z": "-> x"}, "b 1": {"bin/b": "b"}}),
        {
            "a": (
                "changed",
                [
                    Change("changed", "bin/a", ("size",), 4),
                    Change("changed", "lib/x", ("content",), 1),
                    Change("added", "lib/z"),
                ],
            ),
            "b": ("kept", []),
        },
        1,
    ),
    (
        state({"a 1": {"bin/a": "one", "lib/x": "x"}, "c 7": {"bin/c": "c"}}),
        {
            "a": ("kept", []),
            "b": ("removed", [Change("removed", "bin/b")]),
            "c": ("added", [Change("added", "bin/c", size=1)]),
        },
        1,
    ),
    # Of what is not built yet, no file is said to be gone.
    (state({"b 1": {"bin/b": "b"}}, pending={"a": "2"}), {"a": ("to build", []), "b": ("kept", [])}, 1),
    # A link becomes a file, and goes over to another recipe.
    (
        state({"a 1": {"bin/a": "one"}, "b 1": {"bin/b": "b", "lib/x": "-> b"}}),
        {
            "a": ("changed", []),
            "b": ("changed", [Change("changed", "lib/x", ("kind", "mode", "size", "target"))]),
        },
        0,
    ),
]


@pytest.mark.parametrize(("after", "expected", "kept"), CASES, ids=range(len(CASES)))
def test_steps_from_one_state_to_another(after: State, expected: Expected, kept: int) -> None:
    found = compare(state(OLD), after)
    assert {one.name: (one.step, list(one.files)) for one in found.recipes} == expected
    assert found.kept[0] == kept
    assert found.is_empty is all(step == "kept" for step, _ in expected.values())
    assert all((one.fetched > 0) is (one.step in ("changed", "added")) for one in found.recipes)


def test_facts_of_a_recipe_count_although_its_layer_stays() -> None:
    before, after = state(OLD), state(OLD)
    made = after.recipes["a"]
    changed = Made(made.version, made.layer, made.size, {**made.about, "license": "MIT"})
    after = State(after.facts, {**after.recipes, "a": changed}, after.entries, after.owners, {})
    (one, _) = compare(before, after).recipes
    assert (one.step, one.why, one.fetched) == ("changed", ("license",), 0)


IMAGES = [(None, None, True), (None, "a", True), ("a", "a", True), ("a", "b", False), ("a", None, False)]


@pytest.mark.parametrize(("one", "other", "same"), IMAGES)
def test_the_image_may_change_although_every_layer_stays(
    one: str | None, other: str | None, same: bool
) -> None:
    """What a bundle requires is part of its labels."""
    before, after = (replace(state(OLD), image=x and digest_bytes(x.encode())) for x in (one, other))
    found = compare(before, after)
    assert found.keeps_recipes
    assert found.is_empty is same


def test_a_new_version_of_the_bundle_alone_is_a_change() -> None:
    assert not compare(state(OLD), state(OLD, version="2")).is_empty


def test_images_are_read_back() -> None:
    image = small_image("5.2.15")
    (found,) = packed(image, "shell")
    assert found.recipes["bash"].version == "5.2.15"
    assert found.recipes["bash"].size == image.layers[0].descriptor.size
    assert [path for path, owner in found.owners.items() if owner == "bash"][-1] == ".deps/shell/1/bin/bash"
    composed = compose([Part("shell", image), Part("again", image)], check=False)
    assert packed(composed, "two") == [found]
    assert found.image == image.id
    based = replace(image, annotations=((BASE_DIGEST, image.id),), original=None)
    assert packed(based, "based") == [replace(found, image=None)]
    with pytest.raises(InputError, match="which no file here describes"):
        known_bundles([found], ["runtime"], "shell")


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    (tmp_path / "out").mkdir()
    write_layout(tmp_path / "out/shell", small_image("5.2.15"))
    return ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]


def test_a_plan_of_what_is_not_built(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upgrade", "--plan", "shell", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("shell 0.1.0 → ")
    assert any(
        line.startswith("  ? bash             5.2.15 → ") and "to build: waits for " in line for line in lines
    )
    assert lines[-1].endswith("recipes to build first")
    assert main(["upgrade", "--plan", "shell", "--format", "json", *options]) == 0
    (found,) = json.loads(capsys.readouterr().out)[0]["bundles"]
    assert found["changes"]
    assert {one["step"] for one in found["recipes"]} == {"to build"}


def test_what_cannot_be_made_again_is_said_before_anything_is_built(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = small_image("5.2.15")
    write_archive(tmp_path / "two.tar", compose([Part("a", image), Part("b", image)], check=False))
    assert main(["upgrade", str(tmp_path / "two.tar"), *options]) == 2
    assert "say where to: --output" in capsys.readouterr().err
    assert main(["upgrade", "--plan", "shell", "-o", "x", *options]) == 2
    assert "goes without --plan" in capsys.readouterr().err
