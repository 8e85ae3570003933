"""What holds of any facts whatever."""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from operator import attrgetter
from random import Random
from typing import TypeAlias, TypeVar

from cost_facts import MINUTE, T0, Trace, attributions, moments, traces
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlenv_operator.cost import metering
from mlenv_operator.cost.allocation import Key, correction, round_half_even
from mlenv_operator.cost.facts import HOUR, Attributed, Attribution, Mark, Micros
from mlenv_operator.cost.segments import Segment
from mlenv_operator.cost.shares import AWS_SPLIT, GPU_DOMINANT, Weights
from mlenv_operator.cost.spans import sort_marks

Exact: TypeAlias = "dict[Key, tuple[int, int, Fraction, Fraction]]"
F = TypeVar("F")
policies = st.sampled_from([GPU_DOMINANT, AWS_SPLIT, Weights(0, 1, 3)])
anything = traces(policies)
EXAMPLES = settings(max_examples=40, deadline=None)


def window(trace: Trace) -> tuple[Micros, Micros]:
    start = max(T0, trace.node.created)
    end = T0 + HOUR if trace.node.deleted is None else min(T0 + HOUR, trace.node.deleted)
    return (start, max(start, end))


def integral(trace: Trace, of: Callable[[Segment], int]) -> Fraction:
    """The exact price of the node-hour, in nanodollars."""
    start, end = window(trace)
    parts = (
        max(min(one.t1, end) - max(one.t0, start), 0) * of(one) for one in trace.segments if one.price_id
    )
    return Fraction(sum(parts), HOUR)


def exact(trace: Trace) -> Exact:
    """The rows' costs before anything is rounded, with every other number, by key."""
    facts = (trace.pods, trace.marks, trace.node_marks, trace.attributed, trace.segments, trace.policy)
    all_ = metering._Facts(trace.node, *facts)
    measured = metering._measure(all_, metering._lived(all_), T0, (T0, T0 + HOUR))
    whole = HOUR * measured.scale
    return {
        key: (one.held, one.gpu_micros, Fraction(one.cost, whole), Fraction(one.list_cost, whole))
        for key, one in measured.amounts
    }


def without_price(found: Exact) -> Exact:
    sums: Exact = {}
    for key, numbers in found.items():
        bare = key._replace(price_id="")
        sums[bare] = tuple(map(sum, zip(numbers, sums.get(bare, (0, 0, 0, 0)), strict=True)))
    return sums


@EXAMPLES
@given(anything)
def test_the_rows_of_a_node_hour_cost_its_price_to_the_nanodollar(trace: Trace) -> None:
    closing = trace.close()
    assert closing.total == round(integral(trace, lambda one: one.effective_nano_per_hour))
    assert closing.list_total == round(integral(trace, lambda one: one.list_nano_per_hour))
    assert sum(row.cost for row in closing.rows) == closing.total
    assert sum(row.list_cost for row in closing.rows) == closing.list_total


@EXAMPLES
@given(anything)
def test_the_exact_shares_of_a_node_hour_are_all_of_it(trace: Trace) -> None:
    """As FOCUS demands of charges that are allocated: the ratios of one origin add up to 1."""
    found = exact(trace).values()
    for place, of in ((2, "effective_nano_per_hour"), (3, "list_nano_per_hour")):
        whole = integral(trace, attrgetter(of))
        assert sum((row[place] for row in found), Fraction(0)) == whole
        assert not whole or sum(row[place] / whole for row in found) == 1


@EXAMPLES
@given(anything)
def test_who_holds_no_devices_of_a_node_that_has_some_pays_nothing(trace: Trace) -> None:
    without = {pod.uid for pod in trace.pods if not pod.gpus}
    trace = replace(trace, policy=GPU_DOMINANT)
    paid = sum(row.cost + row.list_cost for row in trace.close().rows if row.pod_uid in without)
    assert not paid or not trace.node.gpus


