"""Make the roots of locked packages whose files the tests patch.

    python tests/elf/corpus_root.py            print where the corpus lies, unpacked if it is not there yet
    python tests/elf/corpus_root.py --lock     pin what the archive has now

The corpus has about a thousand programs and all libraries that they need; a small root has programs that
compilers of other languages made.  Both lie below the cache that builds use.
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
CORPUS, LANGUAGES = HERE / "corpus.lock", HERE / "languages.lock"
LINKS = (("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"))
OTHER_LANGUAGES = ("age", "fd-find", "fzf", "ripgrep", "shfmt")
PACKAGES = (
    *("base-files", "bash", "coreutils", "util-linux", "util-linux-extra", "bsdutils", "bsdextrautils"),
    *(
        "binutils",
        "gcc",
        "g++",
        "gdb",
        "elfutils",
        "clang",
        "lld",
        "make",
        "cmake",
        "ninja-build",
        "patchelf",
    ),
    *("procps", "psmisc", "findutils", "diffutils", "grep", "sed", "gawk", "mawk", "tar", "gzip", "bzip2"),
    *("xz-utils", "zstd", "lz4", "brotli", "cpio", "file", "less", "vim", "nano", "git", "subversion"),
    *(
        "mercurial",
        "curl",
        "wget",
        "rsync",
        "openssh-client",
        "openssl",
        "gnupg",
        "dirmngr",
        "bind9-dnsutils",
    ),
    *("iproute2", "iputils-ping", "nftables", "iptables", "tcpdump", "nmap", "socat", "netcat-openbsd"),
    *("e2fsprogs", "xfsprogs", "btrfs-progs", "dosfstools", "squashfs-tools", "cryptsetup-bin", "lvm2"),
    *("mdadm", "parted", "gdisk", "acl", "attr", "libcap2-bin", "strace", "ltrace", "kmod", "systemd"),
    *("python3", "perl", "ruby", "tcl", "lua5.4", "php-cli", "nodejs", "guile-3.0"),
    *("sqlite3", "postgresql-client", "mariadb-client", "redis-tools", "imagemagick", "graphviz"),
    *("ghostscript", "poppler-utils", "libtiff-tools", "libjpeg-turbo-progs", "webp", "ffmpeg", "sox"),
    *("netpbm", "texlive-binaries", "groff", "samba-common-bin", "smbclient", "nfs-common", "krb5-user"),
    *("ldap-utils", "bison", "flex", "gettext", "autogen", "indent", "universal-ctags", "cscope", "jq"),
    *("libc-bin", "locales", "libxt6t64"),
)


def main() -> int:
    cache = cache_directory()
    if sys.argv[1:] == ["--lock"]:
        architecture = ARCHITECTURES["x86_64"]
        archive = open_archive(SUITE, architecture, cache / "debian" / SUITE)
        for path, packages in ((CORPUS, PACKAGES), (LANGUAGES, OTHER_LANGUAGES)):
            path.write_text(format_lock(refresh(archive, architecture, packages, close_over=True)))
        return 0
    print(unpacked(CORPUS, cache))
    return 0


def unpacked(path: Path, cache: Path) -> Path:
    """The root of the packages that a lock file names, unpacked if it is not there yet."""
    lock = read_lock(path)
    fetcher = Fetcher(cache)
    files = fetcher.fetch_all(
        [Source(urls=(f"debian:{p.path}",), digest=p.digest, unpack="none") for p in lock.packages]
    )
    return make_buildroot(Store(cache), lock, files, LINKS)


if __name__ == "__main__":
    sys.exit(main())
