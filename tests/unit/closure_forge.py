"""Makes ELF files for loader tests: small enough to be made by the thousand, sound enough for ld.so.

One readable and writable segment holds all; nothing in it is ever run.  The real ``ld.so --list`` loads
them, which makes it the judge of our emulation.
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LOADER = Path("/lib64/ld-linux-x86-64.so.2")
PAGE = 0x1000


@dataclass(frozen=True)
class Forged:
    """What goes into one file.  ``versions_needed`` has (file, version, weak) entries."""

    needed: Sequence[str] = ()
    soname: str | None = None
    rpath: str | None = None
    runpath: str | None = None
    nodeflib: bool = False
    pie: bool = False
    interpreter: str | None = None
    versions_needed: Sequence[tuple[str, str, bool]] = ()
    versions_defined: Sequence[str] = ()
    filter: str | None = None
    auxiliary: str | None = None
    machine: int = 62
    osabi: int = 0
    type: int = 3
    relr: bool = False
    textrel: bool = False
    audit: str | None = None
    note: tuple[int, bytes, bytes] | None = None
    """Type, owner with its final zero, and description."""


def elf_hash(name: str) -> int:
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ (high >> 24)) & ~high
    return value


def forge(spec: Forged) -> bytes:
    """The bytes of the file."""
    strings = bytearray(b"\0")

    def string(text: str) -> int:
        at = len(strings)
        strings.extend(os.fsencode(text) + b"\0")
        return at

    tags: list[tuple[int, int]] = [(1, string(name)) for name in spec.needed]
    for tag, text in ((14, spec.soname), (15, spec.rpath), (29, spec.runpath), (0x6FFFFEFC, spec.audit)):
        if text is not None:
            tags.append((tag, string(text)))
    for tag, text in ((0x7FFFFFFD, spec.auxiliary), (0x7FFFFFFF, spec.filter)):
        if text is not None:
            tags.append((tag, string(text)))
    if spec.textrel:
        tags.append((22, 0))
    flags_1 = (0x800 if spec.nodeflib else 0) | (0x08000000 if spec.pie else 0)
    if flags_1:
        tags.append((0x6FFFFFFB, flags_1))

    needs = bytearray()
    by_file: dict[str, list[tuple[str, bool]]] = {}
    for file, version, weak in spec.versions_needed:
        by_file.setdefault(file, []).append((version, weak))
    for number, (file, versions) in enumerate(by_file.items()):
        last_file = number == len(by_file) - 1
        needs += struct.pack(
            "<HHIII", 1, len(versions), string(file), 16, 0 if last_file else 16 + 16 * len(versions)
        )
        for index, (version, weak) in enumerate(versions):
            last = index == len(versions) - 1
            needs += struct.pack(
                "<IHHII", elf_hash(version), 2 if weak else 0, index + 2, string(version), 0 if last else 16
            )
    definitions = bytearray()
    for index, version in enumerate(spec.versions_defined):
        last = index == len(spec.versions_defined) - 1
        flags = 1 if index == 0 else 0
        definitions += struct.pack(
            "<HHHHIII", 1, flags, index + 1, 1, elf_hash(version), 20, 0 if last else 28
        )
        definitions += struct.pack("<II", string(version), 0)

    parts = {
        "hash": struct.pack("<IIII", 1, 1, 0, 0),
        "symbols": bytes(24),
        "strings": bytes(strings),
        "versym": bytes(8),
        "needs": bytes(needs),
        "definitions": bytes(definitions),
        "relr": bytes(8),
        "note": _note(*spec.note) if spec.note else b"",
        "interpreter": (spec.interpreter or "").encode() + b"\0",
    }
    segments = 3 + (spec.interpreter is not None) + (spec.note is not None)
    at = 64 + 56 * segments
    offsets = {}
    body = bytearray()
    for name, data in parts.items():
        offsets[name] = at + len(body)
        body += data + bytes(-len(data) % 8)
    dynamic_at = at + len(body)
    tags += [
        (4, offsets["hash"]),
        (5, offsets["strings"]),
        (6, offsets["symbols"]),
        (10, len(strings)),
        (11, 24),
    ]
    if needs:
        tags += [(0x6FFFFFFE, offsets["needs"]), (0x6FFFFFFF, len(by_file))]
    if definitions:
        tags += [(0x6FFFFFFC, offsets["definitions"]), (0x6FFFFFFD, len(spec.versions_defined))]
    if needs or definitions:
        tags.append((0x6FFFFFF0, offsets["versym"]))
    if spec.relr:
        tags += [(36, offsets["relr"]), (35, 8), (37, 8)]
    dynamic = b"".join(struct.pack("<qQ", tag, value) for tag, value in [*tags, (0, 0), (0, 0)])
    size = dynamic_at + len(dynamic)

    ident = b"\x7fELF" + bytes((2, 1, 1, spec.osabi)) + bytes(8)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", spec.type, spec.machine, 1, 0, 64, 0, 0, 64, 56, segments, 64, 0, 0
    )

    def segment(kind: int, flags: int, offset: int, length: int, align: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, flags, offset, offset, offset, length, length, align)

    table = b""
    if spec.interpreter is not None:
        table += segment(3, 4, offsets["interpreter"], len(parts["interpreter"]), 1)
    table += segment(1, 6, 0, size, PAGE)
    table += segment(2, 6, dynamic_at, len(dynamic), 8)
    table += segment(0x6474E551, 6, 0, 0, 16)
    if spec.note is not None:
        table += segment(4, 4, offsets["note"], len(parts["note"]), 4)
    return header + table + bytes(body) + dynamic


def _note(kind: int, owner: bytes, description: bytes) -> bytes:
    head = struct.pack("<III", len(owner), len(description), kind) + owner
    head += bytes(-len(head) % 4) + description
    return head + bytes(-len(head) % 4)


def write(path: Path, spec: Forged | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(spec if isinstance(spec, bytes) else forge(spec))
    path.chmod(0o755)
    return path


@dataclass(frozen=True)
class Real:
    """What the real loader said: paths in order, names not found, status, messages."""

    names: tuple[str, ...]
    missing: tuple[str, ...]
    status: int
    error: str


def real_list(path: Path, loader: Sequence[str] = (str(LOADER),)) -> Real:
    """``ld.so --list`` without its cache and without the environment."""
    done = subprocess.run(
        [*loader, "--inhibit-cache", "--list", path],
        capture_output=True,
        text=True,
        env={},
        check=False,
        cwd="/",
        timeout=20,
    )
    names, missing = [], []
    for line in done.stdout.splitlines():
        text = line.strip()
        if "=> not found" in text:
            missing.append(text.split(" => ")[0])
        elif " (0x" in text:
            name = text.rpartition(" (0x")[0].rpartition(" => ")[2]
            if name != "linux-vdso.so.1" and not Path(name).name.startswith("ld-linux"):
                names.append(name)
    return Real(tuple(names), tuple(missing), done.returncode, done.stderr)
