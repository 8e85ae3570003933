"""Jobs that hold something now, or did a moment ago: what gauges show of each, which go when the job goes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import case, func, select

from mlenv_operator.cost.facts import HOUR, SECOND, Category
from mlenv_operator.ledger import facts, schema
from mlenv_operator.ledger.names import chunks
from mlenv_operator.ledger.schema import DONE, FOREVER, WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection, Row

    from mlenv_operator.cost.allocation import Closing
    from mlenv_operator.cost.facts import Attribution, Micros, Nanos
    from mlenv_operator.ledger.facts import NodeFacts
    from mlenv_operator.ledger.opening import Floors, SoFar
    from mlenv_operator.ledger.prices import PriceSource

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
    cost: Nanos
    rate: Nanos
    """An hour, now."""
    gpu_micros: Micros
    productive: Micros
    """Of `gpu_micros`, those in productive steps."""
    unpriced: bool
    """Whether something that it holds has no price: then cost and rate are not the whole."""
    by_category: tuple[tuple[str, Nanos], ...] = ()
    """The cost, by what it went to."""


@dataclass(slots=True)
class _Now:
    """What a job holds in the last second."""

    rate: Nanos = 0
    unpriced: bool = False
    machines: set[tuple[str, str]] = field(default_factory=set)


class Watch:
    """Looks at nodes while the floors of their open hours are taken, so that facts are read once."""

    def __init__(self, so_far: SoFar, source: PriceSource, now: Micros) -> None:
        self._so_far = so_far
        self._source = source
        self._start = now - SECOND
        self._hour = self._start // HOUR
        self._end = min(now, (self._hour + 1) * HOUR)
        self._who: dict[str, Attribution] = {}
        self._jobs: dict[str, _Now] = defaultdict(_Now)
        self.unpriced: dict[tuple[str, str], Micros] = defaultdict(int)

    def node(self, one: NodeFacts, hour: int, closing: Closing) -> None:
        """One open hour of one node, hours in their order."""
        if closing.unpriced:
            self.unpriced[one.node.instance_type, one.node.capacity_type] += closing.unpriced
        self._who.update((row.attribution.job_uid, row.attribution) for row in closing.rows)
        if hour == self._hour and (one.node.deleted is None or one.node.deleted > self._start):
            self._last_second(one)

    def _last_second(self, one: NodeFacts) -> None:
        node = replace(one.node, created=max(one.node.created, self._start))
        start = self._hour * HOUR
        segments = self._source.segments(node, start, start + HOUR)
        arguments = facts.arguments(replace(one, node=node), segments)
        for row in self._so_far(start, *arguments, until=self._end).rows:
            if row.attribution.job_uid and row.held:
                job = self._jobs[row.attribution.job_uid]
                job.rate += row.cost * HOUR // (self._end - self._start)
                job.unpriced |= not row.price_id
                job.machines.add((node.instance_type, node.capacity_type))

    def jobs(self, connection: Connection, floors: Floors, now: Micros) -> tuple[LiveJob, ...]:
        """All of them. What is asked of the database is about these jobs alone."""
        held = {row.job_id: row for row in _held(connection, now)}
        since = _since(connection, held)
        closed = _closed(connection, held)
        who = self._owners(connection, {row.uid: row.job_id for row in held.values()})
        return tuple(
            self._job(row, who[row.uid], since[number], closed[number], floors)
            for number, row in sorted(held.items())
            if row.uid in who
        )

    def _job(
        self, row: Row[Any], who: Attribution, since: Micros, sums: dict[str, list[int]], floors: Floors
    ) -> LiveJob:
        for kind, amounts in floors.jobs.get(row.uid, {}).items():
            old = sums.setdefault(kind, [0, 0, 0, 0])
            sums[kind] = [a + b for a, b in zip(old, amounts, strict=True)]
        now = self._jobs.get(row.uid, _Now())
        types = [{one[place] for one in now.machines} for place in (0, 1)]
        instance, capacity = (MIXED if len(some) > 1 else "".join(some) for some in types)
        return LiveJob(
            uid=row.uid,
            attribution=who,
            instance_type=instance,
            capacity_type=capacity,
            gpus=int(row.gpus),
            since=since,
            cost=sum(amounts[2] for amounts in sums.values()),
            rate=now.rate,
            gpu_micros=sum(amounts[1] for amounts in sums.values()),
            productive=sums.get(Category.PRODUCTIVE, [0, 0])[1],
            unpriced=now.unpriced,
            by_category=tuple((kind, amounts[2]) for kind, amounts in sorted(sums.items())),
        )

    def _owners(self, connection: Connection, jobs: dict[str, int]) -> dict[str, Attribution]:
        """To whom jobs belong: as their last row says, and of those without an open one as was told last."""
        rest = {uid: number for uid, number in jobs.items() if uid not in self._who}
        told = {one.job_uid: one.to for one, _ in facts.attributed_to(connection, rest)}
        return {uid: self._who.get(uid) or told[uid] for uid in jobs if uid in self._who or uid in told}


def _held(connection: Connection, now: Micros) -> Iterable[Row[Any]]:
    """Jobs with a pod that is held, or was just now. By node, as an index finds who holds one."""
    pod, node, uid = schema.pod.c, schema.node.c, schema.uid.c
    gpus = func.sum(case((pod.released == FOREVER, pod.gpus), else_=0))
    query = (
        select(pod.job_id, uid.uid, gpus.label("gpus"))
        .join(schema.node, node.id == pod.node_id)
        .join(schema.uid, uid.id == pod.job_id)
        .where(node.next_hour < DONE, pod.released > now - LINGER, pod.job_id > 0)
        .group_by(pod.job_id, uid.uid)
    )
    return connection.execute(query)


def _since(connection: Connection, jobs: Iterable[int]) -> dict[int, Micros]:
    pod = schema.pod.c
    found: dict[int, Micros] = {}
    for some in chunks(jobs):
        query = select(pod.job_id, func.min(pod.scheduled)).where(pod.job_id.in_(some)).group_by(pod.job_id)
        found.update((row[0], int(row[1])) for row in connection.execute(query))
    return found


def _closed(connection: Connection, jobs: Iterable[int]) -> dict[int, dict[str, list[int]]]:
    """What the closed hours of jobs cost, by category."""
    at = schema.job_total.c
    found: dict[int, dict[str, list[int]]] = defaultdict(dict)
    for some in chunks(jobs):
        for row in connection.execute(select(schema.job_total).where(at.job_id.in_(some))):
            found[row.job_id][str(WORDS[row.kind])] = [row.held, row.gpu_micros, row.cost, row.list_cost]
    return found
