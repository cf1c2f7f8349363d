"""Pins in a recipe file: read a recipe that has none yet, and write them in without touching the rest."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

from bundler.digest import Digest, hex_of
from bundler.errors import InputError
from bundler.recipe import Recipe
from bundler.recipe_file import SHA256, parse_recipe
from bundler.toml import Document
from bundler.toml_positions import locate

_UNKNOWN = "0" * 64


def parse_unpinned(document: Document, path: Path) -> Recipe:
    """The recipe of a document whose ``sha256`` may be empty or wrong; raises as ``parse_recipe`` does."""
    data = copy.deepcopy(document.data)
    sources = data.get("source")
    for source in sources if isinstance(sources, list) else ():
        held = source.get("sha256") if isinstance(source, dict) else None
        if isinstance(held, str) and not SHA256.pattern.match(held):
            source["sha256"] = _UNKNOWN
    return parse_recipe(Document(document.name, document.text, data), path)


def write_pins(document: Document, digests: Mapping[int, Digest]) -> str:
    """The document's text with the ``sha256`` of those sources (by their place in the file) replaced.

    Raises InputError where it would not say what was meant.
    """
    from bundler.toml import parse

    text = document.text
    spans = {index: locate(document.text, ("source", index, "sha256"), "value") for index in digests}
    for index, (start, end) in sorted(spans.items(), key=lambda item: item[1], reverse=True):
        text = f'{text[:start]}"{hex_of(digests[index])}"{text[end:]}'
    expected = copy.deepcopy(document.data)
    for index, digest in digests.items():
        expected["source"][index]["sha256"] = hex_of(digest)
    if parse(text, document.name).data != expected:
        raise InputError("cannot write the digests into this file", where=document.name)
    return text
