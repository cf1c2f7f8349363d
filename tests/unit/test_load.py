"""Bundles found, and brought into an engine by sending as little as it takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from engine_fake import FakeEngine

from bundler import volume
from bundler.errors import BundleError, EnvironmentLacks, InputError
from bundler.labels import NAME, Facts, Required
from bundler.load import Packed, find_packed, load, load_image, other_builds, packed_of
from bundler.oci.image import Image, ImageConfig, layer_of
from bundler.oci.layer import source_of_tree
from bundler.oci.layout import write_layout
from bundler.tree import scan


def image_of(work: Path, facts: Facts, *parts: str) -> Image:
    layers = []
    for part in parts:
        root = work / part
        root.mkdir(parents=True, exist_ok=True)
        (root / part).write_text(part)
        layers.append(layer_of(source_of_tree(scan(root), root, facts.prefix, name=part, version="1")))
    config = ImageConfig("amd64", command=("/nop",), labels=tuple(facts.to_labels().items()))
    return Image(tuple(layers), config, reference=f"{facts.name}:{facts.version}")


@pytest.fixture
def runtime(tmp_path: Path) -> Image:
    return image_of(tmp_path, Facts("runtime", "1", "/.deps/rt/1", 1), "libc", "sh")


@pytest.fixture
def shell(tmp_path: Path, runtime: Image) -> Image:
    facts = Facts("shell", "5", "/.deps/shell/1", 1, (Required("runtime", runtime.id),))
    return image_of(tmp_path, facts, "bash", "tree", "rsync")


@pytest.fixture
def out(tmp_path: Path, runtime: Image, shell: Image) -> Path:
    for name, image in (("runtime", runtime), ("shell", shell)):
        write_layout(tmp_path / "out" / name, image)
    return tmp_path / "out"


def test_found_with_what_is_required(out: Path, runtime: Image, shell: Image) -> None:
    found = find_packed(["shell"], out)
    assert [(one.reference, one.id) for one in found] == [("runtime:1", runtime.id), ("shell:5", shell.id)]
    assert [one.id for one in find_packed([str(out / "shell")], out)] == [runtime.id, shell.id]


def test_found_in_the_engine(tmp_path: Path, out: Path) -> None:
    engine = FakeEngine()
    load(engine, find_packed(["shell"], out))
    found = find_packed(["shell"], tmp_path / "nowhere", engine)
    assert [(one.facts.name, one.image) for one in found] == [("runtime", None), ("shell", None)]
    assert find_packed(["shell:5"], tmp_path / "nowhere", engine)[-1].facts.name == "shell"


@pytest.mark.parametrize("name", ["git", "shell/../git", "nothing:1"])
def test_not_at_hand(name: str, out: Path) -> None:
    with pytest.raises(InputError, match="not at hand"):
        find_packed([name], out, FakeEngine())


def test_several_in_the_engine(tmp_path: Path) -> None:
    engine = FakeEngine()
    for version in ("1", "2"):
        image = image_of(tmp_path / version, Facts("x", version, "/.deps/x/1", 1), "a" + version)
        load_image(engine, image, f"x:{version}")
    with pytest.raises(InputError, match="several images"):
        find_packed(["x"], tmp_path, engine)


def test_images_that_are_no_bundles(tmp_path: Path, runtime: Image) -> None:
    plain = replace(runtime, config=replace(runtime.config, labels=()))
    with pytest.raises(InputError, match="is no bundle"):
        packed_of(plain, where="x")


def test_load_full_then_nothing(shell: Image) -> None:
    engine = FakeEngine()
    assert load_image(engine, shell, "shell:5") == "full"
    assert load_image(engine, shell, "shell:5") == "present"
    assert engine.loads == [3]


def test_another_name_costs_nothing(shell: Image) -> None:
    engine = FakeEngine()
    load_image(engine, shell, "shell:5")
    assert load_image(engine, shell, "shell:latest") == "present"
    assert engine.image("shell:latest") is not None


def newer(tmp_path: Path, shell: Image) -> Image:
    changed = image_of(tmp_path / "newer", Facts("shell", "6", "/.deps/shell/1", 1), "rsync2").layers
    return replace(shell, layers=(*shell.layers[:2], *changed), reference="shell:6")


def test_thin_load_of_what_changed(tmp_path: Path, shell: Image) -> None:
    engine = FakeEngine()
    load_image(engine, shell, "shell:5")
    assert load_image(engine, newer(tmp_path, shell), "shell:6") == "thin"
    assert engine.loads == [3, 1]


@pytest.mark.parametrize("fault", ["refuses_thin", "lies"])
def test_thin_load_falls_back(fault: str, tmp_path: Path, shell: Image) -> None:
    engine = FakeEngine(**{fault: True})
    load_image(engine, shell, "shell:5")
    assert load_image(engine, newer(tmp_path, shell), "shell:6") == "full"
    assert engine.loads == [3, 1, 3]


def test_layers_above_a_difference_are_sent(shell: Image) -> None:
    """A layer's chain ID depends on all below it: the same layer above another one is not known."""
    engine = FakeEngine()
    load_image(engine, shell, "shell:5")
    upside_down = replace(shell, layers=shell.layers[::-1])
    assert load_image(engine, upside_down, "other:1") == "full"


