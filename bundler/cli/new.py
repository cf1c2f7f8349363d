"""``bundle new``: a recipe to start from."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from bundler.cli import common
from bundler.errors import ExitCode, InputError
from bundler.recipe_file import NAME as NAME_FORM
from bundler.recipe_file import parse_bundle, parse_recipe
from bundler.style import style_names
from bundler.toml import display_name, parse

NAME = "new"
GROUP = "tools"
SUMMARY = "write a recipe, and a bundle for it, to start from"
EPILOG = """\
examples:
  bundle new hello --url https://ftp.gnu.org/gnu/hello/hello-2.12.2.tar.gz
  bundle fetch --update-hash hello
  bundle new hello --bundle --recipes ./recipes --images ./images
  bundle build hello --recipes ./recipes --images ./images
"""

RECIPE = """\
# All keys: docs/recipe.md
name = "{name}"
version = "{version}"
license = "{license}"  # an SPDX expression, as in "GPL-3.0-or-later OR MIT"
summary = "{summary}"
homepage = ""
depends = []  # recipes that it links to or runs

[[source]]
urls = ["{url}"]
sha256 = ""  # 'bundle fetch --update-hash {name}' fills it in

[build]
style = "{style}"
"""

BUNDLE = """\
# All keys: docs/recipe.md
name = "{name}"
version = "{version}"
summary = "{summary}"
compat = 1
requires = ["runtime"]
recipes = ["{name}"]
commands = ["bin/{name}"]
command = ["bin/{name}"]
"""

_VERSION = re.compile(r"[-_]v?(\d[A-Za-z0-9.+~]*?)(?:\.orig)?\.(?:tar|tgz|zip|gem|whl)")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="what the recipe is to be called")
    parser.add_argument("--url", metavar="URL", help="where its source is")
    parser.add_argument("--version", metavar="VERSION", help="upstream's version (default: that in the URL)")
    parser.add_argument(
        "--license", metavar="SPDX", default="LicenseRef-unknown", help="(default: %(default)s)"
    )
    parser.add_argument("--summary", metavar="TEXT", default="", help="one line about it")
    parser.add_argument(
        "--style", choices=style_names(), default="autotools", help="how it is built (default: %(default)s)"
    )
    parser.add_argument("--bundle", action="store_true", help="also write a bundle that holds it")
    common.add_inputs(parser)


def run(arguments: argparse.Namespace) -> int:
    name = arguments.name
    if not NAME_FORM.pattern.match(name):
        raise InputError(f"{name!r} is not {NAME_FORM.words}")
    settings = common.settings(arguments)
    found = _VERSION.search(arguments.url or "")
    version = arguments.version or (found[1] if found else "1.0")
    url = arguments.url or f"https://example.org/{name}-{version}.tar.gz"
    values = {
        "name": name,
        "version": version,
        "license": arguments.license,
        "summary": arguments.summary,
        "style": arguments.style,
        "url": url.replace(version, "{version}"),
    }
    values = {key: value.replace("\\", "\\\\").replace('"', '\\"') for key, value in values.items()}
    recipe = settings.recipes[0] / name / "recipe.toml"
    files = {recipe: RECIPE.format_map(values)}
    # What is written must be right once the digest is filled in: better to say so now.
    parse_recipe(
        parse(files[recipe].replace('sha256 = ""', f'sha256 = "{"0" * 64}"'), "the new recipe"), recipe
    )
    if arguments.bundle:
        bundle = settings.images[0] / f"{name}.toml"
        files[bundle] = BUNDLE.format_map(values)
        parse_bundle(parse(files[bundle], "the new bundle"), bundle)
    _write(files)
    for file in files:
        print(display_name(file))
    return ExitCode.DONE


def _write(files: dict[Path, str]) -> None:
    for file in files:
        if file.exists():
            raise InputError("is there already", where=display_name(file))
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        common.write_text(file, text)
