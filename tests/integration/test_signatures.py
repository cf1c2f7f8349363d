"""Signatures before a judge that is not ours: what we sign skopeo lets in, what skopeo signs we let in.

skopeo (containers/image) holds images in registries to policies of the type ``sigstoreSigned``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import judge_root
import pytest
from nacl.secret import SecretBox
from registry import RegistryServer

from bundler.cli.main import main
from bundler.digest import canonical_json, digest_bytes
from bundler.oci.image import INDEX, Descriptor, Image, ImageConfig, layer_of
from bundler.oci.layer import LayerSource
from bundler.oci.layout import write_layout
from bundler.oci.pack import MemoryTree
from bundler.oci.read import open_image
from bundler.oci.signature import claim, signed_claim, tag_of
from bundler.process import BASE_ENVIRONMENT, Completed, run
from bundler.registry.attached import attach, fetch_attached
from bundler.registry.client import Repository
from bundler.registry.reference import parse_reference
from bundler.signing import sign

PASSWORD = b"secret words"


@dataclass(frozen=True)
class Keys:
    private: Path
    public: Path
    cosign: Path
    """The private key as cosign and skopeo keep it."""


def make_keys(place: Path) -> Keys:
    keys = Keys(place / "key.pem", place / "key.pub", place / "cosign.key")
    place.mkdir()
    for words in (
        ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(keys.private)],
        ["pkey", "-in", str(keys.private), "-pubout", "-out", str(keys.public)],
        ["pkcs8", "-topk8", "-nocrypt", "-in", str(keys.private), "-outform", "DER", "-out", f"{place}/der"],
    ):
        subprocess.run(["openssl", *words], check=True, capture_output=True)
    keys.cosign.write_text(encrypted((place / "der").read_bytes()))
    return keys


def encrypted(key: bytes) -> str:
    """A PKCS #8 key as cosign writes it: scrypt, then NaCl's secretbox (its KEYS.md, "Encryption")."""

    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    salt, nonce = os.urandom(32), os.urandom(SecretBox.NONCE_SIZE)
    secret = hashlib.scrypt(PASSWORD, salt=salt, n=32768, r=8, p=1, maxmem=1 << 26, dklen=32)
    record = {
        "kdf": {"name": "scrypt", "params": {"N": 32768, "r": 8, "p": 1}, "salt": text(salt)},
        "cipher": {"name": "nacl/secretbox", "nonce": text(nonce)},
        "ciphertext": text(SecretBox(secret).encrypt(key, nonce).ciphertext),
    }
    kind = "ENCRYPTED COSIGN PRIVATE KEY"
    return f"-----BEGIN {kind}-----\n{text(json.dumps(record).encode())}\n-----END {kind}-----\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Keys, Keys]:
    place = tmp_path_factory.mktemp("keys")
    return make_keys(place / "ours"), make_keys(place / "theirs")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryServer]:
    with RegistryServer(tmp_path_factory.mktemp("registry")) as running:
        yield running


def make_layout(place: Path, content: bytes) -> Image:
    tree = MemoryTree({"opt/x": content})
    layer = layer_of(LayerSource("x", "1", tree, tree.entries))
    made = Image((layer,), ImageConfig("amd64", command=("/nop",)), reference="x:1")
    write_layout(place, made)
    return made


Skopeo = Callable[..., Completed]


@pytest.fixture
def skopeo(tmp_path: Path) -> Skopeo:
    """``skopeo copy`` that takes images from registries only if the key has signed them."""
    (tmp_path / "registries.d").mkdir()
    (tmp_path / "registries.d/default.yaml").write_text("default-docker: {use-sigstore-attachments: true}")

    def copy(*words: str | Path, key: Path) -> Completed:
        signed = [{"type": "sigstoreSigned", "keyPath": str(key)}]
        policy = {"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": {"": signed}}}
        (tmp_path / "policy.json").write_text(json.dumps(policy))
        general = ["--policy", tmp_path / "policy.json", "--registries.d", tmp_path / "registries.d"]
        argv = [
            *judge_root.skopeo(),
            *general,
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            *words,
        ]
        return run(list(map(str, argv)), environment={**BASE_ENVIRONMENT, "HOME": str(tmp_path)})

    return copy


def test_what_we_sign_others_let_in(
    server: RegistryServer, keys: tuple[Keys, Keys], skopeo: Skopeo, tmp_path: Path
) -> None:
    ours, theirs = keys
    make_layout(tmp_path / "layout", b"signed")
    name = f"{server.host}/ours/signed:1"
    words = ["push", "--progress", "none", str(tmp_path / "layout"), name]
    assert main(words) == 0
    done = skopeo(f"docker://{name}", f"dir:{tmp_path}/before", key=ours.public)
    assert not done.ok
    assert b"A signature was required, but no signature exists" in done.stderr
    assert main([*words, "--sign", str(ours.private)]) == 0
    done = skopeo(f"docker://{name}", f"dir:{tmp_path}/copy", key=ours.public)
    assert done.ok, done.stderr.decode()
    done = skopeo(f"docker://{name}", f"dir:{tmp_path}/other", key=theirs.public)
    assert not done.ok
    assert b"verif" in done.stderr
    assert main([*words, "--sign", str(theirs.private)]) == 0, "a second signature joins the first"
    for key in (ours, theirs):
        assert skopeo(f"docker://{name}", f"dir:{tmp_path}/{key.public.parent.name}", key=key.public).ok


