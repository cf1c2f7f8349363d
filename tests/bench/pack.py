"""Packing, re-packing, loading, composing and pushing, against the tools that people use for it.

The tree is a sample of what this machine has in /usr, about 700 MB where there is so much.  Engines and
registries are our own, started for this and stopped afterwards.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from bundler.cli.common import CHECKOUT
from bundler.oci.image import Image, ImageConfig, layer_of
from bundler.oci.layer import source_of_tree
from bundler.oci.layout import write_archive, write_layout
from bundler.tree import scan
from tests.bench.measure import Cost, Report, command, rounds

sys.path.insert(0, str(CHECKOUT / "tests/integration"))
from dockerd import Dockerd, docker_client
from registry import RegistryServer

SUMMARY = (
    "images made, made again, loaded, composed and pushed, against docker, buildah, umoci, skopeo and tar"
)
ROUNDS = 3
WANTED = 700 << 20
PARTS = ("one", "two", "three", "four")

_PACK = """
import sys
from pathlib import Path
from bundler.oci.image import Image, ImageConfig, layer_of
from bundler.oci.layer import source_of_tree
from bundler.oci.layout import write_layout
from bundler.oci.store import store_layer
from bundler.tree import scan
out, codec, *parts = sys.argv[1:]
layers = []
for part in map(Path, parts):
    source = source_of_tree(scan(part), part, f"/.deps/x/1/{part.name}", name=part.name, version="1")
    layers.append(store_layer(source, Path(out + ".blobs"), codec=codec))
