"""What binutils, elfutils and pyelftools say of a patched file, against what they said before.

A patch is sound if nothing that could be said of the file before has become untrue: the code and data
are the same at the same addresses, the symbols and relocations too, and no tool finds new faults.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from elftools.elf.elffile import ELFFile

ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}


def tool(*argv: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in argv],
        env={**ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )


def faults(before: Path, after: Path, scratch: Path, *, deep: bool = True) -> list[str]:
    """What is wrong with ``after`` that was not wrong with ``before``; empty for a sound patch."""
    found = [*program_faults(before, after), *listing_faults(before, after), *lint_faults(before, after)]
    if deep:
        found += strip_faults(before, after, scratch)
    return found


def program_faults(before: Path, after: Path) -> Iterator[str]:
    """Sections with code or data must have the same bytes at the same addresses."""
    with before.open("rb") as old_stream, after.open("rb") as new_stream:
        old, new = ELFFile(old_stream), ELFFile(new_stream)
        if old.num_sections() != new.num_sections():
            yield "the number of sections changed"
            return
        for one, other in zip(old.iter_sections(), new.iter_sections(), strict=True):
            if one.name != other.name or one["sh_type"] != other["sh_type"]:
                yield f"the section {one.name} is another one now"
            elif one.name not in MOVABLE and one["sh_type"] not in ("SHT_NOBITS", "SHT_NOTE"):
                if one["sh_addr"] != other["sh_addr"]:
                    yield f"the section {one.name} moved"
                elif one.name not in CHANGING and one.data() != other.data():
                    yield f"the content of the section {one.name} changed"


def listing_faults(before: Path, after: Path) -> Iterator[str]:
    """readelf's listings of what a patch must not touch, and its warnings."""
    for option in ("--dyn-syms", "-r", "-n", "-u"):
        one, other = (tool("readelf", "-W", option, path) for path in (before, after))
        if _plain(one.stdout) != _plain(other.stdout):
            yield f"readelf {option} differs"
        if len(other.stderr.splitlines()) > len(one.stderr.splitlines()):
            yield f"readelf {option} warns: {other.stderr.splitlines()[0]}"


def lint_faults(before: Path, after: Path) -> Iterator[str]:
    """Findings of eu-elflint that are new, whatever section or offset they name."""
    one, other = (
        {_plain(line) for line in tool("eu-elflint", "--gnu-ld", path).stdout.splitlines()}
        for path in (before, after)
    )
    for line in sorted(other - one):
        if not line or line == "No errors":
            continue
        # elflint adds the size of the symbol, a large function's, to the place that is relocated.
        if "read-only section modified" in line and not _relocates_read_only(after):
            continue
        yield f"eu-elflint: {line}"


def _relocates_read_only(path: Path) -> bool:
    """Whether a dynamic relocation changes a word in a segment that cannot be written to."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        fixed = [
            (s["p_vaddr"], s["p_vaddr"] + s["p_memsz"])
            for s in elf.iter_segments("PT_LOAD")
            if not s["p_flags"] & 2
        ]
        return any(
            start <= relocation["r_offset"] < end
            for section in elf.iter_sections()
            if section["sh_type"] in ("SHT_REL", "SHT_RELA") and section["sh_flags"] & 2
            for relocation in section.iter_relocations()
            for start, end in fixed
        )


def strip_faults(before: Path, after: Path, scratch: Path) -> Iterator[str]:
    """Tools that rewrite a file must do with the new one as they do with the old one."""
    for name, argv in STRIPPERS.items():
        statuses = []
        for path, out in ((before, scratch / "old"), (after, scratch / "new")):
            out.unlink(missing_ok=True)
            done = tool(*[word.format(path=path, out=out) for word in argv])
            statuses.append((done.returncode, out.exists()))
        if statuses[0] != statuses[1]:
            yield f"{name} fails: {done.stderr.strip()[:200]}"
        elif statuses[1][1] and "debug" not in name:
            yield from (f"after {name}: {fault}" for fault in _stripped_faults(after, scratch / "new"))


def _stripped_faults(patched: Path, stripped: Path) -> Iterator[str]:
    """What the loader reads must be the same in the stripped file as before it was stripped."""
    one, other = (_plain(tool("readelf", "-W", "-d", path).stdout) for path in (patched, stripped))
    names = re.compile(r"\((?:NEEDED|RPATH|RUNPATH|SONAME|FLAGS_1)\).*")
    if names.findall(one) != names.findall(other):
        yield "the dynamic section reads differently"
    one, other = (_plain(tool("readelf", "-W", "-l", path).stdout) for path in (patched, stripped))
    interpreter = re.compile(r"interpreter: .*")
    if interpreter.findall(one) != interpreter.findall(other):
        yield "the interpreter reads differently"


def run(path: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    done = tool(path, *arguments, LD_BIND_NOW="1", **environment)
    return done.returncode, done.stdout, done.stderr.replace(str(path), "PROGRAM")


def _plain(text: str) -> str:
    """Without what may change: section numbers, offsets, file names, and where libcap's interpreter is."""
    text = re.sub(r"^.*__execable_dl_loader.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"^File: .*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\[ *\d+\]|\bentry \d+", "[N]", text)
    return re.sub(r"(?:at offset |Offset: |offset )?0x[0-9a-f]+", "0x", text)


MOVABLE: Sequence[str] = (
    ".interp",
    ".dynstr",
    ".dynamic",
    ".dynsym",
    ".hash",
    ".gnu.hash",
    ".gnu.version",
    ".gnu.version_d",
    ".gnu.version_r",
)
CHANGING: Sequence[str] = (".got", ".got.plt", ".symtab")
"""Version needs are renamed; the first word of the GOT follows a dynamic section that moved."""

STRIPPERS: dict[str, Sequence[str]] = {
    "strip": ("strip", "-o", "{out}", "{path}"),
    "eu-strip": ("eu-strip", "-o", "{out}", "{path}"),
    "objcopy": ("objcopy", "{path}", "{out}"),
    "objcopy --only-keep-debug": ("objcopy", "--only-keep-debug", "{path}", "{out}"),
}
