"""A podman of our own: private storage, and settings with which it runs on any test machine."""

from __future__ import annotations

import resource
import shutil
import tempfile
from pathlib import Path

from bundler.process import BASE_ENVIRONMENT, Completed, find_tool, run


class PrivatePodman:
    """Storage below a directory of its own, as root, without a network; gone when the context closes."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="podman-"))
        self.environment = {
            **BASE_ENVIRONMENT,
            "HOME": str(self.directory),
            "CONTAINERS_CONF": str(self.directory / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"),
        }

    def __enter__(self) -> PrivatePodman:
        # podman asks for its own limits, which a machine without CAP_SYS_RESOURCE refuses to raise; crun
        # refuses to start where both versions of control groups are mounted.
        limits = [
            f'"{name}={min(4096, resource.getrlimit(number)[1])}:{min(4096, resource.getrlimit(number)[1])}"'
            for name, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))
        ]
        runtime = "runc" if shutil.which("runc") else "crun"
        (self.directory / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = [{", ".join(limits)}]\nnetns = "none"\n'
            f'[engine]\ncgroup_manager = "cgroupfs"\nruntime = "{runtime}"\n'
            'events_logger = "file"\n'
        )
        (self.directory / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{self.directory}/root"\n'
            f'runroot = "{self.directory}/run"\n'
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.try_podman("rm", "--all", "--force", "--time=0")
        run([find_tool("umount"), "--lazy", f"{self.directory}/root/overlay"])
        shutil.rmtree(self.directory, ignore_errors=True)

    def try_podman(self, *words: str) -> Completed:
        return run([find_tool("podman"), *words], environment=self.environment)

    def podman(self, *words: str) -> str:
        """Run podman and return what it printed, without the blanks around it."""
        done = self.try_podman(*words)
        if not done.ok:
            raise RuntimeError(f"podman {' '.join(words)}: {done.stderr.decode('utf-8', 'replace')}")
        return done.stdout.decode("utf-8", "replace").strip()
