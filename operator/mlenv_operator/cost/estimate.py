"""What a job would cost before it is started: which machines it fits, and its share of their price.

The share is the ledger's own. What nobody knows the price of is unknown, and never 0; sums are rounded up, so
that no estimate promises less than it says.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from mlenv_api.pricebook import CapacityType
from mlenv_operator.cost.facts import HOUR, SECOND, Node, Pod
from mlenv_operator.cost.observe_nodes import later
from mlenv_operator.cost.prices import ON_PREM
from mlenv_operator.cost.shares import GPU_DOMINANT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from mlenv_operator.cost.facts import Micros, Nanos
    from mlenv_operator.cost.hardware import Hardware
    from mlenv_operator.cost.prices import PriceBook, PriceRow
    from mlenv_operator.cost.resources import Held
    from mlenv_operator.cost.shares import Policy

MIB: Final = 1 << 20
_BOUGHT_AHEAD: Final = frozenset({CapacityType.CAPACITY_BLOCK, CapacityType.RESERVED})
"""Of a price book alone nobody comes by these: somebody has to have bought them."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a job asks of machines."""

    pods: int
    held: Held
    """By each of them."""
    wanted: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """What a machine must be, by field of Node: any of these values."""
    unjudged: tuple[str, ...] = ()
    """What else it selects nodes by, of which prices know nothing."""
    shares: Policy = GPU_DOMINANT
    """By which nodes are shared: the ledger's own."""


