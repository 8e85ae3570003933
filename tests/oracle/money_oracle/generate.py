"""Makes traces: a fleet, its jobs, and everything that goes wrong with them. The same seed, the same trace.

Nodes are told one after the other, each with its pods, shuffled, partly doubled, partly half-known first, and
then settled: 300,000 jobs stream through a few megabytes. Without ``settle`` a small trace comes as one heap.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from money_oracle.fleet import POOLS, Machine, Pool, prices
from money_oracle.pods import STEPS, Place, Work, facts_of_pod, owner_of
from money_oracle.trace import HOUR, SECOND, Attributed, Fact, Mark, Node, NodeMark, Pod, Settled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NEW_YEAR_2028 = 1_830_297_600 * SECOND
"""2028-01-01T00:00:00Z: a year, a month and a day end here."""
GANGS = ((0.6, (1,)), (0.2, (2, 3, 4)), (0.15, (8,)), (0.04, (16,)), (0.01, (32, 64)))
LENGTHS = (
    (0.03, 0, 0),
    (0.07, 1, 900_000),
    (0.5, 20, 1800),
    (0.3, 1800, 6 * 3600),
    (0.1, 6 * 3600, 20 * 3600),
)
"""How likely, from, to: in seconds, but for the second, which is in microseconds."""


@dataclass(frozen=True)
class Shape:
    """How big a trace is, and when it happens."""

    jobs: int = 20
    seed: int = 0
    begin: int = NEW_YEAR_2028 - 5 * HOUR
    hours: int = 10
    """Jobs arrive over so many hours."""

    @property
    def horizon(self) -> int:
        """Nothing is told beyond here; some nodes and pods live longer."""
        return self.begin + (self.hours + 6) * HOUR


def small(seed: int, jobs: int = 12) -> tuple[list[Fact], int]:
    """A trace for unit tests, in one heap and any order, and its horizon."""
    shape = Shape(jobs=jobs, seed=seed)
    facts: list[Fact] = [fact for fact in trace(shape) if not isinstance(fact, Settled)]
    random.Random(seed).shuffle(facts)
    return facts, shape.horizon


def month(jobs: int = 300_000, seed: int = 1) -> Shape:
    """Thirty days across the end of a year."""
    return Shape(jobs=jobs, seed=seed, begin=NEW_YEAR_2028 - 15 * 24 * HOUR, hours=30 * 24)


def trace(shape: Shape) -> Iterator[Fact]:
    """The facts, as they would be told."""
    yield from prices(shape.begin, shape.horizon)
    yield from _Fleet(shape).run()


class _Fleet:
    """Places pods on machines, makes machines as they are needed, and tells of those that are through."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._rng = random.Random(shape.seed)
        self._open: dict[str, list[Machine]] = {pool.name: [] for pool in POOLS}
        self._retries: list[tuple[int, int, Work]] = []
        self._count = 0

    def run(self) -> Iterator[Fact]:
        for at, work in self._arrivals():
            yield from self._close(at)
            yield from self._place(at, work)
        yield from self._close(None)

    def _arrivals(self) -> Iterator[tuple[int, Work]]:
        """New jobs and those that start again, in the order of time."""
        step = self._shape.hours * HOUR // max(1, self._shape.jobs)
        for number in range(self._shape.jobs):
            at = self._shape.begin + number * step + self._rng.randrange(max(1, step))
            while self._retries and self._retries[0][0] <= at:
                yield self._pop()
            yield at, self._work(number, at)
        while self._retries:
            yield self._pop()

    def _pop(self) -> tuple[int, Work]:
        at, _, work = heapq.heappop(self._retries)
        return at, work

    def _work(self, number: int, at: int) -> Work:
        rng = self._rng
        pool = rng.choices(POOLS, [one.weight for one in POOLS])[0]
        size = rng.choice(rng.choices([sizes for _, sizes in GANGS], [chance for chance, _ in GANGS])[0])
        uid = f"job-{number:06d}"
        owner = owner_of(rng, number, uid)
        changes = [Attributed(uid, at, owner)]
        if rng.random() < 0.1:  # the team is renamed, or the job given away, while it runs
            changes.append(
                Attributed(uid, at + rng.randrange(2 * HOUR), replace(owner, team=owner.team + "-new"))
            )
        if rng.random() < 0.05:  # two tell of one moment, and do not agree
            other = replace(changes[-1].to, user="other", queue=rng.choice(["", "zinc"]))
            changes.append(replace(changes[-1], to=other))
        if rng.random() < 0.05:
            changes = []
        foreign = rng.random() < 0.08
        return Work(
            uid="" if foreign else uid,
            owner=owner,
            changes=() if foreign else tuple(changes),
            pool=pool,
            pods=1 if foreign else size,
            gpus=rng.choice([one for one in (0, 1, 1, 2, 4, 8, 8) if one <= pool.gpus]),
            length=self._length(),
            telemetry=rng.random() < 0.7,
        )

    def _length(self) -> int:
        rng = self._rng
        _, low, high = rng.choices(LENGTHS, [one[0] for one in LENGTHS])[0]
        return rng.randint(low, high) * (1 if high == 900_000 else SECOND)

    def _place(self, at: int, work: Work) -> Iterator[Fact]:
        """One attempt of a gang; when a machine dies under it, the pods of dead machines start again."""
        machines = [self._machine(at, work) for _ in range(work.pods)]
        for index, machine in enumerate(machines):
            self._count += 1
            place = Place(f"pod-{self._count:07d}", f"{work.owner.job}-{index}-{work.attempt}", at, machine)
            machine.facts += work.changes
            machine.facts += facts_of_pod(self._rng, work, place)
        deaths = [one.dies for one in machines if one.dies is not None and at < one.dies < at + work.length]
        if deaths and work.attempt < 4:
            self._count += 1
            left = work.length - (min(deaths) - at)
            again = replace(work, pods=len(deaths), attempt=work.attempt + 1, length=left)
            heapq.heappush(self._retries, (min(deaths) + 30 * SECOND, self._count, again))
        yield from ()

    def _machine(self, at: int, work: Work) -> Machine:
        """One with room, of a few that are looked at, else a new one. Now and then a full one is forced."""
        known = self._open[work.pool.name]
        for machine in (*self._rng.choices(known, k=6), known[-1]) if known else ():
            if machine.takes(at, work, forced=self._rng.random() < 0.002):
                return machine
        machine = self._new(at, work.pool)
        machine.takes(at, work, forced=True)
        self._open[work.pool.name].append(machine)
        return machine

    def _new(self, at: int, pool: Pool) -> Machine:
        rng = self._rng
        self._count += 1
        created = at - rng.randrange(5 * 60 * SECOND)
        closes = created + rng.randrange(20 * 60, 12 * 3600) * SECOND
        dies = closes if rng.random() < pool.deadly else None
        node = Node(
            uid=f"node-{self._count:07d}",
            name=f"ip-{self._count}",
            provider=pool.provider,
            region=pool.region,
            zone=pool.region + rng.choice("ab"),
            instance_type=pool.instance_type,
            capacity_type=pool.capacity_type,
            reservation=pool.reservation,
            gpus=pool.gpus,
            gpu_model=pool.gpu_model,
            cpu_milli=pool.cpu_milli,
            memory_bytes=pool.memory_bytes,
            created=created,
        )
        machine = Machine(node, closes, dies)
        if rng.random() < 0.6:
            machine.facts += [NodeMark(node.uid, created, "booting"), NodeMark(node.uid, at, None)]
        return machine

    def _close(self, at: int | None) -> Iterator[Fact]:
        """Tell of the machines that take no more pods at this time; of all at the end."""
        for name, machines in self._open.items():
            through = [one for one in machines if at is None or one.closes <= at]
            if through:
                self._open[name] = [one for one in machines if at is not None and one.closes > at]
            for machine in through:
                yield from self._tell(machine)

    def _tell(self, machine: Machine) -> Iterator[Fact]:
        rng, node = self._rng, machine.node
        deleted = machine.dies or max(machine.closes, machine.busy_until) + rng.randrange(20 * 60 * SECOND)
        if machine.dies is None and rng.random() < 0.3:
            use = rng.choice(["draining", "unhealthy", "reservation_unused", "unattributed"])
            machine.facts.append(NodeMark(node.uid, rng.randint(node.created, deleted), use))
        told = [*machine.facts, node if rng.random() < 0.01 else replace(node, deleted=deleted)]
        told += _seen_before(rng, told) + _contradicted(rng, told)
        rng.shuffle(told)
        yield from told
        yield Settled(node.uid)


