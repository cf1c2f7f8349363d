import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bundler import key as key_module
from bundler.digest import Digest, digest_bytes
from bundler.errors import BundleError
from bundler.key import difference, installed_key, key_inputs, key_of
from bundler.plan import Plan, make_plan
from bundler.recipe import BinaryEdit, Bundle, Lock, LockedPackage, Output, Recipe, Source, Step, Toolchain
from bundler.target import parse_target

ONE = digest_bytes(b"one")
TWO = digest_bytes(b"two")


def recipe(name: str, *depends: str, **more: object) -> Recipe:
    base = Recipe(
        name=name, version="1", license="MIT", path=Path(f"recipes/{name}/recipe.toml"), depends=depends
    )
    return replace(base, **more)  # type: ignore[arg-type]


def bundle(name: str, recipes: str, requires: str = "", **more: object) -> Bundle:
    base = Bundle(
        name=name,
        version="1",
        short=name,
        compat=1,
        recipes=tuple(recipes.split()),
        path=Path(f"images/{name}.toml"),
        requires=tuple(requires.split()),
    )
    return replace(base, **more)  # type: ignore[arg-type]


LOCK = Lock("trixie", "2026-01-01", (LockedPackage("libc6", "2.41", "amd64", "pool/libc6.deb", ONE, 1),))
GLIBC = recipe("glibc", packages=("libc6",), outputs=(Output("runtime", ("lib/**",)), Output("toolchain")))
SEED = Toolchain("seed", {"glibc": GLIBC, "gcc": recipe("gcc", "glibc")}, LOCK, LOCK)
RECIPES = {r.name: r for r in (recipe("zlib"), recipe("bash", "zlib"), recipe("git", "zlib"), recipe("doc"))}
BUNDLES = {
    b.name: b
    for b in (
        bundle("runtime", "glibc", short="rt"),
        bundle("toolchain", "gcc glibc", "runtime"),
        bundle("shell", "zlib bash", "runtime"),
        bundle("gitartifact", "git zlib", "runtime shell"),
    )
}


def plan(
    *wanted: str, bundles: dict[str, Bundle] | None = None, recipes: dict[str, Recipe] | None = None
) -> Plan:
    return make_plan(wanted, bundles or BUNDLES, recipes or RECIPES, SEED, parse_target())


def test_what_a_required_bundle_holds_is_built_there_once() -> None:
    made = plan("gitartifact")
    assert "shell/zlib" in made.nodes
    assert "gitartifact/zlib" not in made.nodes
    assert made.nodes["gitartifact/git"].direct == ("shell/zlib",)
    assert made.bundles["gitartifact"].nodes == ("gitartifact/git",)


def test_what_is_compiled_sees_the_toolchain_and_nothing_unrelated() -> None:
    made = plan("gitartifact")
    assert made.nodes["gitartifact/git"].sees == ("runtime/glibc", "toolchain/gcc", "shell/zlib")
    assert made.nodes["runtime/glibc"].sees == ()
    assert list(made.nodes).index("toolchain/gcc") < list(made.nodes).index("shell/zlib")


def test_a_recipe_with_outputs_is_one_node_in_two_bundles() -> None:
    made = plan("toolchain")
    assert [(o.bundle, o.prefix, o.globs) for o in made.nodes["runtime/glibc"].outputs] == [
        ("runtime", "/.deps/rt/1", ("lib/**",)),
        ("toolchain", "/.deps/toolchain/1", ("**",)),
    ]
    assert made.bundles["runtime"].nodes == ("runtime/glibc",)
    assert made.bundles["toolchain"].nodes == ("runtime/glibc", "toolchain/gcc")


def test_library_directories_begin_with_the_runtime_and_end_with_its_own() -> None:
    (output,) = plan("gitartifact").nodes["gitartifact/git"].outputs
    assert output.rpath == ("/.deps/rt/1/lib", "/.deps/shell/1/lib", "/.deps/gitartifact/1/lib")


def test_heights_count_the_longest_chain_that_waits() -> None:
    heights = plan("gitartifact").heights()
    assert (heights["shell/bash"], heights["shell/zlib"], heights["runtime/glibc"]) == (1, 2, 2)


