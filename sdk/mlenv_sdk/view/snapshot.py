"""All that a view of one job shows, taken together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mlenv_sdk.errors import Unavailable, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from mlenv_sdk.client import Client
    from mlenv_sdk.resources import Event, Pod, TrainingJob

INTERVAL = 1.0
PODS_EVERY = 2.0
GIVE_UP_SECONDS = 60.0


@dataclass(frozen=True)
class Snapshot:
    """A job with its pods and events at one time."""

    job: TrainingJob
    pods: tuple[Pod, ...]
    events: tuple[Event, ...]
    now: datetime
    trouble: str = ""
    """Why this may be old: the API server does not answer."""


def snapshots(
    client: Client,
    name: str,
    *,
    wall: Callable[[], datetime],
    monotonic: Callable[[], float],
    sleep: Callable[[float], object],
) -> Iterator[Snapshot]:
    """A snapshot every second until the job has ended; the last one shows the end.

    Pods and events are read when the job changed, and every PODS_EVERY seconds, to spare the API server.
    Survives an API server that is away for up to GIVE_UP_SECONDS. Raises NotFound when the job is deleted.
    """
    last, looked, answered = _take(client, name, wall()), monotonic(), monotonic()
    yield last
    while not last.job.finished:
        sleep(INTERVAL)
        try:
            job = client.get(name)
            if _changed(job, last.job) or monotonic() - looked >= PODS_EVERY:
                last, looked = _take(client, name, wall()), monotonic()
            else:
                last = replace(last, job=job, now=wall(), trouble="")
            answered = monotonic()
        except (Unreachable, Unavailable) as error:
            if monotonic() - answered > GIVE_UP_SECONDS:
                raise
            last = replace(last, now=wall(), trouble=str(error))
        yield last


def _take(client: Client, name: str, now: datetime) -> Snapshot:
    pods, events = client.pods(name), client.events(name)
    job = client.get(name)  # last: what ended the job is then among its events
    mine = tuple(event for event in events if event.concerns(job))
    return Snapshot(job=job, pods=pods, events=mine, now=now)


def _changed(one: TrainingJob, other: TrainingJob) -> bool:
    return one.metadata.resource_version != other.metadata.resource_version
