"""Nodes that change: the jobs that have pods on them are looked at."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mlenv_operator.core.world import JobKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mlenv_operator.core.world import PodView


class NodeNews:
    """Collects the nodes that change in one turn of the event loop: all pods are gone through once for them.

    A cold start hears of all nodes at once, and of every pod beside.
    """

    def __init__(self, pods: Callable[[], Iterable[PodView]], look_at: Callable[[JobKey], object]) -> None:
        self._pods = pods
        self._look_at = look_at
        self._nodes: set[str] = set()

    def changed(self, node: str) -> None:
        """Something about this node is new."""
        if not self._nodes:
            asyncio.get_running_loop().call_soon(self._pass_on)
        self._nodes.add(node)

    def _pass_on(self) -> None:
        nodes, self._nodes = self._nodes, set()
        for key in {JobKey(pod.namespace, pod.job_name) for pod in self._pods() if pod.node in nodes}:
            self._look_at(key)
