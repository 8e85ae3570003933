"""Which checkpoints go, and which never do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mlenv.ckpt.place import Place
from mlenv.ckpt.retain import Kept, Plan, Policy, plan, room
from mlenv.ckpt.room import Need, Share, need

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


class TestRoom:
    """What goes before one more is written."""

    def test_under_a_budget_the_new_one_counts(self) -> None:
        listed = [kept(s, good=True) for s in range(4)]
        assert room(listed, Policy(budget=50), coming=10) == Plan((), 0)
        assert room(listed, Policy(budget=40), coming=10) == Plan(("s0",), 0)
        assert room(listed, Policy(budget=40), coming=25) == Plan(("s0", "s1", "s2"), 0)

    def test_never_the_newest_and_never_the_newest_good_one(self) -> None:
        listed = [kept(0), kept(1, good=True), kept(2), kept(3)]
        assert room(listed, Policy(budget=1), coming=10) == Plan(("s0", "s2"), 29)
        assert room(listed, Policy(), coming=10, short=1000, running_from="d0").delete == ("s2",)

    def test_a_disk_that_is_short_loses_the_oldest(self) -> None:
        listed = [kept(s) for s in range(5)]
        assert room(listed, Policy(newest=5), coming=10).delete == ()
        assert room(listed, Policy(newest=5), coming=10, short=1).delete == ("s0",)
        assert room(listed, Policy(newest=5), coming=10, short=11).delete == ("s0", "s1")

    def test_what_was_written_last_says_more_than_tensors_do(self) -> None:
        assert room([kept(0), kept(1, size=50)], Policy(budget=100), coming=10).delete == ("s0",)

    def test_what_disks_are_short_of(self) -> None:
        shared = Place(0, ((0, 1), (2, 3)), Path("/x"), per_node=False)
        shares = [Share(100, 350), Share(100, 350), Share(100, 350), Share(100, 350)]
        assert need(shared, shares) == Need(400, 50)
        own = Place(0, ((0, 1), (2, 3)), Path("/x"), per_node=True)
        assert need(own, shares) == Need(400, 0)
        # Half of a checkpoint lies in each folder, so twice as many bytes of checkpoints have to go.
        assert need(own, [*shares[:2], Share(100, 150), Share(100, 150)]) == Need(400, 100)
        assert need(own, [Share(100, None)] * 4) == Need(400, 0)
