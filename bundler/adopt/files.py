"""The recipe and the bundle file of an adopted bundle, as text.  Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bundler.adopt.layout import Words
from bundler.adopt.tied import Edit
from bundler.digest import hex_of
from bundler.errors import InputError
from bundler.recipe import Accept, Source

MARK = "# Written by 'bundle adopt', which replaces it when it is run again"


@dataclass(frozen=True, slots=True)
class Described:
    """What the source says of itself."""

    name: str
    version: str
    license: str = "LicenseRef-unknown"
    summary: str = ""
    homepage: str = ""
    purl: str = ""


def recipe_text(
    about: Described,
    command: str,
    *,
    sources: Sequence[Source],
    packages: Sequence[str],
    license_files: Sequence[str],
    words: Words,
    edits: Iterable[Edit],
    prefix: str,
) -> str:
    """``recipe.toml``; ``command`` is the command line that it was written by."""
    head: list[tuple[str, str]] = [
        ("name", _text(about.name)),
        ("version", _text(about.version)),
        ("license", _text(about.license)),
        ("summary", _text(about.summary)),
        ("homepage", _text(about.homepage) if about.homepage else ""),
        ("purl", _text(about.purl) if about.purl else ""),
        ("packages", _words(packages)),
        ("keep", _words(["**"])),
        ("license_files", _words(license_files)),
    ]
    lines = [f"{MARK}:", f"#   {command}", *(f"{key} = {value}" for key, value in head if value)]
    for source in sources:
        lines += ["", "[[source]]", f"urls = {_words(source.urls)}", f'sha256 = "{hex_of(source.digest)}"']
        if source.strip != 1:
            lines.append(f"strip = {source.strip}")
    lines += ["", "[build]", 'style = "adopt"', f"install = {_words(map(_literal, words.install))}"]
    if words.link:
        lines.append(f"link = {_words(map(_literal, words.link))}")
    for edit in edits:
        new = edit.new.replace(prefix, f"{{bundle:{about.name}}}", 1)
        lines += ["", "[[edit]]", f"files = {_words(edit.files)}"]
        lines += [f"old = {_text(edit.old + chr(0))}", f"new = {_text(new + chr(0))}"]
        if edit.count != 1:
            lines.append(f"count = {edit.count}")
    return "\n".join(lines) + "\n"


def bundle_text(
    about: Described,
    command: str,
    *,
    short: str,
    requires: Sequence[str],
    commands: Sequence[str],
    accepts: Iterable[Accept],
) -> str:
    """``images/<name>.toml``."""
    lines = [
        f"{MARK}:",
        f"#   {command}",
        f"name = {_text(about.name)}",
        f"version = {_text(about.version)}",
        f"summary = {_text(about.summary)}",
        *([f"short = {_text(short)}"] if short != about.name else []),
        "compat = 1",
        f"requires = {_words(requires)}",
        f"recipes = {_words([about.name])}",
        f"commands = {_words(commands)}",
    ]
    if commands:
        own = next((one for one in commands if one.rpartition("/")[2] == about.name), commands[0])
        lines.append(f"command = {_words([own])}")
    for accept in accepts:
        lines += ["", "[[accept]]", f"rule = {_text(accept.rule)}", f"path = {_text(accept.path)}"]
        lines.append(f"reason = {_text(accept.reason)}")
    return "\n".join(lines) + "\n"


def _literal(word: str) -> str:
    """A word of ``[build]``, in which a dollar sign before a name would stand for a variable."""
    if "$" in word or "\n" in word or word.count(" => ") != 1:
        why = "it has a dollar sign, an arrow or the end of a line in it"
        raise InputError(f"the paths {word!r} cannot be written into a recipe", why=why)
    return word


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the name {text!r} is not UTF-8, and cannot be written down") from error
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _words(words: Iterable[str]) -> str:
    """An array, on lines of its own where one line would be too long."""
    items = [_text(word) for word in words]
    if not items:
        return ""
    line = f"[{', '.join(items)}]"
    if len(line) <= 90:
        return line
    return "[\n" + "".join(f"    {item},\n" for item in items) + "]"
