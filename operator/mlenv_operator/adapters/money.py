"""Money on /metrics. A scrape renders what the ledger published last, and asks no database.

Prometheus takes the first value of a series as given, and reports only what is added later. So a series that
is new is shown as 0 until every scraper must have seen it, and then with what it has: nothing is lost.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from mlenv_operator.adapters import money_table as table
from mlenv_operator.cost.facts import DOLLAR, SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from prometheus_client import Metric

    from mlenv_operator.adapters.metrics import Metrics
    from mlenv_operator.adapters.money_table import Row
    from mlenv_operator.core.budgets import Figure
    from mlenv_operator.cost.budgets import MonthToDate
    from mlenv_operator.cost.facts import Micros
    from mlenv_operator.ledger.accountant import Accountant, Figures
    from mlenv_operator.ledger.auditing import Health
    from mlenv_operator.ledger.exports import Exposition, Series
    from mlenv_operator.ledger.live import LiveJob

HELD_AT_ZERO: Final = 90 * SECOND
"""For so long a new series is shown as 0: a scrape a minute sees it, whenever it comes."""
MAX_JOBS: Final = 10_000
"""Live jobs with series of their own; those that hold most GPUs come first."""
MAX_OWNERS: Final = 2_000
"""Teams and use cases with a sum of the month of their own; those that spent most come first."""
MAX_TEXT: Final = 128
"""Characters of a label's value: whose job it is may be an annotation, and those have no bound."""


@dataclass(frozen=True, slots=True)
class _Family:
    """A counter: from which family of the ledger, and which of its numbers, in which unit."""

    row: Row
    source: str
    number: Callable[[Series], int]
    unit: int


_FAMILIES: Final = (
    _Family(table.COST, "jobs", lambda one: one.cost, DOLLAR),
    _Family(table.LIST_COST, "jobs", lambda one: one.list_cost, DOLLAR),
    _Family(table.GPU_SECONDS, "jobs", lambda one: one.gpu_micros, SECOND),
    _Family(table.MODEL_COST, "models", lambda one: one.cost, DOLLAR),
    _Family(table.NODE_COST, "nodes", lambda one: one.cost, DOLLAR),
)


class Newborns:
    """Which series are still shown as 0. Pure but for its memory of when it first saw them."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, tuple[str, ...]], Micros] = {}

    def hold(self, family: str, series: Sequence[Series], now: Micros) -> list[bool]:
        """For each series, whether it is held at 0."""
        return [self._held((family, tuple(one.labels.values())), one, now) for one in series]

    def _held(self, key: tuple[str, tuple[str, ...]], one: Series, now: Micros) -> bool:
        if one.fresh:
            self._since.setdefault(key, now)
        since = self._since.get(key)
        if since is None:
            return False
        if now - since < HELD_AT_ZERO:
            return True
        if not one.fresh:
            del self._since[key]
        return False


class Money(Collector):
    """Collects from the ledger's figures; `figures` gives None where there is no ledger."""

    def __init__(
        self,
        figures: Callable[[], Figures | None],
        leads: Callable[[], bool],
        budgets: Callable[[], Sequence[Figure]] = lambda: (),
    ) -> None:
        self._figures = figures
        self._leads = leads
        self._budgets = budgets
        self._newborns = Newborns()
        self._lock = threading.Lock()
        self._rendered: tuple[int, list[Metric]] = (-1, [])

    def describe(self) -> Iterable[Metric]:
        """Names only, so that registering asks for no values."""
        return [_metric(row, ()) for row in table.ROWS]

    def collect(self) -> Iterator[Metric]:
        """All of it, as of the last publication."""
        figures, leads = self._figures(), self._leads()
        exposition = figures.exposition if figures and leads else None
        now = _state(figures, leads=leads)
        yield _metric(table.STATE, [((state,), float(state == now)) for state in table.STATES])
        if figures is None or not leads:
            return
        yield from _of_figures(figures)
        yield from _of_budgets(self._budgets())
        if exposition is not None:
            yield from self._money(exposition)

    def _money(self, exposition: Exposition) -> list[Metric]:
        """Made once for each publication, however many scrape it."""
        with self._lock:
            if self._rendered[0] != exposition.number:
                metrics = [*_counters(exposition, self._newborns), *_of_jobs(exposition.jobs)]
                metrics.append(_single(table.SHOWN_AT, exposition.as_of / SECOND))
                overflow = sorted(exposition.overflow.items())
                metrics.append(_metric(table.OVERFLOW, [((family,), n) for family, n in overflow]))
                metrics.append(_of_month(exposition.month))
                if exposition.health is not None:
                    metrics += _of_health(exposition.health)
                self._rendered = exposition.number, metrics
            return self._rendered[1]


def show_money(
    metrics: Metrics,
    accountant: Accountant | None,
    leads: Callable[[], bool],
    budgets: Callable[[], Sequence[Figure]] = lambda: (),
) -> None:
    """Have it on /metrics: money where this replica leads, and everywhere what it does about money."""
    figures = accountant.figures if accountant else None
    metrics.registry.register(Money(lambda: figures, leads, budgets))
    if accountant is not None:
        metrics.before_scrape(accountant.refresh)


def _state(figures: Figures | None, *, leads: bool) -> str:
    if figures is None:
        return "off"
    if not leads:
        return "standby"
    if figures.exposition is not None:
        return "shown"
    return "hidden" if figures.condition else "starting"


