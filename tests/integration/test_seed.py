"""What the seed toolchain cannot do, and says so."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bundler.settings import cache_directory

CHECKOUT = Path(__file__).parents[2]


def test_a_root_that_is_too_long_is_refused(tmp_path: Path) -> None:
    words = ["--cache", str(cache_directory()), "--out", str(tmp_path), "--progress", "none"]
    done = subprocess.run(
        [str(CHECKOUT / ".venv/bin/bundle"), "build", "runtime", "--root", "/.much-longer", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (2, 3), done.stderr
    assert "cannot take the place of" in done.stderr and "Traceback" not in done.stderr
