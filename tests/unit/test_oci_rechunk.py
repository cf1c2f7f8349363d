"""Root file systems cut into layers: what goes in, who shares a layer, and that all of it comes out."""

import gzip
import os
import random
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_oci_image import F, S, image, tar_layer

from bundler.cli.main import main
from bundler.errors import BundleError, CheckError, InputError
from bundler.oci.chunk import Component, History, Plan, Planner, refetched
from bundler.oci.image import ImageConfig
from bundler.oci.merged import ImageTree
from bundler.oci.packages import assign, read_packages, update_dates
from bundler.oci.read import open_image
from bundler.oci.rechunk import cut, examine, make_plan, memory_from_json, memory_of, prove
from bundler.oci.rootfs import RootTree, content, parse_attributes
from bundler.tree import DirectoryTree, Entry, Kind, scan

CONFIG = ImageConfig("amd64")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small Debian: two packages, a database, changelogs, and what has no place in an image."""
    files: dict[str, bytes] = {
        "usr/bin/tool": b"tool" * 1000,
        "usr/lib/libz.so.1": b"z" * 3000,
        "etc/tool.conf": b"conf",
        "opt/local/thing": b"local",
        "var/lib/dpkg/status": b"Package: tool\nSource: toolkit (1.0)\nVersion: 1\n\n"
        b"Package: zlib1g\nSource: zlib\n",
        "var/lib/dpkg/info/tool.list": b"/.\n/usr\n/usr/bin\n/usr/bin/tool\n/bin/tool\n/etc/tool.conf\n"
        b"/usr/share/doc/tool/changelog.Debian.gz\n",
        "var/lib/dpkg/info/zlib1g:amd64.list": b"/.\n/lib/libz.so.1\n",
        "usr/share/doc/tool/changelog.Debian.gz": gzip.compress(
            b"tool (1) x; urgency=low\n\n  * x\n\n -- A B <a@b.example>  Mon, 03 Jan 2022 10:00:00 +0100\n"
            b"\n -- A B <a@b.example>  Tue, 01 Feb 2022 10:00:00 +0100\n -- C <c@d>  no date\n"
        ),
        "tmp/rubbish": b"x",
        "var/tmp/rubbish": b"x",
        "home/me/.cache/CACHEDIR.TAG": b"Signature: 8a477f597d28d172789f06886806bc55\n",
        "home/me/.cache/large": b"x" * 100,
    }
    for name, data in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(data)
    base = tmp_path / "root"
    (base / "lib").symlink_to("usr/lib")
    (base / "bin").symlink_to("usr/bin")
    os.link(base / "usr/bin/tool", base / "usr/bin/tool2")
    os.link(base / "usr/bin/tool", base / "tmp/third-name")
    (base / "boot").mkdir()
    (base / "empty/inner").mkdir(parents=True)
    (base / "usr/bin/tool").chmod(0o4755)
    (base / "tmp").chmod(0o1777)
    return base


def test_what_goes_in(root: Path) -> None:
    paths = {entry.path for entry in content(RootTree(root))}
    assert {
        "tmp",
        "var/tmp",
        "boot",
        "empty/inner",
        "usr/bin/tool2",
        "lib",
        "home/me/.cache/CACHEDIR.TAG",
    } <= paths
    assert not paths & {"tmp/rubbish", "var/tmp/rubbish", "tmp/third-name", "home/me/.cache/large"}


def test_hard_links_are_among_what_is_left(root: Path) -> None:
    found = {entry.path: entry.hardlink for entry in content(RootTree(root))}
    assert (found["usr/bin/tool"], found["usr/bin/tool2"]) == (None, "usr/bin/tool")


def test_a_kernel_is_refused(root: Path) -> None:
    (root / "boot/vmlinuz").write_bytes(b"")
    with pytest.raises(InputError, match="/boot"):
        content(RootTree(root))


class _Marked(DirectoryTree):
    """A tree in which some paths have attributes, on file systems that have none."""

    def __init__(self, root: Path, marks: dict[str, str]) -> None:
        super().__init__(root)
        self._marks = marks

    def get(self, path: str) -> Entry | None:
        entry = super().get(path)
        if entry is not None and path in self._marks:
            name, _, value = self._marks[path].partition("=")
            return replace(entry, xattrs=((name, value.encode()),))
        return entry


def test_attributes_say_what_to_skip_and_what_belongs_together(root: Path) -> None:
    tree = _Marked(root, {"opt": "user.component=mine", "etc": "user.build.skip="})
    entries = content(tree)
    assert not any(entry.path.startswith("etc") for entry in entries)
    assert assign(entries, read_packages(tree))["opt/local/thing"] == "mine"


def test_packages_are_found_through_merged_directories(root: Path) -> None:
    tree = RootTree(root)
    packages = read_packages(tree)
    owners = assign(content(tree), packages)
    assert owners["usr/bin/tool"] == owners["etc/tool.conf"] == owners["usr/bin/tool2"] == "toolkit"
    assert owners["usr/lib/libz.so.1"] == "zlib"
    assert owners["opt/local/thing"] == "files in /opt/local"
    assert owners["var/lib/dpkg/status"] == "package database"
    assert update_dates(tree, packages)["toolkit"] == {date(2022, 1, 3), date(2022, 2, 1)}


def test_apk_databases_are_read(tmp_path: Path) -> None:
    (tmp_path / "lib/apk/db").mkdir(parents=True)
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/x").write_text("x")
    database = "P:x-utils\nV:1\no:x\nF:usr\nF:usr/bin\nR:x\nZ:Q1\n\n"
    (tmp_path / "lib/apk/db/installed").write_text(database)
    assert read_packages(RootTree(tmp_path)).owners["usr/bin/x"] == "x"


@pytest.mark.parametrize("budget", [1, 2, 3, 64])
def test_what_comes_out_is_what_went_in(root: Path, budget: int, tmp_path: Path) -> None:
    tree = RootTree(root)
    found = examine(tree)
    memory = make_plan(found, budget)
    made = cut(tree, found, memory, CONFIG, tmp_path / "blobs")
    assert len(made.image.layers) == min(budget, len(found.components))
    prove(made, found)
    with ImageTree(made.image) as view:
        tool = view.get("usr/bin/tool")
        assert tool is not None
        assert (tool.mode, tool.mtime) == (0o4755, int((root / "usr/bin/tool").stat().st_mtime))
        assert {entry.path for entry in view.walk()} == {entry.path for entry in found.entries}
    again = cut(tree, found, memory, CONFIG, tmp_path / "blobs2", codec="gzip")
    prove(again, found)
    assert [layer.diff_id for layer in again.image.layers] == [layer.diff_id for layer in made.image.layers]
    assert memory_of(made.image, "image") == memory
    assert memory_from_json(memory.to_json(), where="plan") == memory


def test_a_difference_is_not_passed_over(root: Path, tmp_path: Path) -> None:
    tree = RootTree(root)
    found = examine(tree)
    made = cut(tree, found, make_plan(found, 3), CONFIG, tmp_path / "blobs")
    prove(made, found)
    (root / "etc/tool.conf").write_bytes(b"fnoc")
    other = cut(tree, found, make_plan(found, 3), CONFIG, tmp_path / "blobs")
    with pytest.raises(CheckError, match=r"changed /etc/tool\.conf content"):
        prove(replace(made, image=other.image), found)
    with pytest.raises(CheckError, match="removed"):
        prove(replace(made, image=replace(made.image, layers=made.image.layers[1:])), found)


def test_layers_that_do_not_change_stay(root: Path, tmp_path: Path) -> None:
    tree = RootTree(root)
    found = examine(tree)
    memory = make_plan(found, 4)
    first = cut(tree, found, memory, CONFIG, tmp_path / "blobs")
    (root / "usr/bin/tool").write_bytes(b"new" * 2000)
    tree = RootTree(root)
    found = examine(tree)
    second = cut(tree, found, make_plan(found, 4, memory), CONFIG, tmp_path / "blobs")
    prove(second, found)
    kept = {layer.diff_id for layer in first.image.layers} & {layer.diff_id for layer in second.image.layers}
    assert len(kept) == 3


def test_images_are_cut_with_their_whiteouts_applied(tmp_path: Path) -> None:
    source = image(tar_layer(("a", F, "1"), ("l", S, "a")), tar_layer((".wh.a", F, ""), ("b", F, "2")))
    with ImageTree(source) as tree:
        found = examine(tree)
        made = cut(tree, found, make_plan(found, 8), source.config, tmp_path / "blobs")
        prove(made, found)
    assert {entry.path for entry in found.entries} == {"b", "l"}


def test_the_side_file_is_what_getfattr_prints(root: Path) -> None:
    text = (
        "# file: usr/bin/tool\nsecurity.capability=0x0100000200040000\nuser.a=0x6f6b\n\n"
        "# file: odd\\012name\nuser.b=0x\n"
    )
    found = parse_attributes(text, where="side")
    assert found == {
        "usr/bin/tool": (("security.capability", bytes.fromhex("0100000200040000")), ("user.a", b"ok")),
        "odd\nname": (("user.b", b""),),
    }
    entries = {entry.path: entry for entry in content(RootTree(root), found)}
    assert dict(entries["usr/bin/tool"].xattrs)["user.a"] == b"ok"
    with pytest.raises(InputError, match="side:2"):
        parse_attributes('# file: a\nuser.a="text"\n', where="side")


def test_the_verb(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["-o", str(tmp_path / "image"), "--tag", "base:1", "--layers", "3"]
    assert main(["rechunk", str(root), *out, "--save-plan", str(tmp_path / "plan")]) == 0
    first = open_image(tmp_path / "image")
    assert capsys.readouterr().out.splitlines()[0] == first.digest
    assert main(["rechunk", str(tmp_path / "image"), *out, "--plan", str(tmp_path / "plan")]) == 0
    assert open_image(tmp_path / "image").digest == first.digest
    assert main(["rechunk", str(root)]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image", "plan", "root"]


# Planning


def fleet(count: int, seed: int, periods: int = 40) -> list[Component]:
    """Components of very different sizes; some change often, some together."""
    chance = random.Random(seed)
    together = [frozenset(at for at in range(periods) if chance.random() < 0.2) for _ in range(3)]
    made = []
    for number in range(count):
        own = frozenset(at for at in range(periods) if chance.random() < chance.choice([0.01, 0.05, 0.3]))
        updates = chance.choice(together) if number % 3 == 0 else own
        made.append(Component(f"c{number:03}", int(10 ** chance.uniform(3, 8)), updates))
    return made


def largest_first(components: Sequence[Component], budget: int) -> Plan:
    order = sorted(components, key=lambda component: (-component.size, component.name))
    alone = [(component.name,) for component in order[: budget - 1]]
    rest = tuple(sorted(component.name for component in order[budget - 1 :]))
    return Plan((*alone, rest) if rest else tuple(alone))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("budget", [3, 8, 20])
def test_the_plan_costs_less_than_the_largest_first(budget: int, seed: int) -> None:
    components = fleet(60, seed)
    planner = Planner(components, History(40), budget)
    plan = planner.first()
    assert len(plan.layers) <= budget
    assert planner.cost(plan) < planner.cost(largest_first(components, budget))


@given(st.randoms(use_true_random=False), st.integers(1, 12), st.integers(0, 25))
@settings(max_examples=40, deadline=None)
def test_every_component_has_one_place_and_order_does_not_matter(
    chance: random.Random, budget: int, count: int
) -> None:
    components = fleet(count, chance.randrange(1000))
    plan = Planner(components, History(40), budget).first()
    assert sorted(name for layer in plan.layers for name in layer) == [c.name for c in components]
    assert len(plan.layers) <= budget
    shuffled = list(components)
    chance.shuffle(shuffled)
    assert Planner(shuffled, History(40), budget).first() == plan
    changed = chance.sample([c.name for c in components], min(count, 2))
    later = Planner(components, History(40), budget).next(plan, changed)
    assert sorted(name for layer in later.layers for name in layer) == [c.name for c in components]


def test_a_later_plan_leaves_clean_layers_alone() -> None:
    components = fleet(60, 1)
    plan = Planner(components, History(40), 16).first()
    later = Planner(components, History(40), 16).next(plan, [])
    assert set(later.layers) == set(plan.layers)


def test_a_new_component_moves_one_layer() -> None:
    components = fleet(60, 2)
    plan = Planner(components, History(40), 16).first()
    new = Component("new", 5000)
    later = Planner([*components, new], History(40), 16).next(plan, ["new"])
    assert len(set(plan.layers) - set(later.layers)) <= 2
    sizes = {component.name: component.size for component in [*components, new]}
    assert refetched(later, plan, sizes, ["new"]) < sum(sizes.values()) / 2


def test_a_budget_of_none_is_an_error() -> None:
    with pytest.raises(BundleError):
        Planner([], History(1), 0)


def test_getfattr_itself(tmp_path: Path) -> None:
    file = tmp_path / "a b"
    file.write_text("x")
    try:
        os.setxattr(file, "user.note", b"\x00\xff")
    except OSError:
        assert scan(tmp_path)[0].kind is Kind.FILE  # a file system without attributes has none to print
        return
    words = ["getfattr", "--dump", "--encoding=hex", "--match=-", "--recursive", "."]
    text = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert parse_attributes(text, where="x") == {"a b": (("user.note", b"\x00\xff"),)}
