"""Positions in TOML texts, and errors that show them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.errors import BundleError, InputError, Problems
from bundler.toml import MAX_SIZE, Table, form, load, located, parse
from bundler.toml_positions import Key, locate

TEXT = '''\
name = "x"  # name = 1
"quoted key" = 1
'literal.key' = 2
dotted . inner = [1, [2, "]#"], {a = 3, "b" = { c = 4 }}]
multi = """
not = "a key"
[not.a.table] \\"""
"""
raw = \'\'\'
x = 1\'\'\'
date = 1979-05-27 07:32:00Z # trailing
[table]
  key = true
[table.sub."dotted.name"]
key = 3.5
[[array]]
a = 1
[array.inner]
b = 2
[[array]]
a = "second"
[[array.nested]]
c = 1
[[array.nested]]
c = 2
'''

PLACES: list[tuple[Key, str, str]] = [
    (("name",), "name", '"x"'),
    (("quoted key",), '"quoted key"', "1"),
    (("literal.key",), "'literal.key'", "2"),
    (("dotted",), "dotted", "dotted"),
    (("dotted", "inner"), "inner", '[1, [2, "]#"], {a = 3, "b" = { c = 4 }}]'),
    (("dotted", "inner", 1), '[2, "]#"]', '[2, "]#"]'),
    (("dotted", "inner", 1, 1), '"]#"', '"]#"'),
    (("dotted", "inner", 2, "b", "c"), "c", "4"),
    (("multi",), "multi", TEXT[TEXT.index('"""') : TEXT.index("raw")].rstrip()),
    (("raw",), "raw", "'''\nx = 1'''"),
    (("date",), "date", "1979-05-27 07:32:00Z"),
    (("table",), "table", "[table]"),
    (("table", "key"), "key", "true"),
    (("table", "sub", "dotted.name", "key"), "key", "3.5"),
    (("array", 0), "[[array]]", "[[array]]"),
    (("array", 0, "inner", "b"), "b", "2"),
    (("array", 1, "a"), "a", '"second"'),
    (("array", 1, "nested", 1, "c"), "c", "2"),
]


@pytest.mark.parametrize(("key", "at_key", "at_value"), PLACES)
def test_places(key: Key, at_key: str, at_value: str) -> None:
    start, end = locate(TEXT, key, "key")
    assert TEXT[start:end] == at_key
    start, end = locate(TEXT, key, "value")
    assert TEXT[start:end] == (at_value if at_value != "dotted" else TEXT.split("\n", 1)[0])


def test_the_nearest_place_of_what_is_not_written() -> None:
    assert TEXT[slice(*locate(TEXT, ("array", 0, "missing")))] == "[[array]]"
    assert TEXT[slice(*locate(TEXT, ("missing",)))] == 'name = "x"  # name = 1'


@given(
    st.dictionaries(
        st.text("ab.\"' é#=[]\\\n\t", max_size=4),
        st.recursive(
            st.one_of(st.integers(), st.booleans(), st.text("ab\"'#]},\\\n", max_size=5)),
            lambda inner: st.lists(inner, max_size=3),
        ),
        max_size=4,
    )
)
def test_every_value_is_found_where_tomllib_reads_it(data: dict[str, Any]) -> None:
    text = "".join(f"{written(key)}  = {written(value)} # {key!a}\n" for key, value in data.items())
    assert tomllib.loads(text) == data
    for key, value in data.items():
        start, end = locate(text, (key,), "value")
        assert tomllib.loads(f"k = {text[start:end]}") == {"k": value}
        start, end = locate(text, (key,), "key")
        assert tomllib.loads(f"{text[start:end]} = 1") == {key: 1}


def written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(written(item) for item in value) + "]"
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


SYNTAX = [
    ("a = 1\nb = = 2\n", "x.toml:2:5: error: invalid value\n    2 | b = = 2\n      |     ^"),
    ("a = 1\na = 2\n", "x.toml:2:6: error: cannot overwrite a value\n    2 | a = 2\n      |      ^"),
    ("a = 'x", "x.toml:1:7: error: expected \"'\"\n    1 | a = 'x\n      |       ^"),
    ("\u00e9 = 1", "x.toml:1:1: error: invalid statement\n    1 | \u00e9 = 1\n      | ^"),
]


@pytest.mark.parametrize(("text", "expected"), SYNTAX)
def test_syntax_errors_show_their_place(text: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text, "x.toml")
    assert str(caught.value) == expected


def test_deep_nesting_is_an_error() -> None:
    with pytest.raises(InputError, match="nested too deeply"):
        parse("a = " + "[" * 100_000, "x.toml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load(tmp_path / "none.toml")
    (tmp_path / "latin").write_bytes(b"a = 1\nb = 'caf\xe9'\n")
    with pytest.raises(InputError, match=r"latin:2:9: error: not UTF-8"):
        load(tmp_path / "latin")
    (tmp_path / "large").write_bytes(b"#" * (MAX_SIZE + 1))
    with pytest.raises(InputError, match="larger than"):
        load(tmp_path / "large")


NAME = form("[a-z]+", "a name")


def problems(text: str) -> str:
    """Read ``text`` as a table of every kind, and return what is wrong with it."""
    table = Table(parse(text, "t"))
    table.text("name", form=NAME)
    table.optional("other", form=NAME)
    table.integer("count", default=1, least=1)
    table.boolean("flag", default=False)
    table.choice("choice", ("one", "two"), default="one")
    table.words("words", form=NAME)
    table.pairs("pairs")
    table.strings("strings", names=NAME)
    for item in table.tables("item"):
        item.text("key")
    try:
        table.finish()
    except BundleError as error:
        return "\n".join(line for line in str(error).splitlines() if not line.startswith("   "))
    return ""


WRONG = [
    ('name = "x"\nwords = ["a"]\npairs = [["a", "b"]]\nstrings = {a = "B"}\n[[item]]\nkey = "k"', ""),
    ("", "t:1:1: error: the key 'name' is missing"),
    ('nam = "x"', "t:1:1: error: unknown key 'nam'\n  hint: did you mean 'name'?"),
    ("name = 3", "t:1:8: error: 'name' must be a string, not a number"),
    ('name = ""', "t:1:8: error: 'name' is empty"),
    ('name = "X"', "t:1:8: error: 'name' is not a name: 'X'"),
    ('name = "x\\n"', "t:1:8: error: 'name' is not a name: 'x\\n'"),
    ('name = "x"\ncount = true', "t:2:9: error: 'count' must be a whole number, not a boolean"),
    ('name = "x"\ncount = 0', "t:2:9: error: 'count' is less than 1"),
    ('name = "x"\nflag = 1', "t:2:8: error: 'flag' must be true or false, not a number"),
    ('name = "x"\nchoice = "on"', "t:2:10: error: 'choice' has no choice 'on'\n  hint: did you mean 'one'?"),
    ('name = "x"\nwords = "a"', "t:2:9: error: 'words' must be a list of strings, not a string"),
    (
        'name = "x"\nwords = ["a", 1, "B", "a"]',
        "t:2:15: error: 'words' holds a number where strings belong\n"
        "t:2:18: error: 'B' in 'words' is not a name\n"
        "t:2:23: error: 'a' is listed twice in 'words'",
    ),
    ('name = "x"\npairs = [["a"]]', "t:2:10: error: 'pairs' holds a list where a pair of strings belongs"),
    (
        'name = "x"\nstrings = {"A B" = "1", b = 2}',
        "t:2:12: error: the key 'A B' is not a name\nt:2:29: error: 'b' must be a string, not a number",
    ),
    ('name = "x"\n[item]\nkey = 1', "t:2:1: error: 'item' must be a list of tables, [[item]], not a table"),
    ('name = "x"\nitem = [1]', "t:2:9: error: 'item' holds a number where tables belong"),
    (
        'name = "x"\n[[item]]\n[[item]]\nkee = 1\nmore = 2',
        "t:2:1: error: the key 'key' is missing in [[item]]\n"
        "t:4:1: error: unknown key 'kee' in [[item]]\n  hint: did you mean 'key'?\n"
        "t:5:1: error: unknown key 'more' in [[item]]\n  hint: known keys: key",
    ),
    ("name = 1979-05-27", "t:1:8: error: 'name' must be a string, not a date or time"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_all_that_is_wrong_with_a_table(text: str, expected: str) -> None:
    assert problems(text) == expected


def test_the_error_as_the_user_sees_it() -> None:
    line = 'sha265 = "9a93"'
    table = Table(parse(f'name = "zlib"\n\n[[source]]\n{line}\n', "recipes/zlib/recipe.toml"))
    table.text("name")
    for source in table.tables("source"):
        source.text("sha256")
    with pytest.raises(InputError) as caught:
        table.finish()
    assert str(caught.value) == (
        "recipes/zlib/recipe.toml:4:1: error: unknown key 'sha265' in [[source]]\n"
        f"    4 | {line}\n"
        "      | ^^^^^^\n"
        "  hint: did you mean 'sha256'?"
    )


def test_long_lines_are_cut_and_control_characters_not_shown() -> None:
    text = f'a = ["{"x" * 300}", "\\u001b", 7]\n'
    error = parse(text, "t").error("bad", ("a", 2), "value")
    lines = (error.detail or "").splitlines()
    assert len(lines[0]) < 120
    assert lines[0][lines[1].index("^")] == "7"
    shown = parse('a = """\n\tx"""\n', "t").error("bad", ("a",), "value").detail
    assert shown == '    1 | a = """\n      |     ^^^'


LOCATED = [
    (("depends", "b"), "2:17", '["a", "b"]', '"b"'),
    (("depends", "c"), "2:11", '["a", "b"]', '["a", "b"]'),
    (("output", "run"), "4:1", "[output.run]", "[output.run]"),
    (("none",), "1:1", 'name = "x"', 'name = "x"'),
]


@pytest.mark.parametrize(("at", "place", "line", "marked"), LOCATED)
def test_an_error_that_knows_the_way_is_shown_with_its_line(
    at: tuple[str, ...], place: str, line: str, marked: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.toml"
    file.write_text('name = "x"\ndepends = ["a", "b"]\n\n[output.run]\nfiles = []\n')
    error = located(InputError("bad", where=str(file), why="so", hint="do", at=at))
    lines = str(error).splitlines()
    assert lines[0] == f"{file}:{place}: error: bad"
    assert lines[2].endswith(line) and lines[3].count("^") == len(marked)
    assert located(Problems([InputError("bad", where=str(file), at=at)])).problems[0].detail == error.detail


def test_an_error_without_a_way_stays_as_it_is(tmp_path: Path) -> None:
    for where in (None, str(tmp_path / "none.toml")):
        assert str(located(InputError("bad", where=where, at=("a",)))) == str(InputError("bad", where=where))
