"""One repository of a registry, over the OCI distribution specification 1.1.

Whatever arrives is compared with its digest; whatever breaks is tried again with growing pauses; an
upload goes on where it broke off.  Failures are EnvironmentLacks, which name the registry and its answer.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from bundler.digest import Digest, digest_bytes
from bundler.download import NetworkSettings, network_settings, reason, session
from bundler.errors import EnvironmentLacks, InputError
from bundler.oci import image as media
from bundler.oci.image import PIECE, Descriptor
from bundler.registry.auth import Authorizer, find_credentials
from bundler.registry.reference import Reference

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session

CHUNK = 32 << 20
"""Bytes of one PATCH: what may have to be sent again when a connection breaks; each costs an answer."""
MANIFESTS = (media.MANIFEST, media.INDEX, media.DOCKER_MANIFEST, media.DOCKER_LIST)
MAX_MANIFEST = 4 << 20
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class Repository:
    """A repository, used from several threads at once: each has its own connection."""

    def __init__(
        self,
        reference: Reference,
        *,
        plain_http: bool = False,
        settings: NetworkSettings | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.reference = reference
        self._settings = settings or network_settings()
        self._sleep = sleep
        scheme = "http" if plain_http or reference.is_local else "https"
        self._base = f"{scheme}://{reference.api_host}/v2/{reference.repository}/"
        self._auth = Authorizer(reference, lambda: find_credentials(reference))
        self._scope = f"repository:{reference.repository}:pull"
        self._local = threading.local()

    # Manifests

    def manifest(self, version: str) -> tuple[bytes, str]:
        """Bytes and media type of the manifest or index with this tag or digest."""
        accept = {"Accept": ", ".join(MANIFESTS)}
        with self._send("GET", f"manifests/{version}", headers=accept, ok=(200,), stream=True) as response:
            data = _body(response, MAX_MANIFEST, self._where(f"manifest {version}"))
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if version.startswith("sha256:") and digest_bytes(data) != version:
            raise self._lies(f"the manifest {version}", f"it has {digest_bytes(data)}")
        return data, kind

    def has_manifest(self, version: str) -> Digest | None:
        """The digest of a manifest that is there."""
        accept = {"Accept": ", ".join(MANIFESTS)}
        with self._send("HEAD", f"manifests/{version}", headers=accept, ok=(200, 404)) as response:
            if response.status_code == 404:
                return None
            return Digest(response.headers.get("Docker-Content-Digest", ""))

    def put_manifest(self, version: str, data: bytes, media_type: str) -> Mapping[str, str]:
        """Store a manifest under a tag or its digest; returns the answer's headers."""
        headers = {"Content-Type": media_type}
        with self._send(
            "PUT", f"manifests/{version}", headers=headers, data=data, push=True, ok=(201, 202)
        ) as r:
            told = r.headers.get("Docker-Content-Digest")
            if told and told != digest_bytes(data):
                raise self._lies(f"the manifest {version}", f"it was stored as {told}")
            return dict(r.headers)

    # Blobs

    def has_blob(self, digest: Digest) -> bool:
        with self._send("HEAD", f"blobs/{digest}", ok=(200, 404), push=True) as response:
            return bool(response.status_code == 200)

    def fetch_blob(
        self, descriptor: Descriptor, path: Path, report: Callable[[int], None] = lambda done: None
    ) -> None:
        """Make ``path`` the blob, going on where an earlier attempt ended; it is there only once verified."""
        part = path.with_name(path.name + ".part")
        for attempt in self._attempts(f"blob {descriptor.digest}"):
            with part.open("a+b") as out:
                done = out.tell()
                if done < descriptor.size:
                    self._receive(descriptor, out, done, report, attempt)
                if out.tell() < descriptor.size:
                    attempt.again("it broke off")
                    continue
                out.seek(0)
                found = hashlib.file_digest(out, "sha256").hexdigest()
            if f"sha256:{found}" == descriptor.digest:
                part.rename(path)
                return
            part.unlink()
            attempt.again(f"its bytes have the digest sha256:{found}")

    def _receive(
        self,
        descriptor: Descriptor,
        out: BinaryIO,
        done: int,
        report: Callable[[int], None],
        attempt: Attempt,
    ) -> None:
        import urllib3.exceptions

        headers = {"Range": f"bytes={done}-"} if done else {}
        path = f"blobs/{descriptor.digest}"
        with self._send("GET", path, headers=headers, stream=True, ok=(200, 206, 416)) as response:
            if response.status_code != 206:
                out.truncate(0)
                done = 0
                if response.status_code == 416:
                    return
            try:
                for piece in response.raw.stream(PIECE, decode_content=False):
                    done += len(piece)
                    if done > descriptor.size:
                        out.truncate(0)
                        raise self._lies(
                            f"the blob {descriptor.digest}", f"more than its {descriptor.size} bytes arrive"
                        )
                    out.write(piece)
                    report(done)
            except (urllib3.exceptions.HTTPError, ConnectionError) as error:
                attempt.why = reason(error)

    def mount_blob(self, digest: Digest, source: str) -> str | None:
        """Take a blob over from another repository of the registry: None if done, else an upload begun."""
        query = urlencode({"mount": digest, "from": source})
        with self._send("POST", f"blobs/uploads/?{query}", push=True, ok=(201, 202), data=b"") as response:
            return None if response.status_code == 201 else self._location(response)

    def put_blob(
        self,
        descriptor: Descriptor,
        stream: BinaryIO,
        *,
        location: str | None = None,
        report: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Upload a blob from a seekable stream, in chunks, each sent again where the registry lacks it."""
        for attempt in self._attempts(f"blob {descriptor.digest}"):
            if location is None:
                with self._send("POST", "blobs/uploads/", push=True, ok=(202,), data=b"") as response:
                    location = self._location(response)
            location, done = self._send_chunks(location, descriptor, stream, report)
            if location is None or not done:
                location = None
                attempt.again("the upload was lost")
                continue
            url = _with_query(location, digest=descriptor.digest)
            with self._send("PUT", url, push=True, ok=(201, 204, 404), data=b"") as response:
                if response.status_code == 404:
                    location = None
                    attempt.again("the upload was lost")
                    continue
                told = response.headers.get("Docker-Content-Digest")
            if told and told != descriptor.digest:
                raise self._lies(f"the blob {descriptor.digest}", f"it was stored as {told}")
            return

    def _send_chunks(
        self, location: str, descriptor: Descriptor, stream: BinaryIO, report: Callable[[int], None]
    ) -> tuple[str | None, bool]:
        """Send what is missing; where the upload goes on, and whether all of it was taken."""
        done = 0
        for attempt in self._attempts(f"blob {descriptor.digest}"):
            try:
                while done < descriptor.size:
                    size = min(CHUNK, descriptor.size - done)
                    headers = {
                        "Content-Type": "application/octet-stream",
                        "Content-Range": f"{done}-{done + size - 1}",
                    }
                    body = partial(_Part, stream, done, size, report, f"the blob {descriptor.digest}")
                    with self._once("PATCH", location, headers=headers, body=body, push=True) as response:
                        if response.status_code != 202:
                            raise _Refused(response)
                        location = self._location(response)
                    done += size
                return location, True
            except _Refused as refused:
                if refused.status not in _AGAIN and refused.status not in (404, 416):
                    raise self._refused("PATCH", location, refused.response) from refused
                attempt.again(refused.text, refused.after)
            except _broken() as error:
                attempt.again(reason(error))
            state = self._upload_state(location)
            if state is None:
                return None, False
            location, done = state
        return None, False

    def _upload_state(self, location: str) -> tuple[str, int] | None:
        """Where an upload stands: its address and the bytes that the registry has; None if it is gone."""
        with self._send("GET", location, push=True, ok=(204, 404)) as response:
            if response.status_code == 404:
                return None
            last = response.headers.get("Range", "").rpartition("-")[2]
            # "0-0" means no byte to some registries and one to others: sending from 0 is right for both.
            return self._location(response, location), int(last) + 1 if last.isdigit() and last != "0" else 0

    # Referrers

    def referrers(self, digest: Digest, artifact_type: str | None = None) -> list[dict[str, Any]]:
        """Descriptors of the manifests that refer to this one; by the tag scheme where the API is missing."""
        with self._send("GET", f"referrers/{digest}", ok=(200, 404, 400, 405), stream=True) as response:
            known = response.status_code == 200
            data = _body(response, MAX_MANIFEST, self._where("referrers")) if known else b""
        if not known:
            data = self._fallback_index(digest)
        try:
            found = json.loads(data).get("manifests") or []
        except (ValueError, AttributeError) as error:
            raise self._lies("the list of referrers", str(error)) from error
        wanted = [item for item in found if isinstance(item, dict)]
        return [item for item in wanted if artifact_type in (None, item.get("artifactType"))]

    def attach(self, subject: Descriptor, artifact_type: str, media_type: str, data: bytes) -> Digest:
        """Attach a document to a manifest (image specification 1.1, "Guidelines for Artifact Usage")."""
        import io

        empty = Descriptor("application/vnd.oci.empty.v1+json", digest_bytes(b"{}"), 2)
        document = Descriptor(media_type, digest_bytes(data), len(data))
        for descriptor, content in ((empty, b"{}"), (document, data)):
            if not self.has_blob(descriptor.digest):
                self.put_blob(descriptor, io.BytesIO(content))
        record = {
            "schemaVersion": 2,
            "mediaType": media.MANIFEST,
            "artifactType": artifact_type,
            "config": empty.to_dict(),
            "layers": [document.to_dict()],
            "subject": Descriptor(subject.media_type, subject.digest, subject.size).to_dict(),
        }
        manifest = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        digest = digest_bytes(manifest)
        headers = self.put_manifest(digest, manifest, media.MANIFEST)
        if "OCI-Subject" not in headers:
            item = Descriptor(media.MANIFEST, digest, len(manifest)).to_dict()
            self._add_to_fallback(subject.digest, {**item, "artifactType": artifact_type})
        return digest

    def _fallback_index(self, digest: Digest) -> bytes:
        tag = digest.replace(":", "-")
        return self.manifest(tag)[0] if self.has_manifest(tag) is not None else b"{}"

    def _add_to_fallback(self, digest: Digest, item: Mapping[str, Any]) -> None:
        known = json.loads(self._fallback_index(digest)).get("manifests") or []
        others = [other for other in known if other.get("digest") != item["digest"]]
        record = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": [*others, item]}
        data = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        self.put_manifest(digest.replace(":", "-"), data, media.INDEX)

    # Requests

    def _attempts(self, what: str) -> Iterator[Attempt]:
        """Attempts until one does not ask for another; raises EnvironmentLacks after the last."""
        last = Attempt()
        for number in range(self._settings.attempts):
            if number:
                self._sleep(max(last.after, self._settings.backoff * 2 ** (number - 1)))
            last = Attempt()
            yield last
        raise EnvironmentLacks(
            f"{self.reference.host} does not do it: {what}", where=str(self.reference), why=last.why or None
        )

    def _send(
        self, method: str, path: str, *, ok: tuple[int, ...], push: bool = False, **options: Any
    ) -> Response:
        """The answer to a request, tried again while that may help; raises EnvironmentLacks."""
        for attempt in self._attempts(f"{method} {path.partition('?')[0]}"):
            try:
                response = self._once(method, path, push=push, **options)
            except _broken() as error:
                attempt.again(reason(error))
                continue
            if response.status_code in ok:
                return response
            with response:
                if response.status_code not in _AGAIN:
                    raise self._refused(method, path, response)
                refused = _Refused(response)
                attempt.again(refused.text, refused.after)
        raise AssertionError("the last attempt raises")

    def _once(self, method: str, path: str, *, push: bool, **options: Any) -> Response:
        """One request, answered challenges included."""
        scope = self._scope + (",push" if push else "")
        url = urljoin(self._base, path)
        same = urlsplit(url).netloc == urlsplit(self._base).netloc
        header = self._auth.header(scope) if same else None
        response = self._request(method, url, header, **options)
        if response.status_code != 401 or not same:
            return response
        with response:
            answer = self._auth.answer(response, scope, header, self._ask)
        if answer is None:
            raise self._refused(method, path, response)
        return self._request(method, url, answer, **options)

    def _request(
        self,
        method: str,
        url: str,
        authorization: str | None,
        body: Callable[[], _Part] | None = None,
        **options: Any,
    ) -> Response:
        """``body`` makes what is sent: a request that is answered by a challenge is made twice."""
        settings = self._settings
        if body is not None:
            options["data"] = body()
        return self._session().request(
            method,
            url,
            # A callable, since requests would otherwise put in what ~/.netrc has for the host.
            auth=_Authorization(authorization),
            timeout=(settings.connect_timeout, settings.read_timeout),
            verify=settings.ca_bundle or True,
            **options,
        )

    def _ask(self, method: str, url: str, **options: Any) -> Response:
        headers = options.pop("headers", {})
        return self._request(method, url, headers.get("Authorization"), **options)

    def _session(self) -> Session:
        if not hasattr(self._local, "session"):
            self._local.session = session()
            self._local.session.trust_env = True
        made: Session = self._local.session
        return made

    def close(self) -> None:
        """Close this thread's connection."""
        if hasattr(self._local, "session"):
            self._local.session.close()

    def _location(self, response: Response, former: str = "") -> str:
        location = response.headers.get("Location", former)
        if not location:
            raise self._lies("an upload", "the answer does not say where to send it")
        url = urljoin(str(response.url), location)
        if self._base.startswith("https:") and not url.startswith("https:"):
            raise self._lies("an upload", "it is to be sent in the clear")
        return url

    def _where(self, what: str) -> str:
        return f"{self.reference}: {what}"

    def _lies(self, what: str, why: str) -> InputError:
        return InputError(f"{self.reference.host} does not give what it must: {what}", why=why)

    def _refused(self, method: str, path: str, response: Response) -> EnvironmentLacks:
        hint = f"docker login {self.reference.host}" if response.status_code in (401, 403) else None
        return EnvironmentLacks(
            f"{self.reference.host} answers {response.status_code} to {method} {urlsplit(path).path}",
            where=str(self.reference),
            why=_told(response),
            hint=hint,
        )


class Attempt:
    """One of several tries; ``why`` it failed and the seconds to wait at least."""

    def __init__(self) -> None:
        self.why = ""
        self.after = 0.0

    def again(self, why: str, after: float = 0.0) -> None:
        self.why = self.why or why
        self.after = after


class _Part:
    """A part of a stream as the body of a request, which is read piece by piece while it is sent."""

    def __init__(
        self, stream: BinaryIO, start: int, size: int, report: Callable[[int], None], what: str
    ) -> None:
        stream.seek(start)
        self._stream = stream
        self._size = self._left = size
        self._end = start + size
        self._report = report
        self._what = what

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return iter(partial(self.read, PIECE), b"")

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._stream.read(wanted)
        if len(data) < wanted:
            raise InputError(f"{self._what} is shorter than its size")
        self._left -= len(data)
        self._report(self._end - self._left)
        return data


class _Authorization:
    def __init__(self, header: str | None) -> None:
        self._header = header

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        if self._header:
            request.headers["Authorization"] = self._header
        return request


class _Refused(Exception):
    def __init__(self, response: Response) -> None:
        self.response = response
        self.status = response.status_code
        self.text = _told(response)
        after = response.headers.get("Retry-After", "")
        self.after = min(float(after), 60.0) if after.isdigit() else 0.0


def _broken() -> tuple[type[Exception], ...]:
    import requests.exceptions as broken

    return (broken.ConnectionError, broken.Timeout, broken.ChunkedEncodingError)


def _told(response: Response) -> str:
    """Status and the registry's own words (the specification's error body)."""
    text = f"{response.status_code} {response.reason or ''}".strip()
    try:
        errors = json.loads(next(response.iter_content(1 << 14), b""))["errors"]
        return text + ": " + "; ".join(str(item.get("message") or item.get("code")) for item in errors)
    except Exception:
        return text


def _body(response: Response, limit: int, where: str) -> bytes:
    data = b""
    for piece in response.iter_content(1 << 16):
        data += piece
        if len(data) > limit:
            raise InputError(f"is larger than {limit} bytes", where=where)
    return data


def _with_query(url: str, **more: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=urlencode([*parse_qsl(parts.query), *more.items()])))
