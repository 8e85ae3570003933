"""Jobs that hold something now, or did a moment ago: what gauges show of each, which go when the job goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, case, func, select

from mlenv_operator.cost.facts import SECOND, Category, Node, Pod
from mlenv_operator.ledger import facts, names, schema
from mlenv_operator.ledger.schema import DONE, FOREVER, WORDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from sqlalchemy import Connection

    from mlenv_operator.cost.facts import Attribution, Fact, Micros, Nanos
    from mlenv_operator.cost.observe_spent import Metered
    from mlenv_operator.ledger.openhours import OpenJob

LINGER: Final = 900 * SECOND
"""For so long a job is shown after it let go of its last pod: longer than any scrape takes to come by."""
MIXED: Final = "mixed"
"""The instance type of a job whose pods are on nodes of several."""


@dataclass(frozen=True, slots=True)
class LiveJob:
    """What gauges show of one job."""

    uid: str
    attribution: Attribution
    instance_type: str
    capacity_type: str
    """Both empty when nothing is held any more."""
    gpus: int
    since: Micros
    """When its first pod was scheduled."""
    telemetry: bool = field(default=False, kw_only=True)
    """Whether a pod of it tells what its steps take: without, all time of its program is productive."""
    cost: Nanos
    rate: Nanos
    """An hour, now."""
    gpu_micros: Micros
    productive: Micros
    """Of `gpu_micros`, those in productive steps."""
    unpriced: bool
    """Whether something that it holds has no price: then the rate is not the whole."""
    by_category: tuple[tuple[str, Nanos], ...] = ()
    """The cost, by what it went to."""
    unpriced_micros: Micros = 0
    """Time that its pods held without a price, so far: if any, then the cost is not the whole."""


@dataclass(slots=True)
class _Life:
    """What the ledger knows of a job beside its open hours."""

    number: int
    gpus: int
    until: Micros
    """The end of the last pod; FOREVER while one is held."""
    telemetry: bool = False
    since: Micros = 0
    costs: dict[str, Nanos] = field(default_factory=dict)
    """Of closed hours, by category."""
    gpu_micros: Micros = 0
    productive: Micros = 0
    unpriced: Micros = 0
    """Of closed hours, too."""


class Lives:
    """Keeps what is known of live jobs; asks only about those of which something has changed."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: everything is read once more."""
        self._now: Micros = 0
        self._seq: int | None = None
        self._lives: dict[str, _Life] = {}
        self._told: set[str] = set()
        self._nodes: set[str] = set()
        self._done: set[int] = set()

    def told(self, told: Iterable[Fact | Metered]) -> None:
        """These were stored."""
        if self._seq is None:
            return
        for one in told:
            if isinstance(one, Pod) and one.job_uid:
                self._told.add(one.job_uid)
            elif isinstance(one, Node):
                self._nodes.add(one.uid)

    def done(self, nodes: Iterable[int]) -> None:
        """The whole life of these nodes is closed."""
        if self._seq is not None:
            self._done.update(nodes)

    def look(self, connection: Connection, open_: Mapping[str, OpenJob], now: Micros) -> tuple[LiveJob, ...]:
        """All of them."""
        if now < self._now:
            self.forget()
        self._now = now
        seq = connection.execute(select(func.coalesce(func.max(schema.settlement.c.seq), 0))).scalar_one()
        if self._seq is None:
            self._take(connection, _held(connection, now))
        else:
            self._renew(connection, now)
            if seq > self._seq:
                self._count(connection, _settled(connection, self._seq))
        self._seq = int(seq)
        for uid in [uid for uid, life in self._lives.items() if life.until <= now - LINGER]:
            del self._lives[uid]
        owners = self._owners(connection, open_)
        return tuple(
            _job(uid, life, owners[uid], open_.get(uid))
            for uid, life in sorted(self._lives.items(), key=lambda one: one[1].number)
            if uid in owners
        )

    def _renew(self, connection: Connection, now: Micros) -> None:
        """Ask about jobs of whose pods something was told, and those with pods on such nodes."""
        told, self._told = self._told, set()
        nodes = {*names.find(connection, schema.uid, "uid", self._nodes).values(), *self._done}
        self._nodes, self._done = set(), set()
        pod, uid = schema.pod.c, schema.uid.c
        query = select(uid.uid).distinct().join(schema.pod, pod.job_id == uid.id)
        for some in names.chunks(nodes):
            on_them = query.where(pod.node_id.in_(some), pod.released > now - LINGER)
            told.update(connection.execute(on_them).scalars())
        for one in told:
            self._lives.pop(one, None)
        for some in names.chunks(told):
            self._take(connection, _held(connection, now, some))

    def _take(self, connection: Connection, lives: Mapping[str, _Life]) -> None:
        self._lives.update(lives)
        by_number = {life.number: life for life in lives.values()}
        pod = schema.pod.c
        for some in names.chunks(by_number):
            query = select(pod.job_id, func.min(pod.scheduled)).where(pod.job_id.in_(some))
            for number, since in connection.execute(query.group_by(pod.job_id)):
                by_number[number].since = int(since)
        self._count(connection, by_number)

    def _count(self, connection: Connection, jobs: Iterable[int]) -> None:
        """What the closed hours of these jobs cost, as far as they are live."""
        by_number = {life.number: life for life in self._lives.values()}
        at, lack = schema.job_total.c, schema.job_unpriced.c
        sums = (func.sum(one) for one in (at.cost, at.gpu_micros))
        query = select(at.job_id, at.kind, *sums).group_by(at.job_id, at.kind)
        for some in names.chunks(number for number in jobs if number in by_number):
            for number in some:
                life = by_number[number]
                life.costs, life.gpu_micros, life.productive, life.unpriced = {}, 0, 0, 0
            for number, kind, *amounts in connection.execute(query.where(at.job_id.in_(some))):
                life, (cost, gpus) = by_number[number], map(int, amounts)
                life.costs[WORDS[kind].value] = cost
                life.gpu_micros += gpus
                life.productive += gpus if WORDS[kind] is Category.PRODUCTIVE else 0
            held = select(lack.job_id, lack.held).where(lack.job_id.in_(some))
            for number, micros in connection.execute(held):
                by_number[number].unpriced = int(micros)

    def _owners(self, connection: Connection, open_: Mapping[str, OpenJob]) -> dict[str, Attribution]:
        """To whom jobs belong: as their last row says, and of those without an open one as was told last."""
        rest = {uid: life.number for uid, life in self._lives.items() if uid not in open_}
        told = {one.job_uid: one.to for one, _ in facts.attributed_to(connection, rest)}
        return told | {uid: open_[uid].attribution for uid in self._lives if uid in open_}


