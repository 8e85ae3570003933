"""Closes a node-hour: from facts to rows whose sum is the price of that hour of that node.

The order of facts, and how often each comes, change nothing. Of one hour only what touches it is needed: pods
that live in it; of their marks those within it, and of those before it the last one of the newest attempt; of
the node's marks those within it and the last one before; and all that was said of whom their jobs belong to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from math import lcm
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mlenv_operator.cost.allocation import NOBODY, Amount, Closing, Key, floors, settle
from mlenv_operator.cost.facts import HOUR, Micros, Node, Pod
from mlenv_operator.cost.merge import merged
from mlenv_operator.cost.occupancy import Holding, rates, slots
from mlenv_operator.cost.segments import covering
from mlenv_operator.cost.shares import GPU_DOMINANT
from mlenv_operator.cost.spans import FOREVER, life, owners, sort_marks, spans, states

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mlenv_operator.cost.allocation import Amounts
    from mlenv_operator.cost.facts import Attributed, Category, Mark, NodeMark, NodeUse
    from mlenv_operator.cost.occupancy import Rate, Slot
    from mlenv_operator.cost.segments import Segment
    from mlenv_operator.cost.shares import Policy
    from mlenv_operator.cost.spans import Life, Owners, Span, State

K = TypeVar("K", bound=Hashable)
_NOTHING = Amount(0, 0, 0, 0)


class _Lived(NamedTuple):
    """One pod of the node, whatever the window: what it did when, and who pays."""

    pod: Pod
    times: Life
    states: list[State]
    who: Owners
    weight: int
    gpus: int


class _Held(NamedTuple):
    """One pod in the window: what it holds, and what its time was."""

    pod: Pod
    holding: Holding
    spans: list[Span]
    clamped: int


def close(  # noqa: PLR0917 - seven kinds of facts make a node-hour, always in this order
    hour: Micros,
    node: Node,
    pods: Iterable[Pod],
    marks: Iterable[Mark],
    node_marks: Iterable[NodeMark],
    attributions: Iterable[Attributed],
    segments: Sequence[Segment],
    policy: Policy = GPU_DOMINANT,
) -> Closing:
    """The rows of the hour of this node that begins at `hour`. Pods of other nodes are passed over."""
    return _closing(
        _Facts(node, pods, marks, node_marks, attributions, segments, policy), hour, hour + HOUR, final=True
    )


def so_far(  # noqa: PLR0917 - as close
    hour: Micros,
    node: Node,
    pods: Iterable[Pod],
    marks: Iterable[Mark],
    node_marks: Iterable[NodeMark],
    attributions: Iterable[Attributed],
    segments: Sequence[Segment],
    policy: Policy = GPU_DOMINANT,
    *,
    until: Micros,
) -> Closing:
    """The same of an hour that is not over: each row's floor until then, and the sums of these."""
    facts = _Facts(node, pods, marks, node_marks, attributions, segments, policy)
    return _closing(facts, hour, min(max(until, hour), hour + HOUR), final=False)


class Growing(NamedTuple):
    """One row of an hour that goes on, costs as numerators: what it is, and what each microsecond adds."""

    key: Key
    base: Amount
    each: Amount


class Growth(NamedTuple):
    """A node-hour that goes on: in [since, until) every amount grows evenly, unless more is told."""

    since: Micros
    until: Micros
    whole: int
    """The denominator of costs. A row's floor at t is (base + each * (t - since)) // whole."""
    rows: list[Growing]
    unpriced: Micros
    unpriced_each: Micros


