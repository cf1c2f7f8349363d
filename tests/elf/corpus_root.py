"""Make the root of locked packages whose files the corpus tests patch.

    python tests/elf/corpus_root.py            print where it lies, unpacked if it is not there yet
    python tests/elf/corpus_root.py --lock     pin what the archive has now

About a thousand programs and all libraries that they need, below the cache that builds use.
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
LOCK = HERE / "corpus.lock"
LINKS = (("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"))
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
        LOCK.write_text(format_lock(refresh(archive, architecture, PACKAGES, close_over=True)))
        return 0
    lock = read_lock(LOCK)
    fetcher = Fetcher(cache)
    files = fetcher.fetch_all(
        [Source(urls=(f"debian:{p.path}",), digest=p.digest, unpack="none") for p in lock.packages]
    )
    print(make_buildroot(Store(cache), lock, files, LINKS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
