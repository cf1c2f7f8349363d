"""Who we are to a registry: Docker's and podman's configuration, credential helpers, and token services."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bundler.errors import EnvironmentLacks, InputError
from bundler.process import BASE_ENVIRONMENT, run
from bundler.registry.reference import Reference

if TYPE_CHECKING:
    from requests import Response

_PARAMETER = re.compile(r'([a-zA-Z_]+)="([^"]*)"')
_HELPER = re.compile(r"[A-Za-z0-9._-]+\Z")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and a password, or an identity token (then the name is ``<token>``)."""

    user: str
    password: str = field(repr=False)

    @property
    def is_identity_token(self) -> bool:
        return self.user == "<token>"

    @property
    def basic(self) -> str:
        text = f"{self.user}:{self.password}".encode()
        return "Basic " + base64.b64encode(text).decode("ascii")


def find_credentials(reference: Reference, environment: Mapping[str, str] = os.environ) -> Credentials | None:
    """What the user's configuration holds for a registry; raises InputError for a broken one."""
    for path in _configurations(environment):
        try:
            record = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise InputError("is no configuration of Docker's", where=str(path), why=str(error)) from error
        if isinstance(record, dict) and (found := _from(record, reference, environment, path)):
            return found
    return None


def _configurations(environment: Mapping[str, str]) -> Iterator[Path]:
    if file := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(file)
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime, "containers/auth.json")
    directory = environment.get("DOCKER_CONFIG") or os.path.join(environment.get("HOME", "/"), ".docker")
    yield Path(directory, "config.json")


def _from(
    record: Mapping[str, Any], reference: Reference, environment: Mapping[str, str], path: Path
) -> Credentials | None:
    helpers = record.get("credHelpers")
    helper = helpers.get(reference.host) if isinstance(helpers, dict) else None
    if helper := helper or record.get("credsStore"):
        for name in reference.credential_names:
            if found := _ask_helper(str(helper), name, environment):
                return found
    auths = record.get("auths")
    for name in reference.credential_names:
        entry = auths.get(name) if isinstance(auths, dict) else None
        if not isinstance(entry, dict):
            continue
        if token := entry.get("identitytoken"):
            return Credentials("<token>", str(token))
        try:
            text = base64.b64decode(str(entry.get("auth", "")), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InputError(f"holds a broken entry for {name}", where=str(path), why=str(error)) from error
        user, colon, password = text.partition(":")
        if colon:
            return Credentials(user, password.rstrip("\0"))
    return None


def _ask_helper(helper: str, server: str, environment: Mapping[str, str]) -> Credentials | None:
    """docker-credential-helpers' protocol: the server on standard input, JSON back, 1 if it has none."""
    if not _HELPER.match(helper):
        raise InputError(f"{helper!r} is no name of a credential helper")
    passed = {name: environment[name] for name in ("PATH", "HOME", "DISPLAY") if name in environment}
    done = run(
        [f"docker-credential-{helper}", "get"],
        environment={**BASE_ENVIRONMENT, **passed},
        stdin=server.encode(),
        timeout=60,
    )
    if not done.ok:
        return None
    try:
        record = json.loads(done.stdout)
        return Credentials(str(record["Username"]), str(record["Secret"]))
    except (ValueError, KeyError, TypeError) as error:
        raise EnvironmentLacks(f"the credential helper {helper!r} does not answer as it must") from error


class Authorizer:
    """Answers challenges (RFC 9110, section 11; distribution's token specification) and keeps the tokens."""

    def __init__(self, reference: Reference, credentials: Callable[[], Credentials | None]) -> None:
        self._reference = reference
        self._find = credentials
        self._headers: dict[str, str | None] = {}
        self._lock = threading.Lock()

    def header(self, scope: str) -> str | None:
        """The Authorization header to send, as far as it is known."""
        return self._headers.get(scope)

    def answer(
        self, response: Response, scope: str, sent: str | None, ask: Callable[..., Response]
    ) -> str | None:
        """The header that a 401 asks for, None if we have no other than was ``sent``.

        ``ask`` sends a request.  Several threads may be refused at once: one answers for all.
        """
        with self._lock:
            if self._headers.get(scope) in (None, sent):
                self._headers[scope] = self._make(response, scope, ask)
            made = self._headers[scope]
        return made if made != sent else None

    def _make(self, response: Response, scope: str, ask: Callable[..., Response]) -> str | None:
        challenge = response.headers.get("WWW-Authenticate", "")
        kind = challenge.partition(" ")[0].lower()
        credentials = self._find()
        if kind == "bearer":
            return self._token(dict(_PARAMETER.findall(challenge)), scope, credentials, ask)
        if kind == "basic" and credentials and not credentials.is_identity_token:
            return credentials.basic
        return None

    def _token(
        self,
        parameters: Mapping[str, str],
        scope: str,
        credentials: Credentials | None,
        ask: Callable[..., Response],
    ) -> str | None:
        realm = parameters.get("realm", "")
        if not realm.startswith("https://") and not (
            realm.startswith("http://") and self._reference.is_local
        ):
            # The password would go there: not in the clear, and not wherever an answer says.
            raise EnvironmentLacks(
                f"{self._reference.host} wants credentials sent to {realm!r}", why="that is no https address"
            )
        query = {"service": parameters.get("service", ""), "scope": parameters.get("scope") or scope}
        if credentials and credentials.is_identity_token:
            form = {
                **query,
                "grant_type": "refresh_token",
                "client_id": "bundle",
                "refresh_token": credentials.password,
            }
            response = ask("POST", realm, data=form)
        else:
            headers = {"Authorization": credentials.basic} if credentials else {}
            response = ask("GET", realm, params=query, headers=headers)
        with response:
            if response.status_code in (400, 401, 403):
                return None
            try:
                record = response.json()
                token = record.get("token") or record.get("access_token")
            except (ValueError, AttributeError):
                token = None
        if not token:
            raise EnvironmentLacks(f"the token service of {self._reference.host} gives no token")
        return f"Bearer {token}"
