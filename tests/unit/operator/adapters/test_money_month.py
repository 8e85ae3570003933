"""A month of 300,000 jobs, each with a model of its own: the page, and what is kept, stay within bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import crowded
import pytest
from ledgers import START, Book
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import func, select

from mlenv_operator.adapters.money import MAX_JOBS, MAX_OWNERS, Money
from mlenv_operator.cost.facts import HOUR
from mlenv_operator.ledger import admission, rollups, schema
from mlenv_operator.ledger.accountant import Figures
from mlenv_operator.ledger.exports import MemoryMarks
from mlenv_operator.ledger.ledger import open_ledger
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from pathlib import Path

    from mlenv_operator.ledger.ledger import Ledger

JOBS: Final = 300_000
DAYS: Final = 30
OTHERS: Final = 100
"""Series of what is shown together: by category and capacity type."""


class Page:
    """What a scrape of this ledger gets."""

    def __init__(self, ledger: Ledger) -> None:
        self._figures, self._ledger, self._marks = Figures(), ledger, MemoryMarks()
        self._registry = CollectorRegistry()
        self._registry.register(Money(lambda: self._figures, lambda: True))

    def samples(self, now: int) -> int:
        """How many, after a publication."""
        self._figures.exposition = self._ledger.publish(self._marks, now)
        return sum(not line.startswith(b"#") for line in generate_latest(self._registry).splitlines())

    def value(self, name: str, **labels: str) -> float | None:
        """One sample."""
        return self._registry.get_sample_value(name, labels)


def rows(ledger: Ledger, family: str) -> int:
    with ledger.database.reading() as connection:
        query = select(func.count()).where(schema.counter.c.family == family)
        return int(connection.execute(query).scalar_one())


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_month_of_jobs_leaves_no_more_on_the_page_than_its_bounds(tmp_path: Path) -> None:
    _month(tmp_path, JOBS, MAX_JOBS + 20)


def test_a_small_month_of_jobs_leaves_no_more_on_the_page_than_its_bounds(tmp_path: Path) -> None:
    _month(tmp_path, 6_000, 20)


def _month(folder: Path, jobs: int, alive: int) -> None:
    ledger = open_ledger(f"sqlite:///{folder}/ledger.db", Book())
    ledger.begin(Writer(1, "operator"))
    page, a_day = Page(ledger), jobs // DAYS
    sizes = []
    for day in range(DAYS):
        hour = START // HOUR + 24 * day
        crowded.spend(ledger, day * a_day, (day + 1) * a_day, hour)
        sizes.append(page.samples(hour * HOUR + HOUR // 2))
    limit = admission.LIMITS[rollups.MODELS]
    assert rows(ledger, rollups.MODELS) == limit + 1
    assert sizes[-1] <= max(sizes[: 3 + limit // a_day]), "the page grows with the month"
    now = START + DAYS * 24 * HOUR + HOUR // 2
    ledger.observe(crowded.live(alive, now))
    most = 3 * (admission.LIMITS[rollups.JOBS] + OTHERS) + limit + OTHERS + admission.LIMITS[rollups.NODES]
    assert page.samples(now) <= most + 9 * min(alive, MAX_JOBS) + MAX_OWNERS + 100
    assert page.value("trainingjob_jobs_hidden") == max(0, alive - MAX_JOBS)
    assert (page.value("trainingjob_label_overflow_series", family="models") or 0) > 0
    # A job that was live leaves no series of its own, but maybe a month's sum of its team and use case.
    assert page.samples(now + HOUR) == pytest.approx(sizes[-1], abs=10 * alive + 100)
    ledger.database.close()
