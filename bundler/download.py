"""One URL to one file: http, https and file, with resumption, time limits and an end to everything.

Whether the bytes are the right ones is for the caller to say; what went wrong on the way is a
:class:`Failure`, which knows whether trying again may help.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urlsplit, urlunsplit

from bundler.errors import EnvironmentLacks

if TYPE_CHECKING:
    from requests import Response, Session

_CHUNK = 1 << 18
_BLOCK = 1 << 20
"""Bytes of a body that are sent at once."""
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)\Z")
_HTML = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Times in seconds, sizes in bytes.

    Proxies come from the environment (``HTTPS_PROXY``, ``NO_PROXY``, …), as does ``ca_bundle``.
    """

    attempts: int = 4
    """Rounds over the URLs of one source."""
    backoff: float = 0.5
    """Wait before the second round; it doubles with each."""
    connect_timeout: float = 15.0
    read_timeout: float = 60.0
    """Longest silence."""
    slowest: int = 256
    """Bytes a second, over a whole ``read_timeout``, that a server must give."""
    largest: int = 16 << 30
    """Size of one file."""
    at_once: int = 4
    """Downloads at the same time."""
    ca_bundle: str | None = None


_CA_VARIABLES = ("BUNDLE_CA", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def network_settings(environment: Mapping[str, str] = os.environ) -> NetworkSettings:
    """The defaults, with the certificates that the environment names (the first variable that is set)."""
    bundle = next((environment[name] for name in _CA_VARIABLES if environment.get(name)), None)
    return NetworkSettings(ca_bundle=bundle)


class Failure(Exception):
    """What one URL did instead of giving the file.

    ``again`` says whether it may do better, ``after`` how many seconds it asks to wait for that;
    ``unreachable`` that there was nobody to ask.
    """

    def __init__(
        self,
        why: str,
        *,
        again: bool = False,
        after: float = 0.0,
        hint: str | None = None,
        unreachable: bool = False,
    ) -> None:
        super().__init__(why)
        self.unreachable = unreachable
        self.why = why
        self.again = again
        self.after = after
        self.hint = hint


class Stopped(Exception):
    """The caller's ``stop`` said so."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Called with the bytes that are there and, where known, all that there will be."""

    report: Callable[[int, int | None], None]
    stop: Callable[[], bool]


def session() -> Session:
    """A session for one thread."""
    import requests

    class Adapter(requests.adapters.HTTPAdapter):
        """Sends what it reads from a file in pieces of a megabyte, not of some kilobytes."""

        def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
            super().init_poolmanager(*arguments, blocksize=_BLOCK, **options)

    made = requests.Session()
    for scheme in ("http://", "https://"):
        made.mount(scheme, Adapter())
    # A .tar.gz must arrive as it is, not be unpacked on the way.
    made.headers.update({"Accept-Encoding": "identity", "User-Agent": "bundle"})
    made.max_redirects = 10
    return made


def public(url: str) -> str:
    """The URL without a password in it."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc="…@" + parts.netloc.rpartition("@")[2]))


def get_text(url: str, http: Session, settings: NetworkSettings, *, accept: str) -> tuple[str, str]:
    """A page of at most 64 MiB and its type; raises Failure."""
    largest = 64 << 20
    if url.startswith("file:"):
        path = _local(url)
        try:
            return (path / "index.html" if path.is_dir() else path).read_text("utf-8"), "text/html"
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(str(error)) from error
    response = _request(url, http, settings, {"Accept": accept})
    with response:
        body = b""
        for piece in response.iter_content(_CHUNK):
            body += piece
            if len(body) > largest:
                raise Failure("an endless page")
        return body.decode("utf-8", "replace"), response.headers.get("Content-Type", "")


def download(
    url: str,
    out: BinaryIO,
    http: Session,
    settings: NetworkSettings,
    progress: Progress,
) -> None:
    """Make ``out``, open for reading and writing, the file at ``url``, going on where it ends.

    What ``out`` holds must be the beginning of the file.  Raises Failure; what arrived until then stays.
    """
    if url.startswith("file:"):
        _copy(_local(url), out)
        return
    begun = out.seek(0, os.SEEK_END)
    headers = {"Range": f"bytes={begun}-"} if begun else {}
    response = _request(url, http, settings, headers)
    with response:
        if begun and not _goes_on(response, begun):
            begun = 0
            out.truncate(0)
            if response.status_code in (206, 416):
                raise Failure("it cannot go on where the download broke off", again=True)
        out.seek(begun)
        _refuse_page(response, url)
        length = response.headers.get("Content-Length", "")
        total = begun + int(length) if length.isdigit() else None
        if total is not None and total > settings.largest:
            raise Failure(f"it would be {total} bytes, more than {settings.largest}")
        if total is not None and total - begun > shutil.disk_usage(out.fileno()).free:
            raise EnvironmentLacks(
                "the disk is too full for a download", why=f"{total - begun} bytes to come"
            )
        _receive(response, out, settings, progress, begun, total)


def looks_like_page(head: bytes) -> bool:
    """Whether a file that begins so is an HTML page."""
    return bool(_HTML.match(head))


def _local(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _copy(path: Path, out: BinaryIO) -> None:
    try:
        with path.open("rb") as stream:
            out.truncate(0)
            out.seek(0)
            shutil.copyfileobj(stream, out, _CHUNK)
    except OSError as error:
        raise Failure(error.strerror or str(error)) from error


def _request(url: str, http: Session, settings: NetworkSettings, headers: Mapping[str, str]) -> Response:
    """Send the request and judge the answer's head; raises Failure."""
    import requests

    try:
        response = http.get(
            url,
            headers=dict(headers),
            stream=True,
            timeout=(settings.connect_timeout, settings.read_timeout),
            verify=settings.ca_bundle or True,
        )
    except requests.exceptions.TooManyRedirects as error:
        raise Failure(f"it redirects in a circle (more than {http.max_redirects} times)") from error
    except requests.exceptions.ProxyError as error:
        hint = "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
        raise Failure(f"the proxy: {reason(error)}", again=True, hint=hint) from error
    except requests.exceptions.SSLError as error:
        hint = "name the certificates to trust in the environment variable BUNDLE_CA"
        raise Failure(f"its certificate is not trusted: {reason(error)}", hint=hint) from error
    except requests.exceptions.ConnectTimeout as error:
        why = f"no connection within {settings.connect_timeout:g} s"
        raise Failure(why, again=True, unreachable=True) from error
    except requests.exceptions.ReadTimeout as error:
        raise Failure(f"no answer within {settings.read_timeout:g} s", again=True) from error
    except requests.exceptions.ConnectionError as error:
        raise Failure(f"no connection: {reason(error)}", again=True, unreachable=True) from error
    except (requests.exceptions.RequestException, ValueError) as error:
        raise Failure(reason(error)) from error
    except OSError as error:  # a certificate file that is not there
        raise EnvironmentLacks("cannot make a secure connection", why=str(error)) from error
    if response.status_code in (200, 206) or (response.status_code == 416 and "Range" in headers):
        return response
    response.close()
    told = f"{response.status_code} {response.reason or ''}".strip()
    if response.url.rstrip("/") != url.rstrip("/"):
        told += f" (redirected to {public(response.url)})"
    again = response.status_code in (408, 425, 429) or response.status_code >= 500
    after = response.headers.get("Retry-After", "")
    raise Failure(told, again=again, after=min(float(after), 30.0) if after.isdigit() else 0.0)


def _goes_on(response: Response, begun: int) -> bool:
    match = _RANGE.match(response.headers.get("Content-Range", ""))
    return response.status_code == 206 and match is not None and int(match[1]) == begun


def _refuse_page(response: Response, url: str) -> None:
    """A page where a file was asked for is a proxy's, a firewall's, or a server's idea of "not found"."""
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") and not urlsplit(url).path.endswith((".html", ".htm")):
        raise page_instead()


def page_instead() -> Failure:
    hint = "does a proxy or a firewall on the way want something?"
    return Failure("it answered with an HTML page instead of the file", hint=hint)


def _receive(
    response: Response,
    out: BinaryIO,
    settings: NetworkSettings,
    progress: Progress,
    begun: int,
    total: int | None,
) -> None:
    import urllib3.exceptions as broken

    done = begun
    mark, mark_done = time.monotonic(), done
    progress.report(done, total)
    try:
        # read1 gives what is there, so that a trickle is seen as one.
        while piece := response.raw.read1(_CHUNK, decode_content=False):
            out.write(piece)
            done += len(piece)
            if done > settings.largest:
                raise Failure(f"it does not end after {settings.largest} bytes")
            if progress.stop():
                raise Stopped
            progress.report(done, total)
            now = time.monotonic()
            if now - mark > settings.read_timeout:
                if done - mark_done < settings.slowest * (now - mark):
                    raise Failure(f"it gives less than {settings.slowest} bytes a second", again=True)
                mark, mark_done = now, done
    except broken.ReadTimeoutError as error:
        why = f"silent for {settings.read_timeout:g} s after {done} bytes"
        raise Failure(why, again=True) from error
    except (broken.HTTPError, ConnectionError) as error:
        expected = f" of {total}" if total is not None else ""
        raise Failure(f"it broke off after {done}{expected} bytes", again=True) from error
    if total is not None and done < total:
        raise Failure(f"it broke off after {done} of {total} bytes", again=True)


def reason(error: BaseException) -> str:
    """The innermost cause, which says more than the layers around it."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "reason", None) or error.__cause__ or (error.args[0] if error.args else None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text.rpartition(": ")[2] if text.startswith("<") else text
