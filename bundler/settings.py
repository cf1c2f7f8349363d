"""Where things are and how to work, as the command line and the environment say it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bundler.target import Target


@dataclass(frozen=True, slots=True)
class Settings:
    """``recipes`` and ``images`` are directories, of which the earlier hide the later."""

    cache: Path
    recipes: tuple[Path, ...]
    images: tuple[Path, ...]
    toolchains: Path
    toolchain: str
    target: Target
    out: Path
    jobs: int
    offline: bool = False
    keep_failed: bool = False
    debug_shell: bool = False
    sandbox: str = "auto"
    """``bubblewrap``, ``docker``, or ``auto``: the first that works here."""
    cache_from: tuple[str, ...] = ()
    """Repositories of registries to take from what other machines built."""
    cache_to: tuple[str, ...] = ()
    """Repositories to store it in for them."""


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """``BUNDLE_CACHE``, else ``$XDG_CACHE_HOME/bundle``, else ``~/.cache/bundle``."""
    if named := environment.get("BUNDLE_CACHE"):
        return Path(named).absolute()
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "bundle"
