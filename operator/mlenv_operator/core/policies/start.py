"""The first start of a job, and its start after a suspension: the current spec, a new snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlenv_api.conditions import Reason
from mlenv_api.names import revision_name
from mlenv_api.trainingjob import AttemptState, EnvironmentSnapshot
from mlenv_operator.core.actions import CreateRevision, Event
from mlenv_operator.core.checkpoints import begun, starts_over, stored
from mlenv_operator.core.diagnose import Headline, rejected
from mlenv_operator.core.policies.costlimit import held
from mlenv_operator.core.render.revision import render_revision
from mlenv_operator.core.transition import Move, enter, second
from mlenv_operator.core.validate import environment_problems

if TYPE_CHECKING:
    from mlenv_operator.core.classify import Scene
    from mlenv_operator.core.world import EnvironmentView


def start(scene: Scene) -> Move | None:
    """From nothing, or from Suspended, to Assembling; or from nothing to Suspended."""
    if scene.state not in (None, AttemptState.SUSPENDED):
        return None
    if scene.spec.suspend:
        return _born_suspended(scene) if scene.state is None else None
    if held(scene) or obstacle(scene) is not None:
        return None
    return _assemble(scene)


def obstacle(scene: Scene) -> Headline | None:
    """Why the job cannot start, though it should."""
    if scene.job.problems:
        return Headline(Reason.INVALID_SPEC, "; ".join(scene.job.problems))
    for rejection in scene.world.rejections:
        if rejection.retry_at > scene.now:
            return rejected(rejection)
    wanted, environment = scene.spec.environment_ref, scene.world.environment
    if wanted is None:
        return None
    where = "" if wanted.kind.startswith("Cluster") else f" in namespace {scene.job.key.namespace}"
    if environment is None:
        message = f"{wanted.kind} {wanted.name} does not exist{where}. Create it, or name another one in"
        return Headline(Reason.ENVIRONMENT_NOT_FOUND, f"{message} spec.environmentRef of a new job")
    problems = environment.problems or environment_problems(scene.spec, environment.spec)
    if problems:
        message = f"{wanted.kind} {wanted.name} is invalid: {'; '.join(problems)}"
        return Headline(Reason.INVALID_SPEC, f"{message}. Ask those who provide it")
    return None


def _born_suspended(scene: Scene) -> Move:
    message = "spec.suspend is true; no pods are held. Set it to false to start"
    return Move(enter(scene, AttemptState.SUSPENDED), Headline(Reason.SUSPENDED, message))


def _assemble(scene: Scene) -> Move:
    attempt, status = scene.attempt, scene.status
    environment = scene.world.environment if scene.spec.environment_ref else None
    resumed = attempt is not None and status.start_time is not None
    # A new number: no launcher of an earlier attempt may mistake this one for its own.
    number = attempt.number + 1 if attempt is not None and resumed else 1
    incarnation = max(status.incarnations, default=-1) + 1
    changes: dict[str, Any] = {
        "incarnations": (incarnation,) * scene.spec.trainer.num_nodes,
        "run_generation": scene.job.generation,
        "run_digest": scene.job.digest,
        "environment": _snapshot(environment),
        "start_time": status.start_time or second(scene.now),
        "checkpoint": stored(begun(scene, number)),
    }
    moved = enter(scene, AttemptState.ASSEMBLING, attempt={"number": number, "timeouts": 0}, **changes)
    events = (Event(Reason.RESUMED, _resumes(scene)),) if resumed else ()
    headline = Headline(Reason.WAITING_FOR_PODS, "pods are being created")
    return Move(moved, headline, events=events, actions=_revision(scene, environment))


def _resumes(scene: Scene) -> str:
    policy = scene.spec.checkpoint.resume.policy
    over = f", and starts over, as resume.policy {policy.value} asks" if starts_over(scene) else ""
    return f"the job resumes with its current spec{over}"


def _snapshot(environment: EnvironmentView | None) -> EnvironmentSnapshot | None:
    if environment is None:
        return None
    return EnvironmentSnapshot(
        kind=environment.kind,
        name=environment.name,
        uid=environment.uid,
        generation=environment.generation,
        revision=revision_name(environment.uid, environment.generation),
    )


def _revision(scene: Scene, environment: EnvironmentView | None) -> tuple[CreateRevision, ...]:
    if environment is None or environment.spec is None:
        return ()
    uid, generation = environment.uid, environment.generation
    if revision_name(uid, generation) in scene.world.revisions:
        return ()
    return (CreateRevision(render_revision(scene.job.key.namespace, uid, generation, environment.spec)),)
