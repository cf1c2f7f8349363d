"""Images held to a signature policy before anything is made of them.

Signatures lie beside the image in its layout or archive, as ``cosign save`` and copies of cosign's tags put
them there.  OpenSSL judges them; then every layer is compared with the digest that was signed for.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bundler import process
from bundler.errors import BundleError, CheckError, InputError
from bundler.oci.image import Image
from bundler.oci.policy import Accept, Policy, Reject, Signed, Transport, parse_policy, read_claim, refusal
from bundler.oci.read import AttachedSignature, is_oci_archive, signatures_beside

_FILE = 1 << 20
"""Bytes of a policy or a public key that are read."""


def read_policy(file: Path) -> Policy:
    """The policy in a file; raises InputError where there is none."""
    return parse_policy(_read(file), where=str(file))


def admit(image: Image, path: Path | None, policy: Policy, name: str) -> None:
    """Hold an image to the policy.  ``path`` is the layout or archive it was opened from, None for an engine.

    Raises CheckError with the reason where it is kept out, InputError for a key that is none, and
    EnvironmentLacks where a signature is asked for and OpenSSL is not on the machine.
    """
    place = PurePosixPath(path.resolve()) if path else None
    signed = [one for one in policy.requirements(_transport(path), place) if not isinstance(one, Accept)]
    if any(isinstance(one, Reject) for one in signed):
        raise _kept_out(name, "it rejects every image from there")
    found = signatures_beside(path) if signed and path else []
    for required in signed:
        if isinstance(required, Signed):
            _check(name, image, required, found)
    if signed:
        _check_layers(name, image)


def _transport(path: Path | None) -> Transport:
    if path is None:
        return "docker-daemon"
    if path.is_dir():
        return "oci"
    return "oci-archive" if is_oci_archive(path) else "docker-archive"


def _check(name: str, image: Image, required: Signed, found: Iterable[AttachedSignature]) -> None:
    keys = [*required.keys, *map(_read, required.key_files)]
    reasons = []
    for signature in found:
        try:
            claim = read_claim(signature.payload, where=name)
        except BundleError as error:
            reasons.append(error.message)
            continue
        why = refusal(claim, image.digest, required)
        if why is None and any(verify(key, signature.signature, signature.payload) for key in keys):
            return
        reasons.append(why or "none of the keys made it")
    raise _kept_out(
        name,
        f"it must be signed as {required.reference!r}, and "
        + ("; ".join(f"of a signature: {why}" for why in reasons) or "no signature lies beside it"),
    )


def _kept_out(name: str, why: str) -> CheckError:
    return CheckError("the policy does not let this image in", where=name, why=why)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(_FILE)
    except OSError as error:
        raise InputError("cannot be read", where=str(file), why=error.strerror) from error


def verify(key: bytes, signature: str, payload: bytes) -> bool:
    """Whether a signature (base64 over SHA-256, ECDSA or RSA) of a payload was made with a key's other half.

    ``key`` is a public key in PEM; raises InputError for what is none.
    """
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return False
    openssl = process.find_tool("openssl")
    with tempfile.TemporaryDirectory(prefix="bundle-") as name:
        files = {file: Path(name, file) for file in ("key", "signature", "payload")}
        for file, data in (("key", key), ("signature", raw), ("payload", payload)):
            files[file].write_bytes(data)
        if not process.run([openssl, "pkey", "-pubin", "-noout", "-in", str(files["key"])]).ok:
            raise InputError("the policy names a public key that is none", hint="PEM, as cosign.pub is")
        words = ["-verify", str(files["key"]), "-signature", str(files["signature"]), str(files["payload"])]
        return process.run([openssl, "dgst", "-sha256", *words]).ok


def _check_layers(name: str, image: Image) -> None:
    """A signature is over digests: the bytes must have them."""
    for layer in image.layers:
        digest = hashlib.sha256()
        layer.blob.copy_to(_Hashing(digest.update))
        if "sha256:" + digest.hexdigest() != layer.descriptor.digest:
            raise _kept_out(name, f"the bytes of its layer {layer.descriptor.digest} are others")


@dataclass(frozen=True, slots=True)
class _Hashing:
    write: Callable[[bytes], None]
