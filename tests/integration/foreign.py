"""Root file systems that bundles are used in: made from packages, since no image can be pulled.

``scratch`` is empty; ``musl`` has busybox linked to musl, as Alpine has it; ``debian`` is a minimal
Debian of the machine's own release.  Each is kept as a tar file in the cache.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bundler.debian import mirrors
from bundler.process import BASE_ENVIRONMENT, find_tool
from bundler.settings import cache_directory

NAMES = ("scratch", "musl", "debian")
VERSION = 1
"""Raise it when a recipe below changes: roots of another version are made anew."""

PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"

BUSYBOX_BUILD = r"""
cc="musl-gcc -isystem $PWD/kernel-headers"
make HOSTCC=gcc CC="$cc" defconfig
# The kernel's headers have outgrown this applet.
sed -i 's/^CONFIG_TC=y/# CONFIG_TC is not set/' .config
yes '' | make HOSTCC=gcc CC="$cc" oldconfig
make -j"$(nproc)" HOSTCC=gcc CC="$cc" busybox
"""


def archive(name: str) -> Path:
    """The tar file of the foreign root ``name``, made now if the cache has none."""
    directory = cache_directory() / "test-roots"
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / f"{name}-{VERSION}.tar"
    with (directory / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.exists():
            with _scratch_directory() as work:
                root = work / "root"
                root.mkdir()
                _MAKERS[name](root, work)
                partial = final.with_suffix(".part")
                _call(["tar", "--numeric-owner", "--xattrs", "-C", str(root), "-cf", str(partial), "."])
                partial.rename(final)
    return final


def shown(root: Path | None, *but: str) -> list[str]:
    """bwrap's words that show what lies in ``root``, ``but`` for some names, read-only; none without one."""
    words: list[str] = []
    for entry in sorted(root.iterdir()) if root else ():
        if entry.is_symlink():
            words += ["--symlink", str(entry.readlink()), f"/{entry.name}"]
        elif entry.name not in but:
            words += ["--ro-bind", str(entry), f"/{entry.name}"]
    return words


def unpack(name: str, root: Path) -> Path:
    """Lay the foreign root ``name`` down at ``root``, which must not exist."""
    root.mkdir(parents=True)
    _call(["tar", "--numeric-owner", "--xattrs", "-C", str(root), "-xpf", str(archive(name))])
    return root


def _make_scratch(root: Path, work: Path) -> None:
    root.chmod(0o755)


def _make_musl(root: Path, work: Path) -> None:
    busybox = _build_busybox(work)
    for directory in (
        "bin",
        "sbin",
        "usr/bin",
        "usr/sbin",
        "lib",
        "etc",
        "root",
        "proc",
        "sys",
        "dev",
        "tmp",
    ):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy(busybox, root / "bin/busybox")
    libc = Path("/usr/lib/x86_64-linux-musl/libc.so").resolve()
    shutil.copy(libc, root / "lib/ld-musl-x86_64.so.1")
    (root / "lib/libc.musl-x86_64.so.1").symlink_to("ld-musl-x86_64.so.1")
    (root / "etc/passwd").write_text(PASSWD)
    (root / "etc/group").write_text(GROUP)
    applets = _call(["chroot", str(root), "/bin/busybox", "--list-full"]).split()
    for applet in applets:
        if not (root / applet).exists():
            (root / applet).symlink_to("/bin/busybox")


def _build_busybox(work: Path) -> Path:
    _call_with_sources(work, ["source", "--download-only", "busybox"])
    (tarball,) = work.glob("busybox_*.orig.tar.*")
    (work / "unpacked").mkdir()
    _call(["tar", "-C", str(work / "unpacked"), "--no-same-owner", "-xf", str(tarball)])
    (source,) = (work / "unpacked").iterdir()
    headers = source / "kernel-headers"
    headers.mkdir()
    for name, place in (("linux", ""), ("asm-generic", ""), ("mtd", ""), ("asm", "x86_64-linux-gnu/")):
        (headers / name).symlink_to(f"/usr/include/{place}{name}")
    # A namespace of its own: a foreign Makefile has no business with the machine's files as root.
    sandbox = [find_tool("bwrap", package="bubblewrap"), "--unshare-all", "--die-with-parent"]
    sandbox += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    sandbox += ["--bind", str(source), "/mnt", "--chdir", "/mnt"]
    _call([*sandbox, "sh", "-euc", BUSYBOX_BUILD])
    return source / "busybox"


def _call_with_sources(work: Path, words: list[str]) -> None:
    """Run apt-get with the machine's archives as source archives, in lists of its own."""
    parts, lists = work / "sources", work / "lists"
    parts.mkdir()
    (lists / "partial").mkdir(parents=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    suite = _release()
    (parts / "private.sources").write_text(
        "".join(
            f"Types: deb-src\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {keyring}\n\n"
            for uri in mirrors()
            if not uri.endswith("-security")
        )
    )
    options = [
        f"Dir::State::Lists={lists}",
        "Dir::Etc::SourceList=/dev/null",
        f"Dir::Etc::SourceParts={parts}",
    ]
    options += [f"Dir::Cache={work}/cache", "APT::Sandbox::User=root"]
    command = ["apt-get", "-q", *(part for option in options for part in ("-o", option))]
    _call([*command, "update"], work)
    _call([*command, *words], work)


def _make_debian(root: Path, work: Path) -> None:
    mirror = next(uri for uri in mirrors() if not uri.endswith("-security"))
    tool = find_tool("debootstrap")
    _call([tool, "--variant=minbase", "--merged-usr", _release(), str(root), mirror])
    for leftover in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(root / leftover, ignore_errors=True)
    # The machine's names and devices are its own.
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/hostname").unlink(missing_ok=True)
    for device in (root / "dev").iterdir():
        shutil.rmtree(device) if device.is_dir() and not device.is_symlink() else device.unlink()


def _release() -> str:
    text = Path("/etc/os-release").read_text()
    names = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return names["VERSION_CODENAME"].strip('"')


_MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "scratch": _make_scratch,
    "musl": _make_musl,
    "debian": _make_debian,
}


@contextmanager
def _scratch_directory() -> Iterator[Path]:
    work = Path(tempfile.mkdtemp(prefix="foreign-"))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _call(argv: list[str], directory: Path | None = None) -> str:
    # Proxy settings and certificates of the machine: what downloads cannot do without them.
    passed = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    done = subprocess.run(
        argv,
        cwd=directory,
        env={**BASE_ENVIRONMENT, **passed, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)[:300]}: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout
