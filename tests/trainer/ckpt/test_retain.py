"""Which checkpoints go, and which never do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlenv.ckpt.retain import Kept, Plan, Policy, plan

START = datetime(2026, 1, 1, tzinfo=UTC)


def kept(step: int, *, minutes: int = 0, **more: Any) -> Kept:
    more = {"size": 10, "attempt": 1, **more}
    return Kept(
        name=f"s{step}", digest=f"d{step}", step=step, time=START + timedelta(minutes=minutes), **more
    )


def test_the_newest_stay() -> None:
    assert plan([kept(s) for s in range(5)], Policy(newest=2)) == Plan(("s0", "s1", "s2"), 0)


def test_the_newest_good_one_stays_however_old() -> None:
    listed = [kept(0, good=True), kept(1, good=True), *(kept(s) for s in range(2, 6))]
    assert plan(listed, Policy(newest=1)).delete == ("s0", "s2", "s3", "s4")


def test_the_best_stays_and_under_a_budget_goes_last() -> None:
    listed = [kept(0, score=0.9), kept(1, score=0.1), kept(2), kept(3)]
    assert plan(listed, Policy(newest=2)).delete == ("s1",)
    assert plan(listed, Policy(newest=2, budget=20)).delete == ("s1", "s2")
    assert plan(listed, Policy(newest=2, budget=10)).delete == ("s1", "s2", "s0")


def test_one_of_each_hour_stays() -> None:
    listed = [kept(s, minutes=20 * s) for s in range(9)]
    assert plan(listed, Policy(newest=1, hours=2)).delete == ("s0", "s1", "s2", "s3", "s4", "s6", "s7")


def test_the_one_we_run_from_stays_and_the_rest_is_told() -> None:
    listed = [kept(s) for s in range(4)]
    found = plan(listed, Policy(newest=2, budget=5), running_from="d0")
    assert found == Plan(("s1", "s2"), 15)


@given(
    st.lists(
        st.builds(
            kept,
            st.integers(0, 50),
            minutes=st.integers(0, 500),
            size=st.integers(0, 100),
            good=st.booleans(),
            score=st.none() | st.floats(0, 1),
        ),
        unique_by=lambda one: one.step,
    ),
    st.builds(
        Policy,
        newest=st.integers(1, 5),
        hours=st.integers(0, 5),
        best=st.booleans(),
        budget=st.none() | st.integers(0, 500),
    ),
    st.integers(0, 50),
)
def test_whatever_the_policy(listed: list[Kept], policy: Policy, running: int) -> None:
    found = plan(listed, policy, running_from=f"d{running}")
    left = [one for one in listed if one.name not in found.delete]
    assert len(set(found.delete)) == len(found.delete)
    if listed:
        newest = max(listed, key=lambda one: one.step)
        assert newest in left
        assert all(one in left for one in listed if one.step == running)
        good = [one for one in listed if one.good]
        assert not good or max(good, key=lambda one: one.step) in left
    assert policy.budget is None or sum(one.size for one in left) <= policy.budget + found.over
    again = plan(left, policy, running_from=f"d{running}")
    assert again.over == found.over
