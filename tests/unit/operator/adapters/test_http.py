from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from mlenv_api.protocol import MAX_BEAT_BYTES, Answer, Beat, Misdirected
from mlenv_operator.adapters.http import Beats, NotReadyError, Pages, build_app, serve
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.adapters.tokens import NotOursError, PodIdentity, ReviewDelayedError, TokenError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

POD = PodIdentity("ns", "job-0-0", "uid", "default")
BEAT = {"protocol": 1, "time": "2030-01-01T00:00:00Z", "attempt": 1}


class World:
    """The authenticator and the handler, as a test wants them."""

    def __init__(self) -> None:
        self.elsewhere: Misdirected | None = None
        self.error: Exception | None = None
        self.token_error: Exception | None = None
        self.heard: list[tuple[str, Beat]] = []
        self.loses_the_lease_meanwhile = False

    async def authenticate(self, token: str) -> PodIdentity:
        if self.token_error is not None:
            raise self.token_error
        assert token == "good"
        return POD

    def misdirected(self) -> Misdirected | None:
        return self.elsewhere

    async def beat(self, pod: PodIdentity, beat: Beat) -> Answer:
        self.heard.append((pod.pod_name, beat))
        if self.loses_the_lease_meanwhile:
            self.elsewhere = Misdirected(leader="http://b:8080")
        if self.error is not None:
            raise self.error
        return Answer(term=3, attempt=1)


class Site:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.url + path) as response:
            return response.status, await response.text()

    async def beat(self, body: Any = BEAT, token: str | None = "Bearer good") -> tuple[int, Any, Any]:
        headers = {} if token is None else {"Authorization": token}
        kind = {"data": body} if isinstance(body, bytes) else {"json": body}
        async with self.session.post(f"{self.url}/v1/beat", headers=headers, **kind) as response:
            return response.status, await response.json(), response.headers


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def problems() -> dict[str, str | None]:
    return {"health": None, "ready": None}


@pytest.fixture
async def site(world: World, metrics: Metrics, problems: dict[str, str | None]) -> AsyncIterator[Site]:
    pages = Pages(metrics, [lambda: problems["health"]], [lambda: problems["ready"]])
    app = build_app(pages, Beats(world, world, metrics))
    async with serve(app, "127.0.0.1", 0) as port, aiohttp.ClientSession() as session:
        yield Site(session, f"http://127.0.0.1:{port}")


def counted(metrics: Metrics, result: str) -> float | None:
    return metrics.registry.get_sample_value("mlenv_operator_beats_total", {"result": result})


async def test_a_beat_is_answered(site: Site, world: World, metrics: Metrics) -> None:
    status, answer, headers = await site.beat()
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    assert answer["term"] == 3
    assert answer["order"] == "run"
    assert "world" not in answer
    assert world.heard[0][0] == "job-0-0"
    assert world.heard[0][1].attempt == 1
    assert counted(metrics, "answered") == 1


async def test_fields_of_a_newer_launcher_are_ignored(site: Site) -> None:
    assert (await site.beat(BEAT | {"news": {"x": 1}}))[0] == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TokenError("forged"), 401),
        (NotOursError("dead"), 403),
        (ReviewDelayedError("busy", 5.0), 503),
    ],
)
async def test_tokens_that_do_not_pass(site: Site, world: World, error: Exception, status: int) -> None:
    world.token_error = error
    got, body, headers = await site.beat()
    assert (got, body) == (status, {"message": str(error)})
    assert world.heard == []
    assert headers.get("Retry-After") == ("5" if status == 503 else None)


@pytest.mark.parametrize("token", [None, "", "Basic eDp5", "good"])
async def test_without_a_bearer_token(site: Site, token: str | None) -> None:
    status, body, headers = await site.beat(token=token)
    assert status == 401
    assert "Authorization: Bearer" in body["message"]
    assert headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b'{"protocol": -1, "time": "2030-01-01T00:00:00Z"}', "protocol"),
    ],
)
async def test_what_is_no_beat(site: Site, metrics: Metrics, body: bytes, where: str) -> None:
    status, answer, _ = await site.beat(body)
    assert status == 400
    assert answer["message"].startswith(f"not a beat: {where}: ")
    assert counted(metrics, "malformed") == 1


