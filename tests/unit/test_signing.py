"""Images signed with keys of one's own, and what is stated of them; securesystemslib judges envelopes."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey
from test_oci_image import image, layer
from test_policy import EC, new_key, openssl

from bundler.admission import statements
from bundler.cli.main import main
from bundler.digest import digest_bytes
from bundler.errors import InputError
from bundler.oci.image import Image
from bundler.oci.layout import write_archive, write_layout
from bundler.oci.read import documents_beside, open_image
from bundler.oci.signature import (
    IN_TOTO,
    Document,
    pre_authentication,
    read_envelope,
    signed_statement,
    statement,
    subjects,
)
from bundler.signing import PASSWORD, sign, verify

DIGEST = digest_bytes(b"x")
PREDICATE = {"buildDefinition": {"buildType": "urn:other:1"}, "runDetails": {}}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return new_key(tmp_path_factory.mktemp("keys") / "ours", *EC)


@pytest.fixture
def shell(tmp_path: Path) -> Image:
    made = image(layer({"opt/shell": b"shell"}))
    write_layout(tmp_path / "shell", made)
    return made


def test_an_envelope_before_another_reader_of_the_format(keys: tuple[Path, Path], tmp_path: Path) -> None:
    payload = statement(DIGEST, "shell", "https://slsa.dev/provenance/v1", PREDICATE)
    document = signed_statement(payload, sign(keys[0], pre_authentication(IN_TOTO, payload)))
    envelope = Envelope.from_dict(_with_key_id(json.loads(document.data)))
    ours = SSlibKey.from_crypto(load_pem_public_key(keys[1].read_bytes()), keyid="key")
    assert list(envelope.verify([ours], 1)) == ["key"]
    assert envelope.payload == payload
    assert envelope.pae() == pre_authentication(IN_TOTO, payload)
    _, public = new_key(tmp_path / "other", *EC)
    other = SSlibKey.from_crypto(load_pem_public_key(public.read_bytes()), keyid="key")
    with pytest.raises(VerificationError):
        envelope.verify([other], 1)
    assert subjects(payload, where="x") == {DIGEST}
    assert statements(DIGEST, keys[1], [document], "x") == [payload]


def _with_key_id(record: dict[str, object]) -> dict[str, object]:
    """That reader looks a key up by its name; the format leaves names open."""
    return {**record, "signatures": [{**one, "keyid": "key"} for one in record["signatures"]]}  # type: ignore[attr-defined]


def test_statements_that_say_nothing_for_an_image(keys: tuple[Path, Path], tmp_path: Path) -> None:
    payload = statement(DIGEST, "shell", "https://slsa.dev/provenance/v1", PREDICATE)
    signature = sign(keys[0], pre_authentication(IN_TOTO, payload))
    sound = signed_statement(payload, signature)
    assert statements(digest_bytes(b"y"), keys[1], [sound], "x") == []
    assert statements(DIGEST, new_key(tmp_path / "other", *EC)[1], [sound], "x") == []
    bare = signed_statement(payload, sign(keys[0], payload))
    assert statements(DIGEST, keys[1], [bare], "x") == [], "the type of the payload is signed, too"
    kind = Document(sound.media_type, sound.data.replace(IN_TOTO.encode(), b"text/plain"))
    assert statements(DIGEST, keys[1], [kind], "x") == []
    for torn in (b"{", b"{}", sound.data.replace(b'"payload":"', b'"payload":"?')):
        with pytest.raises(InputError):
            read_envelope(torn, where="x")
    for none in (b"[]", b"{}", b'{"_type":"x"}', payload.replace(b"in-toto.io/St", b"example/St")):
        with pytest.raises(InputError):
            subjects(none, where="x")


@pytest.mark.parametrize("algorithm", [EC, ("-algorithm", "RSA")], ids=["ec", "rsa"])
def test_signing_and_judging(algorithm: tuple[str, ...], tmp_path: Path) -> None:
    secret, public = new_key(tmp_path / "key", *algorithm)
    signature = sign(secret, b"payload")
    assert verify(public.read_bytes(), signature, b"payload")
    assert not verify(public.read_bytes(), signature, b"payloaD")


def test_keys_with_passwords(
    keys: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked.pem"
    openssl("pkey", "-in", keys[0], "-aes256", "-passout", "pass:open sesame", "-out", locked)
    for password in ("", "wrong"):
        monkeypatch.setenv(PASSWORD, password)
        with pytest.raises(InputError, match="cannot sign with this key"):
            sign(locked, b"x")
    monkeypatch.setenv(PASSWORD, "open sesame")
    assert verify(keys[1].read_bytes(), sign(locked, b"x"), b"x")
    with pytest.raises(InputError, match="there is no such key"):
        sign(tmp_path / "none", b"x")
    with pytest.raises(InputError, match="cannot sign with this key"):
        sign(keys[1], b"x")


def test_signatures_join_in_a_layout_that_stays_an_image(
    shell: Image, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, other_public = new_key(tmp_path / "other", *EC)
    (tmp_path / "said.json").write_text(json.dumps(PREDICATE))
    words = ["sign", str(tmp_path / "shell"), "--as", "registry.example/tools/shell:1", "--key"]
    assert main([*words, str(keys[0]), "--provenance", str(tmp_path / "said.json")]) == 0
    assert capsys.readouterr().out == f"{shell.digest} as registry.example/tools/shell:1\n"
    assert main([*words, str(other)]) == 0
    assert main([*words, str(other)]) == 0
    found = open_image(tmp_path / "shell")
    assert (found.id, found.digest) == (shell.id, shell.digest)
    assert len(documents_beside(tmp_path / "shell")) == 4, "ECDSA signs anew each time"
    for key in (keys[1], other_public):
        main(["verify", str(tmp_path / "shell"), "--signature", str(key), "--prefix", "/opt"])
        assert f"{shell.digest} is signed" in capsys.readouterr().err
    stranger = new_key(tmp_path / "stranger", *EC)[1]
    assert main(["verify", str(tmp_path / "shell"), "--signature", str(stranger)]) == 1
    assert "none of the keys made it" in capsys.readouterr().err


def test_what_cannot_be_signed(
    shell: Image, keys: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_archive(tmp_path / "shell.tar", shell)
    assert main(["sign", str(tmp_path / "shell.tar"), "--key", str(keys[0])]) == 2
    assert "is no layout" in capsys.readouterr().err
    internal = {"buildType": "urn:bundle:build:1", "internalParameters": {"image": DIGEST}}
    for said in ("{", "[]", json.dumps({"buildDefinition": internal})):
        (tmp_path / "said.json").write_text(said)
        words = ["sign", str(tmp_path / "shell"), "--key", str(keys[0])]
        assert main([*words, "--provenance", str(tmp_path / "said.json")]) == 2
    assert f"it is about {DIGEST}" in capsys.readouterr().err
    assert documents_beside(tmp_path / "shell") == []
