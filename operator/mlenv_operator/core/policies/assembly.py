"""The gang comes together as a whole, or is released as a whole."""

from __future__ import annotations

import zlib
from datetime import timedelta
from typing import TYPE_CHECKING

from mlenv_api.conditions import Reason
from mlenv_api.trainingjob import AttemptState, Rendezvous
from mlenv_operator.core.actions import Event
from mlenv_operator.core.checkpoints import released, stored
from mlenv_operator.core.diagnose import Headline
from mlenv_operator.core.policies.suspend import went_with_pods
from mlenv_operator.core.text import plural
from mlenv_operator.core.transition import Move, enter, second
from mlenv_operator.core.words import pods_ready

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_operator.core.classify import Scene
    from mlenv_operator.core.world import CoreSettings


def assembly(scene: Scene) -> Move | None:
    """Form the world once all slots have joined; release everything when that takes too long."""
    if scene.state is not AttemptState.ASSEMBLING:
        return None
    if scene.now >= assembly_begins(scene) and all(slot.joined for slot in scene.slots):
        return _form(scene)
    if scene.now >= assembly_ends(scene):
        return _release(scene)
    return None


def assembly_begins(scene: Scene) -> datetime:
    """Before this, neither pods are made nor a world is formed."""
    if scene.attempt is None:
        return scene.now
    return max(scene.attempt.since, scene.attempt.not_before or scene.attempt.since)


def assembly_ends(scene: Scene) -> datetime:
    """When all pods are released, unless they are together by then."""
    return assembly_begins(scene) + timedelta(seconds=scene.spec.scheduling.assembly_timeout_seconds)


def backoff_s(uid: str, timeouts: int, settings: CoreSettings) -> float:
    """Doubles with every time-out in a row; spread by the job's UID, so that jobs do not meet again."""
    seconds = settings.queue_backoff_first_s * 2.0 ** min(timeouts - 1, 30)
    spread = 0.8 + 0.4 * (zlib.crc32(f"{uid}/{timeouts}".encode()) % 1000) / 1000
    return min(seconds, settings.queue_backoff_max_s) * spread


def _form(scene: Scene) -> Move:
    """Store the world; launchers are told it only from there."""
    first, attempt = scene.slots[0], scene.attempt
    rendezvous = None
    if scene.mlenv and first.pod and first.heard and first.heard.beat.port:
        rendezvous = Rendezvous(address=first.pod.pod_ip, port=first.heard.beat.port)
    status = enter(scene, AttemptState.RUNNING, attempt={"rendezvous": rendezvous, "timeouts": 0})
    nodes = ", ".join(dict.fromkeys(slot.pod.node for slot in scene.slots[:8] if slot.pod))
    more = ", …" if len(scene.slots) > 8 else ""
    number = attempt.number if attempt else 1
    message = f"attempt {number} runs: {plural(len(scene.slots), 'pod')} on {nodes}{more}"
    reason = Reason.STARTED if number == 1 else Reason.ATTEMPT_STARTED
    return Move(status, Headline(Reason.ALL_PODS_READY, message), events=(Event(reason, message),))


def _release(scene: Scene) -> Move:
    timeouts = (scene.attempt.timeouts if scene.attempt else 0) + 1
    wait = backoff_s(scene.job.uid, timeouts, scene.world.settings)
    not_before = second(scene.now + timedelta(seconds=wait))
    record, lost = released(scene)
    status = enter(
        scene,
        AttemptState.QUEUED,
        attempt={"timeouts": timeouts, "not_before": not_before},
        checkpoint=stored(record),
    )
    seconds = scene.spec.scheduling.assembly_timeout_seconds
    in_a_row = f", time-out {timeouts} in a row" if timeouts > 1 else ""
    message = (
        f"not all pods were ready within {seconds} s (assemblyTimeoutSeconds{in_a_row}), so all were released"
        f" until {not_before:%Y-%m-%d %H:%M:%S} UTC. Why: {pods_ready(scene).message}"
    )
    event = Event(Reason.ASSEMBLY_TIMED_OUT, message, warning=True)
    events = (event, *went_with_pods(lost, record))
    return Move(status, Headline(Reason.ASSEMBLY_TIMED_OUT, message), events=events)
