"""Costs over HTTP: who is told what, and every refusal a sentence that says what to do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession
from ledgers import START, Book, filled

from mlenv_api.protocol import Misdirected
from mlenv_operator.adapters.callers import Callers
from mlenv_operator.adapters.costs import WAITING, Costs, Reader, build_costs_app
from mlenv_operator.adapters.http import serve
from mlenv_operator.adapters.tokens import ReviewDelayedError
from mlenv_operator.cost.facts import HOUR
from mlenv_operator.runtime.clock import SystemClock

if TYPE_CHECKING:
    from pathlib import Path

    from mlenv_operator.adapters.estimates import Estimates

NOW = START + 70 * HOUR


@dataclass
class Cluster:
    """What the API server would say: two users, and one who sees all."""

    rights: dict[str, set[str]] = field(
        default_factory=lambda: {"ann": {"ns-ads"}, "bob": {"ns-ads", "ns-feed"}, "chief": {""}, "eve": set()}
    )
    leader: Misdirected | None = None
    reviews: int = 0
    broken: bool = False
    audiences: tuple[str, ...] = ("mlenv-costs",)

    async def review(self, token: str) -> dict[str, Any]:
        self.reviews += 1
        if self.broken:
            raise OSError("no route to host")
        user = {"username": token, "groups": ["g"]}
        return {"authenticated": token in self.rights, "audiences": self.audiences, "user": user}

    async def may(self, spec: dict[str, Any]) -> bool:
        wanted = spec["resourceAttributes"]
        assert (wanted["group"], wanted["resource"], wanted["verb"]) == ("mlenv.io", "costs", "get")
        assert spec["groups"] == ["g"]
        return wanted["namespace"] in self.rights[spec["user"]]


@dataclass
class Told:
    status: int
    body: Any
    headers: dict[str, str]


Get = Callable[..., Any]


@pytest.fixture
def dsn(tmp_path: Path) -> str:
    return filled(tmp_path, NOW)


@asynccontextmanager
async def served(dsn: str, cluster: Cluster, estimates: Estimates | None = None) -> AsyncIterator[Get]:
    reader = Reader(dsn, Book())
    callers = Callers(cluster.review, cluster.may, SystemClock())
    costs = Costs(reader, callers, lambda: cluster.leader, lambda: NOW, estimates)
    async with serve(build_costs_app(costs), "127.0.0.1", 0) as port, ClientSession() as session:

        async def get(path: str, token: str = "chief", **headers: str) -> Told:
            headers = headers or {"Authorization": f"Bearer {token}"}
            async with session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as answer:
                is_json = answer.content_type == "application/json"
                body = await answer.json() if is_json else await answer.read()
                return Told(answer.status, body, dict(answer.headers))

        yield get
    reader.close()


def namespaces(told: Told) -> set[str]:
    assert told.status == 200, told
    return {one["key"]["namespace"] for one in told.body["groups"]}


async def test_everybody_sees_theirs(dsn: str) -> None:
    async with served(dsn, Cluster()) as get:
        assert namespaces(await get("/v1/costs", "ann")) == {"ns-ads"}
        assert namespaces(await get("/v1/costs", "bob")) == {"ns-ads", "ns-feed"}
        whole = await get("/v1/costs", "chief")
        assert {"", "ns-ads", "ns-feed"} < namespaces(whole)
        assert whole.body["namespaces"] is None
        assert (await get("/v1/costs", "bob")).body["namespaces"] == ["ns-ads", "ns-feed"]
        refused = await get("/v1/costs", "eve")
        assert refused.status == 403
        assert "somebody must grant the verb get on costs.mlenv.io" in refused.body["message"]


async def test_what_is_asked_for_by_name_is_refused_by_name(dsn: str) -> None:
    async with served(dsn, Cluster()) as get:
        assert namespaces(await get("/v1/costs?namespace=ns-feed", "bob")) == {"ns-feed"}
        for path in ("/v1/costs?namespace=ns-ads&namespace=ns-feed", "/v1/costs/jobs/ns-feed/no-such-job"):
            told = await get(path, "ann")
            assert (told.status, "costs of ns-feed" in told.body["message"]) == (403, True)


async def test_a_job_by_category_and_line_by_line(dsn: str) -> None:
    async with served(dsn, Cluster()) as get:
        jobs = (await get("/v1/costs?by=namespace,job&category=productive")).body["groups"]
        key = next(one["key"] for one in jobs if one["key"]["namespace"] != "ns-moved")
        path = f"/v1/costs/jobs/{key['namespace']}/{key['job']}"
        bill, lines = (await get(path)).body, (await get(f"{path}/explain")).body["lines"]
        assert sum(int(one["costNanos"]) for one in bill["categories"]) == int(bill["costNanos"])
        assert sum(int(one["costNanos"]) for one in lines) == int(bill["costNanos"])
        assert all(line["price"]["row"]["source"] for line in lines)
        first = (await get(f"{path}/explain?limit=1")).body
        assert (first["lines"], first["nextOffset"]) == (lines[:1], 1)
        missing = await get(f"{path}-else")
        assert (missing.status, "knows no job" in missing.body["message"]) == (404, True)
        assert (await get(f"{path}?uid=another")).status == 404


async def test_formats(dsn: str) -> None:
    async with served(dsn, Cluster()) as get:
        told = await get("/v1/costs?format=csv")
        assert told.headers["Content-Type"] == "text/csv"
        assert told.body.startswith(
            b"namespace,cost_nanos,list_cost_nanos,gpu_micros,held_micros,cost_usd\r\n"
        )
        named = await get("/v1/costs", Authorization="Bearer chief", Accept="text/csv")
        assert named.body == told.body
        assert (await get("/v1/costs?format=parquet")).body.startswith(b"PAR1")


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/costs?by=colour", 400, "there is no 'colour'"),
        ("/v1/costs?since=yesterday", 400, "is no date"),
        ("/v1/costs?format=xls", 400, "json, csv, parquet"),
        ("/v1/costs/jobs/ns-ads/j%00?uid=1", 400, "253 characters"),
        ("/v1/costs/jobs/ns-ads/..%2f..", 404, "knows no job"),
        ("/v1/costs/jobs/ns-ads/j1/explain?limit=99999", 400, "limit must be"),
        ("/v1/elsewhere", 404, "there is GET /v1/costs"),
        ("/metrics", 404, "there is GET /v1/costs"),
    ],
)
async def test_nonsense_gets_a_sentence(dsn: str, path: str, status: int, words: str) -> None:
    async with served(dsn, Cluster()) as get:
        told = await get(path)
        assert (told.status, words in told.body["message"]) == (status, True), told


async def test_tokens_that_do_not_count(dsn: str) -> None:
    cluster = Cluster()
    async with served(dsn, cluster) as get:
        for token in ("", "forged", "x" * 9000):
            headers = (
                {"X-Mlenv-Token": token} if len(token) < 8000 else {"Authorization": "Bearer " + "x" * 8500}
            )
            told = await get("/v1/costs", **headers)
            assert told.status in {400, 401}, told
        assert (
            "kubectl create token mlenv-costs --audience mlenv-costs"
            in ((await get("/v1/costs", "forged")).body["message"])
        )
        assert (await get("/v1/costs", **{"X-Mlenv-Token": "ann", "Authorization": "Bearer chief"})).body[
            "namespaces"
        ] == ["ns-ads"]
    cluster = Cluster(audiences=("https://kubernetes.default.svc",))
    async with served(dsn, cluster) as get:
        told = await get("/v1/costs")
        assert (told.status, "not meant for mlenv-costs" in told.body["message"]) == (401, True)


async def test_reviews_are_remembered_for_a_while(dsn: str) -> None:
    cluster = Cluster()
    async with served(dsn, cluster) as get:
        for _ in range(5):
            assert (await get("/v1/costs")).status == 200
            assert (await get("/v1/costs", "forged")).status == 401
        assert cluster.reviews == 2


async def test_what_cannot_be_answered_now_says_when(dsn: str, tmp_path: Path) -> None:
    cluster = Cluster(broken=True)
    async with served(dsn, cluster) as get:
        told = await get("/v1/costs")
        assert (told.status, told.headers["Retry-After"]) == (503, "2")
        cluster.leader = Misdirected(leader="http://10.0.0.7:8080")
        told = await get("/v1/costs")
        assert (told.status, told.body["leader"]["leader"]) == (421, "http://10.0.0.7:8080")
    async with served(f"sqlite:///{tmp_path}/none/ledger.db", Cluster()) as get:
        told = await get("/v1/costs")
        assert (told.status, "Is its folder there" in told.body["message"]) == (503, True)


async def test_only_so_many_wait_and_the_loop_does_not(dsn: str) -> None:
    reader, gate = Reader(dsn), threading.Event()
    waiting = [asyncio.create_task(reader.read(lambda _: gate.wait(60))) for _ in range(WAITING)]
    await asyncio.sleep(0)  # they have begun; two hold the threads, and this loop goes on
    with pytest.raises(ReviewDelayedError, match="too many"):
        await reader.read(lambda _: None)
    for one in waiting[::2]:
        one.cancel()  # who goes away does not free a thread that still reads
    gate.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert await reader.read(lambda _: 7) == 7
    reader.close()
