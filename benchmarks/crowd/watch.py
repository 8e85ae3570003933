"""Watching a burst: every moment is when the watch tells of it, on this machine's clock."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from mlenv_operator.kube.client import Selection
from mlenv_operator.kube.errors import Throttled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from crowd.timeline import Timeline
    from mlenv_local.progress import Progress
    from mlenv_operator.kube.client import Client
    from mlenv_operator.kube.resources import Resource

Raw = dict[str, Any]
LOOK_S = 0.25


@asynccontextmanager
async def watching(
    client: Client, namespace: str, sights: dict[Resource, Callable[[Raw, float], None]]
) -> AsyncIterator[None]:
    """Tell of every change in the namespace, of each kind; a watch that breaks ends the benchmark."""
    versions = [await _version(client, resource, namespace) for resource in sights]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_follow(client, resource, namespace, version, tell))
            for (resource, tell), version in zip(sights.items(), versions, strict=True)
        ]
        yield
        for task in tasks:
            task.cancel()


async def _version(client: Client, resource: Resource, namespace: str) -> str:
    pages = [page async for page in client.list_pages(resource, Selection(namespace=namespace))]
    return pages[-1].resource_version


async def _follow(
    client: Client, resource: Resource, namespace: str, version: str, tell: Callable[[Raw, float], None]
) -> None:
    while True:  # the server ends a watch after some minutes
        try:
            async for kind, item in client.watch(resource, version, Selection(namespace=namespace)):
                version = item["metadata"]["resourceVersion"]
                if kind in ("ADDED", "MODIFIED"):
                    tell(item, time.time())
        except Throttled as error:  # the server is still reading a kind that is new to it
            await asyncio.sleep(max(LOOK_S, error.retry_after_s))


def pods_by(label: str, timeline: Timeline) -> Callable[[Raw, float], None]:
    """Tells a timeline of pods, whose job this label names."""

    def tell(pod: Raw, now: float) -> None:
        meta = pod["metadata"]
        job = (meta.get("labels") or {}).get(label, "")
        timeline.saw_pod(job, meta["name"], (pod.get("status") or {}).get("phase", ""), now)

    return tell


def ends_by(condition: str, timeline: Timeline) -> Callable[[Raw, float], None]:
    """Tells a timeline of jobs that have this condition, or Failed."""

    def tell(job: Raw, now: float) -> None:
        for one in (job.get("status") or {}).get("conditions") or ():
            if one.get("status") == "True" and one.get("type") in (condition, "Failed"):
                failure = "" if one["type"] == condition else one.get("message") or "Failed"
                timeline.saw_end(job["metadata"]["name"], now, failure)

    return tell


class Patience(NamedTuple):
    """How long nothing may move, and who says why it does not."""

    seconds: float
    explain: Callable[[], str]


async def until(timeline: Timeline, what: str, jobs: int, progress: Progress, patience: Patience) -> None:
    """Wait until all gangs have come so far, and say how many have; SystemExit when nothing moves."""
    moved, before = time.monotonic(), -1
    while (count := getattr(timeline, what)) < jobs:
        now = timeline.created + timeline.running + timeline.done
        if now != before:
            moved, before = time.monotonic(), now
        if time.monotonic() - moved > patience.seconds:
            left = ", ".join(timeline.missing(what)[:5])
            said = f"{jobs - count} of {jobs} jobs are not {what}, nothing moves: {left} …"
            raise SystemExit(f"{said}\n{patience.explain()}")
        words = f"{timeline.created} created, {timeline.running} running, {timeline.done} done"
        progress.advance(now / (3 * jobs), words)
        await asyncio.sleep(LOOK_S)
