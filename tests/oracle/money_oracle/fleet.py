"""The machines of a made-up fleet, and their prices, with everything that is odd about prices."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from money_oracle.trace import HOUR, SECOND, Fact, Node, Price

if TYPE_CHECKING:
    from collections.abc import Iterator

    from money_oracle.pods import Work

GIB = 2**30
DOLLAR = 1_000_000_000


@dataclass(frozen=True)
class Pool:
    """Machines of one kind."""

    name: str
    weight: int
    instance_type: str
    capacity_type: str = "on-demand"
    provider: str = "aws"
    region: str = "us-east-1"
    reservation: str = ""
    gpus: int = 0
    gpu_model: str = ""
    cpu_milli: int = 192_000
    memory_bytes: int = 2048 * GIB
    deadly: float = 0.05
    """How likely a machine dies under its pods."""
    dollars: str = ""
    """Nanodollars an hour; empty: nobody knows its price."""


POOLS = (
    Pool("h100", 40, "p5.48xlarge", gpus=8, gpu_model="H100", dollars="55040000000"),
    Pool("h100-spot", 25, "p5.48xlarge", "spot", gpus=8, gpu_model="H100", deadly=0.6, dollars="14250000001"),
    Pool("block", 8, "p5e.48xlarge", "capacity-block", reservation="cb-1", gpus=8, dollars="39800000000"),
    Pool("l4", 12, "g2-standard-48", provider="gcp", region="us-central1", gpus=4, dollars="4230000000"),
    Pool("cpu", 9, "m7i.4xlarge", cpu_milli=16_000, memory_bytes=64 * GIB, dollars="806400000"),
    Pool("unknown", 4, "x99.metal", gpus=8),
    Pool("odd", 2, "three.gpus", gpus=3, cpu_milli=0, memory_bytes=0, dollars="1000000001"),
)


@dataclass
class Machine:
    """A node, what is on it, and what will be told of it."""

    node: Node
    closes: int
    """From here on it takes no more pods."""
    dies: int | None
    facts: list[Fact] = field(default_factory=list)
    busy_until: int = 0
    _pods: list[tuple[int, int, int]] = field(default_factory=list)
    """(end, devices, thousandths of processors) of the pods on it, the first to end in front."""
    _devices: int = 0
    _cpu: int = 0

    def takes(self, at: int, work: Work, *, forced: bool) -> bool:
        """Whether there is room; takes it if so."""
        if at >= self.closes:
            return False
        while self._pods and self._pods[0][0] <= at:
            _, devices, cpu = heapq.heappop(self._pods)
            self._devices, self._cpu = self._devices - devices, self._cpu - cpu
        devices, cpu = self._devices + work.gpus, self._cpu + work.cpu_milli
        if not forced and (devices > self.node.gpus or cpu > self.node.cpu_milli):
            return False
        end = at + work.length + 60 * SECOND
        heapq.heappush(self._pods, (end, work.gpus, work.cpu_milli))
        self._devices, self._cpu, self.busy_until = devices, cpu, max(self.busy_until, end)
        return True


def prices(begin: int, horizon: int) -> Iterator[Price]:
    """Rows for all pools that have a price: changes within an hour, windows, gaps, rivals, equal halves."""
    third = (horizon - begin) // 3
    middle = begin + third + 17 * 60 * SECOND + 333_333
    for number, pool in enumerate(pool for pool in POOLS if pool.dollars):
        row = _row(pool, int(pool.dollars))
        if pool.capacity_type == "capacity-block":
            yield from _windows(row, begin, horizon)
        elif pool.capacity_type == "spot":
            yield from _spot(row, begin, horizon)
        elif number % 2:  # one price for half of the provider, another for the region from the middle on
            yield _named(replace(row, region=""))
            yield _named(replace(row, since=middle, effective_nanos=row.effective_nanos * 2 + 1))
        else:  # one row split where its price stays, and then a later source that has the last word
            yield _named(replace(row, until=middle))
            yield _named(replace(row, since=middle))
            yield _named(replace(row, since=middle + third, effective_nanos=row.list_nanos - 7, priority=5))


def _windows(row: Price, begin: int, horizon: int) -> Iterator[Price]:
    """From 11:30 to 11:30 UTC; outside of the windows there is no price."""
    first = begin - begin % (24 * HOUR) + 11 * HOUR + HOUR // 2
    for number, since in enumerate(range(first - 24 * HOUR, horizon, 48 * HOUR)):
        paid = row.effective_nanos + number
        yield _named(replace(row, since=since, until=since + 24 * HOUR, effective_nanos=paid))


def _spot(row: Price, begin: int, horizon: int) -> Iterator[Price]:
    """Another price every few hours, at odd moments, in one zone dearer than in the other."""
    for number, since in enumerate(range(begin - 9 * HOUR, horizon, 5 * HOUR + 123_456_789)):
        paid = row.effective_nanos + 1_000_000_007 * (number % 5)
        yield _named(replace(row, since=since, effective_nanos=paid))
        if number % 3 == 0:
            yield _named(replace(row, since=since, effective_nanos=paid + 3, zone=row.region + "b"))


def _row(pool: Pool, nanos: int) -> Price:
    return Price(
        id="",
        provider=pool.provider,
        instance_type=pool.instance_type,
        capacity_type=pool.capacity_type,
        since=0,
        until=None,
        list_nanos=nanos + 5 * DOLLAR,
        effective_nanos=nanos,
        region=pool.region,
        reservation=pool.reservation,
    )


def _named(price: Price) -> Price:
    """With an id of its terms: the same for both halves of a row that was split."""
    terms = (price.provider, price.region, price.zone, price.instance_type, price.capacity_type)
    money = (price.reservation, price.list_nanos, price.effective_nanos)
    return replace(price, id="/".join(map(str, (*terms, *money))))
