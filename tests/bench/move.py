"""Images into engines and registries, and put together, against docker and skopeo.

Engines and registries are our own, started for this and stopped afterwards.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from bundler.cli.common import CHECKOUT
from bundler.labels import Facts
from bundler.oci.compose import Part, compose
from bundler.oci.image import Image, ImageConfig
from bundler.oci.layout import stream_archive, write_archive, write_layout
from bundler.oci.read import open_image
from tests.bench.measure import BUNDLE, Cost, Report, call, command, rounds
from tests.bench.sample import ROUNDS, begin, fresh, image_of, pack, shell

sys.path.insert(0, str(CHECKOUT / "tests/integration"))
from dockerd import Dockerd, docker_client
from registry import RegistryServer

SUMMARY = "images made, loaded, composed and pushed, against docker and skopeo"


def run(report: Report) -> None:
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        tree = begin(report, work)
        write_layout(work / "layout", image_of(tree))
        daemon = stack.enter_context(Dockerd())
        _making(report, work, tree, daemon)
        _loading(report, work, tree, daemon)
        _composing(report, work, daemon)
        _pushing(report, work)


def _making(report: Report, work: Path, tree: Path, daemon: Dockerd) -> None:
    environment = {**daemon.environment, "DOCKER_BUILDKIT": "1"}
    docker = docker_client()
    (work / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    peers: dict[str, tuple[str, float]] = {
        "tar | docker import": (f"tar -C {tree} -c . | {docker} import - imported:1", 0.30),
        "docker build COPY": (
            f"{docker} build -q --no-cache -t built:1 -f {work}/Dockerfile {tree}",
            0.16,
        ),
    }
    for peer, (script, goal) in peers.items():
        made, theirs = rounds(ROUNDS, lambda: pack(work, tree, "none"), _script(script, environment))
        report.ratio("bundle, none", made, peer, theirs, goal)


def _script(text: str, environment: dict[str, str]) -> Callable[[], Cost]:
    return lambda: shell(text, environment)


def _loading(report: Report, work: Path, tree: Path, daemon: Dockerd) -> None:
    environment, docker = daemon.environment, docker_client()
    archive = work / "archive.tar"
    image = open_image(work / "layout")
    write_archive(archive, image)

    def full_load() -> Cost:
        shell(f"{docker} rmi -f bench:1 >/dev/null 2>&1 || true", environment)
        return shell(f"{docker} load -qi {archive}", environment)

    def thin_load() -> Cost:
        shell(f"{docker} load -qi {archive}; {docker} tag bench:1 keep:1; {docker} rmi bench:1", environment)
        with (work / "thin.tar").open("wb") as out:
            stream_archive(out, image, omit=frozenset(layer.diff_id for layer in image.layers))
        cost = shell(f"{docker} load -qi {work}/thin.tar", environment)
        shell(f"{docker} rmi -f keep:1", environment)
        return cost

    thin, full = rounds(ROUNDS, thin_load, full_load)
    report.ratio("docker load, thin, all layers there", thin, "docker load, whole", full, 0.02)


def _composing(report: Report, work: Path, daemon: Dockerd) -> None:
    """Two bundles that were verified together: a manifest, and links."""
    image = open_image(work / "layout")
    parts = []
    for name, layers in (("left", image.layers[:2]), ("right", image.layers[2:])):
        labels = tuple(sorted(Facts(name, "1", f"/.deps/{name}/1", 1).to_labels().items()))
        config = ImageConfig("amd64", command=("/nop",), labels=labels)
        write_layout(work / name, Image(layers, config, reference=f"{name}:1"))
        write_archive(work / "half.tar", replace(open_image(work / name), reference=f"{name}:1"))
        shell(f"{docker_client()} load -qi {work}/half.tar", daemon.environment)
        parts.append(Part(name, open_image(work / name)))

    def ours() -> Cost:
        fresh(work, "composed")
        return call(lambda: write_layout(work / "composed", compose(parts)))

    def whole() -> Cost:
        fresh(work, "composed")
        words = [*BUNDLE, "compose", *(str(work / part.name) for part in parts), "-o", str(work / "composed")]
        return command(words, cwd=str(CHECKOUT))

    lines = ["FROM scratch", *(f"COPY --from={part.name}:1 / /" for part in parts)]
    (work / "Composed").write_text("\n".join(lines) + "\n")
    (work / "empty").mkdir()
    build = f"{docker_client()} build -q --no-cache -t composed:1 -f {work}/Composed {work}/empty"
    environment = {**daemon.environment, "DOCKER_BUILDKIT": "1"}
    inner, command_, built = rounds(ROUNDS, ours, whole, lambda: shell(build, environment))
    report.ratio("bundle compose, two images", inner, "docker build COPY --from", built, 0.02)
    report.cost("the same as a command, with the start of Python", command_)


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
    fresh(work, "registry")
    with RegistryServer(work / "registry") as server:
        return command(words(server.host), cwd=str(CHECKOUT))
