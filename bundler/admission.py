"""Images held to a signature policy before anything is made of them.

Signatures lie beside the image in its layout or archive, as ``cosign save`` and copies of cosign's tags put
them there.  OpenSSL judges them; then every layer is compared with the digest that was signed for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bundler.digest import Digest
from bundler.errors import BundleError, CheckError, InputError
from bundler.oci.image import Image
from bundler.oci.policy import Accept, Policy, Reject, Signed, Transport, parse_policy, read_claim, refusal
from bundler.oci.read import documents_beside, is_oci_archive
from bundler.oci.signature import (
    ENVELOPE,
    IN_TOTO,
    SIGNATURE,
    SIMPLE_SIGNING,
    Document,
    pre_authentication,
    read_envelope,
    subjects,
)
from bundler.signing import verify

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
    found = documents_beside(path) if signed and path else []
    for required in signed:
        if isinstance(required, Signed):
            check_signed(name, image.digest, required, found)
    if signed:
        _check_layers(name, image)


def _transport(path: Path | None) -> Transport:
    if path is None:
        return "docker-daemon"
    if path.is_dir():
        return "oci"
    return "oci-archive" if is_oci_archive(path) else "docker-archive"


def check_signed(name: str, digest: Digest, required: Signed, found: Iterable[Document]) -> None:
    """Raise CheckError unless a document is a sound signature for the manifest with this digest."""
    keys = [*required.keys, *map(_read, required.key_files)]
    reasons = []
    for document in found:
        signature = dict(document.annotations).get(SIGNATURE)
        if document.media_type != SIMPLE_SIGNING or signature is None:
            continue
        try:
            claim = read_claim(document.data, where=name)
        except BundleError as error:
            reasons.append(error.message)
            continue
        why = refusal(claim, digest, required)
        if why is None and any(verify(key, signature, document.data) for key in keys):
            return
        reasons.append(why or "none of the keys made it")
    under = f" as {required.reference!r}" if required.reference else ""
    raise _kept_out(
        name,
        f"it must be signed{under}, and "
        + ("; ".join(f"of a signature: {why}" for why in reasons) or "no signature lies beside it"),
    )


def statements(digest: Digest, key: Path, found: Iterable[Document], name: str) -> list[bytes]:
    """The in-toto statements about a manifest that the other half of a public key signed."""
    pem = _read(key)
    sound = []
    for document in found:
        if document.media_type == ENVELOPE:
            envelope = read_envelope(document.data, where=name)
            signed = pre_authentication(envelope.payload_type, envelope.payload)
            if (
                envelope.payload_type == IN_TOTO
                and any(verify(pem, signature, signed) for signature in envelope.signatures)
                and digest in subjects(envelope.payload, where=name)
            ):
                sound.append(envelope.payload)
    return sound


def _kept_out(name: str, why: str) -> CheckError:
    return CheckError("this image is not let in", where=name, why=why)


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(_FILE)
    except OSError as error:
        raise InputError("cannot be read", where=str(file), why=error.strerror) from error


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
