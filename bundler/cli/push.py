"""``bundle push``: images into a registry."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bundler.cli import common
from bundler.cli.sign import add_provenance, sign_claim, sign_statement, statement_in
from bundler.errors import ExitCode
from bundler.labels import read_facts
from bundler.oci.image import Descriptor, Image
from bundler.oci.merged import ImageTree
from bundler.oci.sbom import CYCLONEDX, SPDX
from bundler.oci.signature import IN_TOTO
from bundler.settings import cache_directory

if TYPE_CHECKING:
    from bundler.registry.client import Repository

NAME = "push"
GROUP = "images"
SUMMARY = "store an image in a registry"
EPILOG = """\
Layers that the registry has are not sent; those of other repositories are taken over with --mount-from.
Credentials come from Docker's or podman's configuration and their helpers.

examples:
  bundle push shell 127.0.0.1:5000/bundles/shell:0.1.0
  bundle push --sbom out/shell registry.example/bundles/shell:0.1.0
  bundle push --sign key.pem --provenance shell.json shell registry.example/bundles/shell:0.1.0
"""
_SBOMS = ((SPDX, "application/spdx+json"), (CYCLONEDX, "application/vnd.cyclonedx+json"))


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help=common.IMAGE_HELP)
    parser.add_argument("reference", metavar="REFERENCE", help="HOST[:PORT]/REPOSITORY[:TAG]")
    parser.add_argument(
        "--compress",
        choices=("gzip", "zstd", "none"),
        default="gzip",
        help="how uncompressed layers go out; Docker before 23 takes no zstd (default: %(default)s)",
    )
    parser.add_argument(
        "--mount-from",
        metavar="REPOSITORY",
        action="append",
        default=[],
        help="repository of the registry to take layers over from",
    )
    parser.add_argument("--sbom", action="store_true", help="attach the bundle's SBOMs as referrers, too")
    parser.add_argument(
        "--sign", metavar="KEY", type=Path, help="sign what the registry has then, as cosign does"
    )
    add_provenance(parser)
    parser.add_argument("--plain-http", action="store_true", help="speak http to a registry elsewhere, too")
    common.add_use(parser)
    common.add_progress(parser)


def run(arguments: argparse.Namespace) -> int:
    from bundler.progress import renderer
    from bundler.registry.client import Repository
    from bundler.registry.reference import parse_reference
    from bundler.registry.transfer import push

    repository = Repository(parse_reference(arguments.reference), plain_http=arguments.plain_http)
    with ExitStack() as stack:
        image = common.image_of(arguments.image, arguments, stack)
        sink = stack.enter_context(renderer(arguments.progress))
        done = push(
            image,
            repository,
            codec=arguments.compress,
            mount_from=arguments.mount_from,
            memory=cache_directory() / "compressed",
            sink=sink,
        )
        if arguments.sbom:
            for media_type, data in _documents(image, arguments.image):
                repository.attach(done.descriptor, media_type, media_type, data)
        _attach(arguments, image, repository, done.descriptor)
    reference = repository.reference
    print(f"{reference.host}/{reference.repository}@{done.descriptor.digest}")
    return ExitCode.DONE


def _attach(arguments: argparse.Namespace, image: Image, repository: Repository, subject: Descriptor) -> None:
    """A signature with ``--sign``; a statement with ``--provenance``, in the open if there is no key."""
    from bundler.registry.attached import attach

    name = str(replace(repository.reference, digest=None))
    if arguments.sign:
        attach(repository, subject, "sig", sign_claim(subject.digest, name, arguments.sign))
    if arguments.provenance:
        payload = statement_in(arguments.provenance, image, subject.digest, name)
        if arguments.sign:
            attach(repository, subject, "att", sign_statement(payload, arguments.sign))
        else:
            repository.attach(subject, IN_TOTO, IN_TOTO, payload)


def _documents(image: Image, where: str) -> list[tuple[str, bytes]]:
    prefix = read_facts(image.labels, where=where).prefix.strip("/")
    with ImageTree(image) as tree:
        return [(kind, tree.open(f"{prefix}/{path}").read()) for path, kind in _SBOMS]
