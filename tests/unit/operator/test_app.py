"""What the composition root does itself."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import pytest

from mlenv_operator import app
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.adapters.pricebooks import Books
from mlenv_operator.adapters.workers import work
from mlenv_operator.core.world import JobKey
from mlenv_operator.ledger.writer import Writer
from mlenv_operator.runtime.clock import FakeClock, SystemClock
from mlenv_operator.runtime.workqueue import WorkQueue
from mlenv_operator.settings import Settings

from .adapters.api import MemoryApi, empty_state

if TYPE_CHECKING:
    from pathlib import Path

    from mlenv_operator.adapters.accounting import Accounting
    from mlenv_operator.kube.client import Client

JOBS = 20


class Quick:
    """A reconciler that finds nothing to do, and so never waits for anything."""

    def __init__(self) -> None:
        self.looked: list[JobKey] = []

    async def reconcile(self, key: JobKey) -> str:
        self.looked.append(key)
        return "unchanged"


async def test_jobs_that_need_nothing_leave_turns_to_others() -> None:
    queue: WorkQueue[JobKey] = WorkQueue(FakeClock(), random.Random(1))
    for number in range(JOBS):
        queue.add(JobKey("team", str(number)))
    queue.shut_down()
    quick = Quick()
    worker = asyncio.create_task(work(queue, cast("Any", quick), Metrics()))
    turns = set[int]()
    while not worker.done():
        turns.add(len(quick.looked))
        await asyncio.sleep(0)
    assert turns >= set(range(1, JOBS + 1))


def settings(**more: str) -> Settings:
    return Settings(namespace="mlenv-system", pod_name="op", **more)  # type: ignore[arg-type]


def accounting(api: MemoryApi, **more: str) -> Accounting | None:
    clock, rng, metrics = SystemClock(), random.Random(1), Metrics()
    client = cast("Client", api)
    state = empty_state(clock, api)
    books = Books(client, clock, rng, metrics)
    return app.accounting_of(settings(**more), client, state, lambda _: None, books)


def test_without_a_ledger_nothing_is_accounted() -> None:
    assert accounting(MemoryApi()) is None


async def test_a_ledger_is_opened_by_whoever_leads_and_what_it_shows_is_noted_in_two_places(
    tmp_path: Path,
) -> None:
    api = MemoryApi()
    made = accounting(api, ledger_dsn=f"sqlite:///{tmp_path}/ledger.db")
    assert made is not None
    assert not (tmp_path / "ledger.db").exists()
    task = asyncio.create_task(made.accountant.run(Writer(3, "op")))
    async with asyncio.timeout(60):
        while not made.accountant.figures.exposition:  # noqa: ASYNC110  (it tells by its figures)
            await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    noted = api.objects["configmaps", "mlenv-system", "mlenv-operator-counters"]["data"]["shown"]
    assert json.loads(noted) == json.loads((tmp_path / "counters.json").read_text())


def test_a_dsn_that_means_nothing_ends_the_start() -> None:
    with pytest.raises(app.StartError, match=r"MLENV_OPERATOR_LEDGER_DSN: .*not in mysql"):
        accounting(MemoryApi(), ledger_dsn="mysql://x/y")
