"""Node-hours and their rows: rules 3 to 6 and 8, by a sweep over every moment at which anything changes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from money_oracle.spans import Span, spans
from money_oracle.trace import HOUR, Mark, Node, NodeMark, Owner, Pod, Price

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from money_oracle.trace import Pairs

NOBODY = Owner().pairs()
GIB = 2**30
Weights: TypeAlias = tuple[Fraction, Fraction, Fraction]
"""Of a device, a processor and a GiB."""


class Key(NamedTuple):
    """What makes a row one row. Ties of remainders go to the smaller key, compared as a tuple."""

    pod_uid: str
    use: str
    attempt: int
    category: str
    owner: Pairs
    price_id: str


@dataclass(frozen=True, slots=True)
class Row:
    key: Key
    micros: int
    """How long."""
    device_micros: int
    """Devices times how long."""
    cost: int | None
    """None: no price is known."""
    list_cost: int | None


@dataclass(frozen=True, slots=True)
class NodeHour:
    node_uid: str
    hour: int
    """Beginning of the UTC hour, in microseconds."""
    cost: int
    list_cost: int
    unpriced: int
    """Time of the node without a price."""
    rows: tuple[Row, ...]
    """By key."""


@dataclass(slots=True)
class Told:
    """Everything that was said of one node."""

    node: Node
    pods: list[Pod] = field(default_factory=list)
    marks: Mapping[str, list[Mark]] = field(default_factory=dict)
    """By pod, sorted by (at, sequence)."""
    node_marks: list[NodeMark] = field(default_factory=list)
    owners: Mapping[str, Mapping[int, Owner]] = field(default_factory=dict)
    """By job, by since."""
    weights: Weights | None = None
    """None: the policy gpu-dominant."""


def best_price(prices: Iterable[Price], node: Node, at: int) -> Price | None:
    """Rule 8: the narrowest row in force."""
    fits = [
        price
        for price in prices
        if price.provider == node.provider
        and price.instance_type == node.instance_type
        and price.capacity_type == node.capacity_type
        and price.region in ("", node.region)
        and price.zone in ("", node.zone)
        and price.reservation in ("", node.reservation)
        and price.since <= at
        and (price.until is None or at < price.until)
    ]
    return max(fits, key=narrowness, default=None)


def narrowness(price: Price) -> tuple[bool, bool, bool, int, int, int]:
    places = bool(price.reservation), bool(price.zone), bool(price.region)
    return (*places, price.priority, price.since, price.as_of)


def shares(node: Node, pods: Iterable[Pod], weights: Weights | None) -> tuple[dict[str, Fraction], Fraction]:
    """Rule 3: the share of each pod by uid, and what nobody holds. Together exactly 1."""
    asked = {pod.uid: weight(node, pod, weights) for pod in pods}
    whole = max(Fraction(1), sum(asked.values(), Fraction(0)))
    found = {uid: one / whole for uid, one in asked.items()}
    return found, 1 - sum(found.values(), Fraction(0))


def weight(node: Node, pod: Pod, weights: Weights | None) -> Fraction:
    """The part of the node that the pod asks for; may be more than there is."""
    if weights is not None:
        there = (node.gpus, node.cpu_milli, node.memory_bytes)
        held = (pod.gpus, pod.cpu_milli, pod.memory_bytes)
        units = (weights[0], weights[1] / 1000, weights[2] / GIB)
        whole = sum((one * unit for one, unit in zip(there, units, strict=True)), Fraction(0))
        mine = sum(
            (one * unit for one, unit, has in zip(held, units, there, strict=True) if has), Fraction(0)
        )
        return mine / whole if whole else Fraction(0)
    if node.gpus:
        return Fraction(pod.gpus, node.gpus)
    cpu = Fraction(pod.cpu_milli, node.cpu_milli) if node.cpu_milli else Fraction(0)
    memory = Fraction(pod.memory_bytes, node.memory_bytes) if node.memory_bytes else Fraction(0)
    return max(cpu, memory)


def node_hours(told: Told, prices: Iterable[Price], horizon: int) -> Iterator[NodeHour]:
    """Every hour of a node's life up to the horizon, in order."""
    node = told.node
    begin = node.created
    end = min(horizon, horizon if node.deleted is None else max(node.deleted, begin))
    if end <= begin:
        return
    mine = [one for one in prices if best_price([one], node, one.since) is not None]
    sweep = _Sweep(told, mine, begin, end)
    for hour in range(begin - begin % HOUR, end, HOUR):
        yield sweep.hour(max(hour, begin), min(hour + HOUR, end), hour)


@dataclass(slots=True)
class _Held:
    """A pod at the point where the sweep is."""

    pod: Pod
    spans: list[Span]
    at: int = 0
    last: Key | None = None

    def key(self, time: int, price_id: str) -> Key:
        """The row that this moment belongs to."""
        while self.spans[self.at].t1 <= time:
            self.at, self.last = self.at + 1, None
        if self.last is None or self.last.price_id != price_id:
            span = self.spans[self.at]
            self.last = Key(self.pod.uid, "", span.attempt, span.category, span.owner, price_id)
        return self.last


