from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiohttp import web

from mlenv_operator.kube.client import Client
from mlenv_operator.kube.transport import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Requests:
    """Counts like the metrics do."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def requested(self, verb: str, resource: str, code: int, seconds: float) -> None:
        assert seconds >= 0
        self.seen.append((verb, resource, code))


class FakeServer:
    """An HTTP server that answers with what a test gives it, in turn, and remembers what was asked."""

    def __init__(self) -> None:
        self.answers: list[Handler | web.Response] = []
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""
        self.metrics = Requests()

    def answer(self, body: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else orjson.dumps(body if body is not None else {})
        self.answers.append(web.Response(body=data, status=status, headers=headers))

    def status(self, code: int, reason: str = "", message: str = "no", **details: Any) -> None:
        body = {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}
        self.answer(body, code)

    def stream(self, *chunks: bytes) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for chunk in chunks:
                await response.write(chunk)
            return response

        self.answers.append(handler)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        data = orjson.loads(body) if body else None
        self.asked.append((request.method, request.path, dict(request.query), data))
        self.headers.append(dict(request.headers))
        answer = self.answers.pop(0)
        return answer if isinstance(answer, web.Response) else await answer(request)


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    runner = web.ServerRunner(web.Server(fake.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    fake.url = f"http://{host}:{port}"
    yield fake
    await runner.cleanup()


class Gate:
    """A gate that a test opens and shuts."""

    def __init__(self) -> None:
        self.window = 60.0

    def __call__(self) -> float:
        return self.window


@pytest.fixture
def gate() -> Gate:
    return Gate()


def kubeconfig(folder: Path, url: str, **user: Any) -> str:
    path = folder / "kubeconfig"
    config = {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_bytes(orjson.dumps(config))
    return str(path)


@asynccontextmanager
async def connected(
    server: FakeServer, gate: Gate, folder: Path, timeout_s: float = 5
) -> AsyncIterator[Client]:
    async with connect(
        user_agent="mlenv-operator/test",
        kubeconfig=kubeconfig(folder, server.url, token="secret"),
        timeout_s=timeout_s,
        metrics=server.metrics,
    ) as transport:
        yield Client(transport, gate)


@pytest.fixture
async def client(server: FakeServer, gate: Gate, tmp_path: Path) -> AsyncIterator[Client]:
    async with connected(server, gate, tmp_path) as one:
        yield one


@pytest.fixture
async def hasty_client(server: FakeServer, gate: Gate, tmp_path: Path) -> AsyncIterator[Client]:
    """Its requests end after a tenth of a second."""
    async with connected(server, gate, tmp_path, timeout_s=0.1) as one:
        yield one


@pytest.fixture
async def unreachable_client(gate: Gate, tmp_path: Path) -> AsyncIterator[Client]:
    """Nobody listens where it looks."""
    nobody = FakeServer()
    nobody.url = "http://127.0.0.1:1"
    async with connected(nobody, gate, tmp_path) as one:
        yield one
