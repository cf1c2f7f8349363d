"""Digests written into recipe files, and recipes that have none yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.digest import digest_bytes, hex_of
from bundler.errors import BundleError
from bundler.pin import parse_unpinned, write_pins
from bundler.toml import parse

PATH = Path("recipes/x/recipe.toml")
TEXT = """\
# a comment with sha256 = ""
name = "x"
version = "1"
license = "MIT"
source = [{ urls = ["https://x.org/a"], sha256 = 'wrong' }, # here
          { urls = ["https://x.org/b"], sha256 = "" }]
"""


def test_only_the_digests_change() -> None:
    document = parse(TEXT, "x")
    one, two = digest_bytes(b"1"), digest_bytes(b"2")
    text = write_pins(document, {0: one, 1: two})
    assert text == TEXT.replace("'wrong'", f'"{hex_of(one)}"').replace(
        'b"], sha256 = ""', f'b"], sha256 = "{hex_of(two)}"'
    )
    assert [source.digest for source in parse_unpinned(parse(text, "x"), PATH).sources] == [one, two]
    assert write_pins(document, {}) == TEXT


def test_an_unpinned_recipe_is_read_and_other_errors_are_told() -> None:
    assert len(parse_unpinned(parse(TEXT, "x"), PATH).sources) == 2
    for wrong in (TEXT.replace("MIT", "NO SUCH"), TEXT.replace("'wrong'", "3"), "source = 3"):
        with pytest.raises(BundleError):
            parse_unpinned(parse(wrong, "x"), PATH)
