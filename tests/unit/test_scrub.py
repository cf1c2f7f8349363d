"""Images scrubbed: which bytes change, and which do not.  Python's tarfile is the judge."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from bundler.digest import digest_bytes
from bundler.oci.image import (
    LAYER,
    MANIFEST,
    Descriptor,
    FileBlob,
    Image,
    Layer,
    Original,
    manifest_json,
    memory_stream,
)
from bundler.oci.parse import parse_config
from bundler.scrub import Base, scrub

FORMATS = {"gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT, "ustar": tarfile.USTAR_FORMAT}


def layer_of(work: Path, names: str, form: str = "pax") -> Layer:
    """A layer written by tarfile: ``x/`` are directories, others files that hold their own name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=FORMATS[form]) as tar:
        for name in names.split():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mtime = 1234.5 if form == "pax" else 1234  # type: ignore[assignment]
            info.uname = "someone"
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = len(name)
                tar.addfile(info, io.BytesIO(name.encode()))
    data = out.getvalue()
    digest = digest_bytes(data)
    file = work / digest[7:]
    file.write_bytes(data)
    return Layer(Descriptor(LAYER, digest, len(data)), digest, FileBlob(file, len(data)))


def image_of(layers: list[Layer], **config: object) -> Image:
    raw = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created_by": f"step {number}"} for number in range(len(layers))],
            "x-unknown": {"kept": 1},
        }
    ).encode()
    original = Original(manifest_json(raw, layers), MANIFEST, raw)
    return Image(tuple(layers), parse_config(raw, "x").config, original=original)


def listing(layer: Layer) -> list[tuple[str, float, str, bytes]]:
    with tarfile.open(fileobj=memory_stream(layer.blob)) as tar:
        return [
            (
                member.name,
                member.mtime,
                member.uname,
                (tar.extractfile(member) or io.BytesIO()).read() if member.isfile() else b"",
            )
            for member in tar
        ]


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_what_stays_keeps_every_byte(tmp_path: Path, form: str) -> None:
    long = "d/" + "n" * 90 + "/" + "m" * 90
    dirty = layer_of(tmp_path, f"a/ a/one .deps/ .deps/x/ .deps/x/1/ d/ {long} z", form)
    clean = layer_of(tmp_path, f"a/ a/one d/ {long} z", form)
    done = scrub(image_of([dirty]), root="/.deps")
    (layer,) = done.image.layers
    assert listing(layer) == listing(clean)
    assert layer.diff_id == digest_bytes(memory_stream(layer.blob).getvalue())  # type: ignore[attr-defined]
    assert layer.descriptor.size == len(memory_stream(layer.blob).read())
    assert done.changes == tuple(f"layer 0: /{path}" for path in (".deps", ".deps/x", ".deps/x/1"))


def test_other_layers_are_the_same_objects(tmp_path: Path) -> None:
    base, dirty, above = (
        layer_of(tmp_path, names) for names in ("etc/ etc/x", ".deps/ .deps/x/ made", "top")
    )
    done = scrub(image_of([base, dirty, above]), root="/.deps")
    assert done.image.layers[0] is base and done.image.layers[2] is above
    assert [name for name, *_ in listing(done.image.layers[1])] == ["made"]


def test_a_layer_of_traces_alone_goes(tmp_path: Path) -> None:
    base, dirty = (layer_of(tmp_path, names) for names in ("etc/ etc/x", ".deps/ .deps/x/ .deps/x/1/"))
    done = scrub(image_of([base, dirty]), root="/.deps", base=Base(1, {}))
    assert done.image.layers == (base,)
    config = json.loads(done.image.config_bytes)
    assert config["rootfs"]["diff_ids"] == [base.diff_id]
    assert config["history"][1] == {"created_by": "step 1", "empty_layer": True}
    assert config["x-unknown"] == {"kept": 1}


def test_nothing_to_do_changes_nothing(tmp_path: Path) -> None:
    image = image_of([layer_of(tmp_path, "etc/ etc/x .deps/ .deps/own")], Cmd=["sh"])
    done = scrub(image, root="/.deps")
    assert done.image is image and done.changes == ()


def test_configuration_of_the_base_on_request(tmp_path: Path) -> None:
    layer = layer_of(tmp_path, "made")
    image = image_of([layer], Cmd=["bash"], Env=["A=b"], WorkingDir="/x")
    done = scrub(image, root="/.deps", base=Base(0, {"Cmd": ["/bin/sh"]}), restore=True)
    assert json.loads(done.image.config_bytes)["config"] == {"Cmd": ["/bin/sh"]}
    assert done.changes == (
        "config: Cmd ['bash'] → ['/bin/sh']",
        "config: Env ['A=b'] → (none)",
        "config: WorkingDir /x → (none)",
    )


def test_a_build_keeps_its_own_configuration(tmp_path: Path) -> None:
    image = image_of([layer_of(tmp_path, "made")], Cmd=["serve"], Env=["PATH=/bin:/.deps/x/1/bin"])
    done = scrub(image, root="/.deps", base=Base(0, {"Cmd": ["/bin/sh"]}))
    assert json.loads(done.image.config_bytes)["config"] == {"Cmd": ["serve"], "Env": ["PATH=/bin"]}
