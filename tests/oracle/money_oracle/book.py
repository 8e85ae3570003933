"""Reads a trace, fact by fact, and gives the node-hours of every node that is settled."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from money_oracle.sweep import NodeHour, Told, Weights, node_hours
from money_oracle.trace import (
    Attributed,
    Fact,
    Mark,
    Node,
    NodeMark,
    Owner,
    Pod,
    Price,
    Settled,
    merged,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Book:
    """What was said, each fact once, whatever the order."""

    def __init__(self, weights: Weights | None = None) -> None:
        self._weights = weights
        self._prices: dict[str, list[Price]] = {}
        self._nodes: dict[str, Node] = {}
        self._pods: dict[str, Pod] = {}
        self._on_node: defaultdict[str, set[str]] = defaultdict(set)
        self._marks: defaultdict[str, dict[tuple[int, int], Mark]] = defaultdict(dict)
        self._node_marks: defaultdict[str, dict[int, NodeMark]] = defaultdict(dict)
        self._owners: defaultdict[str, dict[int, Owner]] = defaultdict(dict)

    def take(self, fact: Fact) -> None:
        match fact:
            case Price():
                known = self._prices.setdefault(fact.instance_type, [])
                known += [] if fact in known else [fact]
            case Node():
                old = self._nodes.get(fact.uid)
                self._nodes[fact.uid] = fact if old is None else merged(old, fact)
            case Pod():
                self._take_pod(fact)
            case Mark():
                of_pod = self._marks[fact.pod_uid]
                rival = of_pod.get((fact.at, fact.sequence), fact)
                of_pod[fact.at, fact.sequence] = max(fact, rival, key=lambda one: (one.attempt, one.category))
            case NodeMark():
                of_node = self._node_marks[fact.node_uid]
                of_node[fact.at] = max(fact, of_node.get(fact.at, fact), key=lambda one: one.use or "")
            case Attributed():
                of_job = self._owners[fact.job_uid]
                of_job[fact.since] = max(fact.to, of_job.get(fact.since, fact.to), key=Owner.pairs)
            case Settled():
                raise TypeError("settled is for whoever asks for the hours")

    def _take_pod(self, pod: Pod) -> None:
        old = self._pods.get(pod.uid)
        self._pods[pod.uid] = pod if old is None else merged(old, pod)
        self._on_node[pod.node_uid].add(pod.uid)

    def hours(self, node_uid: str, horizon: int) -> Iterator[NodeHour]:
        node = self._nodes[node_uid]
        pods = [self._pods[uid] for uid in self._on_node[node_uid]]
        told = Told(
            node,
            pods,
            {pod.uid: _sorted(self._marks.get(pod.uid, {})) for pod in pods},
            list(self._node_marks.get(node_uid, {}).values()),
            self._owners,
            self._weights,
        )
        return node_hours(told, self._prices.get(node.instance_type, ()), horizon)

    def forget(self, node_uid: str) -> None:
        """Drop all that was said of a node, and of the jobs of its pods."""
        del self._nodes[node_uid]
        self._node_marks.pop(node_uid, None)
        for uid in self._on_node.pop(node_uid, ()):
            self._owners.pop(self._pods.pop(uid).job_uid, None)
            self._marks.pop(uid, None)

    def nodes(self) -> list[str]:
        return sorted(self._nodes)


def _sorted(marks: dict[tuple[int, int], Mark]) -> list[Mark]:
    return [marks[key] for key in sorted(marks)]


def all_hours(facts: Iterable[Fact], horizon: int) -> Iterator[NodeHour]:
    """Node-hours of a trace: of a node that is settled at once, of the others at the end, by uid."""
    book = Book()
    for fact in facts:
        if isinstance(fact, Settled):
            yield from book.hours(fact.node_uid, horizon)
            book.forget(fact.node_uid)
        else:
            book.take(fact)
    for uid in book.nodes():
        yield from book.hours(uid, horizon)