def growth(  # noqa: PLR0917 - as close
    hour: Micros,
    node: Node,
    pods: Sequence[Pod],
    marks: Sequence[Mark],
    node_marks: Sequence[NodeMark],
    attributions: Sequence[Attributed],
    segments: Sequence[Segment],
    policy: Policy = GPU_DOMINANT,
    *,
    now: Micros,
) -> Growth:
    """What `so_far` says at `now`, and at every moment from then on until the next that facts speak of."""
    facts = _Facts(node, pods, marks, node_marks, attributions, segments, policy)
    end = hour + HOUR
    since = min(max(now, hour), end)
    lived = _lived(facts)
    before, each = _measure(facts, lived, hour, (hour, since)), _Measured([], 1, 0, 0)
    until = FOREVER
    if since < end:
        # What a microsecond adds is what that microsecond is: amounts add up over time.
        each = _measure(facts, lived, hour, (since, since + 1))
        until = min((one for one in _turns(facts) if one is not None and since < one < end), default=end)
    scale = lcm(before.scale, each.scale)
    bases, steps = dict(_scaled(before, scale)), dict(_scaled(each, scale))
    rows = [
        Growing(key, bases.get(key, _NOTHING), steps.get(key, _NOTHING))
        for key in dict.fromkeys((*bases, *steps))
    ]
    return Growth(since, until, HOUR * scale, rows, before.unpriced, each.unpriced)


def _turns(facts: _Facts) -> Iterable[Micros | None]:
    """Every moment at which something may begin to grow otherwise."""
    yield from (facts.node.created, facts.node.deleted)
    for pod in facts.pods:
        yield from (pod.scheduled, pod.started, pod.finished, pod.released)
    yield from (mark.at for mark in facts.marks)
    yield from (mark.at for mark in facts.node_marks)
    for told in facts.attributions:
        yield told.since
    for segment in facts.segments:
        yield from (segment.t0, segment.t1)


def _scaled(measured: _Measured, scale: int) -> Amounts:
    by = scale // measured.scale
    if by == 1:
        return measured.amounts
    return [
        (key, amount._replace(cost=amount.cost * by, list_cost=amount.list_cost * by))
        for key, amount in measured.amounts
    ]


class _Facts(NamedTuple):
    node: Node
    pods: Iterable[Pod]
    marks: Iterable[Mark]
    node_marks: Iterable[NodeMark]
    attributions: Iterable[Attributed]
    segments: Sequence[Segment]
    policy: Policy


class _Measured(NamedTuple):
    """A window of a node before anything is rounded: costs are over HOUR * scale."""

    amounts: Amounts
    scale: int
    unpriced: Micros
    clamped: int


def _closing(facts: _Facts, hour: Micros, end: Micros, *, final: bool) -> Closing:
    if hour % HOUR:
        raise ValueError(f"{hour} is not the beginning of an hour.")
    amounts, scale, unpriced, clamped = _measure(facts, _lived(facts), hour, (hour, end))
    rows = settle(amounts, scale) if final else floors(amounts, scale)
    total, list_total = sum(row.cost for row in rows), sum(row.list_cost for row in rows)
    return Closing(rows, total, list_total, unpriced, clamped)


def _measure(
    facts: _Facts, lived: Sequence[_Lived], hour: Micros, window: tuple[Micros, Micros]
) -> _Measured:
    """What comes together in the window, a part of the hour."""
    node, (begin, end) = facts.node, window
    start, end = max(begin, node.created), end if node.deleted is None else min(end, node.deleted)
    if start >= end:
        return _Measured([], 1, 0, 0)
    held = _held(lived, hour, start, end)
    segments = covering(facts.segments, start, end)
    whole = facts.policy.whole(node)
    mine = [one for one in facts.node_marks if one.node_uid == node.uid]
    stretches = slots(node, whole, [one.holding for one in held], mine, segments)
    scale = lcm(*{one.whole for one in stretches})
    unpriced = sum(one.t1 - one.t0 for one in segments if not one.price_id)
    return _Measured(_amounts(held, stretches, scale), scale, unpriced, sum(one.clamped for one in held))


