"""What hours that are still open have cost so far, kept from one publication to the next.

While nothing is told of a node, every amount of its hour grows evenly. So facts are read and measured when
they have changed, and a publication only multiplies: it costs the same whatever there is to read, and each
row has, to the nanodollar, the floor that reading everything anew would give it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from sqlalchemy import select

from mlenv_operator.cost.facts import HOUR, Attributed, Category, Mark, Node, NodeMark, NodeUse, Pod
from mlenv_operator.cost.observe_spent import Metered
from mlenv_operator.ledger import facts, names, rollups, schema
from mlenv_operator.ledger.calendar import month_of
from mlenv_operator.ledger.opening import HOURS, hourly
from mlenv_operator.ledger.schema import KINDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from sqlalchemy import Connection

    from mlenv_operator.cost.allocation import Key
    from mlenv_operator.cost.facts import Attribution, Fact, Micros, Nanos
    from mlenv_operator.cost.metering import Growing
    from mlenv_operator.ledger.facts import NodeFacts
    from mlenv_operator.ledger.opening import Grow
    from mlenv_operator.ledger.prices import PriceSource

_PRODUCTIVE: Final = Category.PRODUCTIVE.value
NODES: Final = 250
"""Of so many nodes facts are in memory at a time."""

Place: TypeAlias = "tuple[int, int]"
"""Hour and node, by number."""
Payer: TypeAlias = "tuple[int, str, str]"
"""Month, team and use case."""


@dataclass(slots=True)
class Counted:
    """What adds to the same counters, as [held, gpu_micros, cost, list_cost]."""

    key: tuple[Any, ...]
    counters: list[tuple[str, str]]
    payer: Payer | None
    """None: nobody, it is a use of the node."""
    unpriced: bool
    fixed: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    """Of rows that have come to rest."""
    now: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    users: int = 0
    """Rows; the last one takes this with it."""


@dataclass(slots=True)
class OpenJob:
    """What open hours add to a job, and what it holds from now on."""

    attribution: Attribution
    """As its last row says."""
    fixed: dict[str, Nanos] = field(default_factory=dict)
    """Of rows that have come to rest, the cost by category."""
    fixed_gpus: list[int] = field(default_factory=lambda: [0, 0])
    """Of the same, gpu_micros and those in productive steps."""
    fixed_unpriced: Micros = 0
    """Of the same, time held without a price."""
    costs: dict[str, Nanos] = field(default_factory=dict)
    """By category."""
    gpu_micros: int = 0
    productive: int = 0
    rate: Nanos = 0
    unpriced: bool = False
    """Whether something that it holds from now on has no price."""
    unpriced_micros: Micros = 0
    """Time held without a price."""
    machines: set[tuple[str, str]] = field(default_factory=set)
    users: int = 0

    def begin(self) -> None:
        """Before the rows that grow are added."""
        self.costs = dict(self.fixed)
        self.gpu_micros, self.productive = self.fixed_gpus
        self.rate, self.unpriced, self.unpriced_micros = 0, False, self.fixed_unpriced
        self.machines.clear()


class _Pace(NamedTuple):
    """How a row grows: the same for most rows of a fleet, and one object for them."""

    whole: int
    held: int
    gpus: int
    cost: int
    list_cost: int
    rate: Nanos
    unpriced: bool
    category: str
    machine: tuple[str, str]


_Rest: TypeAlias = "tuple[Counted, OpenJob | None, str, tuple[int, int, int, int], bool]"
"""A row that has come to rest: its category, its amounts, and whether these have no price."""
_Moving: TypeAlias = "tuple[Counted, OpenJob | None, _Pace, int, int, int, int]"
"""A row that grows: held and gpu_micros, and numerators of costs."""


@dataclass(slots=True)
class _Hour:
    """An open hour of a node, as long as it holds."""

    since: Micros
    until: Micros
    machine: tuple[str, str]
    unpriced: Micros
    unpriced_each: Micros
    resting: list[_Rest] = field(default_factory=list)
    moving: list[_Moving] = field(default_factory=list)


class Opened(NamedTuple):
    """What is open, of one moment. The jobs are those kept here: use them before the next look."""

    counters: dict[tuple[str, str], list[int]]
    jobs: dict[str, OpenJob]
    unpriced: dict[tuple[str, str], Micros]
    payers: dict[Payer, list[int]]
    """Cost, and time of pods of which nobody knows the price."""


class OpenHours:
    """One for the life of a writer: it must be told of every fact that is stored."""

    def __init__(self, grow: Grow, source: PriceSource) -> None:
        self._grow = grow
        self._source = source
        self.forget()

    def forget(self) -> None:
        """Begin anew: everything is read once more."""
        self._now: Micros = 0
        self._prices: str | None = None
        self._hours: dict[Place, _Hour] = {}
        self._counted: dict[tuple[Any, ...], Counted] = {}
        self._jobs: dict[str, OpenJob] = {}
        self._paces: dict[_Pace, _Pace] = {}
        self._touched: set[int] = set()
        self._told: dict[str, set[str]] = {"node": set(), "pod": set(), "job": set()}

    def told(self, told: Iterable[Fact | Metered], touched: Iterable[int]) -> None:
        """These were stored, and changed what was known of these nodes."""
        if not self._hours:
            return
        self._touched.update(touched)
        for one in told:
            match one:
                case Node():
                    self._told["node"].add(one.uid)
                case NodeMark():
                    self._told["node"].add(one.node_uid)
                case Pod():
                    self._told["pod"].add(one.uid)
                case Mark():
                    self._told["pod"].add(one.pod_uid)
                case Metered() if one.marks:
                    self._told["pod"].add(one.meter.pod_uid)
                case Attributed():
                    self._told["job"].add(one.job_uid)

    def look(self, connection: Connection, now: Micros) -> Opened:
        """What is open now."""
        version = self._source.version()
        if version != self._prices or now < self._now:
            self.forget()
        self._prices, self._now = version, now
        changed = self._changed(connection)
        wanted = _open(connection, now)
        kept = {
            place
            for place, one in self._hours.items()
            if place in wanted and place[1] not in changed and now < one.until
        }
        for place in self._hours.keys() - kept:
            self._drop(place)
        self._read(connection, wanted - kept, now)
        return self._add_up(now)

    def _changed(self, connection: Connection) -> set[int]:
        """Nodes of which something was told since the last look."""
        changed, self._touched = self._touched, set()
        told, self._told = self._told, {"node": set(), "pod": set(), "job": set()}
        changed.update(names.find(connection, schema.uid, "uid", told["node"]).values())
        pod, uid = schema.pod.c, schema.uid.c
        for which, uids in ((pod.id, told["pod"]), (pod.job_id, told["job"])):
            query = select(pod.node_id).distinct().join(schema.uid, uid.id == which)
            for some in names.chunks(uids):
                changed.update(connection.execute(query.where(uid.uid.in_(some))).scalars())
        return changed

    # ---- rows ---------------------------------------------------------------------------------------

    def _read(self, connection: Connection, places: Collection[Place], now: Micros) -> None:
        by_hour: dict[int, list[int]] = defaultdict(list)
        for hour, node in sorted(places):
            by_hour[hour].append(node)
        for hour, nodes in sorted(by_hour.items()):
            for some in names.chunks(nodes, NODES):
                for one in facts.read(connection, some, hour * HOUR, (hour + 1) * HOUR).nodes:
                    self._put(one, hour, now)

    def _put(self, one: NodeFacts, hour: int, now: Micros) -> None:
        node, start = one.node, hour * HOUR
        segments = self._source.segments(node, start, start + HOUR)
        growth = self._grow(start, *facts.arguments(one, segments), now=now)
        machine, month = (node.instance_type, node.capacity_type), month_of(hour)
        kept = _Hour(growth.since, growth.until, machine, growth.unpriced, growth.unpriced_each)
        self._hours[hour, one.id] = kept
        for row in growth.rows:
            counted, job = self._place(row.key, one, month, moves=bool(row.each.held))
            if row.each.held:
                pace = self._pace(row, growth.whole, machine)
                kept.moving.append((counted, job, pace, *row.base))
            else:
                self._rest(kept, (counted, job), row, growth.whole)

    def _place(self, key: Key, on: NodeFacts, month: int, *, moves: bool) -> tuple[Counted, OpenJob | None]:
        """What the row adds to."""
        to, kind = key.attribution, key.category or key.use
        who = (to.namespace, to.team, to.use_case, to.model)
        group = (*who, on.machine_id, month, not key.price_id, kind)
        counted = self._counted.get(group)
        if counted is None:
            payer = (month, to.team, to.use_case) if key.category else None
            labels = _counters_of(key, on)
            counted = self._counted[group] = Counted(group, labels, payer, unpriced=not key.price_id)
        counted.users += 1
        if not to.job_uid:
            return counted, None
        job = self._jobs.setdefault(to.job_uid, OpenJob(to))
        job.users += 1
        if moves:
            job.attribution = to
        return counted, job

    def _pace(self, row: Growing, whole: int, machine: tuple[str, str]) -> _Pace:
        rate = hourly(row.each.cost, whole)
        pace = _Pace(whole, *row.each, rate, not row.key.price_id, row.key.category, machine)
        return self._paces.setdefault(pace, pace)

    @staticmethod
    def _rest(kept: _Hour, to: tuple[Counted, OpenJob | None], row: Growing, whole: int) -> None:
        held, gpus, cost, listed = row.base
        amounts = (held, gpus, cost // whole, listed // whole)
        rest = (*to, row.key.category, amounts, not row.key.price_id)
        kept.resting.append(rest)
        _fix(rest, 1)

    def _drop(self, place: Place) -> None:
        hour = self._hours.pop(place)
        for rest in hour.resting:
            _fix(rest, -1)
        used = [(rest[0], rest[1]) for rest in hour.resting] + [(row[0], row[1]) for row in hour.moving]
        for counted, job in used:
            counted.users -= 1
            if not counted.users:
                del self._counted[counted.key]
            if job is not None:
                job.users -= 1
                if not job.users:
                    del self._jobs[job.attribution.job_uid]

    # ---- sums ---------------------------------------------------------------------------------------

    def _add_up(self, now: Micros) -> Opened:
        for one in self._counted.values():
            one.now[:] = one.fixed
        for job in self._jobs.values():
            job.begin()
        unpriced: dict[tuple[str, str], Micros] = defaultdict(int)
        for hour in self._hours.values():
            passed = now - hour.since
            _move(hour.moving, passed)
            if hour.unpriced or hour.unpriced_each:
                unpriced[hour.machine] += hour.unpriced + hour.unpriced_each * passed
        missing = {key: time for key, time in unpriced.items() if time}
        return Opened(self._counters(), self._jobs, missing, self._payers())

    def _counters(self) -> dict[tuple[str, str], list[int]]:
        sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        for one in self._counted.values():
            if one.now[0]:
                for key in one.counters:
                    rollups.plus(sums[key], one.now)
        return dict(sums)

    def _payers(self) -> dict[Payer, list[int]]:
        sums: dict[Payer, list[int]] = defaultdict(lambda: [0, 0])
        for one in self._counted.values():
            if one.payer is not None and one.now[0]:
                held, _, cost, _ = one.now
                rollups.plus(sums[one.payer], (cost, held if one.unpriced else 0))
        return dict(sums)


def _move(rows: Iterable[_Moving], passed: Micros) -> None:
    """Add what grows. The innermost loop: for every pod of the fleet, at every publication."""
    for counted, job, pace, held, devices, cost, listed in rows:
        gpus = devices + pace.gpus * passed
        paid = (cost + pace.cost * passed) // pace.whole
        sums = counted.now
        sums[0] += held + pace.held * passed
        sums[1] += gpus
        sums[2] += paid
        sums[3] += (listed + pace.list_cost * passed) // pace.whole
        if job is not None:
            job.costs[pace.category] = job.costs.get(pace.category, 0) + paid
            job.gpu_micros += gpus
            job.rate += pace.rate
            job.machines.add(pace.machine)
            if pace.category == _PRODUCTIVE:
                job.productive += gpus
            if pace.unpriced:
                job.unpriced = True
                job.unpriced_micros += held + pace.held * passed


def _fix(rest: _Rest, sign: int) -> None:
    """Add a row that has come to rest, or take it away."""
    counted, job, category, amounts, unpriced = rest
    for place, amount in enumerate(amounts):
        counted.fixed[place] += sign * amount
    if job is not None:
        job.fixed[category] = job.fixed.get(category, 0) + sign * amounts[2]
        job.fixed_gpus[0] += sign * amounts[1]
        job.fixed_gpus[1] += sign * amounts[1] * (category == _PRODUCTIVE)
        job.fixed_unpriced += sign * amounts[0] * unpriced


def _counters_of(key: Key, on: NodeFacts) -> list[tuple[str, str]]:
    who = dict(zip(schema.FACETS, names.facet_of(key.attribution), strict=True))
    machine = dict(zip(schema.MACHINES, names.machine_of(on.node), strict=True))
    return rollups.counters_of(who, machine, _number(key))


def _number(key: Key) -> int:
    return KINDS[Category(key.category) if key.category else NodeUse(key.use)]


def _open(connection: Connection, now: Micros) -> set[Place]:
    """Every hour that is open, of every node."""
    at, this = schema.node.c, now // HOUR
    query = select(at.id, at.next_hour, at.created).where(
        at.next_hour <= this, at.created < (this + 1) * HOUR
    )
    return {
        (hour, number)
        for number, next_hour, created in connection.execute(query).all()
        for hour in _hours(next_hour, created, this)
    }


def _hours(next_hour: int, created: Micros, this: int) -> Iterator[int]:
    yield from range(max(next_hour, created // HOUR, this + 1 - HOURS), this + 1)
