"""Worlds for the ledger, from a seed; and a ledger's whole content, for comparison."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sqlalchemy import select

from mlenv_operator.cost.facts import (
    DOLLAR,
    HOUR,
    SECOND,
    Attributed,
    Attribution,
    Category,
    Mark,
    Node,
    NodeMark,
    NodeUse,
    Pod,
)
from mlenv_operator.cost.segments import Segment
from mlenv_operator.ledger import schema
from mlenv_operator.ledger.ledger import open_ledger
from mlenv_operator.ledger.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlenv_operator.cost.facts import Fact, Micros
    from mlenv_operator.ledger.ledger import Ledger

START = 482_136 * HOUR
"""The first of January 2025."""
WORKING = tuple(one for one in Category if one not in {Category.STARTUP, Category.DRAIN})


@dataclass
class Book:
    """A price book: by instance type, nanodollars an hour; changed by hand."""

    prices: dict[str, int] = field(default_factory=lambda: {"p5": 55 * DOLLAR + 7, "g6": DOLLAR // 3})
    since: Micros = 0

    def segments(self, node: Node, start: Micros, end: Micros) -> Sequence[Segment]:
        hourly = self.prices.get(node.instance_type)
        if hourly is None or end <= self.since:
            return ()
        middle = start + (end - start) // 3  # the effective price changes within every hour
        return tuple(
            Segment(max(t0, self.since), t1, f"{node.instance_type}-{part}", hourly, hourly * (part + 1) // 3)
            for t0, t1, part in ((start, middle, 0), (middle, end, 1))
            if t1 > self.since
        )

    def describe(self, price_id: str) -> Mapping[str, str | int]:
        return {"source": f"table of {price_id}", "fetched": "2025-01-01"}

    def version(self) -> str:
        return f"{self.prices} {self.since}"


def node(name: str, **changes: object) -> Node:
    base = Node(
        f"uid-{name}", name, "aws", "us-east-1", "us-east-1a", "p5", "on-demand", "", 8, "H100", 192_000
    )
    return replace(base, **{"created": START, **changes})  # type: ignore[arg-type]


def attribution(job: str, team: str = "ads", **changes: object) -> Attribution:
    whole = Attribution(f"ns-{team}", job, f"uid-{job}", team, f"model-{team}", "ranking", "ann", "gpu")
    return replace(whole, **changes)  # type: ignore[arg-type]


def pod(name: str, job: str, on: Node, **changes: object) -> Pod:
    base = Pod(f"uid-{name}", "ns-ads", name, f"uid-{job}", on.uid, gpus=4, scheduled=START + 7 * SECOND)
    return replace(base, **changes)  # type: ignore[arg-type]


def world(seed: int, *, nodes: int = 3, jobs: int = 8, hours: int = 5) -> list[Fact]:
    """Everything that happened, whole facts in the order of time."""
    rng = random.Random(seed)
    machines = [
        node(f"n{i}", instance_type=("p5", "g6")[i % 2], created=START + rng.randrange(HOUR))
        for i in range(nodes)
    ]
    end = START + hours * HOUR
    if nodes > 1:
        machines[-1] = replace(machines[-1], deleted=end - rng.randrange(HOUR))
    facts: list[Fact] = [*machines, NodeMark(machines[0].uid, START + HOUR, NodeUse.DRAINING)]
    facts.append(NodeMark(machines[0].uid, START + 2 * HOUR, None))
    for number in range(jobs):
        facts.extend(_job(rng, f"j{number}", machines, end))
    return facts


def _job(rng: random.Random, name: str, machines: Sequence[Node], end: Micros) -> list[Fact]:
    team = rng.choice(["ads", "feed", "search"])
    facts: list[Fact] = [Attributed(f"uid-{name}", START, attribution(name, team))]
    if rng.random() < 0.3:
        facts.append(Attributed(f"uid-{name}", START + rng.randrange(3 * HOUR), attribution(name, "moved")))
    for index in range(rng.randint(1, 3)):
        on = rng.choice(machines)
        scheduled = START + rng.randrange(2 * HOUR)
        started = scheduled + rng.randrange(300 * SECOND)
        released = started + rng.randrange(2 * HOUR)
        one = pod(
            f"{name}-{index}", name, on, gpus=rng.randint(0, 3), scheduled=scheduled, namespace=f"ns-{team}"
        )
        ended = replace(one, started=started, finished=max(started, released - 9 * SECOND), released=released)
        facts.append(ended if released < end else replace(one, started=started))
        for sequence in range(rng.randint(0, 6)):
            at = started + rng.randrange(2 * HOUR)
            facts.append(Mark(one.uid, at, sequence, 1 + sequence // 3, rng.choice(WORKING)))
    return facts


def filled(folder: Path, now: Micros) -> str:
    """The DSN of a ledger of some jobs, in which all that is over by then is closed."""
    dsn = f"sqlite:///{folder}/ledger.db"
    ledger = open_ledger(dsn, Book())
    ledger.begin(Writer(1, "operator"))
    ledger.observe(world(7, jobs=12, hours=5))
    ledger.settle_all(now)
    ledger.database.close()
    return dsn


def parts(facts: Sequence[Fact]) -> list[Fact]:
    """The same facts as they come in life: a pod is told of at each change, a node again when it goes."""
    found: list[Fact] = []
    for one in facts:
        if isinstance(one, Pod):
            bare = replace(one, started=None, finished=None, released=None)
            found += [bare, replace(bare, started=one.started), replace(bare, finished=one.finished)]
        if isinstance(one, Node):
            found.append(replace(one, deleted=None))
        found.append(one)
    return found


def content(ledger: Ledger, *, leave: frozenset[str] = frozenset()) -> str:
    """Every row of every table, as text."""
    lines = []
    with ledger.database.reading() as connection:
        for table in schema.tables.sorted_tables:
            if table.name in leave:
                continue
            rows = connection.execute(select(table)).all()
            lines += sorted(f"{table.name} {[_plain(value) for value in row]}" for row in rows)
    return "\n".join(lines)


def _plain(value: object) -> object:
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else value


def money(ledger: Ledger) -> str:
    """What holds for every hour in the end, whatever corrections led there."""
    by = ["hour", "node", "pod", "job", "team", "category", "attempt", "price_id"]
    sums = ledger.group(by, START - 100 * HOUR, START + 10_000 * HOUR)
    return "\n".join(f"{key} {tuple(amounts)}" for key, amounts in sums.items() if any(amounts))
