"""Sources by digest: from the cache, or from the first of their URLs that gives the right bytes.

``sources/<sha256>`` below the cache directory is the verified file (for git, a directory with our own
tree).  A download under way lies in ``sources/partial``, locked, and is taken up again by whoever comes
next.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from bundler.debian import mirror_urls
from bundler.digest import Digest, digest_stream, hex_of
from bundler.download import (
    Failure,
    NetworkSettings,
    Progress,
    Stopped,
    download,
    looks_like_page,
    network_settings,
    page_instead,
    public,
    session,
)
from bundler.errors import BundleError, EnvironmentLacks, InputError, raise_all
from bundler.events import Sink, TaskAdvanced, TaskFinished, TaskStarted, ignore
from bundler.recipe import Source

if TYPE_CHECKING:
    from requests import Session

_STEP = 1 << 20
"""Bytes between two signs of progress."""

Failures = dict[str, Failure]
"""The last answer of each URL, in the order first asked."""


class Fetcher:
    """Fetches what the cache lacks.  Safe for many threads and processes at once."""

    def __init__(
        self,
        cache: Path,
        *,
        offline: bool = False,
        sink: Sink = ignore,
        settings: NetworkSettings | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """``stop`` ends all downloads when it is set: what arrived is kept."""
        self._sources = cache / "sources"
        self._settings = settings or network_settings()
        self._offline = offline
        self._sink = sink
        self._local = threading.local()
        self._stop = stop or threading.Event()
        self._unreachable: set[str] = set()
        """Hosts that could not be reached: asked last from then on, for each may cost a timeout."""

    def path(self, digest: Digest) -> Path:
        """Where a source lies, whether or not it is there."""
        return self._sources / hex_of(digest)

    def fetch(self, source: Source) -> Path:
        """The verified file (for git, directory) of a source.

        Raises InputError where a URL gives other bytes than the recipe says, EnvironmentLacks where
        none can be had; both say what each URL did.
        """
        path = self.path(source.digest)
        if not path.exists():
            self._get(source, source.digest)
        return path

    def fetch_all(self, sources: Sequence[Source]) -> list[Path]:
        """Several at once, in the order asked for; all problems are raised together."""
        if all(self.path(source.digest).exists() for source in sources):
            return [self.path(source.digest) for source in sources]
        problems: dict[str, BundleError] = {}
        with ThreadPoolExecutor(self._settings.at_once) as pool:
            futures = [pool.submit(self.fetch, source) for source in sources]
            try:
                for future in futures:
                    if isinstance(error := future.exception(), BundleError):
                        problems[str(error)] = error
                    elif error is not None:
                        raise error
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        raise_all(list(problems.values()))
        return [future.result() for future in futures]

    def learn(self, source: Source) -> tuple[Path, Digest]:
        """Fetch a source whose digest is not known, and return it with what its URL gave."""
        digest = self._get(source, None)
        return self.path(digest), digest

    def _get(self, source: Source, expected: Digest | None) -> Digest:
        if self._offline and not any(url.startswith(_LOCAL) for url in source.urls):
            raise EnvironmentLacks(
                f"{source.file_name!r} is not in the cache, and we are offline",
                why=f"it would be {self.path(expected)}" if expected else None,
                hint="run 'bundle fetch' while there is a network",
            )
        if source.commit is not None:
            from bundler.git_source import check_out

            with _Task(self._sink, f"fetch {source.file_name}") as task:
                task.report(0, None)
                return check_out(source, expected, self._sources)
        return self._file(source, expected)

    # Files

    def _file(self, source: Source, expected: Digest | None) -> Digest:
        try:
            return self._locked_file(source, expected)
        except OSError as error:
            raise EnvironmentLacks(
                f"cannot keep {source.file_name!r}",
                where=str(self._sources),
                why=error.strerror or str(error),
            ) from error

    def _locked_file(self, source: Source, expected: Digest | None) -> Digest:
        with self._under_way(expected) as out:
            # Another process may have had the lock, and done the work.
            if expected is not None and self.path(expected).exists():
                return expected
            with _Task(self._sink, f"fetch {source.file_name}") as task:
                digest = self._fill(source, expected, out, task)
            os.fchmod(out.fileno(), 0o444)
            os.fsync(out.fileno())
            Path(out.name).rename(self.path(digest))
            _sync(self._sources)
            return digest

    @contextlib.contextmanager
    def _under_way(self, expected: Digest | None) -> Iterator[BinaryIO]:
        """The download's file, ours alone: whoever else wants it waits.  What arrived is kept."""
        directory = self._sources / "partial"
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / (hex_of(expected) if expected else f"new-{os.getpid()}-{threading.get_ident()}")
        while True:
            file.touch()
            try:
                out = file.open("r+b")
            except FileNotFoundError:
                continue
            fcntl.flock(out, fcntl.LOCK_EX)
            # Whoever had the lock before has renamed the file by now, if all went well.
            if _is_at(out, file):
                break
            out.close()
        with out:
            try:
                yield out
            finally:
                out.flush()
                if _is_at(out, file) and (expected is None or os.fstat(out.fileno()).st_size == 0):
                    file.unlink()

    def _fill(self, source: Source, expected: Digest | None, out: BinaryIO, task: _Task) -> Digest:
        """Try the URLs in rounds until the bytes are right; raises what they did."""
        failures: Failures = {}
        for number in range(self._settings.attempts):
            if number == 0:
                urls = self._resolve(source, failures)
            else:
                again = [url for url, failure in failures.items() if failure.again]
                if not again:
                    break
                pause = self._settings.backoff * 2 ** (number - 1)
                self._wait(max([pause, *(failures[url].after for url in again)]))
                urls = iter(again)
            for url in urls:
                try:
                    return self._try(url, expected, out, task)
                except Failure as failure:
                    failures[url] = failure
                    if failure.unreachable:
                        self._unreachable.add(urlsplit(url).netloc)
                except Stopped:
                    raise KeyboardInterrupt from None
        raise _error(source, expected, failures)

    def _try(self, url: str, expected: Digest | None, out: BinaryIO, task: _Task) -> Digest:
        """One attempt at one URL; raises Failure."""
        resumed = out.seek(0, os.SEEK_END) > 0
        note = public(url)
        progress = Progress(lambda done, total: task.report(done, total, note), self._stop.is_set)
        download(url, out, self._http, self._settings, progress)
        out.flush()
        out.seek(0)
        is_page = looks_like_page(out.read(1024))
        out.seek(0)
        digest = digest_stream(out)
        if digest == expected or (expected is None and not is_page):
            return digest
        size = out.tell()
        out.truncate(0)
        if is_page:
            raise page_instead()
        # What was there before we went on may have been the wrong part.
        raise _WrongDigest(f"its {size} bytes have SHA-256 {hex_of(digest)}", again=resumed)

    def _resolve(self, source: Source, failures: Failures) -> Iterator[str]:
        """http, https and file URLs for those that the recipe has, each worked out when its turn comes."""
        for url in sorted(source.urls, key=lambda url: urlsplit(url).netloc in self._unreachable):
            scheme, _, rest = url.partition(":")
            try:
                if scheme == "pypi":
                    yield from self._pypi(url, rest, failures)
                elif scheme == "npm" and not self._offline:
                    yield from self._npm(rest)
                elif scheme == "file" and source.home is not None and not rest.startswith("/"):
                    yield (source.home / rest).absolute().as_uri()
                elif scheme == "file" or not self._offline:
                    yield from mirror_urls(rest) if scheme == "debian" else (url,)
            except EnvironmentLacks as error:
                failures[url] = Failure(error.message, hint=error.hint)
            except Failure as failure:
                failures[url] = failure

    def _pypi(self, url: str, rest: str, failures: Failures) -> list[str]:
        from bundler.pypi import file_urls

        name, _, file = rest.partition("/")
        urls, said = file_urls(name, file, self._http, self._settings, offline=self._offline)
        if not urls:
            failures[url] = Failure("; ".join(said) or "pip has no index that is at hand")
        return urls

    def _npm(self, rest: str) -> list[str]:
        from bundler.npm import release

        name, _, version = rest.rpartition("@")
        return [release(name, version, self._http, self._settings).url]

    @property
    def _http(self) -> Session:
        if not hasattr(self._local, "http"):
            self._local.http = session()
        made: Session = self._local.http
        return made

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise KeyboardInterrupt