def test_what_others_sign_we_let_in(
    server: RegistryServer,
    keys: tuple[Keys, Keys],
    skopeo: Skopeo,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours, theirs = keys
    make_layout(tmp_path / "layout", b"theirs")
    name = f"{server.host}/theirs/signed:1"
    (tmp_path / "password").write_bytes(PASSWORD)
    sign = ["--sign-by-sigstore-private-key", theirs.cosign, "--sign-passphrase-file", tmp_path / "password"]
    done = skopeo(*sign, f"oci:{tmp_path}/layout:1", f"docker://{name}", key=ours.public)
    assert done.ok, done.stderr.decode()
    pull = ["pull", "--progress", "none", name]
    assert main([*pull, str(tmp_path / "wrong"), "--signature", str(ours.public)]) == 1
    assert "none of the keys made it" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()
    assert main([*pull, str(tmp_path / "right"), "--signature", str(theirs.public)]) == 0
    identity = {"type": "exactReference", "dockerReference": name}
    signed = {"type": "sigstoreSigned", "keyPath": str(theirs.public), "signedIdentity": identity}
    (tmp_path / "ours.json").write_text(json.dumps({"default": [signed]}))
    words = ["compose", str(tmp_path / "right"), "-o", str(tmp_path / "made")]
    assert main([*words, "--policy", str(tmp_path / "ours.json")]) == 0


def test_neither_takes_a_signature_for_another_image(
    server: RegistryServer,
    keys: tuple[Keys, Keys],
    skopeo: Skopeo,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours, _ = keys
    name = f"{server.host}/moved/image"
    for tag, content in (("good", b"good"), ("evil", b"evil")):
        make_layout(tmp_path / tag, content)
        words = ["push", "--progress", "none", str(tmp_path / tag), f"{name}:{tag}"]
        assert main([*words, *(["--sign", str(ours.private)] if tag == "good" else [])]) == 0
    there = Repository(parse_reference(f"{name}:good"))
    good, evil = (there.has_manifest(tag) for tag in ("good", "evil"))
    assert good is not None
    assert evil is not None
    manifest, kind = there.manifest(tag_of(good, "sig"))
    there.put_manifest(tag_of(evil, "sig"), manifest, kind)
    assert not skopeo(f"docker://{name}:evil", f"dir:{tmp_path}/x", key=ours.public).ok
    pull = ["pull", "--progress", "none", "--signature", str(ours.public)]
    assert main([*pull, f"{name}:evil", str(tmp_path / "pulled")]) == 1
    assert f"it is for {good}" in capsys.readouterr().err
    there.put_manifest("good", *there.manifest("evil"))
    assert not skopeo(f"docker://{name}:good", f"dir:{tmp_path}/x", key=ours.public).ok
    assert main([*pull, f"{name}:good", str(tmp_path / "pulled")]) == 1


def test_an_image_may_be_signed_through_its_index(
    server: RegistryServer, keys: tuple[Keys, Keys], tmp_path: Path
) -> None:
    ours, theirs = keys
    name = f"{server.host}/indexed/image"
    made = make_layout(tmp_path / "layout", b"one of several")
    words = ["push", "--progress", "none", "--compress", "none", str(tmp_path / "layout"), f"{name}:plain"]
    assert main(words) == 0
    there = Repository(parse_reference(f"{name}:both"))
    item = {**made.descriptor().to_dict(), "platform": {"os": "linux", "architecture": "amd64"}}
    index = canonical_json({"schemaVersion": 2, "mediaType": INDEX, "manifests": [item]})
    there.put_manifest("both", index, INDEX)
    payload = claim(digest_bytes(index), name)
    document = signed_claim(payload, sign(ours.private, payload))
    attach(there, Descriptor(INDEX, digest_bytes(index), len(index)), "sig", document)
    pull = ["pull", "--progress", "none", f"{name}:both", str(tmp_path / "pulled"), "--signature"]
    assert main([*pull, str(theirs.public)]) == 1
    assert main([*pull, str(ours.public)]) == 0
    assert open_image(tmp_path / "pulled").id == made.id


def test_provenance_goes_along_signed_or_in_the_open(
    server: RegistryServer, keys: tuple[Keys, Keys], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, _ = keys
    made = make_layout(tmp_path / "layout", b"stated")
    predicate = {"buildDefinition": {"buildType": "urn:other:1"}, "runDetails": {}}
    (tmp_path / "stated.json").write_text(json.dumps(predicate))
    name = f"{server.host}/stated/image:1"
    words = ["push", "--progress", "none", "--compress", "none", str(tmp_path / "layout"), name]
    words += ["--provenance", str(tmp_path / "stated.json")]
    there = Repository(parse_reference(name))
    assert main(words) == 0
    (found,) = there.referrers(made.digest)
    assert found["artifactType"] == "application/vnd.in-toto+json"
    assert main([*words, "--sign", str(ours.private)]) == 0
    assert len(fetch_attached(there, made.digest, "att")) == 1
    assert len(there.referrers(made.digest, "application/vnd.dsse.envelope.v1+json")) == 1
    pulled = str(tmp_path / "pulled")
    assert main(["pull", "--progress", "none", name, pulled, "--signature", str(ours.public)]) == 0
    capsys.readouterr()
    main(["verify", pulled, "--signature", str(ours.public), "--prefix", "/opt"])
    said = capsys.readouterr().err
    assert f"{made.digest} is signed, with statements of the type https://slsa.dev/provenance/v1" in said
    assert open_image(Path(pulled)).id == made.id