def test_podman_is_sent_all(tmp_path: Path, shell: Image) -> None:
    engine = FakeEngine(name="podman", loads_thin=False)
    load_image(engine, shell, "shell:5")
    assert load_image(engine, newer(tmp_path, shell), "shell:6") == "full"


def test_other_builds_are_told(tmp_path: Path, out: Path, shell: Image) -> None:
    assert other_builds(find_packed(["shell"], out)) == []
    write_layout(out / "runtime", image_of(tmp_path / "x", Facts("runtime", "1", "/.deps/rt/1", 1), "libc2"))
    (told,) = other_builds(find_packed(["shell"], out))
    assert told.startswith("shell:5 was built with another runtime")


class TestVolumes:
    @pytest.fixture
    def engine(self, out: Path) -> FakeEngine:
        engine = FakeEngine()
        load(engine, find_packed(["shell"], out))
        return engine

    @pytest.fixture
    def packed(self, out: Path) -> list[Packed]:
        return find_packed(["shell"], out)

    def test_made_once(self, engine: FakeEngine, packed: list[Packed]) -> None:
        names = volume.create(engine, packed)
        assert [name[:-13] for name in names] == ["bundle-runtime", "bundle-shell"]
        assert volume.create(engine, packed) == names
        assert sorted(engine.made) == names == sorted(engine.volume_options)
        assert all(spec.mounts[0].read_only and spec.mounts[0].copy for spec in engine.made.values())

    def test_pruned_ones_come_back_with_a_fresh_volume(
        self, engine: FakeEngine, packed: list[Packed]
    ) -> None:
        names = volume.create(engine, packed)
        engine.made.clear()
        engine.volume_options[names[0]] = {"left": "over"}
        assert volume.create(engine, packed) == names
        assert engine.volume_options[names[0]] == {}

    def test_a_volume_in_use_is_kept(self, engine: FakeEngine, packed: list[Packed]) -> None:
        names = volume.create(engine, packed)
        engine.made.clear()
        engine.used.add(names[1])
        engine.volume_options[names[1]] = {"in": "use"}
        assert volume.create(engine, packed) == names
        assert engine.volume_options[names[1]] == {"in": "use"}

    def test_nothing_half_made_has_the_final_name(
        self, engine: FakeEngine, packed: list[Packed], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(container: str, name: str) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(engine, "rename", fail)
        with pytest.raises(KeyboardInterrupt):
            volume.create(engine, packed)
        assert not engine.made

    def test_listed_and_removed(self, engine: FakeEngine, packed: list[Packed]) -> None:
        names = volume.create(engine, packed)
        assert [one.name for one in volume.existing(engine)] == names
        assert volume.remove(engine, ["shell"]) == [names[1]]
        assert volume.remove(engine, names) == [names[0]]
        assert volume.remove(engine, names) == []
        assert not engine.volume_options

    def test_what_lost_its_container_or_never_had_one_goes_too(
        self, engine: FakeEngine, packed: list[Packed], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = volume.create(engine, packed)
        engine.made.clear()
        engine.create_volume("another's", {NAME: "shell"}, {})
        assert volume.remove(engine, None) == names
        with monkeypatch.context() as patch:
            # As if it were killed before that.
            patch.setattr(engine, "rename", lambda container, name: None)
            volume.create(engine, packed[:1])
        assert list(engine.made) == [f"{names[0]}-new"]
        assert volume.existing(engine) == []
        assert volume.create(engine, packed[:1]) == names[:1] == list(engine.made)
        assert volume.remove(engine, None) == names[:1]
        assert (list(engine.made), list(engine.volume_options)) == ([], ["another's"])

    def test_no_copy_needs_overlay2(self, engine: FakeEngine, packed: list[Packed]) -> None:
        with pytest.raises(EnvironmentLacks, match="needs Docker with overlay2") as caught:
            volume.create(engine, packed, copy=False)
        assert isinstance(caught.value, BundleError) and "--no-copy" in (caught.value.hint or "")
        assert not engine.volume_options
