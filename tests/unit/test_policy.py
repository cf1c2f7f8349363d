"""Signature policies: what they say, which scope counts, what lets an image in.  OpenSSL signs."""

import base64
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_oci_image import image, layer

from bundler.admission import admit
from bundler.cli.main import main
from bundler.digest import canonical_json, digest_bytes, hex_of
from bundler.errors import BundleError, CheckError, InputError
from bundler.oci.image import CONFIG, MANIFEST, Image
from bundler.oci.layout import write_archive, write_layout
from bundler.oci.policy import Accept, Reject, Signed, parse_policy, read_claim, refusal
from bundler.oci.read import documents_beside, open_image
from bundler.signing import verify

ANY = [{"type": "insecureAcceptAnything"}]
NONE = [{"type": "reject"}]
NAME = "registry.example/tools/shell"


def signed(key: Path | None = None, **more: Any) -> dict[str, Any]:
    identity = {"type": "exactRepository", "dockerRepository": NAME}
    return {"type": "sigstoreSigned", "keyPath": str(key), "signedIdentity": identity, **more}


def policy(default: Any, **transports: Any) -> bytes:
    named = {name.replace("_", "-"): scopes for name, scopes in transports.items()}
    return json.dumps({"default": default, "transports": named}).encode()


SCOPES = [
    ("oci", "/srv/images/shell", Reject),
    ("oci", "/srv/images", Reject),
    ("oci", "/srv/images/free/shell", Accept),
    ("oci", "/srv/imagesandmore", Accept),
    ("oci-archive", "/srv/images/shell.tar", Reject),
    ("docker-archive", "/srv/images/shell.tar", Accept),
    ("docker-daemon", None, Reject),
]


@pytest.mark.parametrize(("transport", "path", "expected"), SCOPES)
def test_the_innermost_scope_decides(transport: Any, path: str | None, expected: type) -> None:
    said = parse_policy(
        policy(
            NONE,
            oci={"": ANY, "/srv/images": NONE, "/srv/images/free": ANY},
            docker_archive={"": ANY},
            docker={"registry.example": [{"type": "signedBy", "keyType": "GPGKeys"}]},
        ),
        where="policy",
    )
    (found,) = said.requirements(transport, PurePosixPath(path) if path else None)
    assert isinstance(found, expected)


WRONG: list[tuple[Any, str]] = [
    ({}, "default must list at least one requirement"),
    ({"default": []}, "default must list at least one requirement"),
    ({"default": ANY, "defaults": ANY}, "'defaults', which is not understood"),
    ({"default": [{"type": "signedBy"}]}, "type 'signedBy', which is not understood"),
    ({"default": [{"type": "reject", "but": 1}]}, "'but', which is not understood"),
    ({"default": [{"type": "sigstoreSigned", "signedIdentity": {}}]}, "must have one of keyPath"),
    ({"default": [signed(rekorPublicKeyPath="/x")]}, "'rekorPublicKeyPath', which is not understood"),
    ({"default": [signed(keyData="aa")]}, "must have one of keyPath"),
    ({"default": [{**signed(), "keyPath": ""}]}, "names no key"),
    ({"default": [{k: v for k, v in signed(keyData="?").items() if k != "keyPath"}]}, "is no base64"),
    ({"default": [signed(signedIdentity={"type": "matchRepository"})]}, "must have a signedIdentity"),
    ({"default": [signed(signedIdentity={"type": "exactReference"})]}, "has no dockerReference"),
    ({"default": ANY, "transports": {"oci": {"srv": ANY}}}, "a scope is an absolute path"),
    ({"default": ANY, "transports": {"oci": {"/srv/../etc": ANY}}}, "a scope is an absolute path"),
    ({"default": ANY, "transports": {"docker-daemon": {"x": ANY}}}, "the scope '' alone"),
    ({"default": ANY, "transports": []}, "transports is no object"),
    ([], "is no object"),
]