def _seen_before(rng: random.Random, facts: Iterable[Fact]) -> list[Fact]:
    """Doubled facts, and pods and nodes as they were seen before they ended."""
    found: list[Fact] = []
    for fact in facts:
        if rng.random() < 0.1:
            found.append(fact)
        elif isinstance(fact, Pod) and rng.random() < 0.2:
            found.append(replace(fact, finished=None, released=None))
        elif isinstance(fact, Node) and rng.random() < 0.5:
            found.append(replace(fact, deleted=None))
    return found


def _contradicted(rng: random.Random, facts: Iterable[Fact]) -> list[Fact]:
    """Other words about a few of them, under the same key."""
    return [other for fact in facts if rng.random() < 0.04 and (other := _other(rng, fact)) is not None]


def _other(rng: random.Random, fact: Fact) -> Fact | None:
    moved = rng.randint(-90, 90) * SECOND
    match fact:
        case Pod():
            name = rng.choice(["scheduled", "started", "finished", "released"])
            was = getattr(fact, name)
            times: dict[str, Any] = {name: fact.scheduled + moved if was is None else was + moved}
            more: dict[str, Any] = {
                "telemetry": not fact.telemetry,
                "cpu_milli": fact.cpu_milli + rng.randrange(2),
            }
            return replace(fact, **rng.choice([times, times, more, {"gpus": max(0, fact.gpus - 1)}]))
        case Node():
            return replace(fact, deleted=None if fact.deleted is None else fact.deleted + moved)
        case Mark():
            return replace(fact, attempt=fact.attempt + rng.randrange(2), category=rng.choice(STEPS))
        case NodeMark():
            return replace(fact, use=rng.choice(["booting", "unhealthy", None]))
        case _:
            return None
