"""Any history of machines, pods, prices and teams, told late and in pieces to operators that die.

In the end the ledger says what the oracle says of all that was told, and no counter ever went back.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from dying import Operators
from money_oracle.trace import HOUR, SECOND, Attributed, Fact, Mark, Node, NodeMark, Owner, Pod, Price
from money_traces import facts_of, rows_of
from stored_hours import Traced, stored, told_to_oracle

from mlenv_operator.cost.prices import PriceBook
from mlenv_operator.ledger.exports import FileMarks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BEGIN = 500_000 * HOUR
MINUTE = 60 * SECOND
DEVICES = {"big": 8, "odd": 3, "plain": 0, "rare": 4}
"""By type of machine; nobody knows the price of a rare one at first."""
DOING = ("init", "productive", "data_wait", "checkpoint_save", "eval", "lost_work", "recovery", "hang")
USES = ("booting", "unhealthy", "draining", "unattributed", None)
STEPS = (SECOND // 7, SECOND, MINUTE, 7 * MINUTE, 25 * MINUTE, HOUR)


def price(kind: str, since: int, paid: int, number: int = 0) -> Price:
    """The one that was read last counts."""
    return Price("", "aws", kind, "spot", since, None, paid * 2 + 1, paid, priority=number)


class History:
    """What happens, what is told of it, and who keeps the books."""

    def __init__(self, folder: Path) -> None:
        self.now, self.skew, self.count = BEGIN, 0, 0
        self.nodes: dict[str, Node] = {}
        self.pods: dict[str, Pod] = {}
        self.jobs: set[str] = set()
        self.said: list[Fact] = []
        self.untold: list[Fact] = []
        self.rare = False
        known = {"big": 55 * 10**9 + 7, "odd": 10**9 + 1, "plain": 10**8 + 3}
        self.book = [price(kind, 0, paid) for kind, paid in known.items()]
        self.prices = Traced(PriceBook(rows_of(self.book)))
        marks = FileMarks(folder / "counters.json")
        self.operators = Operators(f"sqlite:///{folder}/ledger.db", self.prices, marks)

    def say(self, fact: Fact) -> None:
        self.said.append(fact)
        self.untold.append(fact)

    def change(self, of: Node | Pod, **changes: Any) -> None:
        after = replace(of, **changes)
        if isinstance(after, Node):
            self.nodes[after.uid] = after
        else:
            self.pods[after.uid] = after
        self.say(after)

    def some(self, seed: float, *, of: str) -> Any:
        """One of the nodes that are there, or of the pods that hold something."""
        alive: list[Node | Pod] = [one for one in self.nodes.values() if one.deleted is None]
        if of == "pods":
            alive = [one for one in self.pods.values() if one.released is None]
        return random.Random(seed).choice(alive) if alive else None

    @property
    def clock(self) -> int:
        """What the operator takes for the time: it is set right now and then."""
        return self.now + self.skew

    # ---- what happens -------------------------------------------------------------------------------

    def machine(self, kind: str) -> None:
        if sum(one.deleted is None for one in self.nodes.values()) > 4:
            return
        self.count += 1
        place = (f"node-{self.count}", f"n{self.count}", "aws", "r", "ra", kind, "spot")
        node = Node(*place, gpus=DEVICES[kind], cpu_milli=8000, memory_bytes=2**34, created=self.now)
        self.change(node)

    def pod(self, seed: float, gpus: int, job: str, *, told: bool) -> None:
        node = self.some(seed, of="nodes")
        if node is None:
            return
        self.count += 1
        if job and job not in self.jobs:
            self.jobs.add(job)
            self.say(Attributed(job, self.now, Owner("ns", job, job, "ads", "m", labels=(("a", "b"),))))
        uid = f"pod-{self.count}"
        held = {"gpus": min(gpus, node.gpus), "cpu_milli": 3000, "memory_bytes": 2**33}
        self.change(Pod(uid, "ns", uid, job, node.uid, **held, scheduled=self.now, telemetry=told))

    def starts(self, seed: float) -> None:
        pod = self.some(seed, of="pods")
        if pod is not None and pod.started is None:
            self.change(pod, started=self.now)

    def does(self, seed: float, doing: str, attempt: int) -> None:
        pod = self.some(seed, of="pods")
        if pod is not None:
            self.count += 1
            self.say(Mark(pod.uid, self.now, self.count % 5, attempt, doing))

    def ends(self, seed: float, *, drains: bool) -> None:
        pod = self.some(seed, of="pods")
        if pod is not None:
            self.change(pod, finished=self.now, released=None if drains else self.now)

    def dies(self, seed: float) -> None:
        node = self.some(seed, of="nodes")
        if node is None or len(self.nodes) < 2:
            return
        for pod in [one for one in self.pods.values() if one.node_uid == node.uid and one.released is None]:
            self.change(pod, released=self.now)
        self.change(node, deleted=self.now)

    def stands_idle(self, seed: float, use: str | None) -> None:
        node = self.some(seed, of="nodes")
        if node is not None:
            self.say(NodeMark(node.uid, self.now, use))

    def moves(self, team: str) -> None:
        if not self.jobs:
            return
        job = min(self.jobs)
        self.say(Attributed(job, self.now, Owner("ns", job, job, team, "m")))

    def passes(self, step: int) -> None:
        self.now += step

    def changes_price(self, paid: int) -> None:
        """From the second full hour on: of hours that may be closed, a price never changes."""
        self._learn(price("big", (self.now // HOUR + 2) * HOUR, paid, len(self.book)))

    def becomes_known(self) -> None:
        if self.rare:
            return
        self.rare = True
        self._learn(price("rare", 0, 7 * 10**9))

    def _learn(self, row: Price) -> None:
        self.book.append(row)
        self.prices.book = PriceBook(rows_of(self.book))

    # ---- who keeps the books ------------------------------------------------------------------------

    def is_set(self, minutes: int) -> None:
        self.skew = minutes * MINUTE

    def hears(self, seed: float, dies_at: int) -> None:
        """Some of what is new, in any order, and of what is old some more."""
        rng = random.Random(seed)
        rng.shuffle(self.untold)
        news = self.untold[: rng.randint(0, len(self.untold))]
        again = rng.sample(self.said, min(len(self.said), 2))
        told = list(facts_of([*news, *again]))
        if self.operators.do(lambda ledger: ledger.observe(told), dies_at):
            self.untold = self.untold[len(news) :]

    def settles(self, times: int, dies_at: int) -> None:
        at = self.clock
        self.operators.do(lambda ledger: ledger.reprice(at), dies_at)
        for _ in range(times):
            self.operators.do(lambda ledger: ledger.settle(at), dies_at)

    def publishes(self, dies_at: int) -> None:
        self.operators.show(self.clock, dies_at)

    def agrees(self) -> None:
        """With the oracle, once all is told and closed."""
        horizon = (self.now // HOUR + 1) * HOUR
        later = horizon + 7 * HOUR
        self.operators.do(lambda ledger: ledger.observe(facts_of(self.untold)))
        self.operators.do(lambda ledger: ledger.reprice(later))
        self.operators.do(lambda ledger: ledger.settle_all(later))
        self.operators.show(later)
        ledger = self.operators.ledger
        ours, theirs = stored(ledger, horizon), told_to_oracle([*self.book, *self.said], horizon)
        imbalance = ledger.imbalance()
        self.operators.end()
        assert ours == theirs
        assert imbalance == 0


ACTIONS: tuple[tuple[int, Callable[[History, random.Random], None]], ...] = (
    (20, lambda one, rng: one.passes(rng.choice(STEPS))),
    (14, lambda one, rng: one.hears(rng.random(), dies_at(rng))),
    (12, lambda one, rng: one.settles(rng.randint(1, 4), dies_at(rng))),
    (10, lambda one, rng: one.publishes(dies_at(rng))),
    (4, lambda one, rng: one.machine(rng.choice(sorted(DEVICES)))),
    (
        14,
        lambda one, rng: one.pod(rng.random(), rng.randint(0, 8), rng.choice("jkl"), told=rng.random() < 0.5),
    ),
    (1, lambda one, rng: one.pod(rng.random(), rng.randint(0, 8), "", told=False)),
    (10, lambda one, rng: one.starts(rng.random())),
    (12, lambda one, rng: one.does(rng.random(), rng.choice(DOING), rng.randint(1, 3))),
    (8, lambda one, rng: one.ends(rng.random(), drains=rng.random() < 0.3)),
    (2, lambda one, rng: one.dies(rng.random())),
    (3, lambda one, rng: one.stands_idle(rng.random(), rng.choice(USES))),
    (2, lambda one, rng: one.moves(rng.choice(["ads", "feed"]))),
    (2, lambda one, rng: one.changes_price(rng.randint(1, 10**11))),
    (1, lambda one, _: one.becomes_known()),
    (3, lambda one, rng: one.is_set(rng.randint(-7, 7))),
)


def dies_at(rng: random.Random) -> int:
    """At which statement the operator dies; -1: it lives."""
    return rng.randint(1, 60) if rng.random() < 0.25 else -1


@pytest.mark.parametrize("seed", range(3))
def test_any_history(tmp_path: Path, seed: int) -> None:
    rng, history = random.Random(seed), History(tmp_path)
    history.machine("big")
    history.machine("rare")
    for _ in range(160):
        draw(rng)(history, rng)
    history.agrees()
    assert history.operators.deaths > 3
    assert len(history.operators.shown) > 10


def draw(rng: random.Random) -> Callable[[History, random.Random], None]:
    return rng.choices([action for _, action in ACTIONS], [weight for weight, _ in ACTIONS])[0]
