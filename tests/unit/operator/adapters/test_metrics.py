from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from typing import Any

from mlenv_operator.adapters.health import caches_are_synced, loop_is_prompt, queue_moves, watch_progresses
from mlenv_operator.adapters.metrics import ApiReport, LoopLag, Metrics, QueueReport, WatchReport
from mlenv_operator.runtime.clock import FakeClock
from mlenv_operator.runtime.workqueue import WorkQueue

NAMES = {
    "api_request_duration_seconds",
    "api_requests",
    "beats",
    "cache_objects",
    "event_loop_lag_seconds",
    "jobs",
    "leader",
    "reconcile",
    "token_reviews",
    "watch_last_event_timestamp_seconds",
    "watch_restarts",
    "workqueue_adds",
    "workqueue_depth",
    "workqueue_latency_seconds",
    "workqueue_oldest_key_seconds",
    "workqueue_retries",
    "workqueue_work_duration_seconds",
}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"mlenv_operator_{name}", labels)


def test_the_promised_metrics_are_there_and_none_names_a_job() -> None:
    metrics = Metrics()
    families = {family.name for family in metrics.registry.collect()}
    assert {f"mlenv_operator_{name}" for name in NAMES} <= families
    assert "process_resident_memory_bytes" in families


async def test_a_queue_reports() -> None:
    metrics, clock = Metrics(), FakeClock()
    report = QueueReport(metrics)
    queue: WorkQueue[str] = WorkQueue(clock, random.Random(1), metrics=report)
    report.watch(queue.__len__, queue.oldest_age)
    queue.add("a")
    queue.add("b")
    await clock.advance(4)
    await queue.get()
    metrics.refresh()
    assert value(metrics, "workqueue_depth") == 1
    assert value(metrics, "workqueue_oldest_key_seconds") == 4
    assert value(metrics, "workqueue_adds_total") == 2
    assert value(metrics, "workqueue_latency_seconds_sum") == 4


def test_api_calls_and_watches_report() -> None:
    metrics = Metrics()
    api, watch = ApiReport(metrics), WatchReport(metrics, "pods")
    for _ in range(2):
        api.requested("create", "pods", 201, 0.25)
    api.requested("watch", "pods", 200, 0.1)
    watch.progressed()
    watch.restarted()
    watch.watch(lambda: 7)
    metrics.refresh()
    assert value(metrics, "api_requests_total", verb="create", resource="pods", code="201") == 2
    assert value(metrics, "api_request_duration_seconds_sum", verb="create", resource="pods") == 0.5
    assert value(metrics, "api_requests_total", verb="watch", resource="pods", code="200") == 1
    assert value(metrics, "watch_restarts_total", resource="pods") == 1
    assert value(metrics, "cache_objects", resource="pods") == 7


async def test_a_blocked_loop_is_seen() -> None:
    metrics = Metrics()
    lag = LoopLag(metrics, interval_s=0.01)
    check = loop_is_prompt(lag, limit_s=0.1)
    assert check() is None
    task = asyncio.create_task(lag.run())
    await asyncio.sleep(0.02)
    time.sleep(0.2)  # noqa: ASYNC251  (the very fault)
    await asyncio.sleep(0.02)  # longer than the sampler still has to sleep, so it wakes first
    assert "late" in (check() or "")
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


class Informed:
    def __init__(self, name: str, *, synced: bool) -> None:
        self.name, self.synced, self.last_progress = name, synced, 0.0


async def test_health_questions() -> None:
    clock = FakeClock()
    informed: Any = Informed("pods", synced=False)
    assert caches_are_synced([informed])() == "not yet listed: pods"
    informed.synced = True
    assert caches_are_synced([informed])() is None
    check = watch_progresses(informed, clock, limit_s=10)
    assert check() is None
    await clock.advance(11)
    assert check() == "watch on pods: nothing heard for 11 s"
    queue: WorkQueue[Any] = WorkQueue(clock, random.Random(1))
    stuck = queue_moves(queue, limit_s=10)
    queue.add("a")
    assert stuck() is None
    await clock.advance(11)
    assert "11 s" in (stuck() or "")
