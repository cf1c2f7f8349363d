"""A Docker daemon of our own: private socket, private data, gone with the session that started it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from bundler.process import BASE_ENVIRONMENT, Completed, find_tool, run

START_SECONDS = 60.0
STOP_SECONDS = 4.0


class Dockerd:
    """Runs ``dockerd`` as root while the context is open.

    It has neither bridge nor packet filter, so that it disturbs nothing on the machine: containers have
    the loopback device alone, or the host's network where they ask for it.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dockerd-"))
        self.host = f"unix://{self.directory}/socket"
        self.log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to find it."""
        return {**BASE_ENVIRONMENT, "DOCKER_HOST": self.host, "HOME": str(self.directory)}

    def __enter__(self) -> Dockerd:
        where = self.directory
        argv = [
            # The daemon must not outlive a killed session: the kernel sees to that.
            *(find_tool("setpriv"), "--pdeathsig", "TERM", find_tool("dockerd", package="docker.io")),
            *("--host", self.host, "--data-root", f"{where}/data", "--exec-root", f"{where}/exec"),
            *("--pidfile", f"{where}/pid", "--bridge=none", "--iptables=false", "--ip6tables=false"),
            *("--ip-forward=false", "--ip-masq=false"),
        ]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                argv,
                env=BASE_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS
        while not self.try_docker("version").ok:
            if self._process.poll() is not None or time.monotonic() > end:
                tail = self.log.read_text("utf-8", "replace")[-3000:]
                self.__exit__(None, None, None)
                raise RuntimeError(f"dockerd did not start:\n{tail}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                # It waits for connections that nobody closes; nothing of it is to be kept.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for mount in sorted(_mounts_below(self.directory), reverse=True):
            run([find_tool("umount"), "--lazy", mount])
        shutil.rmtree(self.directory, ignore_errors=True)

    def try_docker(self, *words: str, stdin: bytes | None = None, **environment: str) -> Completed:
        """Run the docker client to its end, whatever its status."""
        return run([docker_client(), *words], environment={**self.environment, **environment}, stdin=stdin)

    def docker(self, *words: str, stdin: bytes | None = None, **environment: str) -> str:
        """Run the docker client and return what it printed, without the blanks around it."""
        done = self.try_docker(*words, stdin=stdin, **environment)
        if not done.ok:
            raise RuntimeError(f"docker {' '.join(words)}: {done.stderr.decode('utf-8', 'replace')}")
        return done.stdout.decode("utf-8", "replace").strip()


def docker_client() -> str:
    """The client that belongs to the daemon: the distribution's, where another one comes first on PATH."""
    packaged = "/usr/bin/docker"
    return packaged if os.access(packaged, os.X_OK) else find_tool("docker", package="docker.io")


def _mounts_below(directory: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text("utf-8", "surrogateescape").splitlines()
    points = (line.split()[1] for line in lines)
    return [point for point in points if point.startswith(f"{directory}/")]
