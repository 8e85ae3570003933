"""One trace, read by metering and by the oracle: node-hours of both in one form, for ``==``."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from money_oracle import trace
from money_oracle.book import Book
from money_traces import fact_of, row_of, with_our_ids

from mlenv_operator.cost.facts import HOUR, Attributed, Mark, Micros, Node, NodeMark, Pod
from mlenv_operator.cost.merge import merged
from mlenv_operator.cost.metering import close
from mlenv_operator.cost.prices import PriceBook
from mlenv_operator.cost.segments import Segment
from mlenv_operator.cost.shares import parse_policy
from mlenv_operator.cost.spans import FOREVER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from money_oracle.sweep import NodeHour

    from mlenv_operator.cost.allocation import Closing
    from mlenv_operator.cost.shares import Policy

OWNER = attrgetter(*trace.Owner.__slots__)
_SEGMENT = attrgetter("t0", "t1", "price")


class Seen(NamedTuple):
    """A node-hour: sums, time without a price, and rows of (key, time, device time, cost, list cost)."""

    node_uid: str
    hour: int
    total: int
    list_total: int
    unpriced: int
    rows: list[tuple[Any, ...]]


def of_closing(node_uid: str, hour: int, one: Closing) -> Seen:
    """What metering says. Costs without a price are shown as None: they mean nothing."""
    rows = [
        (
            *row.key[:4],
            OWNER(row.attribution),
            row.price_id,
            row.held,
            row.gpu_micros,
            *((row.cost, row.list_cost) if row.price_id else (None, None)),
        )
        for row in one.rows
    ]
    assert all(row.price_id or row.cost == row.list_cost == 0 for row in one.rows)
    return Seen(node_uid, hour, one.total, one.list_total, one.unpriced, rows)


def of_node_hour(one: NodeHour) -> Seen:
    """What the oracle says."""
    rows = [
        (
            *row.key[:4],
            tuple(value for _, value in row.key.owner),
            row.key.price_id,
            row.micros,
            row.device_micros,
            row.cost,
            row.list_cost,
        )
        for row in one.rows
    ]
    return Seen(one.node_uid, one.hour, one.cost, one.list_cost, one.unpriced, rows)


class _Said(NamedTuple):
    """All about one node."""

    nodes: list[Node]
    pods: list[Pod]
    marks: list[Mark]
    node_marks: list[NodeMark]


class Meter:
    """Facts in the platform's words, by node, and what metering makes of them."""

    def __init__(self, prices: PriceBook, policy: Policy, *, touching: bool) -> None:
        """`touching`: each hour is closed from what touches it only, as the ledger reads it."""
        self._prices = prices
        self._policy = policy
        self._touching = touching
        self._said: defaultdict[str, _Said] = defaultdict(lambda: _Said([], [], [], []))
        self._marks: defaultdict[str, list[Mark]] = defaultdict(list)
        self._attributed: defaultdict[str, list[Attributed]] = defaultdict(list)

    def take(self, fact: trace.Fact) -> None:
        """Keep it, however often it comes."""
        match fact_of(fact):
            case Node() as one:
                self._said[one.uid].nodes.append(one)
            case Pod() as one:
                self._said[one.node_uid].pods.append(one)
            case NodeMark() as one:
                self._said[one.node_uid].node_marks.append(one)
            case Mark() as one:
                self._marks[one.pod_uid].append(one)
            case Attributed() as one:
                self._attributed[one.job_uid].append(one)

    def hours(self, node_uid: str, horizon: Micros) -> Iterator[Seen]:
        """Every hour of the node's life up to the horizon."""
        said = self._said[node_uid]
        node, *others = said.nodes
        for other in others:
            node = merged(node, other)
        end = horizon if node.deleted is None else min(horizon, node.deleted)
        marks = [mark for uid in {pod.uid for pod in said.pods} for mark in self._marks[uid]]
        attributed = [one for uid in {pod.job_uid for pod in said.pods} for one in self._attributed[uid]]
        said = said._replace(marks=marks)
        node = replace(node, deleted=end)
        for hour in range(node.created - node.created % HOUR, end, HOUR) if node.created < end else ():
            some = _touching(said, hour) if self._touching else said
            told = (some.pods, some.marks, some.node_marks, attributed, self._segments(node, hour))
            yield of_closing(node_uid, hour, close(hour, node, *told, self._policy))

    def _segments(self, node: Node, hour: Micros) -> list[Segment]:
        return [
            Segment(t0, t1, row.id, row.list_nanos_per_hour, row.effective_nanos_per_hour)
            for t0, t1, row in map(_SEGMENT, self._prices.segments(node, hour, hour + HOUR))
            if row is not None
        ]

    def forget(self, node_uid: str) -> None:
        """Drop all that was said of a node, and of the jobs of its pods."""
        for pod in self._said.pop(node_uid).pods:
            self._marks.pop(pod.uid, None)
            self._attributed.pop(pod.job_uid, None)


