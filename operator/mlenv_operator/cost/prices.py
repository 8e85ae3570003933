"""Prices of machines: dated rows, and which of them a node has at a moment.

A node's price is the row in force with the narrowest match. Of several that match, the first of these wins:

1. one for the node's reservation, before one for its zone, its region, its provider;
2. the higher priority: the shipped book has 0, a source that refreshes it 50, a PriceBook 100 unless it says;
3. the later beginning, so that a new row replaces an older one without anybody ending it;
4. the later date of the source, and then the greater content, so that the order of rows never matters.

The `id` of a row is the hash of its terms: whom it matches and what it costs, without period and source. So a
row that is split at a moment, or read again later at the same price, keeps its id, and what was charged under
it stays one row. `version` is the hash of all of it.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from mlenv_operator.cost.segments import Segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlenv_api.pricebook import CapacityType
    from mlenv_operator.cost.facts import Micros, Nanos, Node

ON_PREM: Final = "on-prem"
"""Provider and capacity type of machines that no cloud speaks for."""
SHIPPED_PRIORITY: Final = 0
REFRESHED_PRIORITY: Final = 50

_TERMS: Final = (
    "provider",
    "region",
    "zone",
    "instance_type",
    "capacity_type",
    "reservation",
    "list_nanos_per_hour",
    "effective_nanos_per_hour",
)


@dataclass(frozen=True)
class PriceRow:
    """What one machine costs an hour, for whom and when. Immutable; empty region, zone, reservation: any."""

    provider: str
    instance_type: str
    capacity_type: CapacityType
    list_nanos_per_hour: Nanos
    """What it would cost on demand; the effective price where no such price exists."""
    effective_nanos_per_hour: Nanos
    """What is paid."""
    since: Micros
    until: Micros | None = None
    """In force in [since, until); None: until a later row of the same match."""
    region: str = ""
    zone: str = ""
    reservation: str = ""
    source: str = ""
    """Where it was read."""
    as_of: Micros = 0
    """When it was true, as the source says."""
    priority: int = SHIPPED_PRIORITY

    def __post_init__(self) -> None:
        if self.list_nanos_per_hour <= 0 or self.effective_nanos_per_hour <= 0:
            raise ValueError(f"{self.name}: a price is more than 0; what has no price has no row")
        if self.until is not None and self.until <= self.since:
            raise ValueError(f"{self.name}: it ends before it begins")

    @property
    def name(self) -> str:
        """For people: what it is the price of."""
        places = [part for part in (self.region, self.zone, self.reservation) if part]
        return " ".join([self.provider, *places, self.instance_type, str(self.capacity_type)])

    @cached_property
    def id(self) -> str:
        """Hash of the terms: the same for every period and source."""
        return _hash({name: getattr(self, name) for name in _TERMS})

    @cached_property
    def version(self) -> str:
        """Hash of everything: names this very row, for the audit."""
        return _hash(asdict(self))

    @property
    def rank(self) -> tuple[int, int, Micros, Micros, str]:
        """The greatest wins among rows that match the same node at the same moment."""
        narrow = 4 * bool(self.reservation) + 2 * bool(self.zone) + bool(self.region)
        return narrow, self.priority, self.since, self.as_of, self.version

    def matches(self, node: Node) -> bool:
        """Whether it is a price of this node; provider, type and capacity type are known to be equal."""
        wanted = ((self.reservation, node.reservation), (self.zone, node.zone), (self.region, node.region))
        return all(mine in ("", its) for mine, its in wanted)

    def in_force(self, at: Micros) -> bool:
        """Whether it holds at this moment."""
        return self.since <= at and (self.until is None or at < self.until)


@dataclass(frozen=True, slots=True)
class Priced:
    """Time of a node at one price, with all of the row."""

    t0: Micros
    t1: Micros
    price: PriceRow | None
    """None: nobody knows. That is an alert, and never 0."""

    def segment(self) -> Segment:
        """What metering needs of it."""
        if self.price is None:
            return Segment(self.t0, self.t1, "", 0, 0)
        listed, paid = self.price.list_nanos_per_hour, self.price.effective_nanos_per_hour
        return Segment(self.t0, self.t1, self.price.id, listed, paid)


@dataclass(frozen=True, slots=True, order=True)
class Missing:
    """What has no price, as an alert names it."""

    provider: str
    region: str
    instance_type: str
    capacity_type: str


class PriceBook:
    """All rows that are known, and the price of a node at any time. Rows may come in any order, and twice."""

    def __init__(self, rows: Iterable[PriceRow] = ()) -> None:
        unique = {row.version: row for row in rows}
        self.rows = tuple(unique[version] for version in sorted(unique))
        self._timelines: dict[tuple[str, ...], _Timeline] = {}
        self._index: defaultdict[tuple[str, str, str], list[PriceRow]] = defaultdict(list)
        for row in self.rows:
            self._index[row.provider, row.instance_type, row.capacity_type].append(row)

    def segments(self, node: Node, t0: Micros, t1: Micros) -> tuple[Priced, ...]:
        """Covers [t0, t1) without gaps, in order; neighbours differ in the id of their price."""
        if t0 >= t1:
            return ()
        line = self._timeline(node)
        first, last = bisect_right(line.starts, t0), bisect_left(line.starts, t1)
        cuts = [t0, *line.starts[first:last], t1]
        prices = [line.at(t0), *line.prices[first:last]]
        return tuple(
            Priced(start, end, price)
            for (start, end), price in zip(itertools.pairwise(cuts), prices, strict=True)
        )

    def price(self, node: Node, at: Micros) -> PriceRow | None:
        """The row that the node has at a moment."""
        return self._timeline(node).at(at)

    @cached_property
    def digest(self) -> str:
        """Of all rows: another one means other prices."""
        return _hash({"rows": [row.version for row in self.rows]})

    def row(self, price_id: str) -> PriceRow | None:
        """The row with this id; of several, which differ in time and source, the one that was read last."""
        return self._by_id.get(price_id)

    @cached_property
    def _by_id(self) -> dict[str, PriceRow]:
        return {row.id: row for row in sorted(self.rows, key=lambda row: (row.as_of, row.since, row.version))}

    def last_known(self, node: Node, at: Micros) -> PriceRow | None:
        """The row in force, else the one that ended last: for estimates with a date, not for charges."""
        begun = [row for row in self._candidates(node) if row.since <= at]
        return self.price(node, at) or max(begun, key=lambda row: (row.until or 0, row.rank), default=None)

    def missing(self, nodes: Iterable[Node], at: Micros) -> tuple[Missing, ...]:
        """What nodes have no price at a moment, each kind once: for the alert."""
        found = {missing_of(node) for node in nodes if self.price(node, at) is None}
        return tuple(sorted(found))

    def age(self, now: Micros) -> Micros | None:
        """How old the newest row is by the date of its source; None when there is none."""
        newest = max((row.as_of for row in self.rows), default=None)
        return None if newest is None else max(0, now - newest)

    def _timeline(self, node: Node) -> _Timeline:
        """Worked out once for all nodes of the same place, type and reservation."""
        place = (node.region, node.zone, node.reservation)
        key = (*_offer(node), *place)
        if (known := self._timelines.get(key)) is None:
            known = self._timelines[key] = _timeline(self._candidates(node))
        return known

    def _candidates(self, node: Node) -> list[PriceRow]:
        rows = self._index.get(_offer(node), ())
        return [row for row in rows if row.matches(node)]


def provider_of(provider_id: str) -> str:
    """The provider of a node, as prices name it, from its spec.providerID (``aws:///us-east-1a/i-0``).

    Empty without one: a cloud tells it some time after the node came, and others never.
    """
    scheme, found, _ = provider_id.partition("://")
    return {"gce": "gcp"}.get(scheme.lower(), scheme.lower()) if found else ""


def _offer(node: Node) -> tuple[str, str, str]:
    """Provider, type and capacity type; a machine that no cloud speaks for, or none yet, is on-prem."""
    return node.provider or ON_PREM, node.instance_type, node.capacity_type or ON_PREM


def missing_of(node: Node) -> Missing:
    """How an alert names a node without a price."""
    provider, instance_type, capacity_type = _offer(node)
    return Missing(provider, node.region, instance_type, capacity_type)


@dataclass(frozen=True, slots=True)
class _Timeline:
    """The price from each start on, until the next one; none before the first."""

    starts: tuple[Micros, ...]
    prices: tuple[PriceRow | None, ...]

    def at(self, moment: Micros) -> PriceRow | None:
        index = bisect_right(self.starts, moment)
        return self.prices[index - 1] if index else None


def _timeline(rows: list[PriceRow]) -> _Timeline:
    """The best row at every moment at which one begins or ends; neighbours of one id are one."""
    ranked = sorted(rows, key=lambda row: row.rank, reverse=True)
    waiting = sorted(range(len(ranked)), key=lambda one: ranked[one].since, reverse=True)
    begun: list[int] = []  # a heap: the best in front; what has ended is taken out once it is there
    starts: list[Micros] = []
    prices: list[PriceRow | None] = []
    for cut in sorted({cut for row in rows for cut in _cuts(row)}):
        while waiting and ranked[waiting[-1]].since <= cut:
            heapq.heappush(begun, waiting.pop())
        while begun and not ranked[begun[0]].in_force(cut):
            heapq.heappop(begun)
        price = ranked[begun[0]] if begun else None
        if _id(price) != _id(prices[-1] if prices else None):
            starts.append(cut)
            prices.append(price)
    return _Timeline(tuple(starts), tuple(prices))


def _cuts(row: PriceRow) -> Iterator[Micros]:
    yield row.since
    if row.until is not None:
        yield row.until


def _id(price: PriceRow | None) -> str:
    return "" if price is None else price.id


def _hash(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
