import xml.etree.ElementTree as ElementTree

from bundler.graph import GraphNode, columns, to_svg, to_text

NODES = [
    GraphNode(n, n, g) for n, g in (("zlib", "shell"), ("rsync", "shell"), ("a<b", "base"), ("git", "git"))
]
EDGES = {"rsync": ["zlib"], "git": ["zlib", "rsync", "elsewhere"]}


def test_columns_follow_the_longest_way_down() -> None:
    assert [sorted(column) for column in columns(NODES, EDGES)] == [["a<b", "zlib"], ["rsync"], ["git"]]


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
