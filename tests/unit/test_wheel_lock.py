"""Lock files of wheels: a round trip, what is refused, and what a recipe makes of one."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from bundler.cli.main import main
from bundler.digest import digest_bytes, digest_file, hex_of
from bundler.errors import ExitCode, InputError
from bundler.recipe_file import read_recipe
from bundler.wheel_lock import FILE, Wheel, format_wheel_lock, parse_wheel_lock, read_wheel_lock

ONE = Wheel("Some_Thing-1.0.post1-py3-none-any.whl", digest_bytes(b"1"))
TWO = Wheel("a.b-2!3-1build-cp313-cp313-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", digest_bytes(b"2"))


def test_round_trip() -> None:
    text = format_wheel_lock([ONE, TWO])
    assert parse_wheel_lock(text) == (TWO, ONE)
    assert format_wheel_lock(parse_wheel_lock(text)) == text


def test_names() -> None:
    assert (ONE.project, ONE.version) == ("some-thing", "1.0.post1")
    assert (TWO.project, TWO.version) == ("a-b", "2!3")
    source = ONE.source()
    assert source.urls == (f"pypi:some-thing/{ONE.file}",)
    assert (source.directory, source.strip, source.unpack) == ("wheels/some-thing", 0, "auto")


HASH = hex_of(ONE.digest)


@pytest.mark.parametrize(
    ("wheels", "why"),
    [
        ([{"file": "../../x-1-py3-none-any.whl", "sha256": HASH}], "is no wheel's name"),
        ([{"file": "x-1.tar.gz", "sha256": HASH}], "is no wheel's name"),
        ([{"file": ["x"], "sha256": HASH}], "is no wheel's name"),
        ([{"file": ONE.file, "sha256": "12"}], "12"),
        ([{"file": ONE.file}], "sha256"),
        ([{"file": f"{name}-1-py3-none-any.whl", "sha256": HASH} for name in ("a_b", "A.B")],
         "two wheels of a-b"),
        (None, "'NoneType' object is not iterable"),
    ],
)  # fmt: skip
def test_what_is_no_lock_is_refused(tmp_path: Path, wheels: object, why: str) -> None:
    (tmp_path / FILE).write_text(json.dumps({"wheels": wheels}))
    with pytest.raises(InputError, match="not a lock file of wheels") as caught:
        read_wheel_lock(tmp_path / FILE, "x")
    assert why in (caught.value.why or "")
    assert caught.value.hint == "'bundle lock x' writes this file"


def test_a_recipe_has_the_wheels_as_sources(tmp_path: Path) -> None:
    path = tmp_path / "x/recipe.toml"
    path.parent.mkdir()
    path.write_text('name = "x"\nversion = "1"\nlicense = "MIT"\nwheels = ["some-thing ~= 1.0", "a.b"]\n')
    with pytest.raises(InputError, match="the lock file of the wheels is missing"):
        read_recipe(path)
    path.with_name(FILE).write_text(format_wheel_lock([ONE, TWO]))
    assert read_recipe(path).sources == (TWO.source(), ONE.source())
    assert read_recipe(path).wheels == ("some-thing ~= 1.0", "a.b")


def make_wheel(directory: Path, name: str, version: str, requires: str = "") -> None:
    information = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {requires}\n" if requires else ""
    files = {"METADATA": metadata, "WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n", "RECORD": ""}
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(f"{information}/{file}", text)


def test_bundle_lock_pins_what_pip_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With wheels in a directory, which pip resolves without a network."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for version in ("1.0", "1.4", "2.0"):
        make_wheel(packages, "outer", version, "inner>=2")
    make_wheel(packages, "inner", "2.5")
    for name, wheels in (("thing", 'wheels = ["outer ~= 1.0"]\n'), ("python", "")):
        (tmp_path / "recipes" / name).mkdir(parents=True)
        text = f'name = "{name}"\nversion = "3.13.5"\nlicense = "MIT"\n{wheels}'
        (tmp_path / "recipes" / name / "recipe.toml").write_text(text)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(packages))
    words = ["lock", "thing", "--recipes", str(tmp_path / "recipes")]
    assert main([*words, "--check"]) == ExitCode.NOT_IN_ORDER
    assert not (tmp_path / "recipes/thing" / FILE).exists()
    assert main(words) == ExitCode.DONE
    assert capsys.readouterr().out.splitlines()[-2:] == ["thing: inner none → 2.5", "thing: outer none → 1.4"]
    (_, outer) = read_recipe(tmp_path / "recipes/thing/recipe.toml").sources
    assert outer.digest == digest_file(packages / "outer-1.4-py3-none-any.whl")
    make_wheel(packages, "outer", "1.5")
    assert main(words) == ExitCode.DONE
    told = capsys.readouterr()
    assert told.out.splitlines() == ["thing: inner 2.5 → none", "thing: outer 1.4 → 1.5"]
    assert told.err == "thing: 1 wheels; 2 changes\n"
    (packages / "outer-1.5-py3-none-any.whl").unlink()
    (packages / "inner-2.5-py3-none-any.whl").unlink()
    assert main(words) == ExitCode.ENVIRONMENT
    assert "pip does not find wheels for outer ~= 1.0" in capsys.readouterr().err
