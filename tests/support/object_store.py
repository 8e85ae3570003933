"""A real S3 server for tests, built from the Go module proxy once, and a proxy before it that makes it fail.

The server is versitygw (Apache-2.0): a test tool, never shipped. It keeps objects as files of a folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
from crowd.ports import free_port

from mlenv_local.binaries import cache_folder
from mlenv_local.errors import LocalError
from mlenv_local.progress import Reporter
from mlenv_local.toolchain import find_go

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCES = Path(__file__).parent / "s3"
PACKAGE = "github.com/versity/versitygw/cmd/versitygw"
DEADLINE = 300.0


def program() -> Path:
    """The server's program, built on first use (about a minute); skips where it cannot be."""
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in sorted(SOURCES.iterdir()))).hexdigest()[:16]
    target = cache_folder() / "bin" / f"versitygw-{digest}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            try:
                _build(target)
            except (LocalError, OSError, subprocess.CalledProcessError) as error:
                said = getattr(error, "stderr", None) or error
                pytest.skip(f"no S3 server: it could not be built ({said})")
    return target


def _build(target: Path) -> None:
    go = find_go(cache_folder(), Reporter())
    draft = target.with_suffix(".draft")
    command = [go, "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", draft, PACKAGE]
    env = {**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}
    subprocess.run(command, check=True, cwd=SOURCES, env=env, capture_output=True, text=True)
    draft.rename(target)


class Server:
    """A running S3 server, whose objects are the files below `folder`."""

    KEY, SECRET = "tester", "a-secret-of-tests"

    def __init__(self, home: Path) -> None:
        self.folder = home / "buckets"
        for folder in (self.folder, home / "meta"):
            folder.mkdir(parents=True)
        self._log = home / "log"
        command = [program(), "--port", "127.0.0.1:0", "--access", self.KEY, "--secret", self.SECRET]
        backend = ["posix", "--sidecar", home / "meta", self.folder]
        self.port = free_port()
        command[2] = f"127.0.0.1:{self.port}"
        with self._log.open("w") as log:
            self._process = subprocess.Popen([*command, *backend], stdout=log, stderr=log)
        self._wait()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + DEADLINE
        while True:
            try:
                connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/")
                connection.getresponse().read()
            except (OSError, HTTPException):
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < deadline, self._log.read_text()
                time.sleep(0.02)
            else:
                return


@dataclass
class Faults:
    """What goes wrong with reads of objects; each fault is used up by the requests that it hits."""

    errors: int = 0
    """How many requests get 503."""
    truncations: int = 0
    """How many answers stop in their middle."""
    path: str = ""
    """Only requests whose path matches this expression."""
    requests: list[tuple[str, str]] = field(default_factory=list)
    """(path, range) of every GET."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, path: str, ranged: str) -> str:
        with self.lock:
            self.requests.append((path, ranged))
            if not re.search(self.path, path):
                return ""
            if self.errors:
                self.errors -= 1
                return "error"
            if self.truncations:
                self.truncations -= 1
                return "truncate"
            return ""


class Proxy:
    """Forwards to the server, with faults."""

    def __init__(self, server: Server) -> None:
        self.faults = Faults()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server.port, lambda: self.faults))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def storage(self) -> dict[str, Any]:
        """What fsspec needs to reach it."""
        # Without botocore's own attempts, so that faults reach what is tested; s3fs' five remain.
        once = {"retries": {"max_attempts": 0}}
        return {"key": Server.KEY, "secret": Server.SECRET, "endpoint_url": self.url, "config_kwargs": once}

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _handler(port: int, faults: Callable[[], Faults]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            what = faults().next(self.path, self.headers.get("Range", "")) if self.command == "GET" else ""
            if what == "error":
                self.send_error(503)
                return
            backend = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
            backend.request(self.command, self.path, body, dict(self.headers.items()))
            answer = backend.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("date", "server", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            if answer.getheader("Content-Length") is None:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if what == "truncate" else data)
            self.close_connection = self.close_connection or what == "truncate"

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815  (http.server's names)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            del format, args

    return Handler


if __name__ == "__main__":
    sys.stdout.write(f"{program()}\n")
