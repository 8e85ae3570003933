"""What a month comes to: a sum that anybody can do by hand, and that never surprises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlenv_operator.cost.budgets import NOTHING, RECENT_DAYS, MonthToDate, Spent, forecast, window
from mlenv_operator.cost.facts import DOLLAR, HOUR

DAY = 24 * HOUR
money = st.integers(-(10**18), 10**18)
spent = st.integers(0, 10**18)
times = st.integers(-DAY, 400 * DAY)


def test_a_forecast_by_hand() -> None:
    # 700 dollars in the last week are 100 a day, and ten days are left.
    assert forecast(400 * DOLLAR, 700 * DOLLAR, 7 * DAY, 10 * DAY) == 1400 * DOLLAR


@given(cost=money, recent=money, over=times)
def test_at_the_end_of_the_month_it_is_what_was_spent(cost: int, recent: int, over: int) -> None:
    assert forecast(cost, recent, over, 0) == cost


@given(cost=money, recent=money, over=times, left=times, more=spent)
def test_it_grows_with_what_was_spent(cost: int, recent: int, over: int, left: int, more: int) -> None:
    before = forecast(cost, recent, over, left)
    assert forecast(cost + more, recent, over, left) == before + more
    assert forecast(cost, recent + more, over, left) >= before


@given(cost=money, recent=money, over=times, left=times, more=st.integers(0, 40 * DAY))
def test_it_falls_with_the_time_that_is_left_and_never_below_the_cost(
    cost: int, recent: int, over: int, left: int, more: int
) -> None:
    assert cost <= forecast(cost, recent, over, left) <= forecast(cost, recent, over, left + more)


@given(cost=spent, recent=spent, left=st.integers(0, 31 * DAY))
def test_nothing_is_divided_by_no_time(cost: int, recent: int, left: int) -> None:
    assert forecast(cost, recent, 0, left) == forecast(cost, recent, HOUR, left)


NOW = 20_000 * DAY + 5 * HOUR


@pytest.mark.parametrize(
    ("since", "hours"),
    [
        (0, RECENT_DAYS * 24 + 5),
        (NOW - 100 * DAY, RECENT_DAYS * 24 + 5),
        (NOW - 2 * DAY, 48),
        (NOW, 1),
        (NOW + DAY, 1),
    ],
)
def test_a_rate_is_that_of_the_last_days_as_far_as_the_ledger_goes_back(since: int, hours: int) -> None:
    assert window(NOW, since) == (20_000 - RECENT_DAYS, hours * HOUR)


def test_whoever_is_not_known_spent_nothing() -> None:
    ads = Spent(3 * DOLLAR, 2 * DOLLAR)
    month = MonthToDate("2024-10", NOW, NOW + 10 * DAY, DAY, {("ads", "ctr"): ads, ("ads", None): ads})
    assert (month.of("ads", None), month.of("feed", None), month.of(None, "ctr")) == (ads, NOTHING, NOTHING)
    assert month.forecast(ads) == 23 * DOLLAR
    assert month.forecast(NOTHING) == 0
