"""Facts about one node without any sense: every time is drawn, so that all orders and all ties come up."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from money_oracle.trace import HOUR, SECOND, Attributed, Fact, Mark, Node, NodeMark, Owner, Pod, Price

if TYPE_CHECKING:
    from collections.abc import Callable

MINUTE = 60 * SECOND
BEGIN = 500_000 * HOUR
CATEGORIES = ("startup", "init", "productive", "eval", "hang", "recovery", "drain")
USES = ("idle", "booting", "unhealthy", None)


def tangle(seed: int) -> tuple[list[Fact], int]:
    """Up to four hours of a node and its pods, prices first; and the horizon."""
    rng = random.Random(seed)
    grain = rng.choice([SECOND // 7, 7 * MINUTE, 20 * MINUTE])

    def at() -> int:
        return BEGIN + rng.randrange(-HOUR, 5 * HOUR) // grain * grain

    def maybe() -> int | None:
        return at() if rng.random() < 0.7 else None

    made: list[Fact] = [_node(rng, at(), maybe)]
    pods = [f"pod-{number}" for number in range(rng.randrange(5))]
    for uid in pods:
        made += [_pod(rng, uid, at(), maybe) for _ in range(rng.choice([1, 1, 1, 2, 3]))]
        for _ in range(rng.choice([0, 0, 1, 3, 9])):
            made.append(Mark(uid, at(), rng.randrange(3), rng.randrange(4), rng.choice(CATEGORIES)))
    made += [NodeMark("node", at(), rng.choice(USES)) for _ in range(rng.choice([0, 0, 2, 5]))]
    made += [Attributed(rng.choice("jk"), at(), _owner(rng)) for _ in range(rng.choice([0, 1, 4]))]
    rng.shuffle(made)
    return [*_prices(rng, at), *made], BEGIN + 4 * HOUR


def _node(rng: random.Random, created: int, maybe: Callable[[], int | None]) -> Node:
    gpus = rng.choice([0, 3, 8])
    cpu, memory = rng.choice([(0, 0), (7000, 0), (0, 11), (9000, 13)])
    place = ("node", "node", "aws", "r", "ra", "big", "spot", "", gpus, "", cpu, memory)
    return Node(*place, created, maybe())


def _pod(rng: random.Random, uid: str, scheduled: int, maybe: Callable[[], int | None]) -> Pod:
    return Pod(
        uid,
        namespace="ns",
        name=uid,
        job_uid=["", "j", "k", "l"][int(uid[-1]) % 4],
        node_uid="node",
        gpus=rng.choice([0, 1, 2, 8]),
        cpu_milli=rng.choice([0, 1000, 9000]),
        memory_bytes=rng.choice([0, 1, 13]),
        scheduled=scheduled,
        started=maybe(),
        finished=maybe(),
        released=maybe(),
        telemetry=rng.random() < 0.5,
    )


def _owner(rng: random.Random) -> Owner:
    """Those that differ in one field only, and in the order of fields by name and by place."""
    labels = rng.choice([(), (("a", "b"),)])
    return Owner(
        "ns", team=rng.choice("xy"), model=rng.choice("xy"), use_case=rng.choice("xy"), labels=labels
    )


def _prices(rng: random.Random, at: Callable[[], int]) -> list[Fact]:
    """Small ones, so that most of a nanodollar is at stake."""
    found: list[Fact] = []
    for number in range(rng.randrange(5)):
        since = at()
        until = rng.choice([None, since + rng.randrange(1, 2 * HOUR)])
        nanos, listed = rng.choice([1, 2, 3, 7, 10**11 + 1]), rng.choice([1, 5, 10**11])
        place = rng.choice([("", ""), ("r", ""), ("r", "ra"), ("q", "")])
        kind = ("aws", "big", "spot")
        found.append(Price("", *kind, since, until, listed, nanos, *place, priority=number))
    return found