@EXAMPLES
@given(anything)
def test_nothing_is_negative_and_what_has_no_price_has_no_cost(trace: Trace) -> None:
    for row in trace.close().rows:
        assert row.held > 0
        assert min(row.gpu_micros, row.cost, row.list_cost) >= 0
        assert row.price_id or row.cost == row.list_cost == 0
        assert (row.use is None) == (row.category is not None) == bool(row.pod_uid)


@EXAMPLES
@given(anything)
def test_a_pods_rows_cover_its_time_on_the_node_once(trace: Trace) -> None:
    start, end = window(trace)
    held = Counter()
    for row in trace.close().rows:
        held[row.pod_uid] += row.held
    for pod in trace.pods:
        released = max(pod.scheduled, end if pod.released is None else pod.released)
        lived = max(min(released, end) - max(pod.scheduled, start), 0)
        assert held[pod.uid] == (lived if pod.node_uid == "n" else 0)


@EXAMPLES
@given(anything)
def test_devices_are_held_or_free_and_without_devices_there_are_no_device_seconds(trace: Trace) -> None:
    start, end = window(trace)
    devices = sum(row.gpu_micros for row in trace.close().rows)
    given_twice = sum(pod.gpus for pod in trace.pods) > trace.node.gpus
    if not trace.node.gpus:
        assert devices == 0
    elif trace.policy is GPU_DOMINANT and not given_twice:
        assert devices == trace.node.gpus * (end - start)
    elif not given_twice:
        assert devices <= trace.node.gpus * (end - start)


@EXAMPLES
@given(anything, st.randoms(use_true_random=False))
def test_order_and_repetition_of_facts_change_nothing(trace: Trace, random: Random) -> None:
    def shuffled(facts: tuple[F, ...]) -> tuple[F, ...]:
        again = list(facts) + [random.choice(facts) for _ in range(3 if facts else 0)]
        random.shuffle(again)
        return tuple(again)

    segments = list(trace.segments)
    random.shuffle(segments)
    other = replace(
        trace,
        pods=shuffled(trace.pods),
        marks=shuffled(trace.marks),
        node_marks=shuffled(trace.node_marks),
        attributed=shuffled(trace.attributed),
        segments=tuple(segments),
    )
    assert other.close() == trace.close()


@EXAMPLES
@given(anything)
def test_of_the_past_only_the_last_mark_matters(trace: Trace) -> None:
    last: dict[str, Mark] = {}
    for mark in sorted(trace.marks, key=lambda one: (one.attempt, one.at, one.sequence)):
        if mark.at < T0:
            last[mark.pod_uid] = mark
    past = sorted((one for one in trace.node_marks if one.at < T0), key=lambda one: one.at)[-1:]
    begun = [pod for pod in trace.pods if pod.started is not None]
    assume(len(begun) == len(trace.pods))
    short = replace(
        trace,
        marks=(*last.values(), *(one for one in trace.marks if one.at >= T0)),
        node_marks=(*past, *(one for one in trace.node_marks if one.at >= T0)),
    )
    assert short.close().rows == trace.close().rows


@EXAMPLES
@given(anything, moments, st.sampled_from(["", "'"]))
def test_a_price_cut_at_a_point_changes_nothing(trace: Trace, cut: Micros, suffix: str) -> None:
    pieces = []
    for one in trace.segments:
        if one.t0 < cut < one.t1:
            id_ = one.price_id and one.price_id + suffix
            later = one._replace(t0=cut, price_id=id_)
            pieces += [one._replace(t1=cut), later]
        else:
            pieces.append(one)
    other = replace(trace, segments=tuple(pieces))
    assert without_price(exact(other)) == without_price(exact(trace))
    assert (other.close().total, other.close().list_total) == (trace.close().total, trace.close().list_total)
    if not suffix:
        assert other.close() == trace.close()


