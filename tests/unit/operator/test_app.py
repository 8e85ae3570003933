"""What the composition root does itself."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from mlenv_operator import app
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.core.world import JobKey
from mlenv_operator.ledger.writer import Writer
from mlenv_operator.runtime.clock import FakeClock, SystemClock
from mlenv_operator.runtime.workqueue import WorkQueue
from mlenv_operator.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

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
    parts: Any = SimpleNamespace(queue=queue, reconciler=quick, metrics=Metrics())
    worker = asyncio.create_task(app._work(parts))
    turns = set[int]()
    while not worker.done():
        turns.add(len(quick.looked))
        await asyncio.sleep(0)
    assert turns >= set(range(1, JOBS + 1))


def settings(**more: str) -> Settings:
    return Settings(namespace="mlenv-system", pod_name="op", **more)  # type: ignore[arg-type]


async def test_without_a_ledger_nothing_is_accounted() -> None:
    assert app.build_accountant(settings(), SystemClock()) is None


async def test_a_ledger_is_opened_by_whoever_leads(tmp_path: Path) -> None:
    dsn = f"sqlite:///{tmp_path}/ledger.db"
    accountant = app.build_accountant(settings(ledger_dsn=dsn), SystemClock())
    assert accountant is not None
    assert not (tmp_path / "ledger.db").exists()
    task = asyncio.create_task(accountant.run(Writer(3, "op")))
    async with asyncio.timeout(60):
        while not accountant.figures.exposition:  # noqa: ASYNC110  (it tells by its figures)
            await asyncio.sleep(0.01)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert (tmp_path / "counters.json").exists()


def test_a_dsn_that_means_nothing_ends_the_start() -> None:
    with pytest.raises(app.StartError, match=r"MLENV_OPERATOR_LEDGER_DSN: .*not in mysql"):
        app.build_accountant(settings(ledger_dsn="mysql://x/y"), SystemClock())