def _lived(facts: _Facts) -> list[_Lived]:
    """The pods of the node."""
    node = facts.node
    marks, attributions = defaultdict(list), defaultdict(list)
    for mark in facts.marks:
        marks[mark.pod_uid].append(mark)
    for told in facts.attributions:
        attributions[told.job_uid].append(told)
    found = []
    for pod in _each_once(pod for pod in facts.pods if pod.node_uid == node.uid):
        said = sort_marks(marks[pod.uid])
        times = life(pod, said)
        who = owners(pod, attributions[pod.job_uid] if pod.job_uid else ())
        weight = facts.policy.weight(node, pod)
        gpus = pod.gpus if node.gpus else 0
        found.append(_Lived(pod, times, states(pod, said, times), who, weight, gpus))
    return found


def _held(lived: Iterable[_Lived], hour: Micros, start: Micros, end: Micros) -> list[_Held]:
    """Those that live in [start, end)."""
    found = []
    for pod, times, said, who, weight, gpus in lived:
        t0, t1 = max(times.scheduled, start), min(times.released, end)
        if t0 < t1:
            clamped = sum(hour <= at < hour + HOUR for at in times.moved) if times.moved else 0
            found.append(_Held(pod, Holding(t0, t1, weight, gpus), spans(said, who, t0, t1), clamped))
    return found


def _each_once(pods: Iterable[Pod]) -> Iterable[Pod]:
    """What was said of each pod, as one fact."""
    found: dict[str, Pod] = {}
    for pod in pods:
        known = found.get(pod.uid)
        found[pod.uid] = pod if known is None else merged(known, pod)
    return found.values()


def _amounts(held: Sequence[_Held], stretches: Sequence[Slot], scale: int) -> Amounts:
    """What came together for each row, with costs over HOUR * scale."""
    paying = rates(stretches)
    found = [pair for one in held for pair in _of_pod(one, paying, scale)]
    free: dict[tuple[NodeUse, str], Amount] = {}
    for slot in stretches:
        if slot.free:
            weight, row = slot.free * (scale // slot.whole), (slot.use, slot.segment.price_id)
            _add(free, row, slot.t1 - slot.t0, slot.free_gpus, weight, slot.segment)
    found += [(Key("", use, 0, "", NOBODY, price), amount) for (use, price), amount in free.items()]
    return found


def _of_pod(one: _Held, paying: Sequence[Rate], scale: int) -> Amounts:
    """Time first, by what it was and what it cost an hour; money once for each of these."""
    rows: dict[tuple[int, Category, int, str], Amount] = {}
    for (attempt, category, who, place), micros in _times(one.spans, paying).items():
        rate = paying[place]
        row = (attempt, category, who, rate.segment.price_id)
        weight = one.holding.weight * (scale // rate.whole)
        _add(rows, row, micros, one.holding.gpus, weight, rate.segment)
    to = {id(span.attribution): span.attribution for span in one.spans}
    return [
        (Key(one.pod.uid, "", attempt, category, to[who], price), amount)
        for (attempt, category, who, price), amount in rows.items()
    ]


def _times(held: Sequence[Span], paying: Sequence[Rate]) -> dict[tuple[int, Category, int, int], Micros]:
    """Time by attempt, category, identity of the owner, and place of the rate."""
    times: dict[tuple[int, Category, int, int], Micros] = {}
    place = 0
    for t0, t1, attempt, category, attribution in held:
        while paying[place].t1 <= t0:
            place += 1
        at = place
        while at < len(paying) and paying[at].t0 < t1:
            bucket = (attempt, category, id(attribution), at)
            times[bucket] = times.get(bucket, 0) + min(t1, paying[at].t1) - max(t0, paying[at].t0)
            at += 1
    return times


def _add(  # noqa: PLR0917 - the innermost loop: names cost more than they tell
    found: dict[K, Amount], key: K, micros: Micros, gpus: int, weight: int, segment: Segment
) -> None:
    held, devices, cost, listed = found.get(key, _NOTHING)
    worth = micros * weight
    found[key] = Amount(
        held + micros,
        devices + micros * gpus,
        cost + worth * segment.effective_nano_per_hour,
        listed + worth * segment.list_nano_per_hour,
    )
