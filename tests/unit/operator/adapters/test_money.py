from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from mlenv_operator.adapters import money, money_table
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.adapters.money import HELD_AT_ZERO, MAX_JOBS, Money, show_money
from mlenv_operator.core.budgets import ANY, Figure
from mlenv_operator.cost.budgets import MonthToDate, Spent
from mlenv_operator.cost.facts import DOLLAR, HOUR, SECOND, Attribution
from mlenv_operator.ledger.accountant import Figures
from mlenv_operator.ledger.auditing import Health
from mlenv_operator.ledger.exports import Exposition, Series
from mlenv_operator.ledger.live import LiveJob

LABELS = {
    "namespace": "ml",
    "team": "ads",
    "use_case": "ctr",
    "instance_type": "p5",
    "capacity_type": "spot",
    "category": "productive",
}
JOB = {"namespace": "ml", "trainingjob": "ranker", "uid": "u"}
LIVE = LiveJob(
    "u", Attribution("ml", "ranker", "u", "ads", "m", "ctr", "ann", "gpu"), "p5", "spot", 8, 5 * SECOND,
    3 * DOLLAR, 55 * DOLLAR, 100 * SECOND, 80 * SECOND, unpriced=False, telemetry=True,
)  # fmt: skip
HEALTH = Health(HOUR, 2, 1, {"pod": 4}, 3, 0, {("p5", "spot"): 60 * SECOND})


class Site:
    """A registry with money in it."""

    def __init__(self) -> None:
        self.figures: Figures | None = Figures()
        self.leads = True
        self.registry = CollectorRegistry()
        self.budgets: tuple[Figure, ...] = ()
        self.registry.register(Money(lambda: self.figures, lambda: self.leads, lambda: self.budgets))

    def show(self, number: int, cost: int, *, fresh: bool = False, **more: object) -> None:
        """Publish one counter of this many nanodollars, half a minute after the one before."""
        series = Series({**LABELS, "gpu_model": "H100"}, 7 * SECOND, cost, 2 * cost, fresh=fresh)
        whole = Exposition({"jobs": [series]}, 0, number, number * 30 * SECOND, health=HEALTH)
        assert self.figures is not None
        self.figures.exposition = replace(whole, **more)  # type: ignore[arg-type]

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    @property
    def cost(self) -> float | None:
        return self.value("trainingjob_cost_usd_total", **LABELS)

    @property
    def state(self) -> list[str]:
        return [word for word in money_table.STATES if self.value("trainingjob_ledger_state", state=word)]


@pytest.fixture
def site() -> Site:
    return Site()


def test_the_leader_shows_what_was_published(site: Site) -> None:
    site.show(1, 3 * DOLLAR + 1)
    assert site.state == ["shown"]
    assert site.cost == 3.000000001
    assert site.value("trainingjob_list_cost_usd_total", **LABELS) == 6.000000002
    assert site.value("trainingjob_gpu_seconds_total", **LABELS, gpu_model="H100") == 7.0
    assert site.value("trainingjob_ledger_published_timestamp_seconds") == 30.0
    assert site.value("trainingjob_ledger_corrections_total", reason="pod") == 4.0
    assert site.value("trainingjob_unpriced_node_seconds", instance_type="p5", capacity_type="spot") == 60.0


def test_a_standby_shows_nothing_and_says_so(site: Site) -> None:
    site.show(1, DOLLAR)
    site.leads = False
    assert (site.cost, site.state) == (None, ["standby"])
    assert generate_latest(site.registry).decode().count("\ntrainingjob") == len(money_table.STATES)


def test_a_ledger_that_may_show_nothing_shows_no_zeros_either(site: Site) -> None:
    assert site.figures is not None
    assert (site.cost, site.state) == (None, ["starting"])
    site.figures.condition, site.figures.lag_s = "It was restored from an older backup.", 7.0
    assert (site.cost, site.state) == (None, ["hidden"])
    assert site.value("trainingjob_ledger_lag_seconds") == 7.0
    site.figures = None
    assert (site.cost, site.state) == (None, ["off"])


def test_a_new_series_is_0_until_it_was_seen(site: Site) -> None:
    shown = []
    for number in range(1, 6):
        site.show(number, number * DOLLAR, fresh=number == 1)
        shown.append(site.cost)
    assert HELD_AT_ZERO == 90 * SECOND
    assert shown == [0.0, 0.0, 0.0, 4.0, 5.0]


def test_what_the_leader_before_has_shown_is_not_new(site: Site) -> None:
    site.show(17, DOLLAR)
    assert site.cost == 1.0


def test_a_series_without_money_waits_for_nothing_once_it_was_seen(site: Site) -> None:
    for number in range(1, 8):
        site.show(number, 0, fresh=True)
        assert site.cost == 0.0
    site.show(8, DOLLAR, fresh=True)
    assert site.cost == 1.0


def test_series_that_differ_only_in_the_device_are_one_of_money(site: Site) -> None:
    two = [Series({**LABELS, "gpu_model": model}, SECOND, DOLLAR, DOLLAR) for model in ("A", "B")]
    site.show(1, 0, families={"jobs": two})
    assert site.cost == 2.0
    assert site.value("trainingjob_gpu_seconds_total", **LABELS, gpu_model="B") == 1.0


def test_a_live_job(site: Site) -> None:
    site.show(1, 0, jobs=(LIVE,))
    assert site.value("trainingjob_job_cost_usd", **JOB) == 3.0
    assert site.value("trainingjob_cost_rate_usd_per_hour", **JOB) == 55.0
    assert site.value("trainingjob_goodput_ratio", **JOB) == 0.8
    assert site.value("trainingjob_step_telemetry_present", **JOB) == 1.0
    assert site.value("trainingjob_gpus", **JOB) == 8
    assert site.value("trainingjob_start_timestamp_seconds", **JOB) == 5.0
    assert site.value("trainingjob_unpriced", **JOB) is None
    who = {"team": "ads", "use_case": "ctr", "model": "m", "user": "ann", "queue": "gpu"}
    where = {"instance_type": "p5", "capacity_type": "spot"}
    assert site.value("trainingjob_info", **JOB, **who, **where) == 1.0
    site.show(2, 0)
    assert site.value("trainingjob_gpus", **JOB) is None


