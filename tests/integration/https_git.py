"""A server of git repositories over https, with a certificate authority that nobody knows.

What serves is git's own http-backend, called as the CGI program that it is.
"""

from __future__ import annotations

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mounted import Mounted

CERTIFICATES = """
cd /w
key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
openssl req -x509 $key -keyout ca.key -out ca.pem -subj "/CN=An authority of tests" 2>/w/openssl.log
openssl req -x509 $key -keyout server.key -out server.pem -subj "/CN=server" -CA ca.pem -CAkey ca.key \
    -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:false 2>/w/openssl.log
"""


@contextmanager
def https_git(there: Mounted) -> Iterator[str]:
    """Serve the repositories below /w/served; gives the URL of their directory.  The CA is /w/ca.pem."""
    there.bash(CERTIFICATES)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            length = int(self.headers.get("Content-Length", 0))
            variables = {
                "GIT_PROJECT_ROOT": "/w/served",
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_USER": "tester",
                "REMOTE_ADDR": "127.0.0.1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(length),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            }
            words = [f"{name}={value}" for name, value in variables.items()]
            git = there.path("gitartifact", "bin/git")
            answer = subprocess.run(
                [*there.words(), there.path("base", "bin/env"), *words, git, "http-backend"],
                input=self.rfile.read(length),
                capture_output=True,
                check=False,
            )
            head, _, body = answer.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
            self.send_response(int(fields.pop("Status", "200").split()[0]))
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *words: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, address: object) -> None:
            """A client that does not trust us hangs up: that is what it should do."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(there.work / "server.pem", there.work / "server.key")
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def bare(there: Mounted, name: str) -> Path:
    """Make an empty repository that takes pushes."""
    there.bash(
        f"git init -q --bare -b main /w/served/{name}; git -C /w/served/{name} config http.receivepack true"
    )
    return there.work / "served" / name