def _touching(said: _Said, hour: Micros) -> _Said:
    """Of all that was said what the ledger would read: see `ledger.facts`."""
    pods: dict[str, Pod] = {}
    for pod in said.pods:
        pods[pod.uid] = merged(pods.get(pod.uid, pod), pod)
    alive = [
        pod
        for pod in pods.values()
        if pod.scheduled < hour + HOUR and (pod.released is None or pod.released > hour)
    ]
    marks: defaultdict[str, list[Mark]] = defaultdict(list)
    for mark in said.marks:
        marks[mark.pod_uid].append(mark)
    some = [mark for pod in alive for mark in _marks(pod, marks[pod.uid], hour)]
    return said._replace(pods=alive, marks=some)


def _marks(pod: Pod, marks: list[Mark], hour: Micros) -> list[Mark]:
    """Marks of the hour, of those before it the last ones of the newest attempt, and those outside life."""
    before = [mark for mark in marks if mark.at < hour]
    newest = max((mark.attempt for mark in before), default=0)
    last = max((mark.at for mark in before if mark.attempt == newest), default=hour)
    released = FOREVER if pod.released is None else pod.released
    return [
        mark for mark in marks if last <= mark.at < hour + HOUR or not pod.scheduled <= mark.at <= released
    ]


def both(
    facts: Iterable[trace.Fact], horizon: Micros, *, touching: bool = False, weights: str = ""
) -> Iterator[tuple[list[Seen], list[Seen]]]:
    """(metering's hours, the oracle's hours) of node after node: once it is settled, else at the end.

    The prices come first. `weights`: as the policy of shares of this name, else gpu-dominant.
    """
    facts = with_our_ids(facts)
    prices: list[trace.Price] = []
    policy = parse_policy(f"weights={weights}" if weights else "gpu-dominant")
    exact = [Fraction(one) for one in weights.split("/")] if weights else []
    meter, oracle = None, Book((exact[0], exact[1], exact[2]) if exact else None)
    for fact in facts:
        if isinstance(fact, trace.Price):
            prices.append(fact)
            oracle.take(fact)
            continue
        meter = meter or Meter(PriceBook(map(row_of, prices)), policy, touching=touching)
        if isinstance(fact, trace.Settled):
            yield _hours(meter, oracle, fact.node_uid, horizon)
            meter.forget(fact.node_uid)
            oracle.forget(fact.node_uid)
        else:
            meter.take(fact)
            oracle.take(fact)
    if meter is not None:
        for uid in oracle.nodes():
            yield _hours(meter, oracle, uid, horizon)


def _hours(meter: Meter, oracle: Book, node_uid: str, horizon: Micros) -> tuple[list[Seen], list[Seen]]:
    theirs = [of_node_hour(one) for one in oracle.hours(node_uid, horizon)]
    return list(meter.hours(node_uid, horizon)), theirs
