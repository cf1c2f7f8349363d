"""Headers of tar archives: ustar (POSIX.1-1988), with PAX records (POSIX.1-2001) only where it lacks room.

The bytes are a function of the entry alone: no user names, integer times, sorted records.  What each
client accepts was measured; GNU's own extensions and global records are avoided since some refuse them.
"""

from __future__ import annotations

import os

from bundler.errors import InputError
from bundler.tree import Entry, Kind

BLOCK = 512
"""Bytes in a tar block; contents are padded to it."""
END = bytes(2 * BLOCK)
"""What ends an archive."""

TYPES = {
    Kind.FILE: b"0",
    Kind.SYMLINK: b"2",
    Kind.CHARACTER: b"3",
    Kind.BLOCK: b"4",
    Kind.DIRECTORY: b"5",
    Kind.FIFO: b"6",
}
HARD_LINK = b"1"
XATTR_RECORD = b"SCHILY.xattr."
"""Prefix of the records that hold extended attributes; the one spelling that every client reads."""

_NAME, _PREFIX = 100, 155
_MAX_OWNER = 0o7777777
_MAX_SIZE = _MAX_TIME = 0o77777777777
_PAX_HEADER = b"././@PaxHeader"


def padding(size: int) -> int:
    """Bytes of zeros that follow a content of ``size`` bytes."""
    return -size % BLOCK


def header(entry: Entry) -> bytes:
    """The blocks before the content of ``entry``; raises InputError for a kind that tar cannot hold."""
    name = os.fsencode(entry.path)
    link = b""
    if entry.hardlink is not None:
        kind, link = HARD_LINK, os.fsencode(entry.hardlink)
    elif entry.kind in TYPES:
        kind, link = TYPES[entry.kind], os.fsencode(entry.target or "")
    else:
        raise InputError(f"a {entry.kind} cannot be packed", where="/" + entry.path)
    if entry.kind is Kind.DIRECTORY:
        name += b"/"
    size = content_size(entry)
    mtime = max(0, entry.mtime)
    # On hard links, too: Docker and containerd chown each name, and that takes capabilities from the file.
    records = [(XATTR_RECORD + os.fsencode(key), value) for key, value in entry.xattrs]
    prefix, short = _split(name)
    if short is None:
        records.append((b"path", name))
        short = name[:_NAME]
    if len(link) > _NAME:
        records.append((b"linkpath", link))
    for key, number, limit in (
        (b"uid", entry.uid, _MAX_OWNER),
        (b"gid", entry.gid, _MAX_OWNER),
        (b"size", size, _MAX_SIZE),
        (b"mtime", mtime, _MAX_TIME),
    ):
        if number > limit:
            records.append((key, b"%d" % number))
    block = _block(
        short,
        prefix=prefix,
        kind=kind,
        mode=entry.mode & 0o7777,
        uid=min(entry.uid, _MAX_OWNER),
        gid=min(entry.gid, _MAX_OWNER),
        size=size if size <= _MAX_SIZE else 0,
        mtime=min(mtime, _MAX_TIME),
        link=link[:_NAME],
        device=entry.device or (0, 0),
    )
    return _extended(records) + block if records else block


def content_size(entry: Entry) -> int:
    """Bytes of content that follow the header: another name of a file has none."""
    return entry.size if entry.kind is Kind.FILE and entry.hardlink is None else 0


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """The name as ustar's prefix and name fields; None where no slash divides it so that both fit."""
    if len(name) <= _NAME:
        return b"", name
    at = name.find(b"/", len(name) - _NAME - 1, len(name) - 1)
    if at <= 0 or at > _PREFIX:
        return b"", None
    return name[:at], name[at + 1 :]


def _extended(records: list[tuple[bytes, bytes]]) -> bytes:
    body = b"".join(_record(key, value) for key, value in sorted(records))
    block = _block(
        _PAX_HEADER,
        prefix=b"",
        kind=b"x",
        mode=0o644,
        uid=0,
        gid=0,
        size=len(body),
        mtime=0,
        link=b"",
        device=(0, 0),
    )
    return block + body + bytes(padding(len(body)))


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE\\n``, where LENGTH counts itself."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _block(
    name: bytes,
    *,
    prefix: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    link: bytes,
    device: tuple[int, int],
) -> bytes:
    block = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0        %s%sustar\x0000%s%07o\0%07o\0%s" % (
        name.ljust(_NAME, b"\0"),
        mode,
        uid,
        gid,
        size,
        mtime,
        kind,
        link.ljust(_NAME, b"\0"),
        bytes(64),
        device[0],
        device[1],
        prefix.ljust(BLOCK - 345, b"\0"),
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
