"""The oracle against sums that were done on paper; the paper stands beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from money_oracle.book import all_hours
from money_oracle.trace import (
    HOUR,
    SECOND,
    Attributed,
    Fact,
    Mark,
    Node,
    NodeMark,
    Owner,
    Pod,
    Price,
)

if TYPE_CHECKING:
    from money_oracle.sweep import NodeHour, Row

MINUTE = 60 * SECOND
T = 1000 * HOUR
"""The hour at which everything here begins."""
DOLLAR = 1_000_000_000
NODE = Node("n", "n", "aws", "r", "ra", "big", "on-demand", gpus=3, created=T, deleted=T + HOUR)
PRICE = Price("p", "aws", "big", "on-demand", 0, None, 2 * DOLLAR, DOLLAR)


def pod(uid: str, t0: int = 0, t1: int = HOUR, **changes: object) -> Pod:
    made = Pod(uid, "ns", uid, "", "n", gpus=1, scheduled=T + t0, started=T + t0, released=T + t1)
    return replace(made, **changes)  # type: ignore[arg-type]


def hours(*facts: Fact, horizon: int = T + 100 * HOUR) -> list[NodeHour]:
    return list(all_hours(facts, horizon))


def costs(hour: NodeHour) -> dict[str, int | None]:
    """By pod, or what nobody held."""
    found: dict[str, int | None] = {}
    for row in hour.rows:
        name = row.key.pod_uid or row.key.use
        found[name] = None if row.cost is None else (found.get(name) or 0) + row.cost
    return found


def told(hour: NodeHour) -> list[tuple[int, str, int]]:
    """(attempt, category, seconds) of a node-hour with one pod, in no particular order."""
    return sorted(
        (row.key.attempt, row.key.category, row.micros // SECOND) for row in hour.rows if row.key.pod_uid
    )


def test_three_pods_with_a_third_each() -> None:
    # 1 000 000 000 / 3 = 333 333 333 1/3 each; floors add up to 999 999 999; one unit is left; all remainders
    # are 1/3; the smallest key is pod a's.
    [hour] = hours(PRICE, NODE, pod("c"), pod("a"), pod("b"))
    assert costs(hour) == {"a": 333_333_334, "b": 333_333_333, "c": 333_333_333}
    assert hour.cost == DOLLAR
    # List: 2 000 000 000 / 3 = 666 666 666 2/3; floors 1 999 999 998; two units, to a and b.
    assert [row.list_cost for row in hour.rows] == [666_666_667, 666_666_667, 666_666_666]


def test_the_larger_remainder_comes_before_the_smaller_key() -> None:
    # Of 10: a pod with 1 device of 3 has 3 1/3, one with 2 has 6 2/3: floors 3 and 6, the unit goes to b.
    [hour] = hours(replace(PRICE, effective_nanos=10), NODE, pod("a"), pod("b", gpus=2))
    assert costs(hour) == {"a": 3, "b": 7}


@pytest.mark.parametrize(("nanos", "cost"), [(1, 0), (3, 2), (5, 2), (7, 4)])
def test_half_a_nanodollar_goes_to_the_even_side(nanos: int, cost: int) -> None:
    # Half an hour of 1, 3, 5, 7 is 0.5, 1.5, 2.5, 3.5.
    half = replace(NODE, deleted=T + HOUR // 2)
    [hour] = hours(replace(PRICE, effective_nanos=nanos), half)
    assert hour.cost == cost


def test_a_price_that_changes_in_the_middle_of_an_hour_is_integrated_and_rounded_once() -> None:
    # 20 minutes of 1 and 40 minutes of 2: 1/3 + 4/3 = 5/3, rounded once to 2. Each by itself: 0 and 1.
    # Rows: 1/3 and 4/3 have the floors 0 and 1; the unit goes to the remainder 1/3 of the smaller price id.
    cheap = replace(PRICE, id="a", effective_nanos=1, until=T + 20 * MINUTE)
    dear = replace(PRICE, id="b", effective_nanos=2, since=T + 20 * MINUTE)
    [hour] = hours(cheap, dear, NODE)
    assert hour.cost == 2
    assert [(row.key.price_id, row.cost, row.micros) for row in hour.rows] == [
        ("a", 1, 20 * MINUTE),
        ("b", 1, 40 * MINUTE),
    ]


def test_time_without_a_price_has_a_row_and_no_cost() -> None:
    late = replace(PRICE, since=T + 15 * MINUTE)
    [hour] = hours(late, NODE, pod("a", gpus=3))
    assert [(row.key.price_id, row.cost, row.micros, row.device_micros) for row in hour.rows] == [
        ("", None, 15 * MINUTE, 45 * MINUTE),
        ("p", 750_000_000, 45 * MINUTE, 135 * MINUTE),
    ]
    assert hour.cost == 750_000_000


def test_nobody_knows_any_price() -> None:
    [hour] = hours(NODE, pod("a"))
    assert costs(hour) == {"a": None, "fragmented": None}
    assert hour.cost == 0


def test_more_devices_than_there_are_share_them_for_as_long_as_that_lasts() -> None:
    # Half an hour a has 3 of 3; half an hour a and b have 3 of 6 each: a 1/2 + 1/4, b 1/4.
    [hour] = hours(PRICE, NODE, pod("a", gpus=3), pod("b", 30 * MINUTE, gpus=3))
    assert costs(hour) == {"a": 750_000_000, "b": 250_000_000}


def test_on_a_node_with_devices_pods_without_ride_free() -> None:
    [hour] = hours(PRICE, NODE, pod("a", gpus=3), pod("rider", gpus=0, cpu_milli=10**9))
    assert costs(hour) == {"a": DOLLAR, "rider": 0}


def test_a_node_with_riders_only_is_idle() -> None:
    [hour] = hours(PRICE, NODE, pod("rider", gpus=0))
    assert costs(hour) == {"rider": 0, "idle": DOLLAR}


def test_without_devices_the_larger_share_counts() -> None:
    # 4 of 16 processors are 1/4, 32 of 64 bytes 1/2: half the node. b: 1/8 and nothing known of memory.
    node = replace(NODE, gpus=0, cpu_milli=16_000, memory_bytes=64)
    a, b = pod("a", gpus=0, cpu_milli=4000, memory_bytes=32), pod("b", gpus=1, cpu_milli=2000)
    [hour] = hours(PRICE, node, a, b)
    assert costs(hour) == {"a": 500_000_000, "b": 125_000_000, "fragmented": 375_000_000}
    assert {row.device_micros for row in hour.rows} == {0}


def test_what_nobody_holds_is_idle_fragmented_or_what_is_said() -> None:
    # 15 minutes booting, 15 idle, 15 with a pod that has 1 of 3 (1/3 and 2/3 of a quarter), 15 unhealthy.
    marks = [NodeMark("n", T, "booting"), NodeMark("n", T + 15 * MINUTE, None)]
    marks += [NodeMark("n", T + 45 * MINUTE, "unhealthy")]
    a = pod("a", 30 * MINUTE, 45 * MINUTE)
    [hour] = hours(replace(PRICE, effective_nanos=1200), NODE, a, *marks)
    assert costs(hour) == {"booting": 300, "idle": 300, "a": 100, "fragmented": 200, "unhealthy": 300}


def test_a_mark_of_the_node_says_nothing_of_what_pods_hold() -> None:
    [hour] = hours(replace(PRICE, effective_nanos=300), NODE, pod("a"), NodeMark("n", T, "draining"))
    assert costs(hour) == {"a": 100, "draining": 200}


def test_hours_are_those_of_utc_and_clipped_to_the_life_of_the_node() -> None:
    node = replace(NODE, created=T + 59 * MINUTE, deleted=T + 121 * MINUTE)
    found = hours(replace(PRICE, effective_nanos=60), node)
    assert [(hour.hour, hour.cost) for hour in found] == [(T, 1), (T + HOUR, 60), (T + 2 * HOUR, 1)]


def test_beyond_the_horizon_nothing_is_told() -> None:
    found = hours(PRICE, replace(NODE, deleted=None), pod("a", released=None), horizon=T + 90 * MINUTE)
    assert [(hour.hour, hour.cost) for hour in found] == [(T, DOLLAR), (T + HOUR, DOLLAR // 2)]


LIFE = pod("a", 0, HOUR, started=T + 5 * MINUTE, finished=T + 50 * MINUTE, telemetry=True)
MARKS = [
    Mark("a", T + 10 * MINUTE, 1, 1, "productive"),
    Mark("a", T + 30 * MINUTE, 2, 1, "recovery"),
    Mark("a", T + 31 * MINUTE, 3, 2, "lost_work"),
]


def test_the_phases_of_a_pod() -> None:
    # 5 minutes startup, 5 init, 20 productive, 1 recovery, 19 of attempt 2, and 10 of drain.
    [hour] = hours(PRICE, NODE, LIFE, *MARKS)
    assert told(hour) == [
        (0, "init", 300),
        (0, "startup", 300),
        (1, "productive", 1200),
        (1, "recovery", 60),
        (2, "drain", 600),
        (2, "lost_work", 1140),
    ]


def test_without_telemetry_a_started_pod_is_productive() -> None:
    [hour] = hours(PRICE, NODE, replace(LIFE, telemetry=False))
    assert told(hour) == [(0, "drain", 600), (0, "productive", 2700), (0, "startup", 300)]


@pytest.mark.parametrize(
    ("changes", "marks", "expected"),
    [
        # finished gives way to started, in the fifth minute, which is told before it in the order of rule 1
        ({"finished": T + MINUTE}, [], [(0, "drain", 3300), (0, "startup", 300)]),
        ({"finished": T - MINUTE}, [], [(0, "drain", 3300), (0, "startup", 300)]),
        ({"finished": T - MINUTE, "started": T - HOUR}, [], [(0, "drain", 3600)]),
        ({"finished": T + 2 * HOUR}, [], [(0, "init", 3300), (0, "startup", 300)]),
        ({"started": T - MINUTE}, [], [(0, "drain", 600), (0, "init", 3000)]),
        ({"started": None}, [], [(0, "drain", 600), (0, "startup", 3000)]),
        ({"started": None, "finished": None}, [], [(0, "startup", 3600)]),
        ({"started": None}, MARKS[1:2], [(0, "startup", 1800), (1, "drain", 600), (1, "recovery", 1200)]),
        ({"finished": None}, MARKS[:1], [(0, "init", 300), (0, "startup", 300), (1, "productive", 3000)]),
        # no start is told: the mark of half past says when, but not to a pod that had finished in minute 20
        (
            {"started": None, "finished": T + 20 * MINUTE},
            MARKS[1:2],
            [(0, "drain", 600), (0, "startup", 1200), (1, "drain", 1800)],
        ),
        # scheduled before there was a node: what lies before it is cut off
        ({"scheduled": T - 3 * HOUR}, [], [(0, "drain", 600), (0, "init", 2700), (0, "startup", 300)]),
        ({"scheduled": T - HOUR, "started": None}, [], [(0, "drain", 600), (0, "startup", 3000)]),
        ({"scheduled": T - HOUR, "started": None, "finished": None}, [], [(0, "startup", 3600)]),
        ({"released": T - 1}, [], []),
        ({"released": T + MINUTE}, [], [(0, "startup", 60)]),
    ],
)
def test_what_is_told_in_the_wrong_order_is_clamped_into_the_life_of_the_pod(
    changes: dict[str, object], marks: list[Mark], expected: list[tuple[int, str, int]]
) -> None:
    [hour] = hours(PRICE, NODE, replace(LIFE, **changes), *marks)  # type: ignore[arg-type]
    assert told(hour) == expected


def test_of_marks_during_startup_and_drain_the_attempt_counts_and_what_they_say_does_not() -> None:
    # Attempt 7 from the beginning on, which is eval once the pod has started; 8 in the last half of drain.
    early = Mark("a", T - HOUR, 0, 7, "eval")
    late = Mark("a", T + 55 * MINUTE, 1, 8, "hang")
    [hour] = hours(PRICE, NODE, LIFE, early, late)
    assert told(hour) == [(7, "drain", 300), (7, "eval", 2700), (7, "startup", 300), (8, "drain", 300)]


def test_a_mark_of_an_older_attempt_than_one_before_it_is_passed_over() -> None:
    # Minute 20 is of attempt 2; what is said of attempt 1 in minutes 20 (later in sequence) and 25 is old.
    marks = [Mark("a", T + 20 * MINUTE, 0, 2, "recovery"), Mark("a", T + 20 * MINUTE, 1, 1, "productive")]
    marks += [Mark("a", T + 25 * MINUTE, 2, 1, "hang"), Mark("a", T + 40 * MINUTE, 3, 2, "eval")]
    [hour] = hours(PRICE, NODE, LIFE, *marks)
    assert told(hour) == [
        (0, "init", 900),
        (0, "startup", 300),
        (2, "drain", 600),
        (2, "eval", 600),
        (2, "recovery", 1200),
    ]


def test_of_marks_at_one_moment_the_last_in_sequence_stands() -> None:
    at = T + 20 * MINUTE
    [hour] = hours(PRICE, NODE, LIFE, Mark("a", at, 2, 2, "eval"), Mark("a", at, 1, 1, "hang"))
    assert told(hour) == [(0, "init", 900), (0, "startup", 300), (2, "drain", 600), (2, "eval", 1800)]


def test_rows_that_differ_in_time_only_are_one_row() -> None:
    marks = [
        Mark("a", T + 10 * MINUTE, 1, 1, "productive"),
        Mark("a", T + 20 * MINUTE, 2, 1, "eval"),
        Mark("a", T + 30 * MINUTE, 3, 1, "productive"),
    ]
    [hour] = hours(PRICE, NODE, LIFE, *marks)
    assert (1, "productive", 1800) in told(hour)


def test_a_team_that_is_renamed_pays_from_then_on_and_the_first_one_for_the_time_before() -> None:
    # The attribution is told one minute late; from half past the new name pays.
    mine = replace(LIFE, job_uid="j", started=T, finished=None, gpus=3)
    old, new = Owner(job_uid="j", team="old"), Owner(job_uid="j", team="new")
    facts = [Attributed("j", T + 30 * MINUTE, new), Attributed("j", T + MINUTE, old)]
    [hour] = hours(replace(PRICE, effective_nanos=100), NODE, mine, *facts)
    assert {dict(row.key.owner)["team"]: row.cost for row in hour.rows} == {"old": 50, "new": 50}


def test_without_an_attribution_the_namespace_and_the_job_are_known() -> None:
    [hour] = hours(PRICE, NODE, replace(LIFE, job_uid="j"), pod("other"))
    owners = {row.key.pod_uid: dict(row.key.owner) for row in hour.rows if row.key.pod_uid}
    assert (owners["a"]["namespace"], owners["a"]["job_uid"]) == ("ns", "j")
    assert (owners["other"]["namespace"], owners["other"]["job_uid"]) == ("ns", "")


def test_the_key_of_a_row_is_what_the_rules_say() -> None:
    [hour] = hours(
        PRICE, NODE, replace(LIFE, job_uid="j"), Attributed("j", T, Owner(team="t", labels=(("a", "b"),)))
    )
    row: Row = hour.rows[-1]
    assert row.key == (
        "a",
        "",
        0,
        "startup",
        (
            ("namespace", ""),
            ("job", ""),
            ("job_uid", ""),
            ("team", "t"),
            ("model", ""),
            ("use_case", ""),
            ("user", ""),
            ("queue", ""),
            ("labels", (("a", "b"),)),
        ),
        "p",
    )


def test_the_narrowest_price_is_taken() -> None:
    node = replace(NODE, reservation="cb")
    rows = [
        replace(PRICE, id="everywhere", priority=9),
        replace(PRICE, id="region", region="r", priority=8),
        replace(PRICE, id="zone", region="r", zone="ra", priority=7),
        replace(PRICE, id="block", reservation="cb"),
        replace(PRICE, id="elsewhere", region="q"),
        replace(PRICE, id="over", reservation="cb", priority=9, until=T),
    ]
    for last in range(1, len(rows) + 1):
        [hour] = hours(*rows[:last], node)
        assert (
            hour.rows[0].key.price_id == ["everywhere", "region", "zone", "block", "block", "block"][last - 1]
        )


def test_what_was_seen_before_it_ended_adds_nothing() -> None:
    early = replace(LIFE, started=None, finished=None, released=None, telemetry=False)
    once = hours(PRICE, NODE, LIFE, *MARKS)
    assert (
        hours(MARKS[2], LIFE, NODE, early, *MARKS, replace(NODE, deleted=None), PRICE, early, PRICE) == once
    )


def test_of_two_times_told_of_one_event_the_earlier_stands() -> None:
    later = {
        "started": T + 20 * MINUTE,
        "finished": T + 55 * MINUTE,
        "released": T + 3 * HOUR,
        "scheduled": T + 1,
    }
    other = replace(LIFE, **later)  # type: ignore[arg-type]
    once = hours(PRICE, NODE, LIFE)
    assert hours(PRICE, NODE, LIFE, other) == once
    assert hours(PRICE, NODE, other, LIFE) == once
    assert hours(PRICE, NODE, replace(NODE, deleted=T + 9 * HOUR)) == hours(PRICE, NODE)


def test_of_two_marks_with_one_key_the_larger_stands() -> None:
    at = T + 20 * MINUTE
    one, other = Mark("a", at, 1, 1, "hang"), Mark("a", at, 1, 2, "eval")
    assert (
        hours(PRICE, NODE, LIFE, one, other)
        == hours(PRICE, NODE, LIFE, other, one)
        == hours(PRICE, NODE, LIFE, other)
    )
    booting = NodeMark("n", T, "booting")
    assert hours(PRICE, NODE, booting, NodeMark("n", T, None)) == hours(PRICE, NODE, booting)


def test_of_two_owners_from_one_moment_on_the_larger_stands_field_by_field() -> None:
    # namespace, job, job UID, team, model: model b is larger, before anybody looks at the user.
    mine = replace(LIFE, job_uid="j")
    one = Attributed("j", T, Owner(job_uid="j", model="b", user="a"))
    other = Attributed("j", T, Owner(job_uid="j", model="a", user="z", labels=(("x", "y"),)))
    assert hours(PRICE, NODE, mine, one, other) == hours(PRICE, NODE, mine, one)
    assert hours(PRICE, NODE, mine, other, one) == hours(PRICE, NODE, mine, one)


def test_the_nanodollar_that_is_left_goes_to_the_owner_that_comes_first_by_team() -> None:
    # Half an hour each of 3 nanodollars is 1 1/2: floors 1 and 1, one is left. Team comes before model: the
    # owner of team a and model z is smaller than the one of team b and model a.
    mine = replace(LIFE, job_uid="j", started=T, finished=None, gpus=3)
    facts = [Attributed("j", T, Owner(team="b", model="a"))]
    facts += [Attributed("j", T + 30 * MINUTE, Owner(team="a", model="z"))]
    [hour] = hours(replace(PRICE, effective_nanos=3), NODE, mine, *facts)
    assert [(dict(row.key.owner)["team"], row.cost) for row in hour.rows] == [("a", 2), ("b", 1)]


def test_time_without_a_price_is_counted_for_the_node_and_not_for_its_pods() -> None:
    [hour] = hours(replace(PRICE, since=T + 15 * MINUTE), NODE, pod("a"), pod("b"), pod("c"))
    assert hour.unpriced == 15 * MINUTE


def test_without_devices_whoever_holds_anything_makes_the_rest_fragmented() -> None:
    # a has a quarter for half an hour and b nothing at all: 1/8, and 3/8 beside it; then idle.
    node = replace(NODE, gpus=0, cpu_milli=4000)
    a = pod("a", 0, 30 * MINUTE, gpus=0, cpu_milli=1000)
    [hour] = hours(replace(PRICE, effective_nanos=800), node, a, pod("b", gpus=2))
    assert costs(hour) == {"a": 100, "b": 0, "fragmented": 300, "idle": 400}


def test_telemetry_once_told_stays_told() -> None:
    silent = replace(LIFE, telemetry=False)
    assert hours(PRICE, NODE, silent, LIFE) == hours(PRICE, NODE, LIFE, silent) == hours(PRICE, NODE, LIFE)