@dataclass(frozen=True, slots=True)
class Option:
    """Machines of one kind that the job fits."""

    machine: Node
    in_cluster: bool
    pods: int
    share: Fraction
    """Of one machine, held by one pod."""
    price: PriceRow | None

    @property
    def spot(self) -> bool:
        """Whether it may be taken away at any time."""
        return self.machine.capacity_type == CapacityType.SPOT

    @property
    def rate(self) -> Nanos | None:
        """An hour of all pods; null where the price is unknown."""
        return self.cost(HOUR)

    @property
    def list_rate(self) -> Nanos | None:
        """The same on demand."""
        return None if self.price is None else self._of(self.price.list_nanos_per_hour, HOUR)

    def cost(self, micros: Micros) -> Nanos | None:
        """So long."""
        return None if self.price is None else self._of(self.price.effective_nanos_per_hour, micros)

    def _of(self, hourly: Nanos, micros: Micros) -> Nanos:
        part = self.share
        return -(-hourly * self.pods * part.numerator * micros // (part.denominator * HOUR))

    @property
    def order(self) -> tuple[bool, Nanos, str, str, str]:
        """Known before unknown, then the cheapest."""
        rate, one = self.rate, self.machine
        return rate is None, rate or 0, one.instance_type, one.capacity_type, one.region


@dataclass(frozen=True, slots=True)
class Estimate:
    """On which machines the job may run, and which of them are assumed."""

    options: tuple[Option, ...]
    assumed: Option | None
    why: str
    """Why these, or why none."""
    notes: tuple[str, ...] = ()
    """What to know about it."""


def estimate(wish: Wish, nodes: Iterable[Node], book: PriceBook, hardware: Hardware, now: Micros) -> Estimate:
    """What it would cost at the prices of now, on nodes that the cluster has, else on those in the book."""
    cluster = tuple(_known(one, hardware) for one in kinds(nodes))
    options = _options(wish, cluster, book_kinds(book, cluster, hardware, now), book, now)
    if not options:
        return Estimate((), None, _nothing(wish, cluster, book))
    there = [one for one in options if one.in_cluster]
    pool = there or options
    assumed = min(pool, key=lambda one: (one.rate is None, one.spot, one.order))
    return Estimate(options, assumed, _why(wish, pool, assumed), tuple(_notes(wish, pool, assumed)))


def lasts(rate: Nanos, limit: Nanos) -> int | None:
    """Seconds until so much is spent; null when that never comes."""
    return limit * HOUR // (rate * SECOND) if rate else None


def kinds(nodes: Iterable[Node]) -> Iterator[Node]:
    """Each kind of machine once: what one does not tell yet, as its devices, another of its type may."""
    found: dict[tuple[object, ...], Node] = {}
    for node in nodes:
        one = replace(node, uid="", name="", created=0, deleted=None)
        place = (one.provider, one.region, one.zone, one.capacity_type, one.reservation)
        shape = () if one.instance_type else (one.gpus, one.gpu_model, one.cpu_milli, one.memory_bytes)
        key = (*place, one.instance_type, *shape)
        found[key] = later(found[key], one) if key in found else one
    yield from found.values()


def _known(machine: Node, hardware: Hardware) -> Node:
    """A node whose device plugin does not run yet has its devices all the same."""
    told = hardware.instance(machine.provider or ON_PREM, machine.instance_type)
    return replace(machine, gpus=told.gpus) if told and told.gpus > machine.gpus else machine


def book_kinds(book: PriceBook, cluster: Iterable[Node], hardware: Hardware, now: Micros) -> Iterator[Node]:
    """Machines that have a price now, and a shape that somebody knows."""
    shapes = {(one.provider or ON_PREM, one.instance_type): one for one in cluster}
    for row in book.rows:
        if row.in_force(now) and not row.reservation and row.capacity_type not in _BOUGHT_AHEAD:
            shape = shapes.get((row.provider, row.instance_type)) or _shape(row, hardware)
            if shape is not None:
                yield replace(
                    shape,
                    provider=row.provider,
                    region=row.region,
                    zone=row.zone,
                    capacity_type=str(row.capacity_type),
                    reservation="",
                )


def _shape(row: PriceRow, hardware: Hardware) -> Node | None:
    known = hardware.instance(row.provider, row.instance_type)
    if known is None:
        return None
    return Node(
        uid="",
        name="",
        provider=row.provider,
        region="",
        zone="",
        instance_type=row.instance_type,
        capacity_type="",
        gpus=known.gpus,
        gpu_model=known.gpu_model,
        cpu_milli=(known.vcpus or 0) * 1000,
        memory_bytes=(known.memory_mib or 0) * MIB,
    )


def _options(
    wish: Wish, cluster: Iterable[Node], priced: Iterable[Node], book: PriceBook, now: Micros
) -> tuple[Option, ...]:
    found: dict[tuple[object, ...], Option] = {}
    for machine, there in [*((one, True) for one in cluster), *((one, False) for one in priced)]:
        if not _fits(wish, machine) or not all(_is(machine, *one) for one in wish.wanted.items()):
            continue
        placed = _placed(wish, machine)
        one = Option(placed, there, wish.pods, _share(wish, placed), book.price(placed, now))
        kind = (placed.provider or ON_PREM, placed.instance_type, placed.capacity_type, placed.reservation)
        # At one price it is one option, wherever it is.
        found.setdefault((*kind, one.share, one.price.id if one.price else placed.region), one)
    return tuple(sorted(found.values(), key=lambda one: one.order))


def _fits(wish: Wish, machine: Node) -> bool:
    """By what a machine has in all; what is not known of it does not speak against it."""
    gpus, cpu, memory = wish.held
    if machine.gpus and not gpus and "instance_type" not in wish.wanted:
        return False  # nobody gives these to a job without devices, unless it is asked for
    if not machine.gpus and not (machine.cpu_milli and machine.memory_bytes):
        return False  # a share of what is unknown is unknown
    pairs = ((cpu, machine.cpu_milli), (memory, machine.memory_bytes))
    return gpus <= machine.gpus and all(asked <= has for asked, has in pairs if has)


def _is(machine: Node, name: str, values: frozenset[str]) -> bool:
    has = str(getattr(machine, name))
    if name == "gpu_model":  # NVIDIA-A100-SXM4-40GB is an A100-40GB
        parts = set(has.upper().split("-"))
        return bool(has) and any(parts <= set(one.upper().split("-")) for one in values)
    if name == "capacity_type":
        has = has or ON_PREM
    return has in values or (name in {"region", "zone"} and not has)


def _placed(wish: Wish, machine: Node) -> Node:
    """A price for any place is one for the place that is asked for."""
    region, zone = (_only(wish.wanted.get(name, frozenset())) for name in ("region", "zone"))
    return replace(machine, region=machine.region or region, zone=machine.zone or zone)


def _only(values: frozenset[str]) -> str:
    return min(values) if len(values) == 1 else ""


def _share(wish: Wish, machine: Node) -> Fraction:
    gpus, cpu, memory = wish.held
    pod = Pod("", "", "", "", "", gpus=gpus, cpu_milli=cpu, memory_bytes=memory)
    return Fraction(wish.shares.weight(machine, pod), wish.shares.whole(machine))


def _nothing(wish: Wish, cluster: tuple[Node, ...], book: PriceBook) -> str:
    """Why there is nothing to choose from."""
    types = wish.wanted.get("instance_type", frozenset())
    known = {one.instance_type for one in cluster} | {row.instance_type for row in book.rows}
    if types and not types & known:
        named = " or ".join(sorted(types))
        return f"unknown: neither a node of the cluster nor a price is of type {named}"
    gpus, cpu, memory = wish.held
    asked = f"{gpus} devices, {cpu} thousandths of a processor and {memory // MIB} MiB"
    return (
        f"unknown: no machine whose shape is known fits a pod of {asked}, and what it selects nodes by."
        " Of a type that is in the price book alone, and not in the operator's table, nobody knows the shape"
    )


def _why(wish: Wish, pool: Sequence[Option], assumed: Option) -> str:
    where = "in the cluster" if assumed.in_cluster else "in the price book; of the cluster's nodes none fits"
    if assumed.rate is None:
        return f"unknown: it fits machines {where} that have no price; a PriceBook with their price tells"
    if len(pool) == 1:
        return f"the only kind that it fits {where}"
    aside = ", spot left aside" if not assumed.spot and any(one.spot for one in pool) else ""
    named = " of those that it names" if "instance_type" in wish.wanted else ""
    return f"the cheapest of {len(pool)} kinds{named} that it fits {where}{aside}"


def _notes(wish: Wish, pool: Iterable[Option], assumed: Option) -> Iterator[str]:
    unpriced = sorted({one.machine.instance_type or "(no type)" for one in pool if one.rate is None})
    if unpriced and assumed.rate is not None:
        yield f"it may also land on machines without a price: {', '.join(unpriced)}"
    if wish.unjudged:
        yield f"prices know nothing of {', '.join(wish.unjudged)}, which it selects nodes by too"
    if not assumed.share:
        yield "it holds nothing that is charged: devices where a machine has any, else what is asked for"