@pytest.mark.parametrize(
    ("bundles", "recipes", "wanted", "says"),
    [
        ({}, {}, "shel", "did you mean 'shell'?"),
        ({"a": bundle("a", "", "b"), "b": bundle("b", "", "a")}, {}, "a", "a → b → a"),
        ({}, {"zlib": recipe("zlib", "bash")}, "shell", "in a circle: shell/"),
        ({"a": bundle("a", "bassh", "runtime")}, {}, "a", "did you mean 'bash'?"),
        ({"a": bundle("a", "bash", "runtime")}, {}, "a", "depends on 'zlib', which neither"),
        ({"a": bundle("a", "doc")}, {}, "a", "does not require 'runtime'"),
        ({"a": bundle("a", "doc", "shell", short="shell")}, {}, "a", "have one prefix, /.deps/shell/1"),
        ({"a": bundle("a", "glibc", "runtime")}, {}, "a", "has no [output.a]"),
    ],
)
def test_mistakes_are_named(
    bundles: dict[str, Bundle], recipes: dict[str, Recipe], wanted: str, says: str
) -> None:
    with pytest.raises(BundleError) as caught:
        plan(wanted, bundles={**BUNDLES, **bundles}, recipes={**RECIPES, **recipes})
    assert says in str(caught.value)


BASH = recipe(
    "bash",
    "zlib",
    sources=(Source(("https://example.org/bash-1.tar.gz",), ONE),),
    patches=(Path("recipes/bash/0001-x.patch"),),
    steps=(Step("configure", "./configure"), Step("build", "make")),
)

EDIT = BinaryEdit(files=("bin/bash",), old=b"/bin/sh", new=b"{root}/x", count=1)


def bash_inputs(changed: Recipe = BASH, seen: Digest = ONE, patch: Digest = ONE) -> dict[str, Any]:
    made = plan("shell", recipes={**RECIPES, "bash": changed})
    outputs = {name: {"/.deps/x": seen} for name in made.nodes}
    patches = dict.fromkeys(changed.patches, patch)
    return key_inputs(made.nodes["shell/bash"], outputs, patches, SEED, made.target)


def bash_key(changed: Recipe = BASH, seen: Digest = ONE, patch: Digest = ONE) -> Digest:
    return key_of(bash_inputs(changed, seen, patch))


def test_golden_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_module, "code_digest", lambda patterns: ONE)
    assert bash_key() == (Path(__file__).parent.parent / "golden/bash.key").read_text().strip()


@pytest.mark.parametrize(
    ("changed", "installs_anew"), [(key_module.BUILDER, True), (key_module.RELOCATION, False)]
)
def test_a_key_knows_the_code_that_builds(
    monkeypatch: pytest.MonkeyPatch, changed: tuple[str, ...], installs_anew: bool
) -> None:
    """Another patcher relocates anew what is installed; only another builder builds it anew."""
    package = Path(key_module.__file__).parent
    assert [pattern for pattern in changed if not list(package.glob(pattern))] == []
    monkeypatch.setattr(key_module, "code_digest", lambda patterns: ONE)
    before, installed = bash_key(), installed_key(bash_inputs())
    monkeypatch.setattr(key_module, "code_digest", lambda patterns: TWO if patterns == changed else ONE)
    assert bash_key() != before
    assert (installed_key(bash_inputs()) != installed) is installs_anew


def test_a_key_ignores_where_things_come_from() -> None:
    elsewhere = replace(
        BASH, sources=(replace(BASH.sources[0], urls=("file:///x",)),), path=Path("/y"), summary="s"
    )
    assert bash_key(elsewhere) == bash_key()


def test_bundles_of_other_names_share_keys_at_one_prefix() -> None:
    """Teams that build apart, each with an image file of its own, then share layers."""
    keys = []
    for name, listed in (("shell", "zlib bash"), ("other", "zlib bash doc")):
        made = plan(name, bundles={**BUNDLES, name: bundle(name, listed, "runtime", short="shell")})
        assert made.bundles[name].nodes[:2] == (f"{name}/zlib", f"{name}/bash")
        outputs = {node: {"/.deps/x": ONE} for node in made.nodes}
        keys.append(
            [
                key_of(key_inputs(made.nodes[f"{name}/{r}"], outputs, {}, SEED, made.target))
                for r in ("zlib", "bash")
            ]
        )
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    "key",
    [
        lambda: bash_key(replace(BASH, version="2")),
        lambda: bash_key(seen=TWO),
        lambda: bash_key(patch=TWO),
        lambda: bash_key(replace(BASH, steps=BASH.steps[:1])),
        lambda: bash_key(replace(BASH, environment={"X": "1"})),
        lambda: bash_key(replace(BASH, sources=(replace(BASH.sources[0], digest=TWO),))),
        lambda: bash_key(replace(BASH, literals=(EDIT,))),
    ],
)
def test_a_key_changes_with_each_input(key: object) -> None:
    assert callable(key)
    assert key() != bash_key()


