"""The oracle and its traces: independent, repeatable, whole, and full of trouble."""

from __future__ import annotations

import ast
import itertools
import random
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from money_oracle.book import all_hours
from money_oracle.generate import NEW_YEAR_2028, Shape, month, small, trace
from money_oracle.sweep import Key, NodeHour, largest_remainder
from money_oracle.trace import (
    HOUR,
    SECOND,
    Attributed,
    Fact,
    Mark,
    Node,
    Pod,
    Price,
    Settled,
    from_line,
    read,
    to_line,
)

if TYPE_CHECKING:
    from fractions import Fraction

PACKAGE = Path(__file__).parent / "money_oracle"
SEEDS = range(6)


def test_it_imports_nothing_but_python_and_itself() -> None:
    imported = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                imported.add(str(node.module).partition(".")[0])
    assert imported <= {*sys.stdlib_module_names, "money_oracle"}


def test_it_computes_without_floats() -> None:
    for name in ("sweep.py", "spans.py", "book.py", "trace.py"):
        nodes = list(ast.walk(ast.parse((PACKAGE / name).read_text())))
        assert not [
            node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, float)
        ]
        assert not [
            node for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
        ] or (
            name == "sweep.py"  # fractions only
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_every_node_hour_is_spent_to_the_last_nanodollar(seed: int) -> None:
    facts, horizon = small(seed)
    nodes = {fact.uid: fact for fact in facts if isinstance(fact, Node)}
    for hour in all_hours(facts, horizon):
        assert sum(row.cost or 0 for row in hour.rows) == hour.cost
        assert sum(row.list_cost or 0 for row in hour.rows) == hour.list_cost
        assert all((row.cost is None) == (row.key.price_id == "") for row in hour.rows)
        assert all((row.cost or 0) >= 0 and row.micros > 0 for row in hour.rows)
        assert bool(nodes[hour.node_uid].gpus) or not any(row.device_micros for row in hour.rows)


@pytest.mark.parametrize("seed", SEEDS)
def test_devices_are_held_or_not_held_and_never_lost(seed: int) -> None:
    facts, horizon = small(seed)
    hours = list(all_hours(facts, horizon))
    for uid, of_node in itertools.groupby(hours, key=lambda hour: hour.node_uid):
        told = [fact for fact in facts if isinstance(fact, Node) and fact.uid == uid]
        ends = [fact.deleted for fact in told if fact.deleted is not None]
        life = min([horizon, *ends]) - told[0].created
        device_time = sum(row.device_micros for hour in of_node for row in hour.rows)
        assert device_time >= life * told[0].gpus  # more where pods were forced onto it


@pytest.mark.parametrize("seed", SEEDS)
def test_order_and_repetition_change_nothing(seed: int) -> None:
    facts, horizon = small(seed)
    once = list(all_hours(facts, horizon))
    again = [*facts, *facts[::2]]
    random.Random(seed + 1).shuffle(again)
    assert list(all_hours(again, horizon)) == once


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stream_gives_what_a_heap_gives(seed: int) -> None:
    shape = Shape(jobs=25, seed=seed)
    streamed = sorted(all_hours(trace(shape), shape.horizon), key=_place)
    heap = [fact for fact in trace(shape) if not isinstance(fact, Settled)]
    assert streamed == sorted(all_hours(heap, shape.horizon), key=_place)


def _place(hour: NodeHour) -> tuple[str, int]:
    return hour.node_uid, hour.hour


def test_a_trace_survives_being_written() -> None:
    facts = list(trace(Shape(jobs=15, seed=3)))
    lines = [to_line(fact) for fact in facts]
    assert list(read(lines)) == facts
    assert from_line(lines[-1]) == facts[-1]


def test_the_same_seed_gives_the_same_trace() -> None:
    assert small(5) == small(5)
    assert small(5) != small(6)


def test_renaming_a_team_afterwards_moves_nothing() -> None:
    facts, horizon = small(2)
    ended = max(fact.released or 0 for fact in facts if isinstance(fact, Pod))
    renamed = [replace(fact, since=max(ended, horizon)) for fact in facts if isinstance(fact, Attributed)]
    known = {fact.job_uid for fact in facts if isinstance(fact, Attributed)}
    assert known
    later = [replace(fact, to=replace(fact.to, team="new")) for fact in renamed]
    assert list(all_hours([*facts, *later], horizon)) == list(all_hours(facts, horizon))


def test_doubled_prices_double_the_cost_to_the_nanodollar_that_rounding_takes() -> None:
    facts, horizon = small(4)
    doubled = [
        replace(fact, effective_nanos=2 * fact.effective_nanos) if isinstance(fact, Price) else fact
        for fact in facts
    ]
    for one, two in zip(all_hours(facts, horizon), all_hours(doubled, horizon), strict=True):
        assert abs(two.cost - 2 * one.cost) <= 1


EXACT = st.lists(st.fractions(0, 1000, max_denominator=97), min_size=1, max_size=9)


@given(EXACT, st.randoms())
def test_the_largest_remainder_is_within_one_and_favours_the_larger(
    parts: list[Fraction], rng: random.Random
) -> None:
    exact = {Key(f"pod-{n}", "", 0, "", (), "p"): part for n, part in enumerate(parts)}
    total = round(sum(parts))
    rows = largest_remainder(exact, total)
    assert sum(rows.values()) == total
    assert all(0 <= rows[key] - part // 1 <= 1 for key, part in exact.items())
    for one, other in itertools.permutations(exact, 2):
        if (exact[one] % 1, *[-ord(c) for c in one.pod_uid]) > (
            exact[other] % 1,
            *[-ord(c) for c in other.pod_uid],
        ):
            assert rows[one] - exact[one] // 1 >= rows[other] - exact[other] // 1
    shuffled = list(exact.items())
    rng.shuffle(shuffled)
    assert largest_remainder(dict(shuffled), total) == rows


@pytest.fixture(scope="module")
def troubled() -> list[Fact]:
    return list(trace(Shape(jobs=400, seed=9)))


def pods(facts: list[Fact]) -> list[Pod]:
    return [fact for fact in facts if isinstance(fact, Pod)]


def test_traces_have_every_kind_of_trouble(troubled: list[Fact]) -> None:
    found = pods(troubled)
    lengths = [one.released - one.scheduled for one in found if one.released is not None]
    marks = [fact for fact in troubled if isinstance(fact, Mark)]
    nodes = [fact for fact in troubled if isinstance(fact, Node)]
    back = [
        b for a, b in itertools.pairwise(sorted(marks, key=_said)) if a.pod_uid == b.pod_uid and b.at < a.at
    ]
    gangs = Counter((one.job_uid, one.name.split("-")[-1]) for one in found)
    begun = {node.uid: node.created for node in nodes}
    said: defaultdict[tuple[str, int, int], set[tuple[int, str]]] = defaultdict(set)
    for mark in marks:
        said[mark.pod_uid, mark.at, mark.sequence].add((mark.attempt, mark.category))
    trouble = {
        "zero length": 0 in lengths,
        "shorter than a second": any(0 < length < SECOND for length in lengths),
        "released before scheduled": any(length < 0 for length in lengths),
        "never started": any(one.started is None for one in found),
        "nobody saw the end": any(one.finished is None and one.released is None for one in found),
        "scheduled before there was a node": any(one.scheduled < begun[one.node_uid] for one in found),
        "two that contradict each other": any(len(words) > 1 for words in said.values()),
        "finished before started": any(
            (one.finished or 0) < (one.started or 0) for one in found if one.finished
        ),
        "a stall of the image": any((one.started or 0) - one.scheduled > 600 * SECOND for one in found),
        "pods of others": any(one.job_uid == "" for one in found),
        "riders": any(one.gpus == 0 for one in found),
        "a second attempt": any(mark.attempt > 1 for mark in marks),
        "a clock that steps back": bool(back),
        "doubled": max(Counter(troubled).values()) > 1,
        "nodes without devices": any(node.gpus == 0 for node in nodes),
        "nodes that live on": any(node.deleted is None for node in nodes),
        "a gang of 32 or more": max(gangs.values()) >= 32,
        "the end of a year": any((one.started or 0) < NEW_YEAR_2028 < (one.finished or 0) for one in found),
    }
    assert [name for name, there in trouble.items() if not there] == []


def _said(mark: Mark) -> tuple[str, int]:
    return mark.pod_uid, mark.sequence % 100


def test_the_oracle_meets_every_kind_of_row(troubled: list[Fact]) -> None:
    rows = [row for hour in all_hours(troubled, Shape(jobs=400, seed=9).horizon) for row in hour.rows]
    names = {row.key.category or row.key.use for row in rows}
    assert names >= {
        *("startup", "init", "productive", "data_wait", "checkpoint_save", "checkpoint_restore", "eval"),
        *("lost_work", "recovery", "hang", "drain", "unknown"),
        *("idle", "fragmented", "booting", "draining", "unhealthy", "reservation_unused", "unattributed"),
    }
    assert any(row.cost is None for row in rows)
    assert any(row.key.pod_uid and not dict(row.key.owner)["job_uid"] for row in rows)


def test_prices_change_within_hours_and_windows_end(troubled: list[Fact]) -> None:
    prices = [fact for fact in troubled if isinstance(fact, Price)]
    assert any(price.since % HOUR for price in prices)
    assert any(price.capacity_type == "capacity-block" and price.until for price in prices)
    assert max(Counter(price.id for price in prices).values()) > 1, (
        "a row that was split where its price stays"
    )


def test_a_month_of_300_000_jobs_streams() -> None:
    facts = trace(month())
    begun = [fact for fact, _ in zip(facts, range(2000), strict=False)]
    assert pods(begun)
