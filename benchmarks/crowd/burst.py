"""One burst: jobs submitted as fast as the server takes them, watched until all are done, and billed."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from crowd import setup
from crowd.jobs import NAME, job_of
from crowd.machine import look, spent
from crowd.timeline import Timeline
from crowd.usage import Usage, usage
from crowd.watch import Patience, ends_by, pods_by, until, watching
from crowd.writes import Bill, bill, moments
from mlenv_local.audit import AuditLog
from mlenv_operator.kube.client import Client, never_gated
from mlenv_operator.kube.resources import PODS, SERVICES
from mlenv_operator.kube.transport import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable

    from crowd.jobs import Kind
    from crowd.machine import Look
    from crowd.setup import Operator
    from mlenv_local import Cluster
    from mlenv_local.audit import Write

Raw = dict[str, Any]


class Size(NamedTuple):
    """How much, and how hard."""

    jobs: int
    pods: int
    connections: int
    patience_s: float
    """So long nothing may move."""


@dataclass(frozen=True)
class Burst:
    """What came of one."""

    timeline: Timeline
    before: Usage
    at_created: Usage
    after: Usage
    bill: Bill
    shares: dict[str, float]
    """Of the machine's CPU time until all were created, by program."""

    def cpu_s(self, *, until_created: bool = False) -> float:
        """CPU time of the operator in the burst."""
        return (self.at_created if until_created else self.after).cpu_s - self.before.cpu_s


async def run_burst(found: Cluster, namespace: str, kind: Kind, operator: Operator, size: Size) -> Burst:
    """Submit the jobs of this kind and see them through."""
    timeline, log, before = Timeline(size.pods), AuditLog(found.audit_log), usage(operator.pids())
    began = look(found, operator.pids())
    sights = {PODS: pods_by(kind.label, timeline), kind.resource: ends_by(kind.done, timeline)}

    async def submit(client: Client, number: int) -> None:
        name = NAME.format(number)
        timeline.submit(name, time.time())
        await client.create(kind.resource, kind.manifest(name, namespace))

    patience = Patience(size.patience_s, partial(setup.state, found, namespace, kind.resource.plural))
    title = f"{kind.title}: {size.jobs} jobs of {size.pods} pods"
    async with (
        connected(found, size.connections + len(sights)) as client,
        watching(client, namespace, sights),
        asyncio.TaskGroup() as group,
    ):
        with found.reporter.progress(title) as progress:
            works = [partial(submit, client, number) for number in range(size.jobs)]
            group.create_task(side_by_side(works, size.connections))
            await until(timeline, "created", size.jobs, progress, patience)
            at_created, shares = usage(operator.pids()), _shares(found, began, operator.pids())
            await until(timeline, kind.last, size.jobs, progress, patience)
    after, belongs = usage(operator.pids()), partial(_job_in, namespace)
    writes = _written(log)
    timeline.correct(moments(writes, size.pods, belongs))
    owed = bill(writes, size.jobs, operator.writes, belongs)
    return Burst(timeline, before, at_created, after, owed, shares)


async def run_bare(
    found: Cluster, namespace: str, gangs: Iterable[list[Raw]], label: str, size: Size
) -> tuple[Timeline, dict[str, float]]:
    """Post each gang's objects, one after the other, gangs side by side; watched until all pods run."""
    timeline, log, began = Timeline(size.pods), AuditLog(found.audit_log), look(found, ())

    async def post(client: Client, gang: list[Raw]) -> None:
        timeline.submit(gang[0]["metadata"]["labels"][label], time.time())
        for one in gang:
            await client.create(PODS if one["kind"] == "Pod" else SERVICES, one)

    patience = Patience(size.patience_s, partial(setup.state, found, namespace, PODS.plural))
    title = f"A bare client: {size.jobs} gangs of {size.pods} pods"
    async with (
        connected(found, size.connections + 1) as client,
        watching(client, namespace, {PODS: pods_by(label, timeline)}),
        asyncio.TaskGroup() as group,
    ):
        with found.reporter.progress(title) as progress:
            works = [partial(post, client, gang) for gang in gangs]
            group.create_task(side_by_side(works, size.connections))
            await until(timeline, "created", size.jobs, progress, patience)
            shares = _shares(found, began, ())
            await until(timeline, "running", size.jobs, progress, patience)
    timeline.correct(moments(_written(log), size.pods, partial(_job_in, namespace)))
    return timeline, shares


def _shares(found: Cluster, began: Look, operator: Collection[int]) -> dict[str, float]:
    return spent(began, look(found, operator), os.cpu_count() or 1)


def _written(log: AuditLog) -> list[Write]:
    """Everything up to now: the log is written a moment after the answers."""
    log.wait_for(datetime.now(UTC), seconds=60)
    return list(log.all_writes())


async def side_by_side(works: Iterable[Callable[[], Awaitable[object]]], width: int) -> None:
    """So many at a time; the first error ends all."""
    waiting = iter(works)

    async def hand() -> None:
        for work in waiting:
            await work()

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(hand())


@asynccontextmanager
async def connected(found: Cluster, connections: int) -> AsyncIterator[Client]:
    """The administrator's client; the watches have connections of their own."""
    config = str(found.kubeconfig)
    async with connect(user_agent="bench", kubeconfig=config, connections=connections) as transport:
        yield Client(transport, never_gated)


def _job_in(namespace: str, write: Write) -> str | None:
    return job_of(write.name) if write.namespace == namespace else None
