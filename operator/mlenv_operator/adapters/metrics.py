"""Every metric of the operator, in one table. None carries the name of a job."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

if TYPE_CHECKING:
    from collections.abc import Callable

disable_created_metrics()  # type: ignore[no-untyped-call]  # a third more samples, which nobody reads
PREFIX: Final = "mlenv_operator"
_LATENCY: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_API: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LAG: Final = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The table. Names begin with ``mlenv_operator_``."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = to = registry or CollectorRegistry()
        ProcessCollector(registry=to)
        PlatformCollector(registry=to)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{PREFIX}_{name}", text, labels, registry=to)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"{PREFIX}_{name}", text, labels, registry=to)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"{PREFIX}_{name}", text, labels, buckets=buckets, registry=to)

        self.queue_depth = gauge("workqueue_depth", "Keys that wait for a worker.")
        self.queue_oldest = gauge("workqueue_oldest_key_seconds", "Age of the oldest key not yet done with.")
        self.queue_adds = counter("workqueue_adds_total", "Keys queued.")
        self.queue_retries = counter("workqueue_retries_total", "Keys put back after a failure.")
        self.queue_latency = histogram("workqueue_latency_seconds", "Time a key waited.", _LATENCY)
        self.queue_work = histogram("workqueue_work_duration_seconds", "Time a key was worked on.", _LATENCY)
        self.reconciles = counter("reconcile_total", "Reconciles, by how they ended.", "result")
        self.api_requests = counter(
            "api_requests_total", "Requests to the API server; code 0: no answer.", "verb", "resource", "code"
        )
        self.api_duration = histogram(
            "api_request_duration_seconds", "Time to the API server's answer.", _API, "verb", "resource"
        )
        self.watch_restarts = counter("watch_restarts_total", "Watches opened anew.", "resource")
        self.watch_last_event = gauge(
            "watch_last_event_timestamp_seconds", "When a watch last said anything.", "resource"
        )
        self.cache_objects = gauge("cache_objects", "Objects in a cache.", "resource")
        self.leader = gauge("leader", "1 while this replica leads.")
        self.loop_lag = histogram("event_loop_lag_seconds", "By how much the event loop is late.", _LAG)
        self.jobs = gauge("jobs", "TrainingJobs, by phase.", "phase")
        self.beats = counter("beats_total", "Heartbeats of launchers, by how they were answered.", "result")
        self.nudges = counter("nudges_total", "Datagrams to launchers of jobs that moved.", "result")
        self.price_book_age = gauge(
            "price_book_age_seconds", "Since when prices are true, by their source's word.", "book"
        )
        self.price_book_refused = gauge(
            "price_book_refused", "1 while the newest version of a PriceBook is refused.", "book"
        )
        self.token_reviews = counter("token_reviews_total", "TokenReviews, by result.", "result")
        self._refreshers: list[Callable[[], None]] = []

    def before_scrape(self, refresh: Callable[[], None]) -> None:
        """Have gauges set in the event loop before each scrape: a scrape is rendered in another thread."""
        self._refreshers.append(refresh)

    def refresh(self) -> None:
        """Set those gauges now."""
        for refresh in self._refreshers:
            refresh()

    def reviewed(self, result: str) -> None:
        """A token was reviewed, or was not."""
        self.token_reviews.labels(result).inc()


class QueueReport:
    """A work queue's metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def added(self) -> None:
        """A key was queued."""
        self._metrics.queue_adds.inc()

    def waited(self, seconds: float) -> None:
        """A worker took a key."""
        self._metrics.queue_latency.observe(seconds)

    def worked(self, seconds: float) -> None:
        """A worker is done with a key."""
        self._metrics.queue_work.observe(seconds)

    def retried(self) -> None:
        """A key was put back."""
        self._metrics.queue_retries.inc()

    def watch(self, depth: Callable[[], float], oldest_age: Callable[[], float]) -> None:
        """Ask the queue itself before every scrape."""
        self._metrics.before_scrape(lambda: self._metrics.queue_depth.set(depth()))
        self._metrics.before_scrape(lambda: self._metrics.queue_oldest.set(oldest_age()))


class ApiReport:
    """Requests to the API server."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # labels() takes a lock and builds a key, each time anew.
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[tuple[str, str], Histogram] = {}

    def requested(self, verb: str, resource: str, code: int, seconds: float) -> None:
        """A request ended."""
        key = (verb, resource, code)
        if (counter := self._counters.get(key)) is None:
            counter = self._counters[key] = self._metrics.api_requests.labels(verb, resource, str(code))
        counter.inc()
        if verb == "watch":
            return
        if (histogram := self._histograms.get(key[:2])) is None:
            histogram = self._histograms[key[:2]] = self._metrics.api_duration.labels(verb, resource)
        histogram.observe(seconds)


class WatchReport:
    """One informer's metrics."""

    def __init__(self, metrics: Metrics, resource: str) -> None:
        self._last = metrics.watch_last_event.labels(resource)
        self._restarts = metrics.watch_restarts.labels(resource)
        self._objects = metrics.cache_objects.labels(resource)
        self._before_scrape = metrics.before_scrape

    def progressed(self) -> None:
        """Something came."""
        self._last.set_to_current_time()

    def restarted(self) -> None:
        """The watch was opened anew."""
        self._restarts.inc()

    def watch(self, size: Callable[[], float]) -> None:
        """Ask the cache itself before every scrape."""
        self._before_scrape(lambda: self._objects.set(size()))


class LoopLag:
    """Measures by how much the event loop is late."""

    def __init__(self, metrics: Metrics, *, interval_s: float = 0.25, remembered: int = 40) -> None:
        self._histogram = metrics.loop_lag
        self._interval_s = interval_s
        self._recent: deque[float] = deque(maxlen=remembered)

    @property
    def worst_s(self) -> float:
        """The worst of the last few seconds."""
        return max(self._recent, default=0.0)

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + self._interval_s
            await asyncio.sleep(self._interval_s)
            lag = max(0.0, loop.time() - due)
            self._recent.append(lag)
            self._histogram.observe(lag)
