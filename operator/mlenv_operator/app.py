"""The composition root: who knows whom, and what runs beside what."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mlenv_api import __version__, names
from mlenv_api.names import ANNOTATION_ADDRESS
from mlenv_operator.adapters.beats import Launchers
from mlenv_operator.adapters.beatstore import BeatStore
from mlenv_operator.adapters.bookkeeper import NO_ACCOUNTS
from mlenv_operator.adapters.budgets import Budgets
from mlenv_operator.adapters.caches import build_caches
from mlenv_operator.adapters.costserver import serve_costs
from mlenv_operator.adapters.estimates import Estimates
from mlenv_operator.adapters.health import (
    caches_are_synced,
    loop_is_prompt,
    queue_moves,
    watch_progresses,
)
from mlenv_operator.adapters.http import Beats, Pages, build_app, serve
from mlenv_operator.adapters.jobs import JobCache
from mlenv_operator.adapters.kopf_app import build_registry, run_kopf
from mlenv_operator.adapters.metrics import ApiReport, LoopLag, Metrics, QueueReport
from mlenv_operator.adapters.money import show_money
from mlenv_operator.adapters.neighbours import Neighbours
from mlenv_operator.adapters.nodes import NodeNews
from mlenv_operator.adapters.nudges import Nudges
from mlenv_operator.adapters.observe import Observer
from mlenv_operator.adapters.overlay import Overlay
from mlenv_operator.adapters.pace import Pace
from mlenv_operator.adapters.pricebooks import Books
from mlenv_operator.adapters.reconciler import Reconciler
from mlenv_operator.adapters.recorder import Recorder
from mlenv_operator.adapters.refreshing import refresher_of
from mlenv_operator.adapters.rejections import Rejections
from mlenv_operator.adapters.state import State
from mlenv_operator.adapters.sweep import Sweep
from mlenv_operator.adapters.tokens import TokenAuthenticator, TokenLimits
from mlenv_operator.adapters.workers import work
from mlenv_operator.core.world import CoreSettings, JobKey, NodeView, PodView
from mlenv_operator.cost.shares import parse_policy
from mlenv_operator.kube.client import Client, never_gated
from mlenv_operator.kube.errors import NotFound
from mlenv_operator.kube.leases import KubeLeaseStore
from mlenv_operator.kube.resources import BUDGETS, PRICE_BOOKS, TRAINING_JOBS
from mlenv_operator.kube.tokens import review_token
from mlenv_operator.kube.transport import Transport, connect
from mlenv_operator.ledger.errors import LedgerError
from mlenv_operator.ledger.writer import Writer
from mlenv_operator.runtime import heap
from mlenv_operator.runtime.clock import SystemClock
from mlenv_operator.runtime.lease import LeadershipLostError, Lease, LeaseTiming, identity_of
from mlenv_operator.runtime.workqueue import Backoff, WorkQueue
from mlenv_operator.settings import variable_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlenv_operator.adapters.accounting import Accounting
    from mlenv_operator.core.world import EnvironmentView
    from mlenv_operator.runtime.reflector import Change
    from mlenv_operator.settings import Settings

log = logging.getLogger(__name__)
USER_AGENT: Final = f"mlenv-operator/{__version__}"
SWITCH_INTERVAL_S: Final = 0.001
"""For so long the thread that renders metrics may keep the event loop waiting at a time; Python says 5 ms."""
LEASE_CONNECTIONS: Final = 2
"""The Lease has connections of its own: renewals queue behind nobody, one may hang while the next tries."""
STOP_WITHIN_S: Final = 10.0
"""At an orderly end, workers may take so long to finish what they hold."""


class StartError(Exception):
    """The operator cannot start; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that lives as long as the process."""

    settings: Settings
    client: Client
    lease: Lease
    metrics: Metrics
    lag: LoopLag
    queue: WorkQueue[JobKey]
    state: State
    observer: Observer
    launchers: Launchers
    reconciler: Reconciler
    sweep: Sweep
    accounting: Accounting | None
    books: Books
    budgets: Budgets
    stop: asyncio.Event


def build(settings: Settings, transport: Transport, lease_transport: Transport, metrics: Metrics) -> Parts:
    """Put the parts together; nothing runs yet."""
    clock, rng, jobs = SystemClock(), random.SystemRandom(), JobCache(settings.kept_labels)
    lease = _lease(settings, lease_transport, clock, rng)
    client = Client(transport, lambda: lease.write_window(clock.monotonic()))
    report = QueueReport(metrics)
    backoff = Backoff(settings.failure_backoff_base_s, settings.failure_backoff_cap_s)
    queue: WorkQueue[JobKey] = WorkQueue(clock, rng, backoff=backoff, metrics=report)
    report.watch(lambda: len(queue), queue.oldest_age)
    core = CoreSettings(beats_per_second=settings.beats_per_s / 2)
    state = State(
        clock=clock,
        jobs=jobs,
        caches=build_caches(client, clock, rng, metrics),
        beats=BeatStore(clock),
        overlay=Overlay(clock),
        rejections=Rejections(clock, core),
        neighbours=Neighbours(),
        pace=Pace(clock, lambda: len(jobs), settings.status_writes_per_s, waiting=lambda: len(queue)),
    )
    metrics.before_scrape(lambda: _count_jobs(metrics, jobs))
    observer = Observer(state, operator_urls=launcher_urls(settings), settings=core)
    recorder = Recorder(client, clock, settings.pod_name)
    books = Books(client, clock, rng, metrics)
    accounting = accounting_of(settings, client, state, queue.add, books)
    accounts = NO_ACCOUNTS if accounting is None else accounting.bookkeeper
    figures = None if accounting is None else accounting.accountant.figures
    return Parts(
        settings=settings,
        client=client,
        lease=lease,
        metrics=metrics,
        lag=LoopLag(metrics),
        queue=queue,
        state=state,
        observer=observer,
        launchers=Launchers(lease, queue, state, core, accounts),
        reconciler=Reconciler(
            client, queue, state, observer, recorder, nudges=Nudges(state, metrics), accounts=accounts
        ),
        sweep=Sweep(client, queue, state, interval_s=settings.sweep_interval_s),
        accounting=accounting,
        books=books,
        budgets=Budgets(client, clock, rng, recorder, figures, metrics=metrics),
        stop=asyncio.Event(),
    )


def accounting_of(
    settings: Settings, client: Client, state: State, look: Callable[[JobKey], None], books: Books
) -> Accounting | None:
    """What stores facts and money, when there is a ledger."""
    if not settings.ledger_dsn:
        return None  # and SQLAlchemy, which takes memory and half a second, is not imported
    from mlenv_operator.adapters.accounting import build_accounting  # noqa: PLC0415

    try:
        return build_accounting(settings, client, state, look, books)
    except LedgerError as error:
        raise StartError(f"{variable_of('ledger_dsn')}: {error}") from error


def launcher_urls(settings: Settings) -> tuple[str, ...]:
    """Where launchers find the operator. A URL whose variable Kubernetes could not fill in is left out."""
    urls = (one.strip() for one in settings.launcher_urls.split(","))
    return tuple(one for one in urls if one and "$(" not in one) or (settings.address,)


def connect_parts(parts: Parts) -> None:
    """Who hears of whose changes."""

    def pod_changed(change: Change[PodView]) -> None:
        parts.state.beats.pod_changed(change)
        pod = change.new or change.old
        if pod is not None:
            key = JobKey(pod.namespace, pod.job_name)
            parts.state.overlay.seen(key, pod.name)
            parts.queue.add(key)

    news = NodeNews(parts.state.caches.pods.views, parts.queue.add)

    def node_changed(change: Change[NodeView]) -> None:
        parts.observer.node_changed(change)
        news.changed(change.key.name)

    def environment_changed(change: Change[EnvironmentView]) -> None:
        view = change.new or change.old
        if view is not None:
            for key in parts.observer.awaiting(view.kind, change.key.namespace, change.key.name):
                parts.queue.add(key)

    parts.state.caches.pods.on_change(pod_changed)
    parts.state.caches.nodes.on_change(node_changed)
    parts.state.caches.services.on_change(lambda change: parts.queue.add(JobKey(*change.key)))
    parts.state.caches.environments.on_change(environment_changed)
    parts.state.caches.cluster_environments.on_change(environment_changed)
    parts.state.caches.price_books.on_change(parts.books.changed)
    parts.state.caches.budgets.on_change(parts.budgets.changed)
    accountant = None if parts.accounting is None else parts.accounting.accountant
    show_money(parts.metrics, accountant, lambda: parts.launchers.leading, lambda: parts.budgets.figures)


async def run(settings: Settings, metrics: Metrics | None = None) -> None:
    """Run until SIGTERM or SIGINT, or until leadership is lost (LeadershipLostError)."""
    metrics = metrics or Metrics()
    connected = partial(
        connect,
        kubeconfig=settings.kubeconfig or None,
        user_agent=USER_AGENT,
        timeout_s=settings.api_timeout_s,
        metrics=ApiReport(metrics),
    )
    async with (
        connected(connections=settings.api_connections) as transport,
        connected(connections=LEASE_CONNECTIONS) as lease_transport,
    ):
        connect_parts(parts := build(settings, transport, lease_transport, metrics))
        await _check_crds(parts.client)
        take_signals(parts.stop)
        misdirected = parts.launchers.misdirected
        shares = parse_policy(settings.ledger_shares)
        estimates = Estimates(parts.state.caches, lambda: parts.books.prices, shares)
        costs = serve_costs(
            settings, parts.client, misdirected, SystemClock(), parts.books, estimates=estimates
        )
        async with serve(_http(parts), settings.http_host, settings.http_port) as port, costs:
            log.info("serving on port %d", port)
            await _run_parts(parts, transport)


def take_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT end the process in order."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


async def _run_parts(parts: Parts, transport: Transport) -> None:
    """Everything at once. The first to fail ends all; kopf ends last: it cancels whatever began after it."""
    kopf_stop = asyncio.Event()
    registry = build_registry((TRAINING_JOBS,), _on_event(parts), transport.configuration)
    tasks = [asyncio.create_task(one.run(), name=f"informer {one.name}") for one in parts.state.caches.all()]
    tasks.append(asyncio.create_task(parts.lag.run(), name="loop lag"))
    tasks.append(asyncio.create_task(_lead(parts), name="leadership"))
    stopper = asyncio.create_task(parts.stop.wait(), name="stop")
    kopf_task = asyncio.create_task(
        run_kopf(registry, kopf_stop, lambda: take_signals(parts.stop)), name="kopf"
    )
    try:
        done, _ = await asyncio.wait((*tasks, stopper, kopf_task), return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopper}:
            task.result()
            raise RuntimeError(f"the task {task.get_name()!r} ended, which it never should")
    finally:
        await _end(parts, tasks)
        kopf_stop.set()
        with suppress(asyncio.CancelledError, Exception):
            await asyncio.wait_for(kopf_task, STOP_WITHIN_S)
        stopper.cancel()


async def _end(parts: Parts, tasks: list[asyncio.Task[None]]) -> None:
    """Stop working, then give the Lease away: never the other way round."""
    parts.launchers.leading = False
    parts.queue.shut_down()
    deadline = asyncio.get_running_loop().time() + STOP_WITHIN_S
    while parts.queue.in_hand and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await parts.lease.release()


async def _lead(parts: Parts) -> None:
    """Wait for the caches, then for the Lease; then work as long as it is ours."""
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(parts.lease.watch())  # a dead leader's time runs while caches fill
        async with heap.filling():
            for cache in parts.state.caches.all():
                await cache.wait_synced()
        watching.cancel()
    await parts.lease.acquire()
    try:
        await _work_as_leader(parts)
    except ExceptionGroup as group:
        lost, rest = group.split(LeadershipLostError)
        if lost is None or rest is not None:
            raise
        raise LeadershipLostError(str(lost.exceptions[0])) from None  # an end as good as any, not a crash


async def _work_as_leader(parts: Parts) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_keep(parts))
        async with heap.filling():
            await parts.sweep.read_jobs()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        parts.observer.lead()
        parts.launchers.leading = True
        parts.metrics.leader.set(1)
        group.create_task(parts.sweep.run())
        if parts.accounting is not None:
            writer = Writer(parts.lease.transitions, parts.lease.identity)
            group.create_task(parts.accounting.accountant.run(writer), name="ledger")
            group.create_task(parts.accounting.bookkeeper.run(), name="bookkeeper")
        group.create_task(parts.books.run())
        group.create_task(parts.budgets.run())
        if (refresher := refresher_of(parts.settings, parts.books, parts.state)) is not None:
            group.create_task(refresher.run(), name="prices")
        for _ in range(parts.settings.workers):
            group.create_task(work(parts.queue, parts.reconciler, parts.metrics))


async def _keep(parts: Parts) -> None:
    try:
        await parts.lease.keep()
    finally:
        parts.launchers.leading = False
        parts.metrics.leader.set(0)


def _on_event(parts: Parts) -> Any:
    def changed(type_: str | None, namespace: str, name: str, uid: str, raw: dict[str, Any]) -> None:
        key = JobKey(namespace, name)
        news = parts.state.jobs.drop(key, uid) if type_ == "DELETED" else parts.state.jobs.put(raw)
        if news:
            parts.queue.add(key)

    return changed


def _lease(settings: Settings, transport: Transport, clock: SystemClock, rng: random.Random) -> Lease:
    """Its own writes pass no gate: they are what the gate hangs on."""
    timing = LeaseTiming(
        settings.lease_duration_s, settings.lease_renew_deadline_s, settings.lease_retry_period_s
    )
    return Lease(
        KubeLeaseStore(Client(transport, never_gated), settings.namespace, settings.lease_name),
        clock,
        rng,
        identity=identity_of(settings.pod_name),
        address=settings.address,
        address_annotation=ANNOTATION_ADDRESS,
        timing=timing,
    )


def _http(parts: Parts) -> Any:
    clock, caches = SystemClock(), parts.state.caches.all()
    health = [loop_is_prompt(parts.lag), *(watch_progresses(one, clock) for one in caches)]
    health.append(queue_moves(parts.queue))  # type: ignore[arg-type]
    pages = Pages(parts.metrics, health, [caches_are_synced(caches)])
    tokens = TokenAuthenticator(
        lambda token: review_token(parts.client, token, parts.settings.token_audience),
        parts.state.beats.is_live,
        clock,
        audience=parts.settings.token_audience,
        limits=TokenLimits(reviews_per_s=parts.settings.token_reviews_per_s),
        metrics=parts.metrics,
    )
    return build_app(pages, Beats(tokens, parts.launchers, parts.metrics))


def _count_jobs(metrics: Metrics, jobs: JobCache) -> None:
    metrics.jobs.clear()
    for phase, number in jobs.phases().items():
        metrics.jobs.labels(phase).set(number)


async def _check_crds(client: Client) -> None:
    """Kopf is told not to look for kinds: without a CRD it, or an informer, would wait in silence."""
    kinds = ((TRAINING_JOBS, names.TRAINING_JOB), (PRICE_BOOKS, names.PRICE_BOOK), (BUDGETS, names.BUDGET))
    for resource, kind in kinds:
        try:
            async for _ in client.list_pages(resource, limit=1):
                break
        except NotFound as error:
            raise StartError(
                f"the cluster knows no {kind}: install the CRDs (kubectl apply -f crds/, or the chart with"
                " crds.install=true) and start the operator again"
            ) from error


__all__ = ["LeadershipLostError", "StartError", "run"]
