"""Which images may be put in: a part of containers-policy.json(5), for images in files and engines.

Pure.  Requirements are ``insecureAcceptAnything``, ``reject`` and ``sigstoreSigned`` with public keys of
one's own; of what else the format has, nothing is passed over: it is an error, since a requirement that is
not understood is one that is not met.  Signatures are cosign's ("Signature Specification"): over a small JSON
document that names the digest of the image's manifest.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from bundler.digest import Digest
from bundler.errors import InputError
from bundler.oci.image import full_name
from bundler.oci.parse import load_object
from bundler.oci.signature import CLAIM

Transport = Literal["oci", "oci-archive", "docker-archive", "docker-daemon"]

_TRANSPORTS = ("oci", "oci-archive", "docker-archive", "docker-daemon")
_KEYS = ("keyPath", "keyPaths", "keyData", "keyDatas")
_IDENTITIES = {"exactReference": "dockerReference", "exactRepository": "dockerRepository"}


@dataclass(frozen=True, slots=True)
class Accept:
    """Any image will do."""


@dataclass(frozen=True, slots=True)
class Reject:
    """No image will."""


@dataclass(frozen=True, slots=True)
class Signed:
    """One of the keys has signed the image, under this name (any, if it is empty); keys are PEM, in files or
    as they are.
    """

    key_files: tuple[Path, ...]
    keys: tuple[bytes, ...]
    reference: str
    whole: bool
    """Whether the name with its tag must be the same, or the repository alone."""


Requirement = Accept | Reject | Signed


@dataclass(frozen=True, slots=True)
class Policy:
    """Requirements, of which an image must meet all, by transport and scope; the scope ``""`` is the rest."""

    default: tuple[Requirement, ...]
    transports: Mapping[str, Mapping[str, tuple[Requirement, ...]]]

    def requirements(self, transport: Transport, path: PurePosixPath | None) -> tuple[Requirement, ...]:
        """What an image at an absolute path must meet: the innermost scope that holds it decides.

        What comes out of an engine has no path; for that transport only the scope ``""`` counts.
        """
        scopes = self.transports.get(transport, {})
        for scope in map(str, (path, *path.parents) if path else ()):
            if scope in scopes:
                return scopes[scope]
        return scopes.get("", self.default)


@dataclass(frozen=True, slots=True)
class Claim:
    """What the signed document says: the digest of a manifest, and a name for it."""

    digest: str
    reference: str


def parse_policy(data: bytes, *, where: str) -> Policy:
    """A policy file; raises InputError for what is none, or asks for what is not understood here."""
    record = load_object(data, where)
    _only(record, ("default", "transports"), where, "the policy")
    transports: dict[str, dict[str, tuple[Requirement, ...]]] = {}
    for name, scopes in _object(record.get("transports", {}), where, "transports").items():
        if name not in _TRANSPORTS:
            # Rules for registries say nothing of what is read here.
            continue
        if name == "docker-daemon" and set(_object(scopes, where, name)) - {""}:
            raise InputError(f"transports.{name} can have the scope '' alone here", where=where)
        transports[name] = {
            _scope(scope, where): _requirements(items, where, f"transports.{name}[{scope!r}]")
            for scope, items in _object(scopes, where, f"transports.{name}").items()
        }
    return Policy(_requirements(record.get("default"), where, "default"), transports)


def _scope(scope: str, where: str) -> str:
    path = PurePosixPath(scope)
    if scope and (not path.is_absolute() or str(path) != scope or ".." in path.parts):
        raise InputError(f"a scope is an absolute path or empty, not {scope[:80]!r}", where=where)
    return scope


def _requirements(value: Any, where: str, key: str) -> tuple[Requirement, ...]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{key} must list at least one requirement", where=where)
    return tuple(_requirement(_object(item, where, key), where, key) for item in value)


def _requirement(item: Mapping[str, Any], where: str, key: str) -> Requirement:
    kind = item.get("type")
    if kind == "insecureAcceptAnything" or kind == "reject":
        _only(item, ("type",), where, key)
        return Reject() if kind == "reject" else Accept()
    if kind != "sigstoreSigned":
        raise InputError(
            f"{key} has a requirement of the type {str(kind)[:60]!r}, which is not understood here",
            where=where,
            hint="insecureAcceptAnything, reject, or sigstoreSigned with a public key",
        )
    _only(item, ("type", "signedIdentity", *_KEYS), where, key)
    files, keys = _keys(item, where, key)
    reference, whole = _identity(item.get("signedIdentity"), where, key)
    return Signed(files, keys, reference, whole)


def _keys(item: Mapping[str, Any], where: str, key: str) -> tuple[tuple[Path, ...], tuple[bytes, ...]]:
    named = [name for name in _KEYS if name in item]
    if len(named) != 1:
        raise InputError(f"{key} must have one of {', '.join(_KEYS)}", where=where)
    value = item[named[0]]
    values = value if named[0].endswith("s") else [value]
    if not isinstance(values, list) or not values or not all(isinstance(one, str) and one for one in values):
        raise InputError(f"{key}.{named[0]} names no key", where=where)
    if named[0].startswith("keyPath"):
        return tuple(map(Path, values)), ()
    try:
        return (), tuple(base64.b64decode(one, validate=True) for one in values)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{key}.{named[0]} is no base64", where=where, why=str(error)) from error


def _identity(value: Any, where: str, key: str) -> tuple[str, bool]:
    item = _object(value or {}, where, f"{key}.signedIdentity")
    kind = item.get("type")
    if kind not in _IDENTITIES:
        raise InputError(
            f"{key} must have a signedIdentity of the type exactReference or exactRepository",
            where=where,
            why="an image in a file has no name of its own that the signed one could be compared with",
        )
    name = _IDENTITIES[kind]
    _only(item, ("type", name), where, f"{key}.signedIdentity")
    reference = item.get(name)
    if not isinstance(reference, str) or not reference:
        raise InputError(f"{key}.signedIdentity has no {name}", where=where)
    return reference, kind == "exactReference"


def _only(item: Mapping[str, Any], known: Sequence[str], where: str, key: str) -> None:
    strange = sorted(set(item) - set(known))
    if strange:
        raise InputError(f"{key} has {strange[0][:60]!r}, which is not understood here", where=where)


def _object(value: Any, where: str, key: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{key} is no object", where=where)
    return value


def read_claim(payload: bytes, *, where: str) -> Claim:
    """The document that a signature is over; raises InputError for what cosign did not write."""
    critical = _object(load_object(payload, where).get("critical"), where, "critical")
    image = _object(critical.get("image"), where, "critical.image")
    identity = _object(critical.get("identity"), where, "critical.identity")
    digest, reference = image.get("docker-manifest-digest"), identity.get("docker-reference")
    if critical.get("type") != CLAIM or not isinstance(digest, str) or not isinstance(reference, str):
        raise InputError("is no signed document of cosign's", where=where)
    return Claim(digest, reference)


def refusal(claim: Claim, digest: Digest, required: Signed) -> str | None:
    """Why a signature that is sound says nothing for an image, or None."""
    if claim.digest != digest:
        return f"it is for {claim.digest[:80]}"
    signed, wanted = _named(claim.reference), _named(required.reference)
    if not required.reference:
        return None
    if signed[0] != wanted[0] or (required.whole and signed[1] != wanted[1]):
        return f"it is for the name {claim.reference[:80]!r}, not {required.reference!r}"
    return None


def _named(reference: str) -> tuple[str, str]:
    """Repository, with the domain that is left out of Docker's own or written in an old way, and tag."""
    name = re.sub(r"\Aindex\.docker\.io/", "docker.io/", reference.partition("@")[0])
    head, slash, last = name.rpartition("/")
    repository, _, tag = last.partition(":")
    return full_name(f"{head}{slash}{repository}:x").removesuffix(":x"), tag
