"""Writing foreign names below a directory without ever following a link that is there.

Every parent of what is written is a real directory: made here, or found by lstat.  Links are judged when
all is written, since what one means depends on the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn

from bundler.errors import BundleError, EnvironmentLacks, InputError
from bundler.tree import EPOCH, MAX_LINKS

_CHUNK = 1 << 20
_LATEST = 1 << 33
"""Seconds: later than any honest time stamp, and a time that every file system can hold."""


class TreeWriter:
    """Writes entries below ``root`` (and there below ``below``) in any order, later ones over earlier.

    ``where`` names the archive in errors.  Methods raise InputError for what the archive must not hold,
    and EnvironmentLacks where the disk is full.  With ``is_root`` the tree is a root file system of its
    own: links may be absolute.
    """

    def __init__(self, root: Path, where: str, *, below: str = "", is_root: bool = False) -> None:
        self.where = where
        self.is_root = is_root
        self.root = root
        self._root = os.fspath(root)
        self._below = f"{below}/" if below else ""
        self._directories = {""}
        self._links: list[str] = []
        with self._explained(str(root)):
            root.mkdir(parents=True, exist_ok=True)
            self._make(below)

    def directory(self, path: str) -> None:
        with self._explained(path):
            self._make(self._below + path)

    def file(self, path: str, stream: IO[bytes], size: int, *, executable: bool, mtime: int | None) -> None:
        """A file of the next ``size`` bytes of ``stream``; without ``mtime`` it is as old as all we make."""
        with self._explained(path):
            target = self._free(path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(target, flags, 0o600)
            try:
                left = size
                while left:
                    piece = stream.read(min(left, _CHUNK))
                    if not piece:
                        self.refuse(path, "is cut short")
                    _write_all(descriptor, piece)
                    left -= len(piece)
                os.fchmod(descriptor, 0o755 if executable else 0o644)
                seconds = EPOCH if mtime is None else min(max(mtime, 0), _LATEST)
                os.utime(descriptor, (seconds, seconds))
            finally:
                os.close(descriptor)

    def symlink(self, path: str, target: str) -> None:
        with self._explained(path):
            if not target or "\0" in target or len(target) > 4095:
                self.refuse(path, "is a symbolic link without a sound target")
            if target.startswith("/") and not self.is_root:
                self.refuse(path, f"is a link to the absolute path {target[:200]!r}")
            os.symlink(target, self._free(path))
            self._links.append(self._below + path)

    def hardlink(self, path: str, target: str) -> None:
        """Another name for a file that was written before."""
        with self._explained(path):
            existing = self._below + target
            if not target or not self._is_real(existing) or not self._is_file(existing):
                self.refuse(path, f"is a hard link to {target[:200]!r}, which is no file of the archive")
            if path != target:
                os.link(f"{self._root}/{existing}", self._free(path), follow_symlinks=False)

    def copy(self, directory: Path) -> None:
        """All of a directory that we made ourselves."""
        for parent, directories, files in os.walk(directory):
            for name in directories + files:
                file = Path(parent) / name
                path = file.relative_to(directory).as_posix()
                status = file.lstat()
                if stat.S_ISLNK(status.st_mode):
                    self.symlink(path, os.readlink(file))
                elif stat.S_ISDIR(status.st_mode):
                    self.directory(path)
                else:
                    with file.open("rb") as stream:
                        executable = bool(status.st_mode & 0o111)
                        self.file(path, stream, status.st_size, executable=executable, mtime=None)

    def finish(self) -> None:
        """Check that no link leads out, now that all are there."""
        if not self.is_root:
            for path in self._links:
                if self._leads_out(path):
                    self.refuse(path, "is a link that leads out of the archive")

    def refuse(self, path: str, why: str) -> NoReturn:
        """Raise the error for an entry that is not taken."""
        raise InputError("the archive is refused", where=self.where, why=f"{path[:200]!r} {why}")

    def _make(self, path: str) -> None:
        """Make a directory and those above it, none of them a link."""
        if path in self._directories:
            return
        above = path.rpartition("/")[0]
        self._make(above)
        full = f"{self._root}/{path}"
        try:
            os.mkdir(full, 0o755)
            os.chmod(full, 0o755)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(full).st_mode):
                self.refuse(path, "is used as a directory, and is none")
        self._directories.add(path)

    def _is_real(self, path: str) -> bool:
        """Whether all directories above ``path`` are real ones."""
        above = path.rpartition("/")[0]
        if above in self._directories:
            return True
        with contextlib.suppress(OSError):
            if self._is_real(above) and stat.S_ISDIR(os.lstat(f"{self._root}/{above}").st_mode):
                self._directories.add(above)
                return True
        return False

    def _is_file(self, path: str) -> bool:
        try:
            return stat.S_ISREG(os.lstat(f"{self._root}/{path}").st_mode)
        except OSError:
            return False

    def _free(self, path: str) -> str:
        """The place of ``path``, its parents made; what stood there, unless a directory, is gone."""
        path = self._below + path
        self._make(path.rpartition("/")[0])
        full = f"{self._root}/{path}"
        try:
            if stat.S_ISDIR(os.lstat(full).st_mode):
                self.refuse(path, "takes the place of a directory")
            os.unlink(full)
        except FileNotFoundError:
            pass
        return full

    def _leads_out(self, path: str) -> bool:
        """Follow the link as the kernel would, but stop where it leaves the root."""
        here = path.split("/")[:-1]
        pending = [path.rpartition("/")[2]]
        hops = 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not here:
                    return True
                here.pop()
                continue
            here.append(part)
            try:
                target = os.readlink("/".join([self._root, *here]))
            except OSError:
                continue
            hops += 1
            if target.startswith("/"):
                return True
            if hops > MAX_LINKS:
                return False
            here.pop()
            pending.extend(reversed(target.split("/")))
        return False

    @contextlib.contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except BundleError:
            raise
        except ValueError as error:
            raise InputError("the archive is refused", where=self.where, why=f"{path!r}: {error}") from error
        except OSError as error:
            why = f"{path[:200]!r}: {os.strerror(error.errno or 0)}"
            if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP):
                raise InputError("the archive is refused", where=self.where, why=why) from error
            raise EnvironmentLacks("cannot be unpacked", where=self.where, why=why) from error


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