def _counters(exposition: Exposition, newborns: Newborns) -> Iterator[Metric]:
    held = {
        family: newborns.hold(family, series, exposition.as_of)
        for family, series in exposition.families.items()
    }
    for one in _FAMILIES:
        sums: dict[tuple[str, ...], int] = defaultdict(int)
        for series, zero in zip(
            exposition.families.get(one.source, ()), held.get(one.source, ()), strict=True
        ):
            # Rows that differ only in what this metric does not tell are one.
            labels = tuple(series.labels.get(name, "") for name in one.row.labels)
            sums[labels] += 0 if zero else one.number(series)
        yield _metric(one.row, [(labels, value / one.unit) for labels, value in sums.items()])


def _of_jobs(jobs: Sequence[LiveJob]) -> Iterator[Metric]:
    shown = sorted(jobs, key=lambda one: (-one.gpus, one.uid))[:MAX_JOBS]
    keys = {one.uid: (one.attribution.namespace, one.attribution.job, one.uid) for one in shown}

    def each(row: Row, value: Callable[[LiveJob], float | None]) -> Metric:
        values = [(keys[one.uid], value(one)) for one in shown]
        return _metric(row, [(labels, number) for labels, number in values if number is not None])

    yield _metric(table.INFO, [((*keys[one.uid], *_about(one)), 1.0) for one in shown])
    yield each(table.JOB_COST, lambda one: None if _lacking(one) and not one.cost else one.cost / DOLLAR)
    yield each(table.JOB_RATE, lambda one: None if one.unpriced else one.rate / DOLLAR)
    yield each(table.JOB_GPUS, lambda one: one.gpus)
    yield each(table.JOB_TELEMETRY, lambda one: float(one.telemetry))
    yield each(table.JOB_GPU_SECONDS, lambda one: one.gpu_micros / SECOND)
    yield each(table.JOB_GOODPUT, _goodput)
    yield each(table.JOB_START, lambda one: one.since / SECOND)
    yield each(table.JOB_UNPRICED, lambda one: 1.0 if _lacking(one) else None)
    yield _single(table.JOBS_HIDDEN, len(jobs) - len(shown))


def _lacking(one: LiveJob) -> bool:
    """Whether its cost is not the whole."""
    return one.unpriced or one.unpriced_micros > 0


def _goodput(one: LiveJob) -> float | None:
    """Of a job that does not tell of its steps nobody knows it: it would be 1 whatever it does."""
    return one.productive / one.gpu_micros if one.gpu_micros and one.telemetry else None


def _about(one: LiveJob) -> tuple[str, ...]:
    who = one.attribution
    words = (who.team, who.use_case, who.model, who.user, one.instance_type, one.capacity_type, who.queue)
    return tuple(word[:MAX_TEXT] for word in words)


def _of_month(month: MonthToDate | None) -> Metric:
    """By team and use case. What has no price, and nothing else, is left out: it did not cost 0."""
    spent = month.spent.items() if month else ()
    known: list[tuple[tuple[str, str], int]] = [
        ((team[:MAX_TEXT], use_case[:MAX_TEXT]), one.cost)
        for (team, use_case), one in spent
        if team is not None and use_case is not None and (one.cost or not one.unpriced)
    ]
    known.sort(key=lambda one: (-one[1], one[0]))
    sums: dict[tuple[str, ...], int] = defaultdict(int)
    for place, (owner, cost) in enumerate(known):
        sums[owner if place < MAX_OWNERS else (table.OTHER, table.OTHER)] += cost
    return _metric(table.MONTH_COST, [(owner, cost / DOLLAR) for owner, cost in sums.items()])


def _of_budgets(budgets: Sequence[Figure]) -> Iterator[Metric]:
    """What is not known of one is left out."""

    def each(row: Row, value: Callable[[Figure], int | None]) -> Metric:
        values = [((one.team, one.use_case), value(one)) for one in budgets]
        return _metric(row, [(owner, nanos / DOLLAR) for owner, nanos in values if nanos is not None])

    yield each(table.BUDGET_LIMIT, lambda one: one.limit)
    yield each(table.BUDGET_SPENT, lambda one: one.spent)
    yield each(table.BUDGET_FORECAST, lambda one: one.forecast)


def _of_figures(figures: Figures) -> Iterator[Metric]:
    """What the accountant counts itself, whether or not counters of money may be shown."""
    yield _single(table.LAG, figures.lag_s)
    yield _single(table.WAITING, figures.waiting)
    facts = {"stored": figures.stored, "refused": figures.refused, "impossible": figures.impossible}
    yield _by(table.FACTS, facts)
    yield _single(table.COMMITS, figures.batches)
    yield _single(table.FAILURES, figures.failures)
    yield _single(table.CLOSED, figures.closed)
    yield _single(table.HELD_BACK, figures.held_back)


def _of_health(health: Health) -> Iterator[Metric]:
    if health.settled_until is not None:
        yield _single(table.SETTLED, health.settled_until / SECOND)
    yield _single(table.OPEN_NODES, health.open_nodes)
    yield _single(table.DUE, health.corrections_due)
    yield _by(table.CORRECTIONS, health.corrected)
    yield _single(table.CLAMPED, health.clamped)
    yield _single(table.IMBALANCE, health.imbalance / DOLLAR)
    unpriced = sorted(health.unpriced.items())
    yield _metric(table.UNPRICED, [(labels, time / SECOND) for labels, time in unpriced])


def _by(row: Row, values: Mapping[str, float]) -> Metric:
    return _metric(row, [((word,), value) for word, value in sorted(values.items())])


def _single(row: Row, value: float) -> Metric:
    return _metric(row, [((), value)])


def _metric(row: Row, values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    kind = CounterMetricFamily if row.type == "counter" else GaugeMetricFamily
    metric: CounterMetricFamily | GaugeMetricFamily = kind(row.name, row.text, labels=row.labels)
    for labels, value in values:
        metric.add_metric(labels, value)
    return metric
