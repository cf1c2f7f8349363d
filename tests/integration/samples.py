"""Small bundles made by hand, of a static busybox: what the verbs that use bundles are tried on."""

from __future__ import annotations

import shutil
from pathlib import Path

from bundler.labels import Facts, Required
from bundler.oci.image import Image, ImageConfig, layer_of
from bundler.oci.layer import source_of_tree
from bundler.oci.layout import write_layout
from bundler.tree import scan

BUSYBOX = Path("/bin/busybox")
RUNTIME, TOOLS = "/.deps/rt/1", "/.deps/tools/1"


def make(work: Path, *, version: str = "1.0", extra: str = "") -> Path:
    """Write the layouts ``runtime`` and ``tools`` (which requires it) and return their directory."""
    out = work / "out"
    shells = _tree(work / "sh", {"etc/shells": "sh\n"}, {"bin/sh": "bin/busybox"})
    runtime = _image("runtime", version, RUNTIME, [shells])
    write_layout(out / "runtime", runtime)
    greet = f"#!{RUNTIME}/bin/sh\necho hello from $0\n"
    layers = [
        _tree(work / "applets", {}, dict.fromkeys(("bin/find", "bin/id", "bin/env"), "bin/busybox")),
        _tree(work / "greet", {"bin/greet": greet, "share/data": f"data {version}{extra}\n"}, {}),
    ]
    tools = _image("tools", version, TOOLS, layers, (Required("runtime", runtime.id),))
    write_layout(out / "tools", tools)
    return out


def make_layered(work: Path, layers: int) -> Path:
    """A layout ``many`` with that many layers, a file each below ``/.deps/many/1``."""
    trees = [_tree(work / f"part-{number}", {f"share/{number}": ""}, {}) for number in range(layers)]
    image = _image("many", str(layers), "/.deps/many/1", trees)
    write_layout(work / "out" / "many", image)
    return work / "out"


def _tree(root: Path, files: dict[str, str], links: dict[str, str]) -> Path:
    (root / "bin").mkdir(parents=True)
    if links:
        shutil.copy(BUSYBOX, root / "bin/busybox")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        (root / name).chmod(0o755 if name.startswith("bin/") else 0o644)
    for name, target in links.items():
        (root / name).hardlink_to(root / target)
    return root


def _image(
    name: str, version: str, prefix: str, trees: list[Path], requires: tuple[Required, ...] = ()
) -> Image:
    layers = tuple(
        layer_of(source_of_tree(scan(tree), tree, prefix, name=tree.name, version=version)) for tree in trees
    )
    labels = tuple(Facts(name, version, prefix, 1, requires).to_labels().items())
    program = "sh" if name == "runtime" else "greet"
    config = ImageConfig("amd64", command=(f"{prefix}/bin/{program}",), labels=labels)
    return Image(layers, config, reference=f"{name}:{version}")
