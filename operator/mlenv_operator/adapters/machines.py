"""The lives of nodes, as the ledger is told of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mlenv_operator.cost.observe_nodes import later, next_mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlenv_operator.core.world import NodeView
    from mlenv_operator.cost.facts import Micros, Node, NodeMark
    from mlenv_operator.ledger.remembered import Remembered


class Machines:
    """Every node that is there or was, and what was told of it last."""

    def __init__(
        self, offer: Callable[[Node | NodeMark], bool], now: Callable[[], Micros], *, alone: bool = False
    ) -> None:
        """`alone`: pods of others hold nothing of the nodes, so what ours do not hold is idle."""
        self._offer = offer
        self._now = now
        self._alone = alone
        self._lives: dict[str, Node] = {}
        self._names: dict[str, list[str]] = {}
        """UIDs by name, oldest first: a name may come again as another machine."""
        self._marks: dict[str, NodeMark] = {}
        self._views: dict[str, NodeView] = {}
        self._refused: set[str] = set()

    def opened(self, known: Remembered, views: Iterable[NodeView]) -> None:
        """Go on from what was told before: some nodes have come meanwhile, some have gone."""
        for node in known.nodes:
            self._keep(node)
        self._marks = {mark.node_uid: mark for mark in known.node_marks}
        there = set()
        for view in views:
            if view.machine is not None:
                there.add(view.machine.uid)
                self.seen(view)
        for node in known.nodes:
            if node.deleted is None and node.uid not in there:
                self.gone(node.uid)

    def seen(self, view: NodeView) -> None:
        """Tell what is new of a node that is there."""
        seen = view.machine
        if seen is None:
            return
        self._views[seen.uid] = view
        known = self._lives.get(seen.uid)
        node = seen if known is None else later(known, seen)
        if node != known and not self._offer(node):
            self._refused.add(seen.uid)
            if known is not None:
                return
        self._keep(node)
        self._mark(view, node)

    def _mark(self, view: NodeView, node: Node) -> None:
        mark = next_mark(node.uid, view.use, self._now(), self._marks.get(node.uid), metered=self._alone)
        if mark is None:
            return
        if self._offer(mark):
            self._marks[node.uid] = mark
        else:
            self._refused.add(node.uid)

    def gone(self, uid: str) -> None:
        """A node is no object any more."""
        self._views.pop(uid, None)
        node = self._lives.get(uid)
        if node is None:
            return
        if node.deleted is None:
            node = self._lives[uid] = replace(node, deleted=self._now())
        if not self._offer(node):
            self._refused.add(uid)

    def retry(self) -> None:
        """Tell again what was refused."""
        refused, self._refused = self._refused, set()
        for uid in refused:
            view = self._views.get(uid)
            if view is None:
                self.gone(uid)
            elif self._offer(self._lives[uid]):
                self.seen(view)
            else:
                self._refused.add(uid)

    def of(self, name: str, uid: str, scheduled: Micros | None) -> Node | None:
        """The machine that a pod is on: the one told before, else the youngest of that name by then."""
        if uid:
            return self._lives.get(uid)
        lives = [self._lives[one] for one in self._names.get(name, ())]
        return next((one for one in reversed(lives) if scheduled is None or one.created <= scheduled), None)

    def _keep(self, node: Node) -> None:
        if node.uid not in self._lives:
            self._names.setdefault(node.name, []).append(node.uid)
        self._lives[node.uid] = node
