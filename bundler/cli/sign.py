"""``bundle sign``: a signature, and a statement of how it was built, beside an image in its layout."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bundler.digest import Digest
from bundler.errors import ExitCode, InputError
from bundler.oci.image import Image, full_name
from bundler.oci.layout import add_image
from bundler.oci.read import attached_to, find_path, open_image
from bundler.oci.signature import (
    IN_TOTO,
    Document,
    Kind,
    attachment,
    claim,
    pre_authentication,
    signed_claim,
    signed_statement,
    statement,
    tag_of,
)

NAME = "sign"
GROUP = "images"
SUMMARY = "sign an image, and what is said of how it was built"
EPILOG = """\
The signature lies in the layout as cosign puts it, and is over the image as it lies there: what goes to a
registry is compressed, and signed by 'bundle push --sign'.  KEY is a private key in PEM (ECDSA or RSA); if
it has a password, that is taken from $BUNDLE_KEY_PASSWORD.

examples:
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem
  openssl pkey -in key.pem -pubout -out key.pub
  bundle provenance shell > shell.json
  bundle sign shell --key key.pem --as registry.example/tools/shell:1 --provenance shell.json
  bundle verify shell --signature key.pub
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a layout, or a bundle's name")
    parser.add_argument("--key", metavar="FILE", type=Path, required=True, help="private key")
    parser.add_argument(
        "--as", dest="reference", metavar="NAME", help="name that is signed for (default: the image's own)"
    )
    add_provenance(parser)
    parser.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("out"), help="where built images lie (default: out)"
    )


def add_provenance(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--provenance", metavar="FILE", type=Path, help="state this, too: what 'bundle provenance' printed"
    )


def run(arguments: argparse.Namespace) -> int:
    path = find_path(arguments.image, arguments.out)
    image = open_image(path)
    if not path.is_dir():
        raise InputError("is no layout that could be added to", where=str(path))
    name = full_name(arguments.reference or image.reference or arguments.image)
    kept: list[tuple[Kind, Document]] = [("sig", sign_claim(image.digest, name, arguments.key))]
    if arguments.provenance:
        payload = statement_in(arguments.provenance, image, image.digest, name)
        kept.append(("att", sign_statement(payload, arguments.key)))
    for kind, document in kept:
        tag = tag_of(image.digest, kind)
        add_image(path, attachment([*attached_to(path, tag), document]), tag)
    print(f"{image.digest} as {name}")
    return ExitCode.DONE


def sign_claim(digest: Digest, name: str, key: Path) -> Document:
    from bundler.signing import sign

    payload = claim(digest, name)
    return signed_claim(payload, sign(key, payload))


def sign_statement(payload: bytes, key: Path) -> Document:
    from bundler.signing import sign

    return signed_statement(payload, sign(key, pre_authentication(IN_TOTO, payload)))


def statement_in(file: Path, image: Image, digest: Digest, name: str) -> bytes:
    """The statement about a manifest whose predicate is in a file; raises InputError for another image's."""
    from bundler.provenance import PREDICATE_TYPE, image_of

    try:
        predicate: Any = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError("cannot be read as JSON", where=str(file), why=str(error)) from error
    about = image_of(predicate)
    if not isinstance(predicate, dict) or about not in (None, image.id):
        raise InputError(
            "is no provenance of this image", where=str(file), why=f"it is about {about}" if about else None
        )
    return statement(digest, name, PREDICATE_TYPE, predicate)