@EXAMPLES
@given(anything, moments)
def test_a_stretch_cut_at_a_point_changes_nothing(trace: Trace, cut: Micros) -> None:
    """What holds at the point is said once more there."""
    marks = [
        replace(last, at=cut, sequence=99)
        for pod in trace.pods
        for last in sort_marks(one for one in trace.marks if one.pod_uid == pod.uid and one.at <= cut)[-1:]
        if pod.scheduled <= cut and pod.started is not None
    ]
    uses = sorted((one for one in trace.node_marks if one.at <= cut), key=lambda one: one.at)
    other = replace(
        trace,
        marks=(*trace.marks, *marks),
        node_marks=(*trace.node_marks, *(replace(one, at=cut) for one in uses[-1:])),
    )
    assert other.close().rows == trace.close().rows


@EXAMPLES
@given(anything)
def test_twice_the_price_is_twice_the_cost(trace: Trace) -> None:
    twice = replace(
        trace,
        segments=tuple(
            one._replace(
                list_nano_per_hour=2 * one.list_nano_per_hour,
                effective_nano_per_hour=2 * one.effective_nano_per_hour,
            )
            for one in trace.segments
        ),
    )
    single, double = exact(trace), exact(twice)
    assert {key: (a, b, 2 * c, 2 * d) for key, (a, b, c, d) in single.items()} == double
    # Rounded: a sum is off by one nanodollar at most, a row by less than three.
    before, after = trace.close(), twice.close()
    assert abs(after.total - 2 * before.total) <= 1
    for one, other in zip(before.rows, after.rows, strict=True):
        assert abs(other.cost - 2 * one.cost) <= 2


@EXAMPLES
@given(anything, attributions)
def test_a_team_renamed_after_the_fact_moves_nothing(trace: Trace, renamed: Attribution) -> None:
    told = tuple(Attributed(job, T0 + HOUR, renamed) for job in ("j1", "j2"))
    known = {one.job_uid for one in trace.attributed if one.since <= T0}
    later = tuple(one for one in told if one.job_uid in known)
    assert replace(trace, attributed=trace.attributed + later).close() == trace.close()


@EXAMPLES
@given(
    anything, st.sets(st.sampled_from(["pod_uid", "use", "attempt", "category", "attribution", "price_id"]))
)
def test_the_sums_over_any_grouping_are_the_total(trace: Trace, by: set[str]) -> None:
    closing = trace.close()
    groups = Counter()
    for row in closing.rows:
        groups[tuple(getattr(row, name) for name in sorted(by))] += row.cost
    assert sum(groups.values()) == closing.total
    assert len({row.key for row in closing.rows}) == len(closing.rows)


@EXAMPLES
@given(anything, st.integers(0, 60))
def test_an_open_hour_shows_less_than_its_end_and_its_rows_never_shrink(trace: Trace, minute: int) -> None:
    facts = (trace.pods, trace.marks, trace.node_marks, trace.attributed, trace.segments, trace.policy)
    shown = [
        metering.so_far(T0, trace.node, *facts, until=T0 + at * MINUTE)
        for at in sorted((minute, min(minute + 7, 60)))
    ]
    states = [{row.key: row for row in one.rows} for one in (*shown, trace.close())]
    for early, late in itertools.pairwise(states):
        for key, row in early.items():
            assert row.cost <= late[key].cost
            assert row.held <= late[key].held
    assert shown[0].total <= shown[1].total <= trace.close().total


@EXAMPLES
@given(anything, anything)
def test_a_closing_and_its_correction_are_the_later_closing(before: Trace, after: Trace) -> None:
    old, new = before.close(), after.close()
    change = correction(old, new)
    sums = {}
    for row in (*old.rows, *change.rows):
        sums[row.key] = sums.get(row.key, 0) + row.cost
    assert {key: cost for key, cost in sums.items() if cost} == {
        row.key: row.cost for row in new.rows if row.cost
    }
    assert old.total + change.total == new.total
    assert sum(row.cost for row in change.rows) == change.total


@EXAMPLES
@given(st.integers(-(10**20), 10**20), st.integers(1, 10**6))
def test_rounding_is_that_of_fractions(numerator: int, denominator: int) -> None:
    assert round_half_even(numerator, denominator) == round(Fraction(numerator, denominator))
