"""Apply edits to files: the effects around the plan.

A patched file takes its old one's place by rename, so that a running program, a reader or a crash never
sees half of it; mode, owner, extended attributes, times, holes and hard links stay as they were.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from os import urandom
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from bundler.elf.check import check_plan
from bundler.elf.edits import Edits
from bundler.elf.format import ElfError, ReadAt
from bundler.elf.image import overlay
from bundler.elf.place import Tier
from bundler.elf.plan import Plan, plan_edits
from bundler.elf.read import parse_elf, reader
from bundler.elf.workers import MAX_SHARES, in_processes
from bundler.errors import BundleError, raise_all

if TYPE_CHECKING:
    from pathlib import Path

_CHUNK = 1 << 20
_BLOCK = 1 << 12
"""Bytes compared at once."""
_KEPT = 1 << 13
"""Bytes that are read at once."""
_SHARE = 16
"""Files that a worker takes at once."""
_WORTH_WORKERS = 128
"""Fewer files are done before workers have started."""

Group: TypeAlias = "list[tuple[str | Path, Edits]]"
"""Names of one file, each with what is wanted of it."""


class PatchResult(NamedTuple):
    """What was done to one file; sizes in bytes."""

    path: str
    tier: Tier
    changed: bool
    size_before: int
    size_after: int


def patch_file(
    path: str | Path, edits: Edits, output: str | Path | None = None, *, in_place: bool = False
) -> PatchResult:
    """Edit one file, or write the edited file to ``output``; a symbolic link is followed.

    ``in_place`` writes into the file itself: faster, and all its hard links see it, but not atomic; it
    is for trees that nobody else sees yet.  Raises ElfError, and leaves the file as it was, where the
    edit is refused or the file cannot be written.
    """
    if output is not None:
        return _patch(path, _resolved(path), edits, (os.path.abspath(output),))
    source = os.fspath(path) if in_place else _resolved(path)
    return _patch(path, source, edits, (source,), in_place=in_place)


def patch_files(
    files: Iterable[tuple[str | Path, Edits]],
    *,
    in_place: bool = False,
    workers: int = 1,
    done: Callable[[PatchResult], None] | None = None,
    problems: list[BundleError] | None = None,
) -> list[PatchResult]:
    """Edit many files; hard links to one file, which must all be given, are written once.

    All files are tried, and ``done`` is called for each that went well, in their order.  The problems of
    the others are appended to ``problems`` or, without it, raised together at the end.  Many files are
    shared among ``workers``: processes, which are forked, so more than one is for programs without
    threads.
    """
    results: list[PatchResult] = []
    refused: list[BundleError] = []
    groups: dict[tuple[int, int], Group] = {}
    for path, edits in files:
        try:
            status = os.stat(path)
        except OSError as error:
            refused.append(_cannot(error, path))
        else:
            groups.setdefault((status.st_dev, status.st_ino), []).append((path, edits))
    for found, wrong in _patch_groups(list(groups.values()), in_place, workers):
        refused += wrong
        results += found
        if done is not None:
            for result in found:
                done(result)
    if problems is None:
        raise_all(refused)
    else:
        problems += refused
    return results


def _patch_groups(
    groups: Sequence[Group], in_place: bool, workers: int
) -> Iterator[tuple[list[PatchResult], list[BundleError]]]:
    """What was done and what was refused, share by share in the order of ``groups``."""
    size = max(_SHARE, -(-len(groups) // MAX_SHARES))
    shares = [(groups[start : start + size], in_place) for start in range(0, len(groups), size)]
    if workers == 1 or len(groups) < _WORTH_WORKERS:
        yield from map(_patch_share, shares)
    else:
        yield from in_processes(_patch_share, shares, workers)


def _patch_share(share: tuple[Sequence[Group], bool]) -> tuple[list[PatchResult], list[BundleError]]:
    groups, in_place = share
    results: list[PatchResult] = []
    refused: list[BundleError] = []
    for group in groups:
        try:
            results += _patch_group(group, in_place)
        except BundleError as problem:
            refused.append(problem)
    return results, refused


def _patch_group(group: Group, in_place: bool) -> list[PatchResult]:
    """Edit one file that has the given names."""
    path, edits = group[0]
    if len(group) == 1:
        return [patch_file(path, edits, in_place=in_place)]
    if any(other != edits for _, other in group):
        raise ElfError("is to be edited in two ways under two names", where=os.fspath(path))
    names = sorted({_resolved(name) for name, _ in group})
    first = _patch(path, names[0], edits, tuple(names), in_place=in_place)
    return [
        PatchResult(os.fspath(name), first.tier, first.changed, first.size_before, first.size_after)
        for name, _ in group
    ]


def _patch(
    path: str | Path, source: str, edits: Edits, targets: tuple[str, ...], *, in_place: bool = False
) -> PatchResult:
    """Edit the file ``source``; ``targets`` are all names that the result gets, its own or others."""
    try:
        flags = os.O_RDWR if in_place else os.O_RDONLY
        descriptor = os.open(source, flags | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ElfError("is not a regular file")
            read = _kept(reader(descriptor))
            facts = parse_elf(read, status.st_size, versions=edits.needs_versions)
            plan = plan_edits(read, facts, edits)
            result = PatchResult(os.fspath(path), plan.tier, bool(plan.writes), facts.size, plan.size)
            if not plan.writes and source in targets:
                return result
            check_plan(read, facts, edits, plan)
            if in_place:
                _write_in_place(descriptor, plan, status)
                return result
            if source in targets and status.st_nlink != len(targets):
                raise ElfError(
                    f"has {status.st_nlink} names, of which {len(targets)} are given",
                    why="replacing some of them would leave the others as they were",
                    hint="give all its names in one call, or an output",
                )
            _replace(descriptor, plan, status, targets)
            return result
        finally:
            os.close(descriptor)
    except ElfError as error:
        error.where = error.where or os.fspath(path)
        raise
    except OSError as error:
        raise _cannot(error, path) from error


def _resolved(path: str | Path) -> str:
    """The file that a path names: what is replaced is the file, not a symbolic link to it."""
    return os.path.realpath(path) if os.path.islink(path) else os.path.abspath(os.fspath(path))


def _kept(read: ReadAt) -> ReadAt:
    """Reads that keep what they read, in blocks: tables lie close together, and are looked at again."""
    blocks: dict[int, bytes] = {}

    def read_kept(offset: int, size: int) -> bytes:
        start = offset % _KEPT
        if start + size > _KEPT:
            return read(offset, size)
        data = blocks.get(offset - start)
        if data is None:
            data = blocks[offset - start] = read(offset - start, _KEPT)
        return data[start : start + size]

    return read_kept


def _write_in_place(descriptor: int, plan: Plan, status: os.stat_result) -> None:
    attributes = _attributes(descriptor)
    for write in plan.writes:
        _pwrite(descriptor, write.data, write.offset)
    _read_back(descriptor, plan)
    if status.st_mode & (stat.S_ISUID | stat.S_ISGID):
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    # Any write drops file capabilities, even root's.
    if "security.capability" in attributes:
        os.setxattr(descriptor, "security.capability", attributes["security.capability"])
    os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))


def _replace(source: int, plan: Plan, status: os.stat_result, targets: tuple[str, ...]) -> None:
    """Write the new file beside its first name, check it, and give it all its names."""
    directory, name = os.path.split(targets[0])
    temporary = os.path.join(directory, f".{name[:200]}.{urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        _copy(source, descriptor, status)
        for write in plan.writes:
            _pwrite(descriptor, write.data, write.offset)
        _compare(source, plan, descriptor)
        with suppress(PermissionError):
            os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
        for attribute, value in _attributes(source).items():
            os.setxattr(descriptor, attribute, value)
        os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.fsync(descriptor)
        for target in targets[1:]:
            link = f"{os.path.dirname(target)}/.{os.path.basename(target)[:200]}.{urandom(4).hex()}"
            os.link(temporary, link)
            os.rename(link, target)
        os.rename(temporary, targets[0])
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    finally:
        os.close(descriptor)


def _copy(source: int, target: int, status: os.stat_result) -> None:
    """Copy the content, holes as holes."""
    os.ftruncate(target, status.st_size)
    at = 0
    while at < status.st_size:
        try:
            start = os.lseek(source, at, os.SEEK_DATA)
            at = os.lseek(source, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        while start < at:
            copied = _copy_range(source, target, start, at - start)
            if not copied:
                raise ElfError("became shorter while it was copied")
            start += copied


def _copy_range(source: int, target: int, offset: int, size: int) -> int:
    try:
        return os.copy_file_range(source, target, size, offset, offset)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            raise
    data = os.pread(source, min(size, _CHUNK), offset)
    _pwrite(target, data, offset)
    return len(data)


def _read_back(descriptor: int, plan: Plan) -> None:
    """Where we wrote, every byte is the planned one."""
    read = _kept(reader(descriptor))
    for offset, data in plan.writes:
        for at in range(0, len(data), _KEPT):
            part = data[at : at + _KEPT]
            if read(offset + at, len(part)) != part:
                raise ElfError("was not written as planned", why=f"it differs behind byte {offset + at}")


def _compare(source: int, plan: Plan, descriptor: int) -> None:
    """Where we wrote, and beside it, every byte is the planned or the old one; the rest the kernel copied."""
    if os.fstat(descriptor).st_size != plan.size:
        raise ElfError("was not written as planned", why="the size differs")
    planned = overlay(reader(source), plan.writes)
    touched = {
        number
        for at, data in plan.writes
        for number in range(max(0, at // _BLOCK - 1), (at + len(data) - 1) // _BLOCK + 2)
    }
    for number in touched:
        at, size = number * _BLOCK, min(_BLOCK, plan.size - number * _BLOCK)
        if size > 0 and os.pread(descriptor, size, at) != planned(at, size).ljust(size, b"\0"):
            raise ElfError("was not written as planned", why=f"it differs behind byte {at}")


def _pwrite(descriptor: int, data: bytes, offset: int) -> None:
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):
        written += os.pwrite(descriptor, memoryview(data)[written:], offset + written)


def _attributes(descriptor: int) -> dict[str, bytes]:
    """Extended attributes; ACLs are among them."""
    try:
        names = os.listxattr(descriptor)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    for name in names:
        if name in ("security.ima", "security.evm"):
            raise ElfError("is signed (IMA), and the signature would no longer fit", hint=f"remove {name}")
    return {name: os.getxattr(descriptor, name) for name in names}


def _cannot(error: OSError, path: str | Path) -> ElfError:
    """What stopped the patch of a file, in our words."""
    return ElfError(
        "cannot be patched", where=os.fspath(path), why=error.strerror, hint=_HINTS.get(error.errno or 0)
    )


_HINTS = {
    errno.EPERM: "perhaps it is immutable (chattr -i), or belongs to another user",
    errno.EACCES: "perhaps the directory is not yours to write to",
    errno.ETXTBSY: "it is running: patch it by replacement, not in place",
    errno.EROFS: "the file system is mounted read-only: give an output",
}