def _job(uid: str, life: _Life, who: Attribution, open_: OpenJob | None) -> LiveJob:
    costs = dict(life.costs)
    for kind, paid in open_.costs.items() if open_ else ():
        costs[kind] = costs.get(kind, 0) + paid
    machines = open_.machines if open_ else ()
    types = [{one[place] for one in machines} for place in (0, 1)]
    instance, capacity = (MIXED if len(some) > 1 else "".join(some) for some in types)
    return LiveJob(
        uid=uid,
        attribution=who,
        instance_type=instance,
        capacity_type=capacity,
        gpus=life.gpus,
        since=life.since,
        telemetry=life.telemetry,
        cost=sum(costs.values()),
        rate=open_.rate if open_ else 0,
        gpu_micros=life.gpu_micros + (open_.gpu_micros if open_ else 0),
        productive=life.productive + (open_.productive if open_ else 0),
        unpriced=open_.unpriced if open_ else False,
        by_category=tuple(sorted((kind, paid) for kind, paid in costs.items() if paid)),
        unpriced_micros=life.unpriced + (open_.unpriced_micros if open_ else 0),
    )


def _held(connection: Connection, now: Micros, among: Collection[str] | None = None) -> dict[str, _Life]:
    """Jobs with a pod that is held, or was just now. All of them by node, as an index finds who holds one."""
    pod, node, uid = schema.pod.c, schema.node.c, schema.uid.c
    gpus = func.sum(case((pod.released == FOREVER, pod.gpus), else_=0))
    query = (
        select(uid.uid, pod.job_id, gpus, func.max(pod.released), func.max(pod.telemetry))
        .join(schema.node, node.id == pod.node_id)
        .join(schema.uid, uid.id == pod.job_id)
        .where(node.next_hour < DONE, pod.released > now - LINGER, pod.job_id > 0)
        .group_by(pod.job_id, uid.uid)
    )
    if among is not None:
        query = query.where(uid.uid.in_(among))
    rows = connection.execute(query)
    return {row[0]: _Life(int(row[1]), int(row[2]), int(row[3]), bool(row[4])) for row in rows}


def _settled(connection: Connection, seq: int) -> set[int]:
    """Jobs of which hours were closed or corrected since then."""
    at, charge, owner = schema.settlement.c, schema.charge.c, schema.attribution.c
    same = (charge.node_id == at.node_id, charge.hour == at.hour, charge.revision == at.revision)
    query = (
        select(owner.job_id)
        .distinct()
        .select_from(schema.settlement)
        .join(schema.charge, and_(*same))
        .join(schema.attribution, owner.id == charge.attribution_id)
        .where(at.seq > seq, owner.job_id > 0)
    )
    return set(connection.execute(query).scalars())
