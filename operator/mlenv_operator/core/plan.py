"""What should happen next to a job, given everything that is known. Same world, same plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_api.conditions import Reason
from mlenv_operator.core import finish, requests, sanity
from mlenv_operator.core.actions import Event, Plan, Urgency
from mlenv_operator.core.classify import sort_pods
from mlenv_operator.core.converge import act, release
from mlenv_operator.core.drain import drain
from mlenv_operator.core.policies import POLICIES, costlimit
from mlenv_operator.core.wake import release_wake_at, waits_for, wake_at

if TYPE_CHECKING:
    from mlenv_api.trainingjob import TrainingJobStatus
    from mlenv_operator.core.classify import Scene
    from mlenv_operator.core.transition import Move
    from mlenv_operator.core.world import JobView, World


def plan(world: World) -> Plan:
    """Either a move of the attempt, or actions on the stored one; never both."""
    job = world.job
    if job is None or job.deleting:
        return _let_go(world)
    if not job.managed:
        return Plan(waits_for="the controller that spec.managedBy names")
    if job.status_problem:
        return _hands_off(job)
    if job.spec is None:
        return _hold(world, job)
    scene = sort_pods(world, job, job.spec)
    for policy in POLICIES:
        move = policy(scene)
        if move is not None:
            return _move(scene, move)
    return _act(scene)


def _move(scene: Scene, move: Move) -> Plan:
    status = finish.moved(scene, move)
    return Plan(
        actions=move.actions,
        status=status,
        move=True,
        status_urgency=Urgency.MOVE,
        events=(*move.events, *_news(scene, status)),
        requeue_at=scene.now,
        waits_for="the status to be stored",
    )


def _act(scene: Scene) -> Plan:
    status = finish.seen(scene)
    urgency = finish.urgency(scene.status, status)
    return Plan(
        actions=(*act(scene), *drain(scene)),
        status=status if urgency else None,
        status_urgency=urgency,
        events=(*finish.warnings(scene.status, status), *_news(scene, status)),
        requeue_at=wake_at(scene),
        waits_for=waits_for(scene),
    )


def _news(scene: Scene, status: TrainingJobStatus) -> tuple[Event, ...]:
    return (
        *requests.news(scene.status, status),
        *sanity.news(scene.status, status),
        *costlimit.news(scene.status, status),
    )


def _let_go(world: World) -> Plan:
    """The garbage collector removes what a job leaves behind; only we can remove our finalizer."""
    return Plan(
        actions=release(world, world.pods),
        requeue_at=release_wake_at(world),
        waits_for="the end of its pods" if world.pods else "",
    )


def _hands_off(job: JobView) -> Plan:
    """Written by a newer operator, or by hand: what it means is not known, so nothing is done."""
    message = f"the status cannot be read ({job.status_problem}): upgrade the operator, or delete the job"
    event = Event(Reason.INVALID_SPEC, message, warning=True)
    return Plan(events=(event,), waits_for="a status that can be read")


def _hold(world: World, job: JobView) -> Plan:
    status = finish.unreadable(job, world)
    urgency = finish.urgency(job.status, status)
    return Plan(
        status=status if urgency else None,
        status_urgency=urgency,
        events=finish.warnings(job.status, status),
        waits_for="a spec that can be read",
    )
