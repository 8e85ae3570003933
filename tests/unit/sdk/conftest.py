"""A small HTTP server that speaks as much of the API server's language as the SDK needs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from mlenv_sdk import Client

if TYPE_CHECKING:
    from pathlib import Path

JOBS = "/apis/mlenv.io/v1alpha1/namespaces/team/trainingjobs"


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    body: Any
    headers: dict[str, str]


@dataclass
class Answer:
    body: Any = field(default_factory=dict)
    code: int = 200
    chunks: tuple[bytes, ...] | None = None
    """Streamed one by one; then the connection is closed."""
    cut: bool = False
    """Closes a stream without its end, as a broken connection does."""


Script = Callable[[Request], Answer]


class Server:
    """Answers by ``script``, and remembers every request."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.script: Script = lambda _: Answer()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def answers(self, *answers: Answer) -> None:
        """Gives these answers in turn."""
        left = list(answers)
        self.script = lambda _: left.pop(0)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                request = Request(self.command, parts.path, query, body, dict(self.headers))
                outer.requests.append(request)
                answer = outer.script(request)
                with suppress(ConnectionError):  # who asked may have gone
                    send(self, answer)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Says nothing."""

        return Handler


def send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
    handler.send_response(answer.code)
    if answer.chunks is None:
        data = answer.body.encode() if isinstance(answer.body, str) else json.dumps(answer.body).encode()
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)
        return
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for chunk in answer.chunks:
        handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        handler.wfile.flush()
    if not answer.cut:
        handler.wfile.write(b"0\r\n\r\n")
    handler.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def kubeconfig(server: Server, tmp_path: Path) -> Path:
    return write_kubeconfig(tmp_path / "kubeconfig", server.url)


@pytest.fixture
def client(kubeconfig: Path) -> Iterator[Client]:
    with Client(kubeconfig) as client:
        yield client


def write_kubeconfig(path: Path, url: str) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "sesame"}}],
        "contexts": [
            {"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
            {"name": "two", "context": {"cluster": "c", "user": "u"}},
        ],
        "current-context": "one",
    }
    path.write_text(yaml.safe_dump(content))
    return path


def job(name: str = "ranker", version: int = 1, **status: Any) -> dict[str, Any]:
    """A job as the server stores it."""
    return {
        "apiVersion": "mlenv.io/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "creationTimestamp": "2026-01-01T12:00:00Z",
        },
        "spec": {
            "environmentRef": {"name": "torch"},
            "trainer": {"command": ["train.py"], "args": ["--epochs", "3"], "numNodes": 2},
        },
        "status": status,
    }


def condition(kind: str, message: str = "", status: str = "True") -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": "Reason",
        "message": message,
        "lastTransitionTime": "2026-01-01T12:00:30Z",
    }


def complete(version: int = 9) -> dict[str, Any]:
    return job(version=version, phase="Complete", conditions=[condition("Complete", "All done.")])


def failed(version: int = 9) -> dict[str, Any]:
    return job(
        version=version, phase="Failed", conditions=[condition("Failed", "Rank 1 exited with code 3.")]
    )


def event(kind: str, body: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": body}).encode() + b"\n"
