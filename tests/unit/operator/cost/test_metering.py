"""Node-hours worked by hand."""

from typing import Any

import pytest
from cost_facts import MINUTE, T0, Trace, node, pod, price

from mlenv_operator.cost.allocation import Closing
from mlenv_operator.cost.facts import DOLLAR, HOUR, Attributed, Attribution, Category, Mark, NodeMark, NodeUse
from mlenv_operator.cost.metering import close, so_far
from mlenv_operator.cost.shares import AWS_SPLIT


def at(minute: int) -> int:
    return T0 + minute * MINUTE


def table(closing: Closing) -> list[tuple[Any, ...]]:
    """Rows as (pod, use or category, attempt, team, price, minutes, GPU minutes, nanodollars)."""
    return [
        (
            row.pod_uid,
            str(row.use or row.category),
            row.attempt,
            row.attribution.team,
            row.price_id,
            row.held // MINUTE,
            row.gpu_micros // MINUTE,
            row.cost,
        )
        for row in closing.rows
    ]


def test_two_pods_share_a_node_and_the_rest_is_fragmented() -> None:
    facts = Trace(
        node(),
        (pod("a", gpus=4), pod("b", gpus=2, scheduled=at(30), started=at(40))),
        segments=(price(40, listed=55.04),),
    )
    closing = facts.close()
    assert table(closing) == [
        ("", "fragmented", 0, "", "p1", 60, 180, 15 * DOLLAR),
        ("a", "productive", 0, "", "p1", 60, 240, 20 * DOLLAR),
        ("b", "productive", 0, "", "p1", 20, 40, 3_333_333_333),
        ("b", "startup", 0, "", "p1", 10, 20, 1_666_666_667),
    ]
    assert (closing.total, closing.list_total) == (40 * DOLLAR, 55_040_000_000)
    assert (closing.unpriced, closing.clamped) == (0, 0)


def test_what_is_left_goes_to_the_largest_remainder() -> None:
    pods = (pod("a", gpus=1), pod("b", gpus=1), pod("c", gpus=1))
    rows = Trace(node(gpus=3), pods, segments=(price(100e-9),)).close().rows
    assert [row.cost for row in rows] == [34, 33, 33]


def test_the_hour_of_the_node_is_rounded_once_and_half_to_even() -> None:
    half = node(created=at(30))
    assert [Trace(half, segments=(price(n * 1e-9),)).close().total for n in (1, 3, 5, 7)] == [0, 2, 2, 4]


def test_where_devices_are_given_twice_the_whole_is_the_sum_for_as_long() -> None:
    pods = (pod("a", gpus=4), pod("b", gpus=4, scheduled=at(30), started=at(30)))
    rows = table(Trace(node(gpus=4), pods, segments=(price(8),)).close())
    assert [(row[0], row[-1]) for row in rows] == [("a", 6 * DOLLAR), ("b", 2 * DOLLAR)]


def test_pods_without_devices_ride_free_and_are_seen() -> None:
    rows = table(Trace(node(), (pod("a", gpus=0),)).close())
    assert rows == [
        ("", "idle", 0, "", "p1", 60, 480, 8 * DOLLAR),
        ("a", "productive", 0, "", "p1", 60, 0, 0),
    ]


def test_on_a_node_without_devices_the_larger_share_counts() -> None:
    small = node(gpus=0, cpu_milli=4000, memory_bytes=16 << 30)
    rows = table(Trace(small, (pod("a", gpus=0, cpu_milli=1000, memory_bytes=8 << 30),)).close())
    assert [(row[0], row[6], row[7]) for row in rows] == [("", 0, 4 * DOLLAR), ("a", 0, 4 * DOLLAR)]


def test_the_clouds_split_leaves_most_of_the_node_to_processors_and_memory() -> None:
    big = node(cpu_milli=192_000, memory_bytes=2048 << 30)
    facts = Trace(big, (pod("a", gpus=8),), segments=(price(55.04),), policy=AWS_SPLIT)
    rows = table(facts.close())
    assert rows[0][1:2] + rows[0][6:] == ("fragmented", 0, 55_040_000_000 - 8_814_234_875)
    assert rows[1][7] == round(55_040_000_000 * 72 / 449.6)


def test_time_without_a_price_is_a_row_without_cost_and_outside_the_sums() -> None:
    facts = Trace(
        node(), (pod("a", gpus=8),), segments=(price(8, at(15), at(30)), price(4, at(45), id_="p2"))
    )
    closing = facts.close()
    assert table(closing) == [
        ("a", "productive", 0, "", "", 30, 240, 0),
        ("a", "productive", 0, "", "p1", 15, 120, 2 * DOLLAR),
        ("a", "productive", 0, "", "p2", 15, 120, 1 * DOLLAR),
    ]
    assert (closing.total, closing.unpriced) == (3 * DOLLAR, 30 * MINUTE)


