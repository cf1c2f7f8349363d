"""The machine that a bundle is for, and where its prefixes lie."""

from __future__ import annotations

from dataclasses import dataclass

from bundler.errors import InputError

DEFAULT_ROOT = "/.deps"


@dataclass(frozen=True, slots=True)
class Architecture:
    """One processor in the words of those who name it differently."""

    name: str
    """As the kernel's ``uname -m``."""
    debian: str
    oci: str
    triplet: str
    loader: str
    """File name of glibc's program interpreter."""
    elf_machine: int
    """``e_machine``, from the ELF specification's registry."""
    elf_class: int = 64
    page_size: int = 4096
    """The largest page size that a kernel for it may have, in bytes."""


ARCHITECTURES = {
    architecture.name: architecture
    for architecture in (
        Architecture("x86_64", "amd64", "amd64", "x86_64-linux-gnu", "ld-linux-x86-64.so.2", 62),
        Architecture(
            "aarch64", "arm64", "arm64", "aarch64-linux-gnu", "ld-linux-aarch64.so.1", 183, page_size=65536
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Target:
    """An architecture and the root below which every bundle has its prefix."""

    architecture: Architecture
    root: str = DEFAULT_ROOT

    def prefix(self, short: str, compat: int) -> str:
        """The directory that a bundle owns, as in ``/.deps/shell/1``."""
        return f"{self.root}/{short}/{compat}"


def parse_target(name: str = "x86_64", root: str = DEFAULT_ROOT) -> Target:
    """Look the architecture up and check the root; raises InputError."""
    if name not in ARCHITECTURES:
        raise InputError(f"unknown architecture {name!r}", hint="one of " + ", ".join(sorted(ARCHITECTURES)))
    parts = root.split("/")
    if parts[0] or len(parts) < 2 or any(part in ("", ".", "..") for part in parts[1:]):
        raise InputError(f"the root {root!r} is not a plain absolute path", hint=f"as in {DEFAULT_ROOT}")
    return Target(ARCHITECTURES[name], root)
