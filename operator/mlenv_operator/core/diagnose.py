"""Why the pods of a gang are not together yet, and what would help: one reason, one sentence."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from mlenv_api.conditions import Reason
from mlenv_api.protocol import OLDEST_PROTOCOL, PROTOCOL
from mlenv_operator.core.classify import speaks
from mlenv_operator.core.text import plural, quote

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from mlenv_operator.core.classify import Scene, Slot
    from mlenv_operator.core.world import PodView, Rejection

_IMAGE: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
_CONFIG: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
# The kubelet's words alternate between the error and "Back-off pulling image …: ErrImagePull: <the error>".
_BACK_OFF: Final = re.compile(r"^Back-off pulling image \"[^\"]*\"(: \w+: )?")
_NEVER_PULLED: Final = "Load the image into every node, or set imagePullPolicy to IfNotPresent"
_CHECK_IMAGE: Final = "Check the image's name, and imagePullSecrets if its registry is private"
_LESS: Final = "Ask for less per node in spec.trainer.resourcesPerNode, or free capacity"
_NO_NODE: Final = (
    ("Insufficient", _LESS),
    (
        "persistentvolumeclaim",
        "Create what is missing, or name another claim in spec.podTemplateOverrides or spec.checkpoint.spool",
    ),
    ("untolerated taint", "Tolerate the taint in spec.podTemplateOverrides, or have it removed"),
    (
        "affinity/selector",
        "Change nodeSelector or affinity in spec.podTemplateOverrides or the environment, or label a node",
    ),
)
"""What helps, by the words of the scheduler: the first that is found."""
_PREEMPTION: Final = re.compile(r"\s*preemption: .*$", re.DOTALL)
_HELP: Final = {
    Reason.QUOTA_EXCEEDED: "Wait until other jobs of the namespace end, ask for less, or have it raised",
    Reason.SERVICE_ACCOUNT_NOT_FOUND: (
        "A new namespace gets its own in a moment; create any other, or name one that exists"
    ),
    Reason.POD_SECURITY: (
        "Remove what the namespace's pod security level forbids from spec.podTemplateOverrides or the"
        " environment, or run the job in another namespace"
    ),
    Reason.REJECTED_BY_WEBHOOK: "Change what the policy names, or ask those who run the cluster",
    Reason.POD_REJECTED: "Suspend the job, correct what is named, and resume it; or create what is missing",
    Reason.FORBIDDEN: "The operator lacks a permission here: ask those who run the cluster",
    Reason.NAME_CONFLICT: "Delete or rename what is in the way, or create the job under another name",
}
NEEDS_HUMAN: Final = frozenset(_HELP) - {Reason.QUOTA_EXCEEDED, Reason.SERVICE_ACCOUNT_NOT_FOUND}
REJECTIONS: Final = frozenset(_HELP)


class Headline(NamedTuple):
    """Reason and message of a condition."""

    reason: Reason
    message: str = ""


def rejected(rejection: Rejection) -> Headline:
    """What the API server refused, and what would help."""
    verb = "is not ours" if rejection.reason is Reason.NAME_CONFLICT else "was refused"
    said, hint = quote(rejection.message), _HELP.get(rejection.reason, "It is tried again")
    return Headline(rejection.reason, f"{rejection.what} {verb}: {said}. {hint}")


def waiting(scene: Scene) -> Headline:
    """Why not all slots have joined, the worst first."""
    absent = [slot for slot in scene.slots if not slot.joined]
    for find in (_unschedulable, _image, _config, _silent, _old_launcher):
        found = find(scene, absent)
        if found is not None:
            return found
    ready, wanted = len(scene.slots) - len(absent), len(scene.slots)
    return Headline(
        Reason.WAITING_FOR_PODS, f"{ready} of {plural(wanted, 'pod')} ready{_slow(scene, absent)}"
    )


def launcher_connected(scene: Scene) -> tuple[str, Headline] | None:
    """Status and reason of LauncherConnected; null while there is nothing new to say."""
    bad = _old_launcher(scene, scene.slots) or _silent(scene, scene.slots)
    if bad is not None:
        return "False", bad
    running = [slot for slot in scene.slots if not slot.succeeded]
    if all(_fresh(scene, slot) for slot in running):
        return "True", Headline(Reason.CONNECTED)
    return None


REASONS: Final = {reason.value: reason for reason in Reason}


def checkpoint_degraded(scene: Scene) -> tuple[str, Headline] | None:
    """Status and reason of CheckpointDegraded, as couriers say; null while none has been heard."""
    heard = [slot.heard.beat for slot in scene.slots if slot.heard is not None]
    for beat in heard:
        if beat.degraded is not None:
            reason = REASONS.get(beat.degraded.reason, Reason.UPLOAD_FAILED)
            return "True", Headline(reason, quote(beat.degraded.message))
    return ("False", Headline(Reason.CHECKPOINTS_STORED)) if heard else None


def silence_at(scene: Scene) -> datetime | None:
    """When the next launcher that is heard, or awaited, becomes one that is not heard."""
    times = [_silent_from(scene, slot) for slot in scene.slots if slot.pod and not slot.succeeded]
    return min((time for time in times if time is not None and time > scene.now), default=None)


def slow_at(scene: Scene) -> datetime | None:
    """When the next pod will have been set up by its node for so long that it is worth a word."""
    times = [_slow_from(scene, slot.pod) for slot in scene.slots if slot.pod]
    return min((time for time in times if time is not None and time > scene.now), default=None)


def _slow(scene: Scene, absent: list[Slot]) -> str:
    """The kubelet tells of volumes that it cannot mount in Events alone, which are not ours to read."""
    pods = _pods(absent, lambda pod: (at := _slow_from(scene, pod)) is not None and at <= scene.now)
    if not pods:
        return ""
    return (
        f"; node {pods[0].node} has been preparing pod {pods[0].name} for more than"
        f" {scene.world.settings.slow_start_s:.0f} s: its image is being pulled, or a volume is missing."
        f" See: kubectl describe pod -n {pods[0].namespace} {pods[0].name}"
    )


def _slow_from(scene: Scene, pod: PodView) -> datetime | None:
    waits = pod.waiting is not None and pod.waiting.reason == "ContainerCreating"
    if pod.scheduled_at is None or pod.deleting or not waits:
        return None
    return pod.scheduled_at + timedelta(seconds=scene.world.settings.slow_start_s)


def _unschedulable(scene: Scene, absent: list[Slot]) -> Headline | None:
    pods = _pods(absent, lambda pod: bool(pod.unscheduled))
    if not pods:
        return None
    said = quote(_PREEMPTION.sub("", pods[0].unscheduled))
    return Headline(
        Reason.UNSCHEDULABLE,
        f"{len(pods)} of {plural(len(scene.slots), 'pod')} cannot be scheduled: {said}."
        f" {_room(said)}; {_release(scene)}",
    )


def _room(said: str) -> str:
    return next((helps for words, helps in _NO_NODE if words in said), _LESS)


def _image(scene: Scene, absent: list[Slot]) -> Headline | None:
    pods = _pods(absent, lambda pod: bool(pod.waiting and pod.waiting.reason in _IMAGE))
    if not pods or pods[0].waiting is None:
        return None
    said = quote(_BACK_OFF.sub("", pods[0].waiting.message))
    helps = _NEVER_PULLED if pods[0].waiting.reason == "ErrImageNeverPull" else _CHECK_IMAGE
    return Headline(
        Reason.IMAGE_PULL_FAILED,
        f"the image of pod {pods[0].name} cannot be pulled{f': {said}' if said else ''}. {helps};"
        f" {_release(scene)}",
    )


def _config(scene: Scene, absent: list[Slot]) -> Headline | None:
    pods = _pods(absent, lambda pod: bool(pod.waiting and pod.waiting.reason in _CONFIG))
    if not pods or pods[0].waiting is None:
        return None
    return Headline(
        Reason.CONTAINER_CONFIG_ERROR,
        f"the container of pod {pods[0].name} cannot be made: {quote(pods[0].waiting.message)}. Create"
        f" what is missing in namespace {scene.job.key.namespace}, or correct the job; {_release(scene)}",
    )


def _silent(scene: Scene, slots: list[Slot] | tuple[Slot, ...]) -> Headline | None:
    if not scene.mlenv:
        return None
    silent = [slot.pod for slot in slots if slot.pod and not slot.succeeded and _is_silent(scene, slot)]
    if not silent:
        return None
    urls = " and ".join(scene.world.operator_urls) or "the operator"
    return Headline(
        Reason.NO_HEARTBEAT,
        f"no heartbeat from {plural(len(silent), 'running pod')}, first {silent[0].name}: check that pods of"
        f" namespace {scene.job.key.namespace} reach {urls} (NetworkPolicy, egress), and their logs",
    )


def _old_launcher(scene: Scene, slots: list[Slot] | tuple[Slot, ...]) -> Headline | None:
    old = [slot for slot in slots if slot.heard and not speaks(slot.heard)]
    if not scene.mlenv or not old or old[0].pod is None or old[0].heard is None:
        return None
    return Headline(
        Reason.PROTOCOL_UNSUPPORTED,
        f"the launcher in pod {old[0].pod.name} {unsupported(old[0].heard.beat.protocol)}",
    )


def unsupported(protocol: int) -> str:
    """Why nothing that this launcher says is understood, and what would help."""
    if protocol > PROTOCOL:
        return (
            f"speaks protocol {protocol}, and this operator at most {PROTOCOL}: upgrade the operator, use an"
            " image with an older mlenv, or launcher: None"
        )
    return (
        f"speaks protocol {protocol}, and this operator needs {OLDEST_PROTOCOL} or newer: use an image with a"
        " newer mlenv, or launcher: None"
    )


def _pods(slots: list[Slot], test: Callable[[PodView], bool]) -> list[PodView]:
    return [slot.pod for slot in slots if slot.pod is not None and test(slot.pod)]


def _is_silent(scene: Scene, slot: Slot) -> bool:
    at = _silent_from(scene, slot)
    return at is not None and at <= scene.now


def _silent_from(scene: Scene, slot: Slot) -> datetime | None:
    """When the launcher of a running pod counts as silent."""
    pod = slot.pod
    if pod is None or pod.running_since is None or pod.deleting:
        return None
    last = slot.heard.received if slot.heard else max(pod.running_since, scene.world.listening_since)
    return last + scene.silence


def _fresh(scene: Scene, slot: Slot) -> bool:
    return slot.heard is not None and scene.now - slot.heard.received <= scene.silence


def _release(scene: Scene) -> str:
    seconds = scene.spec.scheduling.assembly_timeout_seconds
    return f"all pods are released after {seconds} s"
