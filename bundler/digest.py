"""Digests as text, ``sha256:<64 hex digits>``, and the canonical JSON that keys are computed over.

Written as in the OCI image specification, "Digests" (descriptor.md).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any, BinaryIO, NewType

from bundler.errors import InputError

Digest = NewType("Digest", str)

_FORM = re.compile(r"sha256:[0-9a-f]{64}\Z")
CHUNK = 1 << 20
"""Bytes read at once while hashing: large enough that OpenSSL, not Python, does the work."""
_SMALL, _PIECE = 64 << 10, 256 << 10
"""Most files need one read, and no buffer of their own."""


def parse_digest(text: str, *, where: str | None = None) -> Digest:
    """Check ``text`` and return it as a digest; raises InputError."""
    if not _FORM.match(text):
        raise InputError(
            f"not a digest: {text[:80]!r}", where=where, hint="sha256:<64 lower-case hex digits>"
        )
    return Digest(text)


def from_hex(hexadecimal: str) -> Digest:
    """The digest of a bare SHA-256 in hexadecimal, as recipes and Debian's indexes write it."""
    return parse_digest("sha256:" + hexadecimal)


def hex_of(digest: Digest) -> str:
    """The 64 hexadecimal digits."""
    return digest.removeprefix("sha256:")


def digest_bytes(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def digest_stream(stream: BinaryIO) -> Digest:
    """Digest of the rest of ``stream``."""
    return Digest("sha256:" + hashlib.file_digest(stream, "sha256").hexdigest())  # type: ignore[arg-type]


def digest_descriptor(descriptor: int) -> Digest:
    """Digest of the rest of an open file."""
    data = os.read(descriptor, _SMALL)
    hashed = hashlib.sha256(data)
    if len(data) == _SMALL:
        buffer = memoryview(bytearray(_PIECE))
        while count := os.readv(descriptor, [buffer]):
            hashed.update(buffer[:count])
    return Digest("sha256:" + hashed.hexdigest())


def digest_file(path: Path) -> Digest:
    with path.open("rb") as stream:
        return digest_stream(stream)


def canonical_json(value: Any) -> bytes:
    """Compact JSON with sorted keys: equal values give equal bytes.

    Floats are refused, since their text is not canonical (RFC 8785 needs a page to say how).
    """
    _refuse_floats(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogateescape"
    )


def _refuse_floats(value: Any) -> None:
    if isinstance(value, float):
        raise TypeError("a float has no canonical text")
    if isinstance(value, dict):
        for item in value.values():
            _refuse_floats(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_floats(item)
