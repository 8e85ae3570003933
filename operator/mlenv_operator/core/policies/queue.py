"""Jobs that could not get their pods together try again in turn: the oldest of one shape first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_api.conditions import Reason
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.diagnose import Headline
from mlenv_operator.core.transition import Move, enter
from mlenv_operator.core.world import JobView, Neighbour

if TYPE_CHECKING:
    from collections.abc import Hashable

    from mlenv_operator.core.classify import Scene


def queue(scene: Scene) -> Move | None:
    """Assemble again, with new pods, under the same number: no world was formed."""
    attempt = scene.attempt
    if attempt is None or attempt.state is not AttemptState.QUEUED:
        return None
    if (attempt.not_before and scene.now < attempt.not_before) or blocker(scene) is not None:
        return None
    incarnations = tuple(incarnation + 1 for incarnation in scene.status.incarnations)
    status = enter(scene, AttemptState.ASSEMBLING, incarnations=incarnations)
    return Move(status, Headline(Reason.WAITING_FOR_PODS, "pods are being created again"))


def blocker(scene: Scene) -> Neighbour | None:
    """The older job of the same shape whose turn it is; null when it is this job's."""
    me = (scene.job.created, scene.job.uid)
    for other in scene.world.neighbours:
        due = other.not_before is None or other.not_before <= scene.now
        if due and (other.created, other.uid) < me:
            return other
    return None


def neighbour(job: JobView) -> Neighbour | None:
    """The job as others of its shape see it; null while it is in nobody's way."""
    attempt = job.status.attempt
    if attempt is None or job.deleting or job.spec is None or job.spec.suspend:
        return None
    queued = attempt.state is AttemptState.QUEUED
    again = attempt.state is AttemptState.ASSEMBLING and attempt.timeouts > 0
    if not (queued or again):
        return None
    return Neighbour(job.key, job.uid, job.created, attempt.not_before if queued else None)


def shape(job: JobView) -> Hashable:
    """Jobs of one shape want the same of the cluster, and so stand in one line."""
    spec = job.spec
    if spec is None:
        return None
    pod = spec.pod_template_overrides.spec
    return (
        spec.trainer.num_nodes,
        repr(spec.trainer.resources_per_node),
        repr(spec.environment_ref),
        repr(sorted(pod.node_selector.items())),
        repr((pod.affinity, pod.tolerations, pod.priority_class_name, pod.scheduler_name)),
    )
