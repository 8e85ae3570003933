"""What the composition root does itself."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

from mlenv_operator import app
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.core.world import JobKey
from mlenv_operator.runtime.clock import FakeClock
from mlenv_operator.runtime.workqueue import WorkQueue

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
