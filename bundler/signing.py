"""Signatures made and judged with keys of one's own, in PEM, by the openssl command."""

from __future__ import annotations

import base64
import binascii
import os
import tempfile
from pathlib import Path

from bundler import process
from bundler.errors import InputError

PASSWORD = "BUNDLE_KEY_PASSWORD"
"""Environment variable with the password of a private key that has one."""


def sign(key: Path, payload: bytes) -> str:
    """The signature over a payload (base64; ECDSA or RSA with SHA-256) by the private key in a file.

    Raises InputError where there is no such key or its password is wrong, EnvironmentLacks without OpenSSL.
    """
    openssl = process.find_tool("openssl")
    if not key.is_file():
        raise InputError("there is no such key", where=str(key))
    # Named even if it is empty: OpenSSL would ask at the terminal otherwise.
    environment = {**process.BASE_ENVIRONMENT, PASSWORD: os.environ.get(PASSWORD, "")}
    words = [openssl, "dgst", "-sha256", "-passin", f"env:{PASSWORD}", "-sign", str(key)]
    done = process.run(words, environment=environment, stdin=payload)
    if not done.ok:
        raise InputError(
            "cannot sign with this key",
            where=str(key),
            why=done.stderr.decode("utf-8", "replace").strip().splitlines()[0][:200],
            hint=f"a private key in PEM, its password in ${PASSWORD}",
        )
    return base64.b64encode(done.stdout).decode()


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
            raise InputError("this is no public key", hint="PEM, as cosign.pub is")
        words = ["-verify", str(files["key"]), "-signature", str(files["signature"]), str(files["payload"])]
        return process.run([openssl, "dgst", "-sha256", *words]).ok