class _Sweep:
    """Goes through the life of a node once, from the left to the right."""

    def __init__(self, told: Told, prices: list[Price], begin: int, end: int) -> None:
        self._node, self._prices, self._weights = told.node, prices, told.weights
        self._uses = sorted(told.node_marks, key=lambda mark: mark.at)
        waiting = [one for pod in told.pods if (one := _held(told, pod, begin, end)) is not None]
        self._waiting = sorted(waiting, key=lambda one: one.spans[0].t0, reverse=True)
        self._held: list[_Held] = []
        self._shares: dict[str, Fraction] = {}
        self._unheld = Fraction(1)
        self._use: str | None = None
        cuts = {time for price in prices for time in (price.since, price.until) if time is not None}
        cuts.update(mark.at for mark in self._uses)
        cuts.update(time for one in waiting for span in one.spans for time in (span.t0, span.t1))
        self._cuts = sorted((cut for cut in cuts if begin < cut < end), reverse=True)
        self._uses.reverse()
        self._price: Price | None = None
        self._moved = True

    def hour(self, t0: int, t1: int, hour: int) -> NodeHour:
        account = _Account()
        while t0 < t1:
            while self._cuts and self._cuts[-1] <= t0:
                self._cuts.pop()
            end = min(t1, self._cuts[-1]) if self._cuts else t1
            self._arrive(t0)
            self._book(account, t0, end)
            t0 = end
        return account.close(self._node.uid, hour)

    def _arrive(self, time: int) -> None:
        """Bring what is held, the use of the rest and the price to this moment."""
        gone = [one for one in self._held if one.spans[-1].t1 <= time]
        came = []
        while self._waiting and self._waiting[-1].spans[0].t0 <= time:
            came.append(self._waiting.pop())
        if gone or came or self._moved:
            self._held = [one for one in (*self._held, *came) if one.spans[-1].t1 > time]
            pods = [one.pod for one in self._held]
            self._shares, self._unheld = shares(self._node, pods, self._weights)
            self._moved = False
        while self._uses and self._uses[-1].at <= time:
            self._use = self._uses.pop().use
        self._price = best_price(self._prices, self._node, time)

    def _book(self, account: _Account, t0: int, t1: int) -> None:
        price_id = self._price.id if self._price else ""
        account.priced(self._price, t1 - t0)
        for one in self._held:
            key = one.key(t0, price_id)
            devices = one.pod.gpus if self._node.gpus else 0
            account.add(key, self._shares[one.pod.uid], devices, t1 - t0)
        if self._unheld:
            gpus = sum(one.pod.gpus for one in self._held)
            held = gpus if self._node.gpus else any(self._shares.values())
            use = self._use or ("fragmented" if held else "idle")
            devices = max(0, self._node.gpus - gpus)
            account.add(Key("", use, 0, "", NOBODY, price_id), self._unheld, devices, t1 - t0)


def _held(told: Told, pod: Pod, begin: int, end: int) -> _Held | None:
    found = spans(pod, told.marks.get(pod.uid, []), told.owners.get(pod.job_uid, {}), begin, end)
    return _Held(pod, found) if found else None


class _Account:
    """One node-hour being filled."""

    def __init__(self) -> None:
        self._parts: dict[Key, dict[int, int]] = {}
        """By row and denominator of its share: the sum of numerator times microseconds."""
        self._micros: defaultdict[Key, int] = defaultdict(int)
        self._device_micros: defaultdict[Key, int] = defaultdict(int)
        self._prices: dict[str, Price] = {}
        self._at_price: defaultdict[str, int] = defaultdict(int)
        self._unpriced = 0

    def priced(self, price: Price | None, micros: int) -> None:
        if price is None:
            self._unpriced += micros
        else:
            self._prices[price.id] = price
            self._at_price[price.id] += micros

    def add(self, key: Key, share: Fraction, devices: int, micros: int) -> None:
        parts = self._parts.setdefault(key, {})
        parts[share.denominator] = parts.get(share.denominator, 0) + share.numerator * micros
        self._micros[key] += micros
        self._device_micros[key] += devices * micros

    def close(self, node_uid: str, hour: int) -> NodeHour:
        cost, costs = self._split({id_: price.effective_nanos for id_, price in self._prices.items()})
        listed, lists = self._split({id_: price.list_nanos for id_, price in self._prices.items()})
        rows = tuple(
            Row(key, self._micros[key], self._device_micros[key], costs.get(key), lists.get(key))
            for key in sorted(self._micros)
        )
        return NodeHour(node_uid, hour, cost, listed, self._unpriced, rows)

    def _split(self, per_hour: Mapping[str, int]) -> tuple[int, dict[Key, int]]:
        """Rule 5: the integral, rounded once, and its rows by largest remainder."""
        exact = {
            key: sum(
                Fraction(micros * per_hour[key.price_id], whole * HOUR) for whole, micros in parts.items()
            )
            for key, parts in self._parts.items()
            if key.price_id
        }
        whole = sum(per_hour[id_] * micros for id_, micros in self._at_price.items())
        total = round(Fraction(whole, HOUR))
        return total, largest_remainder(exact, total)


def largest_remainder(exact: Mapping[Key, Fraction | int], total: int) -> dict[Key, int]:
    """Floors, and the units that are left to the largest remainders; ties to the smaller key."""
    floors = {key: value.numerator // value.denominator for key, value in exact.items()}
    left = total - sum(floors.values())
    assert 0 <= left <= len(exact), "no row gets two units"
    ranked = sorted(exact, key=lambda key: (floors[key] - exact[key], key)) if left else []
    for key in ranked[:left]:
        floors[key] += 1
    return floors