@pytest.mark.parametrize(("said", "says"), WRONG, ids=range(len(WRONG)))
def test_policies_that_ask_for_more_are_refused(said: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_policy(json.dumps(said).encode(), where="policy")


@given(st.binary(max_size=64))
def test_whatever_is_no_policy_gets_a_message(data: bytes) -> None:
    for read in (parse_policy, read_claim):
        with pytest.raises(BundleError):
            read(data, where="x")


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


def new_key(place: Path, *algorithm: str) -> tuple[Path, Path]:
    secret, public = place.with_suffix(".pem"), place.with_suffix(".pub")
    openssl("genpkey", *algorithm, "-out", secret)
    openssl("pkey", "-in", secret, "-pubout", "-out", public)
    return secret, public


EC = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return new_key(tmp_path_factory.mktemp("keys") / "ours", *EC)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return new_key(tmp_path_factory.mktemp("keys") / "theirs", "-algorithm", "RSA")


def sign(secret: Path, payload: bytes) -> str:
    done = subprocess.run(
        ["openssl", "dgst", "-sha256", "-sign", str(secret)], input=payload, check=True, capture_output=True
    )
    return base64.b64encode(done.stdout).decode()


def document(digest: str, name: str = NAME) -> bytes:
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": critical, "optional": None}).encode()


def attach(layout: Path, digest: str, payload: bytes, signature: str, *, saved: bool = False) -> None:
    """Put a signature beside an image: an image whose layer is the document.

    Copies of cosign's tag have a name, those that ``cosign save`` makes (``saved``) have a kind.
    """

    def blob(data: bytes) -> dict[str, Any]:
        found = digest_bytes(data)
        (layout / "blobs/sha256" / hex_of(found)).write_bytes(data)
        return {"digest": found, "size": len(data)}

    diff_ids = {"type": "layers", "diff_ids": [digest_bytes(payload)]}
    config = canonical_json({"architecture": "", "os": "", "config": {}, "rootfs": diff_ids})
    manifest = canonical_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, **blob(config)},
            "layers": [
                {
                    "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                    "annotations": {"dev.cosignproject.cosign/signature": signature},
                    **blob(payload),
                }
            ],
        }
    )
    index = json.loads((layout / "index.json").read_bytes())
    tag = {"org.opencontainers.image.ref.name": digest.replace(":", "-") + ".sig"}
    if saved:
        index["manifests"][0]["annotations"]["kind"] = "dev.cosignproject.cosign/image"
        tag = {"kind": "dev.cosignproject.cosign/sigs"}
    index["manifests"].append({"mediaType": MANIFEST, **blob(manifest), "annotations": tag})
    (layout / "index.json").write_bytes(canonical_json(index))


@pytest.fixture
def shell() -> Image:
    return image(layer({"opt/shell": b"shell"}))


@pytest.fixture
def layout(tmp_path: Path, shell: Image) -> Path:
    write_layout(tmp_path / "shell", shell)
    return tmp_path / "shell"


def held(layout: Path, *requirements: dict[str, Any]) -> None:
    admit(open_image(layout), layout, parse_policy(policy(list(requirements)), where="policy"), "shell")


@pytest.mark.parametrize("saved", [False, True])
def test_a_signed_image_gets_in(layout: Path, shell: Image, keys: tuple[Path, Path], saved: bool) -> None:
    payload = document(shell.digest)
    attach(layout, shell.digest, payload, sign(keys[0], payload), saved=saved)
    assert [one.data for one in documents_beside(layout)] == [payload]
    assert open_image(layout).id == shell.id
    held(layout, signed(keys[1]))
    held(layout, *ANY, signed(keys[1]))
    exact = {"type": "exactReference", "dockerReference": NAME}
    held(layout, signed(keys[1], signedIdentity=exact))
    data = base64.b64encode(keys[1].read_bytes()).decode()
    named = {name: value for name, value in signed(keyDatas=[data]).items() if name != "keyPath"}
    held(layout, named)


def test_one_of_several_keys_is_enough(
    layout: Path, shell: Image, keys: tuple[Path, Path], others: tuple[Path, Path]
) -> None:
    payload = document(shell.digest)
    attach(layout, shell.digest, payload, sign(others[0], payload))
    both = {k: v for k, v in signed(keyPaths=[str(keys[1]), str(others[1])]).items() if k != "keyPath"}
    held(layout, both)
    with pytest.raises(CheckError, match="none of the keys made it"):
        held(layout, both, signed(keys[1]))


