"""A registry of our own: Debian's docker-registry on the loopback device, gone with its context."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from bundler.process import BASE_ENVIRONMENT, find_tool


class RegistryServer:
    """``host`` is ``127.0.0.1:PORT``; with ``htpasswd`` (a file's text) it asks for a password."""

    def __init__(self, directory: Path, htpasswd: str | None = None) -> None:
        self._directory = directory
        self._htpasswd = htpasswd
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RegistryServer:
        self._directory.mkdir(parents=True, exist_ok=True)
        config: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": f"{self._directory}/data"}},
            "http": {"addr": self.host},
        }
        if self._htpasswd is not None:
            (self._directory / "htpasswd").write_text(self._htpasswd)
            config["auth"] = {"htpasswd": {"realm": "test", "path": f"{self._directory}/htpasswd"}}
        file = self._directory / "config.yml"
        file.write_text(json.dumps(config))  # JSON is YAML, too
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [find_tool("docker-registry"), "serve", str(file)],
                env=BASE_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError((self._directory / "log").read_text())
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://{self.host}/v2/", timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code == 401
        except OSError:
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)


class DroppingProxy:
    """Passes connections on to ``target`` and breaks the first ones off, each after so many bytes.

    Counted are bytes towards the server, or with ``answers`` those from it.
    """

    def __init__(self, target: str, breaks: list[int], *, answers: bool = False) -> None:
        self._target = target
        self._breaks = list(breaks)
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.dropped = 0
        self.passed = 0

    def __enter__(self) -> DroppingProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        host, _, port = self._target.rpartition(":")
        with client, socket.create_connection((host, int(port))) as server:
            back = threading.Thread(target=self._pass, args=(server, client, self._answers), daemon=True)
            back.start()
            self._pass(client, server, not self._answers)
            back.join()

    def _pass(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        done = 0
        try:
            while data := source.recv(1 << 16):
                done += len(data)
                if counted:
                    self.passed += len(data)
                if counted and self._breaks and done > self._breaks[0]:
                    self._breaks.pop(0)
                    self.dropped += 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
