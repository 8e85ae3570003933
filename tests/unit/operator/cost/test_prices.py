"""Which price a node has, and that it is told for all time, once, whatever the order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlenv_api.pricebook import CapacityType
from mlenv_operator.cost.facts import DOLLAR, HOUR, Node
from mlenv_operator.cost.prices import Missing, PriceBook, PriceRow, provider_of

if TYPE_CHECKING:
    import random

NODE = Node(
    uid="n1",
    name="n1",
    provider="aws",
    region="us-east-1",
    zone="us-east-1a",
    instance_type="p5.48xlarge",
    capacity_type="on-demand",
    reservation="cr-1",
    gpus=8,
)


def row(dollars: int = 55, **changes: object) -> PriceRow:
    made = PriceRow(
        provider="aws",
        instance_type="p5.48xlarge",
        capacity_type=CapacityType.ON_DEMAND,
        list_nanos_per_hour=dollars * DOLLAR,
        effective_nanos_per_hour=dollars * DOLLAR,
        since=0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def paid(book: PriceBook, at: int = 0, node: Node = NODE) -> int | None:
    found = book.price(node, at)
    return None if found is None else found.effective_nanos_per_hour // DOLLAR


def test_the_narrowest_match_wins_whatever_its_priority() -> None:
    everywhere = row(1, priority=900)
    region = row(2, region="us-east-1", priority=800)
    zone = row(3, region="us-east-1", zone="us-east-1a", priority=700)
    reservation = row(4, reservation="cr-1")
    assert paid(PriceBook([everywhere])) == 1
    assert paid(PriceBook([everywhere, region])) == 2
    assert paid(PriceBook([everywhere, region, zone])) == 3
    assert paid(PriceBook([everywhere, region, zone, reservation])) == 4


@pytest.mark.parametrize(
    "changes",
    [
        {"provider": "gcp"},
        {"instance_type": "p5e.48xlarge"},
        {"capacity_type": CapacityType.SPOT},
        {"region": "us-west-2"},
        {"zone": "us-east-1b"},
        {"reservation": "cr-2"},
    ],
)
def test_a_price_of_something_else_is_none(changes: dict[str, object]) -> None:
    assert paid(PriceBook([row(**changes)])) is None


def test_of_equally_narrow_ones_the_priority_decides_then_the_later_beginning_then_the_later_source() -> None:
    assert paid(PriceBook([row(1, priority=1), row(2, since=5)]), at=9) == 1
    assert paid(PriceBook([row(1, since=4), row(2, since=5)]), at=9) == 2
    assert paid(PriceBook([row(1, as_of=4), row(2, as_of=5)]), at=9) == 2
    assert paid(PriceBook([row(1, since=4, as_of=9), row(2, since=5, as_of=5)]), at=9) == 2
    assert paid(PriceBook([row(1, since=5, priority=1), row(2, since=4, priority=2)]), at=9) == 2


def test_a_later_row_replaces_an_older_one_without_an_end() -> None:
    book = PriceBook([row(1), row(2, since=HOUR)])
    assert [(one.t0, one.t1, one.price and one.price.effective_nanos_per_hour) for one in segments(book)] == [
        (0, HOUR, DOLLAR),
        (HOUR, 2 * HOUR, 2 * DOLLAR),
    ]


def segments(book: PriceBook, t0: int = 0, t1: int = 2 * HOUR) -> tuple[object, ...] | object:
    return book.segments(NODE, t0, t1)


def test_time_without_a_price_is_a_segment_without_one() -> None:
    book = PriceBook([row(1, since=10, until=20), row(2, since=30, until=40)])
    told = [(one.t0, one.t1, one.price is not None) for one in book.segments(NODE, 0, 50)]
    assert told == [(0, 10, False), (10, 20, True), (20, 30, False), (30, 40, True), (40, 50, False)]


def test_no_time_has_no_segments() -> None:
    assert PriceBook([row()]).segments(NODE, 5, 5) == ()
    assert PriceBook([row()]).segments(NODE, 6, 5) == ()


def test_what_has_no_price_is_named_once() -> None:
    spot = replace(NODE, uid="n2", capacity_type="spot")
    missing = PriceBook([row()]).missing([NODE, spot, replace(spot, uid="n3")], at=0)
    assert missing == (Missing("aws", "us-east-1", "p5.48xlarge", "spot"),)


def test_the_id_is_of_the_terms_and_the_version_of_everything() -> None:
    one = row()
    same = row(since=7, until=9, source="another list", as_of=3, priority=4)
    assert one.id == same.id
    assert one.version != same.version
    for changes in ({"region": "r"}, {"list_nanos_per_hour": 1}, {"effective_nanos_per_hour": 1}):
        assert row(**changes).id != one.id  # type: ignore[arg-type]


def test_an_id_never_changes() -> None:
    assert row().id == "022acdc01b2e059b082ac866cdb08477"


@pytest.mark.parametrize("changes", [{"effective_nanos_per_hour": 0}, {"list_nanos_per_hour": -1}])
def test_no_row_costs_nothing(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        row(**changes)


def test_no_row_ends_before_it_begins() -> None:
    with pytest.raises(ValueError, match="before it begins"):
        row(since=5, until=5)


def test_the_age_is_that_of_the_newest_source() -> None:
    assert PriceBook().age(10) is None
    assert PriceBook([row(as_of=3), row(2, as_of=7)]).age(10) == 3


def test_an_estimate_may_use_a_price_that_has_ended_and_a_charge_may_not() -> None:
    book = PriceBook([row(1, until=5), row(2, since=5, until=10), row(3, since=99)])
    known = book.last_known(NODE, 50)
    assert known is not None
    assert known.effective_nanos_per_hour == 2 * DOLLAR
    assert book.price(NODE, 50) is None
    assert book.last_known(replace(NODE, provider="gcp"), 50) is None


@pytest.mark.parametrize(
    ("provider_id", "provider"),
    [
        ("aws:///us-east-1a/i-0abc", "aws"),
        ("gce://project/us-central1-a/name", "gcp"),
        ("azure:///subscriptions/x", "azure"),
        ("", ""),
        ("rack-7", ""),
    ],
)
def test_a_provider_is_named_as_prices_name_it(provider_id: str, provider: str) -> None:
    assert provider_of(provider_id) == provider


def test_a_machine_that_no_provider_speaks_for_is_on_prem() -> None:
    book = PriceBook([row(provider="on-prem", capacity_type=CapacityType.ON_PREM)])
    node = replace(NODE, provider="", capacity_type="")
    assert book.price(node, 50) is not None
    assert PriceBook([]).missing([node], 50)[0].provider == "on-prem"


ROWS = st.builds(
    row,
    st.integers(1, 3),
    since=st.integers(0, 60),
    until=st.none() | st.integers(61, 90),
    region=st.sampled_from(["", "us-east-1", "us-west-2"]),
    zone=st.sampled_from(["", "us-east-1a"]),
    reservation=st.sampled_from(["", "cr-1", "cr-2"]),
    priority=st.integers(0, 2),
)


@given(st.lists(ROWS, max_size=8), st.integers(0, 100), st.integers(0, 100), st.randoms())
def test_segments_cover_all_time_in_any_order_of_rows(
    rows: list[PriceRow], t0: int, t1: int, rng: random.Random
) -> None:
    told = PriceBook(rows).segments(NODE, t0, t1)
    assert [at for one in told for at in range(one.t0, one.t1)] == list(range(t0, t1))
    for one in told:
        for at in range(one.t0, one.t1):
            now = PriceBook(rows).price(NODE, at)
            assert (now and now.id) == (one.price and one.price.id)
    rng.shuffle(rows)
    assert PriceBook([*rows, *rows]).segments(NODE, t0, t1) == told


@given(st.lists(ROWS, min_size=1, max_size=6), st.integers(0, 5), st.integers(1, 89))
def test_a_row_split_where_its_price_stays_changes_nothing(rows: list[PriceRow], which: int, at: int) -> None:
    def told(of: list[PriceRow]) -> list[tuple[int, int, str]]:
        found = PriceBook(of).segments(NODE, 0, 100)
        return [(one.t0, one.t1, one.price.id if one.price else "") for one in found]

    rows = list({one.rank[:3]: one for one in rows}.values())  # no two that only their content tells apart
    split = rows[which % len(rows)]
    if not split.since < at < (split.until or 1000):
        return
    halves = [replace(split, until=at), replace(split, since=at)]
    others = [one for one in rows if one is not split]
    rivals = {one.rank[:2] for one in others if one.since > split.since}
    if (
        split.rank[:2] not in rivals
    ):  # a later row of the same rank has the last word only over what began before
        assert told([*others, *halves]) == told(rows)
