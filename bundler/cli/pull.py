"""``bundle pull``: images from a registry."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bundler.cli import common
from bundler.digest import Digest
from bundler.errors import ExitCode
from bundler.oci.layout import add_image
from bundler.oci.signature import KINDS, Document, attachment, tag_of

NAME = "pull"
GROUP = "images"
SUMMARY = "fetch an image from a registry"
EPILOG = """\
The layout holds the very bytes that the registry has; each is compared with its digest.

examples:
  bundle pull 127.0.0.1:5000/bundles/shell:0.1.0 out/shell
  bundle pull --signature cosign.pub registry.example/tools/curl:8 curl
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", metavar="REFERENCE", help="HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]")
    parser.add_argument("directory", metavar="DIR", type=Path, help="OCI layout to write")
    parser.add_argument(
        "--platform",
        metavar="OS/ARCH",
        default="linux/amd64",
        help="which of several images (default: %(default)s)",
    )
    parser.add_argument(
        "--signature",
        metavar="KEY",
        type=Path,
        help="public key that must have signed the image; signatures are put beside it",
    )
    parser.add_argument("--plain-http", action="store_true", help="speak http to a registry elsewhere, too")
    common.add_progress(parser)


def run(arguments: argparse.Namespace) -> int:
    from bundler.admission import check_signed
    from bundler.oci.policy import Signed
    from bundler.progress import renderer
    from bundler.registry.attached import fetch_attached
    from bundler.registry.client import Repository
    from bundler.registry.reference import parse_reference
    from bundler.registry.transfer import pull

    repository = Repository(parse_reference(arguments.reference), plain_http=arguments.plain_http)
    attached: dict[str, list[Document]] = {}

    def check(digests: Sequence[Digest]) -> None:
        """Either the index is signed, which names the image by its digest, or the image itself."""
        name = f"{repository.reference.host}/{repository.reference.repository}"
        required = Signed((arguments.signature,), (), name, whole=False)
        found = {tag_of(d, kind): fetch_attached(repository, d, kind) for d in digests for kind in KINDS}
        attached.update(found)
        for digest in digests:
            if found[tag_of(digest, "sig")]:
                return check_signed(str(repository.reference), digest, required, found[tag_of(digest, "sig")])
        return check_signed(str(repository.reference), digests[-1], required, [])

    directory = arguments.directory.absolute()
    with renderer(arguments.progress) as sink:
        image = pull(
            repository,
            directory,
            platform=arguments.platform,
            sink=sink,
            check=check if arguments.signature else None,
        )
    for tag, documents in attached.items():
        if documents:
            add_image(directory, attachment(documents), tag)
    print(image.digest)
    return ExitCode.DONE
