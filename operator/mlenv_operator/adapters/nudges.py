"""Nudges: an empty datagram to each launcher of a job that moved, which then asks at once.

A nudge says nothing, and may be lost, late or doubled: all that a launcher obeys is the answer it gets then.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlenv_operator.adapters.metrics import Metrics
    from mlenv_operator.adapters.state import State
    from mlenv_operator.core.world import JobKey, PodView


class Nudges:
    """Sends, and forgets. Never waits: what the kernel does not take at once is dropped and counted."""

    def __init__(self, state: State, metrics: Metrics) -> None:
        self._state = state
        self._sent = metrics.nudges.labels("sent")
        self._failed = metrics.nudges.labels("failed")

    def moved(self, key: JobKey) -> None:
        """The attempt of a job was stored anew: its launchers should know."""
        targets = list(self._targets(self._state.caches.pods.by_owner(key)))
        for family in (socket.AF_INET, socket.AF_INET6):
            mine = [(host, port) for host, port in targets if (":" in host) == (family == socket.AF_INET6)]
            if mine:
                self._send(family, mine)

    def _send(self, family: int, targets: Iterable[tuple[str, int]]) -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # noqa: FBT003  (the socket module's signature)
            for host, port in targets:
                try:
                    # A name would be looked up, and the whole operator would wait for that.
                    sender.sendto(b"", (str(ip_address(host)), port))
                except (OSError, ValueError):
                    self._failed.inc()
                else:
                    self._sent.inc()

    def _targets(self, pods: Iterable[PodView]) -> Iterable[tuple[str, int]]:
        live = [pod for pod in pods if pod.pod_ip and not pod.finished]
        beats = self._state.beats.of(live)
        for pod in live:
            heard = beats.get(pod.uid)
            # One whose answer is being held gets it at once, and would only ask again for nothing.
            if heard and heard.beat.nudge_port and not self._state.beats.is_held(pod.uid):
                yield pod.pod_ip, heard.beat.nudge_port