write_layout(Path(out), Image(tuple(layers), ImageConfig("amd64", command=("/nop",)), reference="bench:1"))
"""


def run(report: Report) -> None:
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        tree = work / "tree"
        size, count = _make_tree(tree)
        report.line(f"  {size / 1e6:.0f} MB, {count} files, {len(PARTS)} parts, {ROUNDS} rounds in turn")
        _packing(report, work, tree)
        daemon = stack.enter_context(Dockerd())
        _docker(report, work, tree, daemon)
        _pushing(report, work)
        _composing(report, work)


def _make_tree(tree: Path) -> tuple[int, int]:
    """Copy every so-and-so-manieth file, so that sizes are those of a real system; gives bytes and files."""
    files = [
        Path(above, name)
        for root in ("/usr/lib", "/usr/bin", "/usr/share")
        for above, below, names in os.walk(root)
        if below.sort() is None
        for name in sorted(names)
    ]
    sizes = {file: file.lstat().st_size for file in files if file.is_symlink() or file.is_file()}
    step = max(1.0, sum(sizes.values()) / WANTED)
    chosen = [file for number, file in enumerate(sizes) if int(number / step) != int((number - 1) / step)]
    for number, file in enumerate(chosen):
        target = tree / PARTS[number * len(PARTS) // len(chosen)] / file.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target, follow_symlinks=False)
    return sum(sizes[file] for file in chosen), len(chosen)


def _fresh(work: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(work / name, ignore_errors=True)


def _shell(script: str, environment: Mapping[str, str] | None = None) -> Cost:
    return command(["/bin/sh", "-euc", script], environment=environment)


def _packing(report: Report, work: Path, tree: Path) -> None:
    parts = [str(tree / part) for part in PARTS]

    def pack(codec: str) -> Callable[[], Cost]:
        def measured() -> Cost:
            _fresh(work, "ours", "ours.blobs")
            words = [sys.executable, "-c", _PACK, str(work / "ours"), codec, *parts]
            return command(words, cwd=str(CHECKOUT))

        return measured

    buildah = f"buildah --root {work}/buildah --runroot {work}/buildah-run --storage-driver vfs"
    peers: dict[str, tuple[Callable[[], Cost], str, float]] = {
        "tar | sha256sum": (
            lambda: _shell(f"tar -C {tree} -cf - . | tee {work}/t.tar | sha256sum"),
            "none",
            1.0,
        ),
        "tar | gzip": (lambda: _shell(f"tar -C {tree} -cf - . | gzip -n > {work}/t.tgz"), "gzip", 0.5),
        "umoci insert (gzip)": (lambda: _umoci(work, tree), "gzip", 1.2),
        "buildah copy, commit (no compression)": (
            lambda: _shell(
                f"rm -rf {work}/b; c=$({buildah} from scratch); {buildah} copy -q $c {tree} /; "
                f"{buildah} commit -q --disable-compression $c oci:{work}/b:1; {buildah} rm $c"
            ),
            "none",
            0.15,
        ),
    }
    for name, (peer, codec, goal) in peers.items():
        ours, theirs = rounds(ROUNDS, pack(codec), peer)
        report.ratio(f"bundle, {codec}", ours, name, theirs, goal)
    _again(report, work, tree)


def _umoci(work: Path, tree: Path) -> Cost:
    _fresh(work, "u")
    image = f"--image {work}/u:1"
    return _shell(f"umoci init --layout {work}/u; umoci new {image}; umoci insert {image} {tree} /x")


def _image(tree: Path, changed: str = "") -> Image:
    layers = []
    for part in PARTS:
        entries = scan(tree / part)
        source = source_of_tree(entries, tree / part, f"/.deps/x/1/{part}", name=part, version="1" + changed)
        layers.append(layer_of(source))
    return Image(tuple(layers), ImageConfig("amd64", command=("/nop",)), reference="bench:1")


def _again(report: Report, work: Path, tree: Path) -> None:
    """What is remembered is not read: a layout that is current, and one in which one small part changed."""
    from tests.bench.measure import call

    image = _image(tree)
    write_layout(work / "layout", image)

    def one_file() -> Cost:
        (tree / PARTS[-1] / "changed").write_bytes(os.urandom(100))
        known = image.layers[:-1]

        def repack() -> None:
            entries = scan(tree / PARTS[-1])
            source = source_of_tree(entries, tree / PARTS[-1], "/.deps/x/1/four", name="four", version="1")
            write_layout(
                work / "layout", Image((*known, layer_of(source)), image.config, reference="bench:1")
            )

        return call(repack)

    (nothing,) = rounds(ROUNDS, lambda: call(lambda: write_layout(work / "layout", image)))
    (changed,) = rounds(ROUNDS, one_file)
    report.cost("bundle, nothing changed (diff IDs known)", nothing)
    report.cost("bundle, one file in one of four parts changed", changed)


def _docker(report: Report, work: Path, tree: Path, daemon: Dockerd) -> None:
    environment = {**daemon.environment, "DOCKER_BUILDKIT": "1"}
    docker = docker_client()
    (work / "context").mkdir()
    (work / "context/Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    (work / "context/tree").symlink_to(tree)
    archive = work / "archive.tar"
    image = _image(tree)
    write_archive(archive, image)

    def ours() -> Cost:
        _fresh(work, "ours", "ours.blobs")
        parts = [str(tree / part) for part in PARTS]
        return command([sys.executable, "-c", _PACK, str(work / "ours"), "none", *parts], cwd=str(CHECKOUT))

    made, imported = rounds(
        ROUNDS, ours, lambda: _shell(f"tar -C {tree} -c . | {docker} import - imported:1", environment)
    )
    report.ratio("bundle, none", made, "tar | docker import", imported, 0.30)
    build = f"{docker} build -q --no-cache -t built:1 -f {work}/context/Dockerfile {tree}"
    made, built = rounds(ROUNDS, ours, lambda: _shell(build, environment))
    report.ratio("bundle, none", made, "docker build COPY", built, 0.16)

    def full_load() -> Cost:
        _shell(f"{docker} rmi -f bench:1 >/dev/null 2>&1 || true", environment)
        return _shell(f"{docker} load -qi {archive}", environment)

    def thin_load() -> Cost:
        from bundler.oci.layout import stream_archive

        _shell(f"{docker} load -qi {archive}; {docker} tag bench:1 keep:1; {docker} rmi bench:1", environment)
        with (work / "thin.tar").open("wb") as out:
            stream_archive(out, image, omit=frozenset(layer.diff_id for layer in image.layers))
        cost = _shell(f"{docker} load -qi {work}/thin.tar", environment)
        _shell(f"{docker} rmi -f keep:1", environment)
        return cost

    thin, full = rounds(ROUNDS, thin_load, full_load)
    report.ratio("docker load, thin, all layers there", thin, "docker load, whole", full, 0.02)


def _pushing(report: Report, work: Path) -> None:
    push = (sys.executable, "-m", "bundler", "push", "--progress", "none", "--compress", "none")
    copy = ("skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", "--preserve-digests")
    ours, theirs = rounds(
        ROUNDS,
        lambda: _to_new_registry(work, lambda host: [*push, f"{work}/layout", f"{host}/x:1"]),
        lambda: _to_new_registry(work, lambda host: [*copy, f"oci:{work}/layout", f"docker://{host}/x:1"]),
    )
    report.ratio("bundle push", ours, "skopeo copy", theirs, 0.8)


def _to_new_registry(work: Path, words: Callable[[str], list[str]]) -> Cost:
    """One that has nothing: skopeo remembers where blobs are, and would have them mounted."""
    _fresh(work, "registry")
    with RegistryServer(work / "registry") as server:
        return command(words(server.host), cwd=str(CHECKOUT))


def _composing(report: Report, work: Path) -> None:
    """Two bundles that were verified together: a manifest, and links."""
    from bundler.labels import Facts
    from bundler.oci.read import open_image
    from tests.bench.measure import call

    image = open_image(work / "layout")
    halves = []
    for name, layers in (("left", image.layers[:2]), ("right", image.layers[2:])):
        labels = tuple(sorted(Facts(name, "1", f"/.deps/{name}/1", 1).to_labels().items()))
        config = ImageConfig("amd64", command=("/nop",), labels=labels)
        write_layout(work / name, Image(layers, config, reference=f"{name}:1"))
        halves.append(str(work / name))

    def compose() -> Cost:
        _fresh(work, "composed")
        words = [sys.executable, "-m", "bundler", "compose", *halves, "-o", str(work / "composed")]
        return command(words, cwd=str(CHECKOUT))

    def copy() -> Cost:
        _fresh(work, "copied")
        return call(lambda: shutil.copytree(work / "layout", work / "copied"))

    ours, theirs = rounds(ROUNDS, compose, copy)
    report.ratio("bundle compose, two images", ours, "cp of the same layers", theirs, 1.0)
