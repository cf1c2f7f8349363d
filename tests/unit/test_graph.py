import xml.etree.ElementTree as ElementTree

from bundler.graph import GraphNode, lay_out, to_svg, to_text

NODES = [
    GraphNode(n, n, g) for n, g in (("zlib", "shell"), ("rsync", "shell"), ("a<b", "base"), ("git", "git"))
]
EDGES = {"rsync": ["zlib"], "git": ["zlib", "rsync", "elsewhere"]}


def test_columns_follow_the_longest_way_down() -> None:
    layout = lay_out(NODES, EDGES)
    boxes = [sorted(name for name in column if "→" not in name) for column in layout.columns]
    assert boxes == [["a<b", "zlib"], ["rsync"], ["git"]]


def test_a_long_edge_has_a_place_in_each_column_between() -> None:
    layout = lay_out(NODES, EDGES)
    assert layout.routes["git", "zlib"] == ("git", "git → zlib @ 1", "zlib")
    assert "git → zlib @ 1" in layout.columns[1]


def test_text_shows_each_subtree_once() -> None:
    edges = {**EDGES, "a<b": ["rsync"]}
    assert to_text(NODES, edges) == "a<b\n└── rsync\n    └── zlib\ngit\n├── zlib\n└── rsync …\n"


def test_svg_is_well_formed_with_a_box_per_node_and_an_arrow_per_edge() -> None:
    root = ElementTree.fromstring(to_svg(NODES, EDGES, "t & u"))
    space = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{space}text")]
    assert [node.label for node in NODES if node.label not in texts] == []
    assert len(root.findall(f"{space}path")) == 3


def test_nothing_to_draw() -> None:
    assert to_text([], {}) == "\n"
    ElementTree.fromstring(to_svg([], {}, ""))