def test_what_nobody_holds_is_what_the_node_was_said_to_be() -> None:
    said = (
        NodeMark("n", at(-5), NodeUse.BOOTING),
        NodeMark("n", at(10), None),
        NodeMark("n", at(40), NodeUse.DRAINING),
    )
    held = pod("a", gpus=8, scheduled=at(20), started=at(20), released=at(50))
    part = pod("b", gpus=4, scheduled=at(50), started=at(50))
    rows = table(Trace(node(), (held, part), node_marks=said).close())
    assert [(row[0], row[1], row[5], row[6]) for row in rows] == [
        ("", "booting", 10, 80),
        ("", "draining", 10, 40),
        ("", "idle", 10, 80),
        ("a", "productive", 30, 240),
        ("b", "productive", 10, 40),
    ]


def test_a_node_costs_only_while_it_exists() -> None:
    short = node(created=at(15), deleted=at(45))
    rows = table(Trace(short, (pod("a", gpus=8, released=at(59)),)).close())
    assert rows == [("a", "productive", 0, "", "p1", 30, 240, 4 * DOLLAR)]
    assert Trace(node(created=at(60))).close().rows == ()
    assert Trace(node(created=at(30), deleted=at(20))).close().total == 0


def test_marks_attempts_and_owners_make_rows_and_stretches_of_one_kind_are_one_row() -> None:
    held = pod("a", gpus=8, scheduled=at(-60), started=at(-60), telemetry=True)
    said = tuple(
        Mark("a", at(minute), 0, attempt, category)
        for minute, attempt, category in (
            (-10, 1, Category.PRODUCTIVE),
            (10, 1, Category.DATA_WAIT),
            (12, 1, Category.PRODUCTIVE),
            (30, 2, Category.RECOVERY),
            (33, 2, Category.LOST_WORK),
            (36, 2, Category.PRODUCTIVE),
        )
    )
    told = (
        Attributed("job-a", at(-60), Attribution(team="x")),
        Attributed("job-a", at(48), Attribution(team="y")),
    )
    rows = table(Trace(node(), (held,), said, attributed=told, segments=(price(60),)).close())
    assert [(row[1], row[2], row[3], row[5], row[7] // DOLLAR) for row in rows] == [
        ("data_wait", 1, "x", 2, 2),
        ("productive", 1, "x", 28, 28),
        ("lost_work", 2, "x", 3, 3),
        ("productive", 2, "x", 12, 12),
        ("productive", 2, "y", 12, 12),
        ("recovery", 2, "x", 3, 3),
    ]


def test_times_out_of_order_are_counted_in_their_hour_only() -> None:
    held = pod("a", scheduled=at(5), started=at(3), finished=at(2), released=at(80))
    assert Trace(node(), (held,)).close().clamped == 2
    later = close(T0 + HOUR, node(), (held,), (), (), (), (price(8),))
    assert (later.clamped, [str(row.category) for row in later.rows if row.category]) == (0, ["drain"])


def test_what_was_told_of_a_pod_at_several_times_completes_each_other() -> None:
    early, late = pod("a", gpus=8), pod("a", gpus=8, finished=at(30), released=at(30))
    assert Trace(node(), (early, late)).close() == Trace(node(), (late, early, late)).close()
    assert Trace(node(), (early, late)).close() == Trace(node(), (late,)).close()


def test_of_times_of_a_pod_that_contradict_each_other_the_earlier_holds() -> None:
    one = pod("a", gpus=4, started=at(5), finished=at(50), released=at(50))
    other = pod("a", gpus=8, started=at(9), finished=at(40), released=at(55), telemetry=True)
    both = pod("a", gpus=8, started=at(5), finished=at(40), released=at(50), telemetry=True)
    assert Trace(node(), (one, other)).close() == Trace(node(), (both,)).close()
    assert Trace(node(), (other, one)).close() == Trace(node(), (both,)).close()


def test_an_open_hour_shows_the_floor_of_each_row() -> None:
    facts = ((pod("a", gpus=1),), (), (), (), (price(100e-9),))
    shown = so_far(T0, node(gpus=3), *facts, until=at(30))
    assert [row.cost for row in shown.rows] == [33, 16]
    assert shown.total == 49
    assert so_far(T0, node(gpus=3), *facts, until=at(-1)).rows == ()
    assert so_far(T0, node(gpus=3), *facts, until=at(600)).total == 99


def test_an_hour_begins_on_the_hour() -> None:
    with pytest.raises(ValueError, match="not the beginning of an hour"):
        close(T0 + 1, node(), (), (), (), (), ())


def test_two_prices_for_one_moment_are_refused() -> None:
    with pytest.raises(ValueError, match="Two prices for one moment"):
        Trace(node(), segments=(price(1, 0, at(30)), price(2, at(20), id_="p2"))).close()
