"""Events about jobs and budgets, for people: few, and each once."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mlenv_api.names import API_VERSION, MANAGED_BY, TRAINING_JOB
from mlenv_operator.kube.errors import ApiError, LeaseLost
from mlenv_operator.kube.resources import EVENTS

if TYPE_CHECKING:
    from mlenv_operator.core.actions import Event
    from mlenv_operator.core.world import JobView
    from mlenv_operator.kube.client import Client
    from mlenv_operator.runtime.clock import Clock

log = logging.getLogger(__name__)
REPEAT_S: Final = 600.0
"""The same sentence about the same object is not written again sooner."""
REMEMBERED: Final = 20_000
CLUSTER_WIDE: Final = "default"
"""Where the API server wants events about objects that are in no namespace."""


class About(NamedTuple):
    """The object that an event is about."""

    kind: str
    namespace: str
    """Empty: it is in none."""
    name: str
    uid: str


class Recorder:
    """Writes Events. They are a courtesy: one that cannot be written is logged and forgotten."""

    def __init__(self, client: Client, clock: Clock, instance: str) -> None:
        self._client = client
        self._clock = clock
        self._instance = instance
        self._said: OrderedDict[int, float] = OrderedDict()  # by hash: sentences are long, and many

    async def emit(self, job: JobView, event: Event) -> None:
        """Write the event about the job, unless it was written just now."""
        await self.tell(About(TRAINING_JOB, job.key.namespace, job.key.name, job.uid), event)

    async def tell(self, about: About, event: Event) -> None:
        """Write the event, unless it was written just now."""
        now = self._clock.monotonic()
        said = hash((about.uid, str(event.reason), event.message))
        if now - self._said.get(said, -REPEAT_S) < REPEAT_S:
            return
        self._said[said] = now
        if len(self._said) > REMEMBERED:
            self._said.popitem(last=False)
        try:
            await self._client.create(EVENTS, self._body(about, event))
        except (ApiError, LeaseLost) as error:
            where = f"{about.namespace}/{about.name}".removeprefix("/")
            log.warning("event %s for %s not written: %s", event.reason, where, error)

    def _body(self, about: About, event: Event) -> dict[str, Any]:
        now = self._clock.now()
        stamp = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
        mark = hashlib.sha256(f"{about.uid}{event.reason}{event.message}{stamp}".encode()).hexdigest()[:16]
        place = {"namespace": about.namespace} if about.namespace else {}
        name = about.name[:200].rstrip("-.")
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": about.namespace or CLUSTER_WIDE, "name": f"{name}.{mark}"},
            "eventTime": stamp,
            "reportingController": MANAGED_BY,
            "reportingInstance": self._instance[:128],
            "action": "Reconcile",
            "reason": str(event.reason),
            "note": event.message[:1024],
            "type": "Warning" if event.warning else "Normal",
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": about.kind,
                **place,
                "name": about.name,
                "uid": about.uid,
            },
        }
