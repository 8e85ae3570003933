"""Facts about pods, from their slim views."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from mlenv_operator.cost.facts import SECOND, Pod
from mlenv_operator.cost.moments import micros

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_operator.core.world import PodView
    from mlenv_operator.cost.facts import Micros

AHEAD: Final = 300 * SECOND
"""By so much a kubelet's clock may be ahead of ours: what it tells within is taken as told."""


def pod_fact(
    view: PodView, node_uid: str, *, gone: Micros | None = None, telemetry: bool = False
) -> Pod | None:
    """The fact; null while the pod holds nothing, or the life of its node is not known.

    `gone`: since when the pod, or its node, is not an object of the API any more.
    """
    if view.scheduled_at is None or not node_uid:
        return None
    return Pod(
        uid=view.uid,
        namespace=view.namespace,
        name=view.name,
        job_uid=view.job_uid,
        node_uid=node_uid,
        gpus=view.held.gpus,
        cpu_milli=view.held.cpu_milli,
        memory_bytes=view.held.memory_bytes,
        scheduled=micros(view.scheduled_at),
        started=_micros(view.started_at),
        finished=_micros(view.finished_at),
        released=released(view, gone),
        telemetry=telemetry,
    )


def not_to_come(pod: Pod, seen: Micros) -> Pod:
    """The fact as it was seen: what is told of a time to come has happened by then.

    A clock that is wrong by years would have a pod hold its node for as long.
    """
    told = {name: getattr(pod, name) for name in ("started", "finished", "released")}
    wrong: dict[str, Any] = {name: seen for name, at in told.items() if at is not None and at > seen + AHEAD}
    return replace(pod, **wrong) if wrong else pod


def released(view: PodView, gone: Micros | None = None) -> Micros | None:
    """When the node's scheduler may give away what the pod held; null while it may not.

    All containers have ended; or the kubelet has let go of it; or it, or its node, is gone. Of a pod that was
    ended from outside nobody may have said when its containers did: then its deletion counts.
    """
    if view.finished and view.finished_at is not None:
        return micros(view.finished_at)
    if view.killed or view.finished:
        return _earlier(_micros(view.deleted_at), gone)
    return gone


def _earlier(one: Micros | None, other: Micros | None) -> Micros | None:
    known = [at for at in (one, other) if at is not None]
    return min(known) if known else None


def _micros(time: datetime | None) -> Micros | None:
    return None if time is None else micros(time)
