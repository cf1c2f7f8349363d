"""Names of images in registries: ``HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bundler.digest import Digest, parse_digest
from bundler.errors import InputError

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?\Z")
_LOCAL = re.compile(r"(?:localhost|127\.[0-9.]+|\[::1\])(?::[0-9]+)?\Z")
_DOCKER = "docker.io"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry; ``digest``, where there is one, counts more than ``tag``."""

    host: str
    repository: str
    tag: str = "latest"
    digest: Digest | None = None

    def __str__(self) -> str:
        name = f"{self.host}/{self.repository}"
        return f"{name}@{self.digest}" if self.digest else f"{name}:{self.tag}"

    @property
    def version(self) -> str:
        """What the API is asked for."""
        return self.digest or self.tag

    @property
    def is_local(self) -> bool:
        """Whether the registry is on this machine, where Docker's clients, too, speak plain HTTP."""
        return bool(_LOCAL.match(self.host))

    @property
    def api_host(self) -> str:
        """The host that answers; Docker's own registry is not where its name points."""
        return f"registry-1.{self.host}" if self.host == _DOCKER else self.host

    @property
    def credential_names(self) -> tuple[str, ...]:
        """Under what Docker's configuration may hold the credentials."""
        names = (self.host, f"https://{self.host}", f"https://{self.host}/v1/", f"https://{self.host}/v2/")
        return (f"https://index.{self.host}/v1/", *names) if self.host == _DOCKER else names


def parse_reference(text: str) -> Reference:
    """Parse a full name; raises InputError.  The registry must be named: no default is guessed."""
    name, at, digest = text.partition("@")
    host, slash, rest = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost") or not _HOST.match(host):
        raise InputError(
            f"{text!r} names no registry", hint="HOST[:PORT]/REPOSITORY[:TAG], as in 127.0.0.1:5000/shell:1"
        )
    repository, colon, tag = rest.partition(":")
    if not _REPOSITORY.match(repository) or len(name) > 255:
        raise InputError(f"{repository!r} is no name of a repository", hint="lower-case words with / between")
    if colon and not _TAG.match(tag):
        raise InputError(f"{tag!r} is no tag")
    return Reference(host, repository, tag or "latest", parse_digest(digest) if at else None)