Forge = Callable[[str, Path], tuple[bytes, str]]
FORGED: dict[str, tuple[Forge, str]] = {
    "another image": (
        lambda digest, key: (d := document(digest_bytes(b"x")), sign(key, d)),
        "it is for sha256:2d711642",
    ),
    "another name": (
        lambda digest, key: (d := document(digest, NAME + "-not"), sign(key, d)),
        "it is for the name 'registry.example/tools/shell-not'",
    ),
    "another document": (
        lambda digest, key: (document(digest), sign(key, document(digest, "x"))),
        "none of the keys made it",
    ),
    "no base64": (lambda digest, key: (document(digest), "?"), "none of the keys made it"),
    "empty": (lambda digest, key: (document(digest), ""), "none of the keys made it"),
    "no document": (lambda digest, key: (b"{}", sign(key, b"{}")), "critical is no object"),
    "GPG's document": (
        lambda digest, key: (
            d := document(digest).replace(b"cosign container image", b"atomic container"),
            sign(key, d),
        ),
        "is no signed document of cosign's",
    ),
}


@pytest.mark.parametrize("what", FORGED)
def test_signatures_that_say_nothing_for_it(
    what: str, layout: Path, shell: Image, keys: tuple[Path, Path]
) -> None:
    forge, says = FORGED[what]
    attach(layout, shell.digest, *forge(shell.digest, keys[0]))
    with pytest.raises(CheckError) as caught:
        held(layout, signed(keys[1]))
    assert says in str(caught.value)


def test_without_a_signature_and_with_a_rule_against_it(layout: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(CheckError, match="no signature lies beside it"):
        held(layout, signed(keys[1]))
    with pytest.raises(CheckError, match="it rejects every image"):
        held(layout, *NONE)
    held(layout, *ANY)


def test_bytes_that_were_exchanged_under_their_name(
    layout: Path, shell: Image, keys: tuple[Path, Path]
) -> None:
    payload = document(shell.digest)
    attach(layout, shell.digest, payload, sign(keys[0], payload))
    blob = layout / "blobs/sha256" / hex_of(shell.layers[0].descriptor.digest)
    data = blob.read_bytes()
    blob.chmod(0o644)
    blob.write_bytes(data.replace(b"shell", b"hello"))
    with pytest.raises(CheckError, match="the bytes of its layer"):
        held(layout, signed(keys[1]))


def test_keys_that_are_none(layout: Path, shell: Image, keys: tuple[Path, Path], tmp_path: Path) -> None:
    payload = document(shell.digest)
    signature = sign(keys[0], payload)
    attach(layout, shell.digest, payload, signature)
    with pytest.raises(InputError, match="cannot be read"):
        held(layout, signed(tmp_path / "none"))
    with pytest.raises(InputError, match="this is no public key"):
        verify(b"no key", signature, payload)
    assert verify(keys[1].read_bytes(), signature, payload)
    assert not verify(keys[1].read_bytes(), signature, payload + b" ")


REFERENCES = [
    ("shell", "docker.io/library/shell", False, True),
    ("shell:1", "shell", False, True),
    ("index.docker.io/library/shell", "shell", False, True),
    ("index.docker.io/some/shell", "docker.io/some/shell", False, True),
    ("shell:1", "shell", True, False),
    ("shell:1", "docker.io/library/shell:1", True, True),
    ("localhost:5000/shell:1", "localhost:5000/shell", False, True),
    ("localhost:5000/shell@sha256:ab", "localhost:5000/shell", True, True),
    ("evil.example/shell", "shell", False, False),
]


@pytest.mark.parametrize(("claimed", "wanted", "whole", "fits"), REFERENCES)
def test_names(claimed: str, wanted: str, whole: bool, fits: bool) -> None:
    digest = digest_bytes(b"x")
    claim = read_claim(document(digest, claimed), where="x")
    assert (refusal(claim, digest, Signed((), (), wanted, whole)) is None) is fits


def test_compose_holds_every_image_to_it(
    layout: Path, shell: Image, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    payload = document(shell.digest)
    attach(layout, shell.digest, payload, sign(keys[0], payload))
    more = replace(shell, layers=(layer({"opt/more": b"more"}),), original=None)
    write_archive(tmp_path / "more.tar", more)
    file = tmp_path / "policy.json"
    words = ["compose", str(layout), str(tmp_path / "more.tar"), "-o", str(tmp_path / "both")]
    file.write_bytes(policy([signed(keys[1])]))
    assert main([*words, "--policy", str(file)]) == 1
    assert f"{tmp_path}/more.tar: error: this image is not let in" in capsys.readouterr().err
    assert not (tmp_path / "both").exists()
    file.write_bytes(policy([signed(keys[1])], oci_archive={str(tmp_path): ANY}))
    assert main([*words, "--policy", str(file)]) == 0
    assert len(open_image(tmp_path / "both").layers) == 2
    assert main([*words, "--policy", str(tmp_path / "none")]) == 2
