"""HTTP of the operator: /metrics, /healthz, /readyz, and the launchers' heartbeats."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

import orjson
from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from mlenv_api.protocol import BEAT_PATH, MAX_BEAT_BYTES, Answer, Beat, Misdirected
from mlenv_operator.adapters.tokens import NotOursError, PodIdentity, ReviewDelayedError, TokenError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mlenv_operator.adapters.health import Check
    from mlenv_operator.adapters.metrics import Metrics

READ_TIMEOUT_S: Final = 10.0
"""A body must be here by then."""
KEEP_ALIVE_S: Final = 30.0
"""A beat costs less on a kept connection; thousands that beat rarely are not worth their memory."""


class NotReadyError(Exception):
    """This replica leads, and cannot answer yet: 503, again after ``retry_after_s``."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Authenticator(Protocol):
    """Knows whose token it is."""

    async def authenticate(self, token: str) -> PodIdentity:
        """The pod that speaks. Raises TokenError, NotOursError or ReviewDelayedError."""


class BeatHandler(Protocol):
    """Answers launchers."""

    def misdirected(self) -> Misdirected | None:
        """None while this replica surely leads, else where to go. Asked before and after ``beat``."""

    async def beat(self, pod: PodIdentity, beat: Beat) -> Answer:
        """The answer, from stored state. Raises NotOursError (403) or NotReadyError (503)."""


class Refusal(Exception):  # noqa: N818  (an answer, not an error of ours)
    """An answer other than 200."""

    def __init__(self, status: int, result: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.result = result
        self.headers = headers or {}


class Beats:
    """POST /v1/beat."""

    def __init__(self, authenticator: Authenticator, handler: BeatHandler, metrics: Metrics) -> None:
        self._authenticator = authenticator
        self._handler = handler
        self._metrics = metrics

    async def post(self, request: web.Request) -> web.Response:
        """One beat."""
        try:
            answer = await self._answer(request)
        except Refusal as refusal:
            self._metrics.beats.labels(refusal.result).inc()
            body = orjson.dumps({"message": str(refusal)})
            return _json(body, refusal.status, refusal.headers)
        if isinstance(answer, Misdirected):
            self._metrics.beats.labels("misdirected").inc()
            return _json(answer.model_dump_json(by_alias=True).encode(), 421)
        self._metrics.beats.labels("answered").inc()
        return _json(answer.model_dump_json(by_alias=True, exclude_none=True).encode())

    async def _answer(self, request: web.Request) -> Answer | Misdirected:
        if (elsewhere := self._handler.misdirected()) is not None:
            return elsewhere
        try:
            pod = await self._authenticator.authenticate(_bearer(request))
            beat = _parse(await _body(request))
            answer = await self._handler.beat(pod, beat)
        except TokenError as error:
            raise Refusal(401, "unauthenticated", str(error), {"WWW-Authenticate": "Bearer"}) from error
        except NotOursError as error:
            raise Refusal(403, "forbidden", str(error)) from error
        except (ReviewDelayedError, NotReadyError) as error:
            after = {"Retry-After": str(max(1, round(error.retry_after_s)))}
            raise Refusal(503, "unavailable", str(error), after) from error
        # The Lease may have gone while we waited for a review: then the answer is no longer ours to give.
        return self._handler.misdirected() or answer


class Pages:
    """What people and Prometheus ask."""

    def __init__(self, metrics: Metrics, health: Sequence[Check], readiness: Sequence[Check]) -> None:
        self._metrics = metrics
        self._health = health
        self._readiness = readiness
        self._rendering: asyncio.Task[bytes] | None = None

    async def metrics(self, _: web.Request) -> web.Response:
        """Rendered in a thread: 100,000 samples take 0.7 s. Scrapers at a time share one rendering."""
        if self._rendering is None or self._rendering.done():
            self._metrics.refresh()
            work = asyncio.to_thread(generate_latest, self._metrics.registry)
            self._rendering = asyncio.create_task(work)
        body = await asyncio.shield(self._rendering)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(self, _: web.Request) -> web.Response:
        """Whether this process should go on living."""
        return _verdict(self._health)

    async def readyz(self, _: web.Request) -> web.Response:
        """Whether the caches are filled, leader or not."""
        return _verdict(self._readiness)


def build_app(pages: Pages, beats: Beats) -> web.Application:
    """The application."""
    app = web.Application(client_max_size=MAX_BEAT_BYTES)
    app.router.add_post(BEAT_PATH, beats.post)
    app.router.add_get("/metrics", pages.metrics)
    app.router.add_get("/healthz", pages.healthz)
    app.router.add_get("/readyz", pages.readyz)
    return app


@asynccontextmanager
async def serve(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve while inside; yields the port, which the system chooses when it is given as 0."""
    runner = web.AppRunner(
        app, access_log=None, keepalive_timeout=KEEP_ALIVE_S, handle_signals=False, shutdown_timeout=2.0
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=1024).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def _verdict(checks: Sequence[Check]) -> web.Response:
    problems = [problem for check in checks if (problem := check()) is not None]
    return web.Response(text="\n".join(problems or ["ok"]) + "\n", status=503 if problems else 200)


def _bearer(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise TokenError("the header Authorization: Bearer <token> is missing")
    return token.strip()


async def _body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise Refusal(413, "malformed", f"a beat has at most {MAX_BEAT_BYTES} bytes") from error
    except ConnectionResetError as error:
        # Launchers die in the middle of a beat every day; nobody reads this answer.
        raise Refusal(400, "malformed", "the connection ended before the beat did") from error
    except TimeoutError as error:
        raise Refusal(408, "malformed", "the body did not come in time") from error


def _parse(body: bytes) -> Beat:
    try:
        return Beat.model_validate_json(body)
    except ValidationError as error:
        # Without the input: it may be long, and nobody knows what is in it.
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise Refusal(400, "malformed", f"not a beat: {where}: {first['msg']}") from error
