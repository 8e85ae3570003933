"""How what the ledger published reaches the core."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from mlenv_operator.adapters.shown import Shown
from mlenv_operator.core.books import Books, Spending
from mlenv_operator.cost.facts import DOLLAR, HOUR, SECOND, Attribution
from mlenv_operator.ledger.accountant import Figures
from mlenv_operator.ledger.auditing import Health
from mlenv_operator.ledger.exports import Exposition
from mlenv_operator.ledger.live import LiveJob

LIVE = LiveJob(
    "u", Attribution("ml", "ranker", "u"), "p5", "spot", 8, 5 * SECOND, 3 * DOLLAR, 55 * DOLLAR,
    100 * SECOND, 80 * SECOND, unpriced=False, by_category=(("productive", 3 * DOLLAR),),
)  # fmt: skip
HEALTH = Health(HOUR, 2, 1, {}, 3, 0, {})
SHOWN = Exposition({}, 0, 1, 90 * SECOND, jobs=(LIVE,), health=HEALTH)
THEN = datetime(1970, 1, 1, 0, 1, 30, tzinfo=UTC)


def test_a_ledger_that_shows_nothing_says_why() -> None:
    figures = Figures()
    shown = Shown(figures)
    assert shown.of("u") == Books(kept=True)
    figures.condition = "it is older than what was shown"
    assert shown.of("u") == Books(kept=True, problem="it is older than what was shown")


def test_each_publication_takes_the_place_of_the_one_before() -> None:
    figures = Figures(exposition=SHOWN)
    shown = Shown(figures)
    spending = Spending(3 * DOLLAR, 55 * DOLLAR, (("productive", 3 * DOLLAR),))
    assert shown.of("u") == Books(kept=True, as_of=THEN, job=spending)
    assert shown.of("other") == Books(kept=True, as_of=THEN)
    figures.exposition = replace(SHOWN, jobs=(replace(LIVE, cost=4 * DOLLAR),))
    assert shown.of("u").job == replace(spending, cost=4 * DOLLAR)
    figures.exposition = replace(SHOWN, jobs=())
    assert shown.of("u").job is None


def test_a_job_without_pods_holds_nothing() -> None:
    gone = replace(LIVE, instance_type="", capacity_type="", gpus=0, rate=0)
    without_devices = replace(LIVE, gpus=0)
    for job, holds in (
        (gone, False),
        (without_devices, True),
        (replace(gone, capacity_type="on-prem"), True),
    ):
        found = Shown(Figures(exposition=replace(SHOWN, jobs=(job,)))).of("u").job
        assert found is not None
        assert found.holds is holds


def test_time_without_a_price_is_told_now_and_before() -> None:
    now, before = replace(LIVE, unpriced=True), replace(LIVE, unpriced_micros=1)
    for job, told in ((LIVE, (False, False)), (now, (True, False)), (before, (False, True))):
        found = Shown(Figures(exposition=replace(SHOWN, jobs=(job,)))).of("u").job
        assert found is not None
        assert (found.unpriced, found.lacking) == told