async def test_a_beat_too_large(site: Site, world: World) -> None:
    status, answer, _ = await site.beat(b" " * (MAX_BEAT_BYTES + 1))
    assert status == 413
    assert str(MAX_BEAT_BYTES) in answer["message"]
    assert world.heard == []


async def test_a_launcher_that_dies_in_the_middle_of_a_beat_is_no_error_of_ours(
    site: Site, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    port = int(site.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "POST /v1/beat HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good\r\nContent-Length: 100\r\n\r\n"
    writer.write(head.encode() + b"{")
    await writer.drain()
    writer.transport.abort()
    async with asyncio.timeout(60):
        while not counted(metrics, "malformed"):  # noqa: ASYNC110  (counted by the other side)
            await asyncio.sleep(0.01)
    assert caplog.records == []


async def test_errors_do_not_repeat_the_input(site: Site) -> None:
    _, answer, _ = await site.beat(BEAT | {"attempt": "a secret"})
    assert "secret" not in answer["message"]


async def test_who_does_not_lead_says_who_does_before_looking_at_anything(site: Site, world: World) -> None:
    world.elsewhere = Misdirected(leader="http://b:8080")
    assert (await site.beat(b"nonsense", token=None))[:2] == (421, {"leader": "http://b:8080"})
    world.elsewhere = Misdirected()
    assert (await site.beat())[:2] == (421, {"leader": None})
    assert world.heard == []


async def test_an_answer_is_not_given_once_the_lease_is_lost(site: Site, world: World) -> None:
    world.loses_the_lease_meanwhile = True
    assert (await site.beat())[0] == 421


async def test_the_handler_may_refuse(site: Site, world: World) -> None:
    world.error = NotReadyError("still reading", 2)
    status, body, headers = await site.beat()
    assert (status, body["message"], headers["Retry-After"]) == (503, "still reading", "2")
    world.error = NotOursError("no such job")
    assert (await site.beat())[0] == 403


async def test_health_and_readiness(site: Site, problems: dict[str, str | None]) -> None:
    assert await site.get("/healthz") == (200, "ok\n")
    assert await site.get("/readyz") == (200, "ok\n")
    problems |= {"health": "late", "ready": "not listed"}
    assert await site.get("/healthz") == (503, "late\n")
    assert await site.get("/readyz") == (503, "not listed\n")


async def test_metrics_are_rendered_in_a_thread_and_once_for_all(site: Site, metrics: Metrics) -> None:
    threads: list[int] = []
    release = threading.Event()

    class Slow:
        def collect(self) -> list[object]:
            threads.append(threading.get_ident())
            release.wait(10)
            return []

    metrics.registry.register(Slow())  # type: ignore[arg-type]
    threads.clear()
    refreshed: list[int] = []
    metrics.before_scrape(lambda: refreshed.append(threading.get_ident()))
    scrapes = [asyncio.create_task(site.get("/metrics")) for _ in range(3)]
    while not threads:
        assert (await site.get("/healthz"))[0] == 200, "the loop goes on meanwhile"
    release.set()
    for status, text in await asyncio.gather(*scrapes):
        assert status == 200
        assert "mlenv_operator_workqueue_depth" in text
    assert threading.get_ident() not in threads
    assert set(refreshed) == {threading.get_ident()}


async def test_unknown_paths_and_methods(site: Site) -> None:
    assert (await site.get("/x"))[0] == 404
    assert (await site.get("/v1/beat"))[0] == 405


def test_a_registry_of_ones_own() -> None:
    assert Metrics(registry := CollectorRegistry()).registry is registry