def test_inputs_are_equal_to_those_that_were_kept() -> None:
    kept = json.loads(json.dumps(bash_inputs(replace(BASH, literals=(EDIT,)))))
    assert difference(kept, bash_inputs(replace(BASH, literals=(EDIT,)))) == ()
    assert difference(kept, bash_inputs()) == ("edits",)


def test_an_edit_afterwards_installs_nothing_anew() -> None:
    assert installed_key(bash_inputs(replace(BASH, literals=(EDIT,)))) == installed_key(bash_inputs())


def test_differences_in_words() -> None:
    before = {"version": "1", "steps": [["a", "x"]], "sees": [["zlib", []], ["old", []]], "drop": []}
    now = {"version": "2", "steps": [["a", "y"]], "sees": [["zlib", [1]], ["new", []]], "drop": []}
    assert difference(before, now) == (
        "dependency new added",
        "dependency old gone",
        "output of zlib",
        "step a",
        "version 1 → 2",
    )


def test_a_toolchain_is_for_its_machine() -> None:
    with pytest.raises(BundleError, match="'seed' is not for aarch64") as caught:
        make_plan(["shell"], BUNDLES, RECIPES, SEED, parse_target("aarch64"))
    assert "amd64, not arm64" in str(caught.value)


STAGE = replace(SEED, name="stage", bootstrap=SEED)
SOURCE = replace(SEED, name="source", bootstrap=STAGE)


def made_with(toolchain: Toolchain, *wanted: str, root: str = "/.deps") -> Plan:
    return make_plan(wanted, BUNDLES, RECIPES, toolchain, parse_target(root=root))


def test_a_toolchain_is_built_by_another_that_lies_elsewhere() -> None:
    made = made_with(SOURCE, "shell")
    assert [name for name in made.nodes if name.endswith("/gcc") or "/gcc@" in name] == [
        "toolchain/gcc@seed",
        "toolchain/gcc@stage",
        "toolchain/gcc",
    ]
    gcc = made.nodes["toolchain/gcc"]
    assert gcc.sees == ("runtime/glibc@stage", "toolchain/gcc@stage", "runtime/glibc")
    assert made.nodes["toolchain/gcc@stage"].sees[-1] == "runtime/glibc@stage"
    assert made.nodes["toolchain/gcc@seed"].sees == ("runtime/glibc@seed",)
    roots = [made.nodes[name].prefix for name in (gcc.id, "toolchain/gcc@stage", "toolchain/gcc@seed")]
    assert roots == ["/.deps/toolchain/1", "/.stage/toolchain/1", "/.seed/toolchain/1"]


def test_what_is_compiled_does_not_see_what_built_the_compiler() -> None:
    made = made_with(SOURCE, "shell")
    assert made.nodes["shell/zlib"].sees == ("runtime/glibc", "toolchain/gcc")
    assert made.bundles["toolchain"].nodes == ("runtime/glibc", "toolchain/gcc")


def test_a_toolchain_that_builds_has_the_keys_that_it_has_by_itself() -> None:
    """What is built at its root to be looked at need not be built again."""

    def keys(plan: Plan, suffix: str) -> list[Digest]:
        outputs = {name: {"/x": digest_bytes(name.partition("@")[0].encode())} for name in plan.nodes}
        nodes = [plan.nodes[f"{name}{suffix}"] for name in ("runtime/glibc", "toolchain/gcc")]
        return [key_of(key_inputs(node, outputs, {}, SEED, node.target)) for node in nodes]

    assert keys(made_with(SOURCE, "shell"), "@stage") == keys(made_with(STAGE, "shell", root="/.stage"), "")
    assert keys(made_with(SOURCE, "shell"), "") != keys(made_with(STAGE, "shell"), "")


def test_a_root_at_which_a_toolchain_builds_is_refused() -> None:
    with pytest.raises(BundleError, match="is where the toolchain 'stage' lies while it builds"):
        made_with(SOURCE, "shell", root="/.stage")


def test_what_is_not_compiled_needs_no_toolchain() -> None:
    assert make_plan(["empty"], {"empty": bundle("empty", "")}, {}, SOURCE, parse_target()).nodes == {}