class _Task:
    """One source as the user sees it: begun when the first byte is in sight, ended whatever happens."""

    def __init__(self, sink: Sink, name: str) -> None:
        self._sink = sink
        self._name = name
        self._begun = False
        self._last = 0
        self._since = time.monotonic()

    def report(self, done: int, total: int | None, note: str = "") -> None:
        if not self._begun:
            self._begun = True
            self._sink(TaskStarted(self._name, total, unit="bytes"))
        if done - self._last >= _STEP or done == total or done < self._last:
            self._last = done
            self._sink(TaskAdvanced(self._name, done, note))

    def __enter__(self) -> _Task:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        outcome = TaskFinished(
            self._name, "done" if error is None else "failed", time.monotonic() - self._since
        )
        self._sink(outcome)


class _WrongDigest(Failure):
    """A URL gave something, and it is not what the recipe says."""


_LOCAL = ("file:", "git+file:", "pypi:")
"""Schemes that may be met without a network (pip may be configured with a directory)."""


def _error(source: Source, expected: Digest | None, failures: Failures) -> BundleError:
    lines = [f"  {public(url)}: {failure.why}" for url, failure in failures.items()]
    hint = next((failure.hint for failure in failures.values() if failure.hint), None)
    if any(isinstance(failure, _WrongDigest) for failure in failures.values()):
        return InputError(
            f"{source.file_name!r} is not what the recipe says: no URL gave its SHA-256",
            why=f"expected {hex_of(expected)}" if expected else None,
            detail="\n".join(lines),
            hint=hint or "if upstream has replaced the file, 'bundle fetch --update-hash' takes the new one",
        )
    if hint is None and all(url.startswith("debian:") for url in source.urls):
        hint = "a Debian archive keeps the newest only: 'bundle lock' refreshes a toolchain's pins"
    return EnvironmentLacks(f"cannot fetch {source.file_name!r}", detail="\n".join(lines) or None, hint=hint)


def _is_at(out: BinaryIO, file: Path) -> bool:
    """Whether the open file still is the one of that name."""
    try:
        return os.path.samestat(os.fstat(out.fileno()), file.stat())
    except FileNotFoundError:
        return False


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
