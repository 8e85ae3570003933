"""What a budget's status says, and when it is worth an event."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mlenv_api.budget import BudgetStatus
from mlenv_api.conditions import Reason
from mlenv_operator.core.budgets import (
    ANY,
    BudgetView,
    Figure,
    Told,
    differs,
    figures,
    news,
    read_budget,
    status_of,
)
from mlenv_operator.cost.budgets import MonthToDate, Spent
from mlenv_operator.cost.facts import DOLLAR, HOUR, SECOND
from mlenv_operator.cost.money import parse_time

NOW = datetime(2026, 11, 21, 0, 0, 7, 500_000, tzinfo=UTC)
DAY = 24 * HOUR


def view(*, generation: int = 1, status: dict[str, Any] | None = None, **spec: Any) -> BudgetView:
    body = {"team": "ads", "amountUSD": "1000"} | spec
    metadata = {"name": "ads", "uid": "u", "generation": generation}
    return read_budget({"metadata": metadata, "spec": body, "status": status or {}})


def month(dollars: float, *, a_day: float = 0.0, unpriced: int = 0, said: str = "2026-11") -> MonthToDate:
    spent = Spent(round(dollars * DOLLAR), round(a_day * 7 * DOLLAR), unpriced)
    now = parse_time("2026-11-21T00:00:05Z")
    return MonthToDate(said, now, now + 10 * DAY, 7 * DAY, {("ads", None): spent})


def at(
    told: MonthToDate | None,
    before: BudgetStatus | None = None,
    of: BudgetView | None = None,
    problem: str = "",
) -> BudgetStatus:
    return status_of(of or view(), Told(told, problem), before or BudgetStatus(), NOW)


def conditions(status: BudgetStatus) -> dict[str, str]:
    return {one.type: one.status for one in status.conditions}


def message(status: BudgetStatus, type_: str = "Exceeded") -> str:
    return next(one.message for one in status.conditions if one.type == type_)


def test_a_status_has_what_was_spent_and_what_it_comes_to() -> None:
    status = at(month(412.319, a_day=10))
    assert (status.month, status.spent_usd, status.forecast_usd, status.percent) == (
        "2026-11",
        "412.31",
        "512.31",
        41,
    )
    assert status.as_of == datetime(2026, 11, 21, 0, 0, 5, tzinfo=UTC)
    assert conditions(status) == {"Exceeded": "False", "ForecastExceeded": "False"}
    assert status.crossed == ()
    wire = status.wire()
    assert BudgetStatus.model_validate(wire) == status
    assert wire["spentUSD"] == "412.31"


@pytest.mark.parametrize(
    ("spent", "a_day", "exceeded", "will_be"),
    [
        (900.0, 10.0, "False", "False"),
        (900.0, 10.01, "False", "True"),
        (999.999999999, 0.0, "False", "False"),
        (1000.0, 0.0, "True", "True"),
    ],
)
def test_what_is_exceeded_is_decided_exactly(spent: float, a_day: float, exceeded: str, will_be: str) -> None:
    status = at(month(spent, a_day=a_day))
    assert conditions(status) == {"Exceeded": exceeded, "ForecastExceeded": will_be}
    assert (status.spent_usd == "1000") is (exceeded == "True")


def test_sentences_say_that_nothing_is_stopped() -> None:
    status = at(month(1200))
    assert message(status) == (
        "1000 USD is spent in 2026-11. Nothing is stopped, a budget informs: suspend or delete jobs to spend"
        " less, or raise spec.amountUSD"
    )
    assert "more than 1000 USD will be spent by the end of 2026-11" in message(status, "ForecastExceeded")


def test_what_has_no_price_is_told_and_is_not_0() -> None:
    status = at(month(0, unpriced=HOUR * 3 // 2))
    assert (status.spent_usd, status.forecast_usd, status.percent) == (None, None, None)
    assert conditions(status) == {"Exceeded": "Unknown", "ForecastExceeded": "Unknown"}
    assert message(status).startswith("nobody can tell: 1.5 hours of pods in this month have no price")
    part = at(month(300, unpriced=SECOND))
    assert (part.spent_usd, conditions(part)["Exceeded"]) == ("300", "Unknown")
    assert "0.1 hours" in message(part)
    # What is known is too much already.
    assert conditions(at(month(1000, unpriced=SECOND)))["Exceeded"] == "True"


def test_a_ledger_that_is_silent_leaves_what_was_crossed() -> None:
    before = at(month(600))
    status = at(None, before, problem="the operator keeps no ledger")
    assert (status.month, status.spent_usd, status.crossed) == ("2026-11", None, (50,))
    assert conditions(status) == {"Exceeded": "Unknown", "ForecastExceeded": "Unknown"}
    assert message(status) == "nobody can tell: the operator keeps no ledger"
    old = at(month(1500), before, problem="it said nothing since noon")
    assert conditions(old)["Exceeded"] == "True"


def test_a_month_of_corrections_may_be_less_than_nothing() -> None:
    status = at(month(-12.344))
    assert (status.spent_usd, status.percent, conditions(status)["Exceeded"]) == ("-12.35", -2, "False")


def test_more_than_a_status_can_say_is_said_as_far_as_it_can() -> None:
    status = at(month(4e9))
    assert (status.spent_usd, status.crossed) == ("999999999.99", (50, 80, 100))
    assert BudgetStatus.model_validate(status.wire()) == status


def test_a_condition_keeps_its_time_while_it_says_the_same() -> None:
    before = at(month(100))
    later = status_of(view(), Told(month(200)), before, NOW + timedelta(hours=1))
    assert [one.last_transition_time for one in later.conditions] == [
        datetime(2026, 11, 21, 0, 0, 7, tzinfo=UTC)
    ] * 2
    over = status_of(view(), Told(month(1200)), later, NOW + timedelta(hours=2))
    assert {one.last_transition_time.hour for one in over.conditions} == {2}


def test_only_what_is_shown_is_news() -> None:
    before = at(month(100))
    assert not differs(before, at(replace(month(100.001), as_of=month(100).as_of + HOUR), before))
    assert differs(before, at(month(100.01), before))


def crossings(*steps: MonthToDate, of: BudgetView | None = None) -> list[int | None]:
    """The threshold of each event, as one status follows the other."""
    status, found = BudgetStatus(), list[int | None]()
    for step in steps:
        after = at(step, status, of)
        event = news(of or view(), status, after)
        found.append(int(event.message.split(": ")[1].split(" %")[0]) if event else None)
        status = after
    return found


def test_each_threshold_is_an_event_once_in_a_month() -> None:
    steps = [month(one) for one in (100, 500, 510, 490, 505, 950, 1000, 1001)]
    assert crossings(*steps) == [None, 50, None, None, None, 80, 100, None]
    # The next month begins anew; what was passed at one go is one event.
    assert crossings(month(1200), month(10, said="2026-12"), month(850, said="2026-12")) == [100, None, 80]


def test_thresholds_are_those_of_the_spec() -> None:
    of = view(alertAtPercent=[10, 150])
    assert crossings(month(100), month(1000), month(1500), of=of) == [10, None, 150]
    assert crossings(month(5000), of=view(alertAtPercent=[])) == [None]


def test_an_event_says_whose_and_how_much() -> None:
    of, before = view(useCase="ctr"), BudgetStatus()
    whole = replace(month(0), spent={("ads", "ctr"): Spent(813 * DOLLAR + 1)})
    event = news(of, before, at(whole, before, of))
    assert event is not None
    assert event.message == (
        "team ads, use case ctr spent 813 of 1000 USD in 2026-11: 80 % is reached. Nothing is stopped"
    )
    assert (event.reason, event.warning) == (Reason.BUDGET_THRESHOLD_REACHED, False)
    over = news(view(), before, at(month(1000)))
    assert over is not None
    assert (over.reason, over.warning) == (Reason.BUDGET_EXCEEDED, True)


def test_another_amount_may_be_crossed_anew() -> None:
    first = at(month(900))
    assert first.crossed == (50, 80)
    raised = view(generation=2, amountUSD="2000")
    second = at(month(900), first, raised)
    assert (second.crossed, news(raised, first, second)) == ((), None)
    third = at(month(1000), second, raised)
    assert (third.crossed, news(raised, second, third) is not None) == ((50,), True)
    # Another spec with which as much is crossed says nothing again.
    described = view(generation=2, period="Month")
    assert news(described, first, at(month(900), first, described)) is None


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"amountUSD": "much"}, "spec.amountUSD: "),
        ({"amountUSD": "0.00"}, "spec.amountUSD: an amount is more than 0"),
        ({"period": "Week"}, "spec.period: "),
    ],
)
def test_a_spec_that_cannot_be_read_needs_a_human(spec: dict[str, Any], said: str) -> None:
    of = view(**spec)
    status = at(month(100), None, of)
    assert conditions(status) == {"Exceeded": "Unknown", "ForecastExceeded": "Unknown", "Stalled": "True"}
    assert f"the budget cannot be read: {said}" in message(status, "Stalled")
    assert (news(of, BudgetStatus(), status), figures([of], month(100))) == (None, ())


def test_a_status_that_cannot_be_read_is_written_anew() -> None:
    assert view(status={"conditions": "none"}).status == BudgetStatus()


def test_metrics_show_one_figure_for_each_team_and_use_case() -> None:
    told = month(300, a_day=1)
    some = [view(), view(amountUSD="400"), view(amountUSD="500"), view(team=None, useCase="ctr")]
    assert figures(some, told) == (
        Figure(ANY, "ctr", 1000 * DOLLAR, 0, 0),
        Figure("ads", ANY, 400 * DOLLAR, 300 * DOLLAR, 310 * DOLLAR),
    )
    assert figures(some[:1], None) == (Figure("ads", ANY, 1000 * DOLLAR, None, None),)
    assert figures(some[:1], month(0, unpriced=1)) == (Figure("ads", ANY, 1000 * DOLLAR, None, None),)