def test_a_job_that_does_not_tell_of_its_steps_has_no_goodput(site: Site) -> None:
    site.show(1, 0, jobs=(replace(LIVE, telemetry=False),))
    assert site.value("trainingjob_goodput_ratio", **JOB) is None
    assert site.value("trainingjob_step_telemetry_present", **JOB) == 0.0
    assert site.value("trainingjob_job_gpu_seconds", **JOB) == 100.0


def test_what_has_no_price_does_not_cost_0(site: Site) -> None:
    site.show(1, 0, jobs=(replace(LIVE, cost=0, rate=0, unpriced=True),))
    assert site.value("trainingjob_job_cost_usd", **JOB) is None
    assert site.value("trainingjob_cost_rate_usd_per_hour", **JOB) is None
    assert site.value("trainingjob_unpriced", **JOB) == 1.0


def test_what_had_no_price_does_not_cost_0_once_the_job_has_let_go_of_it(site: Site) -> None:
    gone = replace(LIVE, gpus=0, instance_type="", capacity_type="", rate=0, unpriced_micros=SECOND)
    site.show(1, 0, jobs=(replace(gone, cost=0),))
    assert site.value("trainingjob_job_cost_usd", **JOB) is None
    assert site.value("trainingjob_unpriced", **JOB) == 1.0
    assert site.value("trainingjob_cost_rate_usd_per_hour", **JOB) == 0.0
    site.show(2, 0, jobs=(gone,))
    assert site.value("trainingjob_job_cost_usd", **JOB) == 3.0
    assert site.value("trainingjob_unpriced", **JOB) == 1.0
    site.show(3, 0, jobs=(replace(gone, unpriced_micros=0),))
    assert site.value("trainingjob_unpriced", **JOB) is None


def test_of_too_many_jobs_those_that_hold_most_are_shown_and_the_rest_are_counted(site: Site) -> None:
    jobs = tuple(
        replace(LIVE, uid=f"u{n}", gpus=n, attribution=replace(LIVE.attribution, job_uid=f"u{n}"))
        for n in range(MAX_JOBS + 5)
    )
    site.show(1, 0, jobs=jobs)
    assert site.value("trainingjob_jobs_hidden") == 5
    assert site.value("trainingjob_gpus", **{**JOB, "uid": "u4"}) is None
    assert site.value("trainingjob_gpus", **{**JOB, "uid": "u5"}) == 5


def month(**spent: Spent) -> MonthToDate:
    """By team; each with one use case."""
    pairs = {(team, "ctr"): one for team, one in spent.items()}
    teams = {(team, None): one for team, one in spent.items()}
    return MonthToDate("2025-01", HOUR, 9 * HOUR, HOUR, {**pairs, **teams, (None, "ctr"): Spent(7)})


def spent_of(site: Site, team: str, use_case: str = "ctr") -> float | None:
    return site.value("trainingjob_cost_month_to_date_usd", team=team, use_case=use_case)


def test_the_month_is_shown_by_team_and_use_case_and_adds_up(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(money, "MAX_OWNERS", 2)
    some = {"ads": 5, "feed": 9, "ops": 2, "old": -1}
    site.show(1, 0, month=month(**{team: Spent(cost * DOLLAR) for team, cost in some.items()}))
    assert (spent_of(site, "feed"), spent_of(site, "ads"), spent_of(site, "ops")) == (9.0, 5.0, None)
    assert spent_of(site, money_table.OTHER, money_table.OTHER) == 1.0


def test_what_has_no_price_did_not_cost_0_in_a_month(site: Site) -> None:
    site.show(1, 0, month=month(ads=Spent(unpriced=1), feed=Spent(DOLLAR, unpriced=1), ops=Spent()))
    assert (spent_of(site, "ads"), spent_of(site, "feed"), spent_of(site, "ops")) == (None, 1.0, 0.0)


def test_budgets_are_shown_with_what_is_known_of_them(site: Site) -> None:
    unknown = Figure("ads", ANY, 5 * DOLLAR, None, None)
    site.budgets = (unknown, Figure(ANY, "ctr", 9 * DOLLAR, DOLLAR, 2 * DOLLAR))

    def values(**labels: str) -> list[float | None]:
        shown = ("limit", "spent", "forecast")
        return [site.value(f"trainingjob_budget_{what}_usd", **labels) for what in shown]

    assert values(team="ads", use_case=ANY) == [5.0, None, None]
    assert values(team=ANY, use_case="ctr") == [9.0, 1.0, 2.0]
    site.leads = False
    assert values(team=ANY, use_case="ctr") == [None, None, None]


def test_the_page_of_an_operator_without_a_ledger_says_so() -> None:
    metrics = Metrics()
    show_money(metrics, None, lambda: True)
    assert metrics.registry.get_sample_value("trainingjob_ledger_state", {"state": "off"}) == 1.0


def test_only_what_stands_in_the_table_is_shown(site: Site) -> None:
    site.show(1, DOLLAR, jobs=(replace(LIVE, unpriced=True),), overflow={"jobs": 1})
    shown = {metric.name: metric for metric in site.registry.collect()}
    assert set(shown) == {row.name for row in money_table.ROWS}
    for row in money_table.ROWS:
        for sample in shown[row.name].samples:
            assert tuple(sample.labels) == row.labels
