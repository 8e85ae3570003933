"""What costs are told over HTTP, on a port of its own: read only, bounded, in threads of its own.

Launchers and Prometheus use another port: nothing here can fill their connections, and whoever may come
in here cannot reach theirs.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson
from aiohttp import web

from mlenv_api import names
from mlenv_operator.adapters.callers import Callers, ForbiddenError
from mlenv_operator.adapters.estimates import EstimateError
from mlenv_operator.adapters.tokens import ReviewDelayedError, TokenError
from mlenv_operator.ledger import asking, explaining, questions, telling
from mlenv_operator.ledger.errors import LedgerError, LedgerUnavailable, WrongSchema
from mlenv_operator.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mlenv_api.protocol import Misdirected
    from mlenv_operator.adapters.callers import Caller
    from mlenv_operator.adapters.estimates import Estimates
    from mlenv_operator.cost.facts import Micros
    from mlenv_operator.ledger.prices import PriceSource
    from mlenv_operator.ledger.questions import Question
    from mlenv_operator.ledger.telling import Table

T = TypeVar("T")
log = logging.getLogger(__name__)
SECONDS: Final = 15.0
"""For so long a question may read."""
THREADS: Final = 2
WAITING: Final = 16
"""Questions at a time, those that are answered included; more are sent away."""


class UnknownJobError(LedgerError):
    """The ledger knows no such job."""


class Reader:
    """The ledger, read in threads of its own, a few questions at a time."""

    def __init__(self, dsn: str, prices: PriceSource | None = None, seconds: float = SECONDS) -> None:
        self._ledger = Ledger(asking.ReadOnly(dsn, seconds), prices)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="costs")
        self._busy = 0

    async def read(self, work: Callable[[Ledger], T]) -> T:
        """Do it in a thread. Raises ReviewDelayedError when too many ask."""
        if self._busy >= WAITING:
            raise ReviewDelayedError("too many ask for costs at once", 5.0)
        self._busy += 1
        # A caller who goes away frees a place only once the thread is free again.
        future = asyncio.get_running_loop().run_in_executor(self._threads, work, self._ledger)
        future.add_done_callback(self._done)
        return await asyncio.shield(future)

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._busy -= 1
        if not future.cancelled():
            future.exception()  # fetched, lest it be reported when the caller has gone away

    def close(self) -> None:
        """Close the connections; what is being read is given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._ledger.database.close()


class Costs:
    """GET /v1/costs, a job's bill and its explanation, and what a job would cost."""

    def __init__(
        self,
        reader: Reader,
        callers: Callers,
        misdirected: Callable[[], Misdirected | None],
        now: Callable[[], Micros],
        estimates: Estimates | None = None,
    ) -> None:
        self._reader = reader
        self._callers = callers
        self._misdirected = misdirected
        self._now = now
        self._estimates = estimates

    async def groups(self, request: web.Request) -> web.Response:
        """What it cost, by anything."""
        caller = await self._caller(request)
        question = questions.parse(_pairs(request), self._now())
        wanted = question.where.get("namespace")
        known = [] if wanted else await self._reader.read(_namespaces)
        namespaces = await self._callers.visible(caller, wanted, known)
        body = await self._reader.read(lambda one: _groups(one, question, namespaces, _format(request)))
        return _answer(body, request)

    async def job(self, request: web.Request) -> web.Response:
        """What a job cost so far."""
        namespace, name = await self._named(request)
        uid, now = questions.parse_uid(_pairs(request)), self._now()

        def work(ledger: Ledger) -> bytes:
            with ledger.database.reading() as connection:
                uids = _uids(connection, namespace, name, uid)
            cost = ledger.job(uids[0], now)
            document = telling.job(namespace, name, uids, cost)
            return telling.render(_format(request), document, telling.job_table(cost))

        return _answer(await self._reader.read(work), request)

    async def explain(self, request: web.Request) -> web.Response:
        """Every charge of a job, and why."""
        namespace, name = await self._named(request)
        page, uid = questions.parse_page(_pairs(request))

        def work(ledger: Ledger) -> bytes:
            with ledger.database.reading() as connection:
                uids = _uids(connection, namespace, name, uid)
                lines = explaining.explain(connection, uids[0], page.offset, page.limit)
            document = telling.explanation(namespace, name, uids, lines, page)
            return telling.render(_format(request), document, telling.explanation_table(lines))

        return _answer(await self._reader.read(work), request)

    async def estimate(self, request: web.Request) -> web.Response:
        """What a job would cost. Who may know what a namespace cost may know what it would."""
        caller = await self._caller(request)
        namespace = _plain(request.match_info["namespace"])
        await self._callers.visible(caller, [namespace], [])
        if self._estimates is None:
            raise web.HTTPNotFound
        answer = self._estimates.prepare(namespace, _pairs(request), self._now())
        return _answer(await self._reader.read(lambda _: answer()), request)

    async def _named(self, request: web.Request) -> tuple[str, str]:
        """The job's namespace and name, of which the caller may know. Rights come first: no hint before."""
        caller = await self._caller(request)
        namespace, name = (_plain(request.match_info[one]) for one in ("namespace", "name"))
        await self._callers.visible(caller, [namespace], [])
        return namespace, name

    async def _caller(self, request: web.Request) -> Caller:
        if (elsewhere := self._misdirected()) is not None:
            raise _Elsewhere(elsewhere)
        return await self._callers.authenticate(_token(request))


