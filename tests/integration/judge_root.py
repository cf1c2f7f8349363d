"""The root of locked packages with a skopeo that judges signatures: Debian 12's was built without them.

python tests/integration/judge_root.py           print where it lies, unpacked if it is not there yet
python tests/integration/judge_root.py --lock    pin what the archive has now
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1]))

from bundler.buildroot import make_buildroot  # noqa: E402
from bundler.debian import open_archive, refresh  # noqa: E402
from bundler.fetch import Fetcher  # noqa: E402
from bundler.lock_file import format_lock, read_lock  # noqa: E402
from bundler.recipe import Source  # noqa: E402
from bundler.settings import cache_directory  # noqa: E402
from bundler.store import Store  # noqa: E402
from bundler.target import ARCHITECTURES  # noqa: E402

SUITE = "trixie"
LOCK = HERE / "judge.lock"
LINKS = (("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"))
PACKAGES = ("skopeo", "libc6", "libgpgme11t64", "libassuan9", "libgpg-error0", "libsqlite3-0")
"""skopeo and the libraries that it loads."""


def lock() -> None:
    """Pin what the archive has now."""
    architecture = ARCHITECTURES["x86_64"]
    archive = open_archive(SUITE, architecture, cache_directory() / "debian" / SUITE)
    LOCK.write_text(format_lock(refresh(archive, architecture, PACKAGES, close_over=False)))


def skopeo() -> list[str]:
    """The command, up to its first argument."""
    root = make()
    libraries = f"{root}/usr/lib/x86_64-linux-gnu"
    return [f"{libraries}/ld-linux-x86-64.so.2", "--library-path", libraries, f"{root}/usr/bin/skopeo"]


def make() -> Path:
    """The root, from the cache that builds use."""
    cache, found = cache_directory(), read_lock(LOCK)
    sources = [Source(urls=(f"debian:{p.path}",), digest=p.digest, unpack="none") for p in found.packages]
    return make_buildroot(Store(cache), found, Fetcher(cache).fetch_all(sources), LINKS)


if __name__ == "__main__":
    if sys.argv[1:] == ["--lock"]:
        lock()
    else:
        print(make())
