"""What is signed and said of an image, in the forms that cosign gives it.

A signature is over a small JSON document that names the digest of the image's manifest (containers/image,
"containers-signature.5"; cosign, "Signature Specification").  A statement (in-toto attestation framework) is
signed in an envelope of its own (DSSE, secure-systems-lab/dsse).  Both are layers of an image that has the
tag ``sha256-….sig`` or ``sha256-….att`` beside the image that they are for.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bundler.digest import Digest, canonical_json, digest_bytes
from bundler.errors import InputError
from bundler.oci.image import Descriptor, Image, ImageConfig, Layer, MemoryBlob, Pairs, memory_stream
from bundler.oci.parse import load_object

SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
ENVELOPE = "application/vnd.dsse.envelope.v1+json"
IN_TOTO = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
CLAIM = "cosign container image signature"
SIGNATURE = "dev.cosignproject.cosign/signature"
PREDICATE = "predicateType"

Kind = Literal["sig", "att"]
KINDS: tuple[Kind, ...] = ("sig", "att")


@dataclass(frozen=True, slots=True)
class Document:
    """A layer of what is attached to an image: its bytes, what they are, and what is noted beside them."""

    media_type: str
    data: bytes = field(repr=False)
    annotations: Pairs = ()


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload of some type, and signatures in base64 over both."""

    payload_type: str
    payload: bytes
    signatures: tuple[str, ...]


def claim(digest: Digest, reference: str) -> bytes:
    """The document that a signature is over: this manifest goes by this name."""
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": CLAIM,
    }
    return canonical_json({"critical": critical, "optional": None})


def signed_claim(payload: bytes, signature: str) -> Document:
    return Document(SIMPLE_SIGNING, payload, ((SIGNATURE, signature),))


def statement(digest: Digest, name: str, predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    """An in-toto statement about the manifest with this digest."""
    subject = {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
    return canonical_json(
        {"_type": STATEMENT, "subject": [subject], "predicateType": predicate_type, "predicate": predicate}
    )


def pre_authentication(payload_type: str, payload: bytes) -> bytes:
    """What DSSE signs (protocol.md, "Signature Definition")."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def signed_statement(payload: bytes, signature: str) -> Document:
    """A statement in its envelope; ``signature`` is over :func:`pre_authentication` of it."""
    kind = str(json.loads(payload)[PREDICATE])
    envelope = {
        "payloadType": IN_TOTO,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": "", "sig": signature}],
    }
    return Document(ENVELOPE, canonical_json(envelope), ((SIGNATURE, ""), (PREDICATE, kind)))


def read_envelope(data: bytes, *, where: str) -> Envelope:
    """The inverse of what :func:`signed_statement` packs; raises InputError for what is none."""
    record = load_object(data, where)
    try:
        payload = base64.b64decode(record["payload"], validate=True)
        signatures = tuple(str(one["sig"]) for one in record["signatures"])
        return Envelope(str(record["payloadType"]), payload, signatures)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise InputError("is no signed envelope", where=where, why=repr(error)) from error


def subjects(payload: bytes, *, where: str) -> set[Digest]:
    """The digests that an in-toto statement is about; raises InputError for what is none."""
    record = load_object(payload, where)
    try:
        if not str(record["_type"]).startswith("https://in-toto.io/Statement/"):
            raise InputError("is no in-toto statement", where=where)
        return {Digest(f"sha256:{one['digest']['sha256']}") for one in record["subject"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError("is no in-toto statement", where=where, why=repr(error)) from error


def tag_of(digest: Digest, kind: Kind) -> str:
    """The tag of what is attached to the manifest with this digest."""
    return f"{digest.replace(':', '-')}.{kind}"


def attachment(documents: Sequence[Document]) -> Image:
    """The image whose layers are the documents, each once."""
    layers = []
    for one in dict.fromkeys(documents):
        digest = digest_bytes(one.data)
        descriptor = Descriptor(one.media_type, digest, len(one.data), one.annotations)
        layers.append(Layer(descriptor, digest, MemoryBlob(one.data)))
    return Image(tuple(layers), ImageConfig(architecture="", os=""))


def documents_of(image: Image) -> list[Document]:
    """The inverse of :func:`attachment`; layers of other kinds are left out."""
    return [
        Document(layer.descriptor.media_type, memory_stream(layer.blob).read(), layer.descriptor.annotations)
        for layer in image.layers
        if layer.descriptor.media_type in (SIMPLE_SIGNING, ENVELOPE)
    ]