class _Elsewhere(Exception):  # noqa: N818  (an answer, not an error of ours)
    def __init__(self, misdirected: Misdirected) -> None:
        super().__init__("this replica does not lead: ask again, or the leader")
        self.misdirected = misdirected


def _plain(text: str) -> str:
    if len(text) > questions.MAX_TEXT or not text.isprintable():
        raise questions.QuestionError("A namespace and a job have names of at most 253 characters.")
    return text


def _namespaces(ledger: Ledger) -> list[str]:
    with ledger.database.reading() as connection:
        return asking.namespaces_of(connection)


def _groups(ledger: Ledger, question: Question, namespaces: list[str] | None, format_: str) -> bytes:
    with ledger.database.reading() as connection:
        found = asking.ask(connection, question, namespaces)
    table: Table = telling.costs_table(question, found)
    return telling.render(format_, telling.costs(question, found, namespaces), table)


def _uids(connection: Any, namespace: str, name: str, uid: str | None) -> list[str]:
    if not (found := asking.jobs_named(connection, namespace, name, uid)):
        which = f" of UID {uid}" if uid else ""
        raise UnknownJobError(
            f'The ledger knows no job "{name}"{which} in {namespace}: it knows jobs whose pods were '
            "scheduled on a node since the ledger began."
        )
    return found


def build_costs_app(costs: Costs) -> web.Application:
    """The application."""
    app = web.Application(client_max_size=1024, middlewares=[_in_words])
    app.router.add_get(names.COST_PATH, costs.groups)
    app.router.add_get(names.COST_PATH + "/estimates/{namespace}", costs.estimate)
    app.router.add_get(names.COST_PATH + "/jobs/{namespace}/{name}", costs.job)
    app.router.add_get(names.COST_PATH + "/jobs/{namespace}/{name}/explain", costs.explain)
    return app


@web.middleware
async def _in_words(request: web.Request, handler: Any) -> web.StreamResponse:
    """Every refusal as JSON with a message that says what to do."""
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as error:
        if error.status in {404, 405}:
            return _refusal(
                error.status, f"there is GET {names.COST_PATH} and what is below it (docs/cost.md)"
            )
        return _refusal(error.status, error.reason)
    except Exception as error:  # noqa: BLE001  (told to the caller, and logged when it is ours)
        return _refused(error)
    return response


def _refused(error: Exception) -> web.Response:
    if isinstance(error, _Elsewhere):
        leader = error.misdirected.model_dump(mode="json", by_alias=True)
        return _refusal(421, str(error), leader=leader)
    for kinds, status in _STATUS:
        if isinstance(error, kinds):
            return _refusal(status, str(error), _headers(error, status))
    log.error("costs: a mistake in this program", exc_info=error)
    return _refusal(500, "a mistake in the operator, which its log tells; please report it")


_STATUS: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], int], ...]] = (
    (TokenError, 401),
    (ForbiddenError, 403),
    (UnknownJobError, 404),
    ((questions.QuestionError, EstimateError), 400),
    (asking.TooSlow, 422),
    ((ReviewDelayedError, LedgerUnavailable, WrongSchema), 503),
)


def _headers(error: Exception, status: int) -> dict[str, str]:
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(round(getattr(error, "retry_after_s", 5.0)))} if status == 503 else {}


def _refusal(status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> web.Response:
    body = orjson.dumps({"message": message, **more})
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def _answer(body: bytes, request: web.Request) -> web.Response:
    media = questions.FORMATS[_format(request)]
    return web.Response(body=body, headers={"Content-Type": media, "Cache-Control": "no-store"})


def _pairs(request: web.Request) -> list[tuple[str, str]]:
    return list(request.query.items())


def _format(request: web.Request) -> str:
    return questions.chosen_format(_pairs(request), request.headers.get("Accept", ""))


def _token(request: web.Request) -> str:
    if token := request.headers.get(names.COST_HEADER):
        return token.strip()
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


@asynccontextmanager
async def reader_of(dsn: str, prices: PriceSource | None) -> AsyncIterator[Reader]:
    """A reader, closed at the end."""
    reader = Reader(dsn, prices)
    try:
        yield reader
    finally:
        reader.close()
