"""spec.cost bounds what a job costs: it is warned of, suspended or failed.

The spec belongs to its owner, so nothing is written there. What was reached is a condition, which holds until
the spec is edited; then the amounts decide anew. A correction that lowers a bill starts no pods.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from mlenv_api.conditions import ConditionType, Reason
from mlenv_api.cost import CostAction
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.actions import Event
from mlenv_operator.core.books import STALE_S, silence
from mlenv_operator.core.classify import LIVE, TERMINAL
from mlenv_operator.core.diagnose import Headline
from mlenv_operator.core.spending import spent, told
from mlenv_operator.core.transition import Move, ended, enter
from mlenv_operator.core.words import said, stored
from mlenv_operator.cost.money import parse_dollars

if TYPE_CHECKING:
    from datetime import datetime

    from mlenv_api.cost import CostSpec
    from mlenv_api.trainingjob import TrainingJobStatus
    from mlenv_operator.core.classify import Scene

_THEN: Final = {
    CostAction.WARN: "Training goes on: suspend or delete the job to stop it, or raise spec.cost.limit",
    CostAction.SUSPEND: "The job is suspended: raise spec.cost.limit, or remove spec.cost, to go on",
    CostAction.FAIL: "The job has failed: create it anew with a higher limit to go on",
}
_TYPE: Final = ConditionType.COST_EXCEEDED


def cost_limit(scene: Scene) -> Move | None:
    """Fail a live job that has cost as much as it may, where its limit says so."""
    limit = scene.spec.cost
    if (
        scene.state not in LIVE
        or limit is None
        or limit.on_exceeded is not CostAction.FAIL
        or not reached(scene)
    ):
        return None
    message = _sentence(scene, limit, AttemptState.FAILED)
    status = enter(scene, AttemptState.FAILED, **ended(scene, Reason.COST_EXCEEDED, message))
    return Move(status, Headline(Reason.COST_EXCEEDED, message))


def held(scene: Scene) -> bool:
    """Whether the limit keeps the job suspended, whatever spec.suspend says."""
    limit = scene.spec.cost
    return limit is not None and limit.on_exceeded is CostAction.SUSPEND and reached(scene)


def reached(scene: Scene) -> bool:
    """Whether the job has cost as much as it may, or had when this spec was first held against it."""
    limit, cost = scene.spec.cost, spent(told(scene))
    if limit is None:
        return False
    return _stands(scene) or (cost is not None and cost >= parse_dollars(limit.limit))


def watched(scene: Scene, state: AttemptState | None) -> tuple[str, Headline] | None:
    """Status and reason of CostExceeded; null without a limit. Its words change only with its reason.

    `state`: where the attempt stands in the status that says it.
    """
    limit, before = scene.spec.cost, stored(scene.status, _TYPE)
    if limit is None:
        return None
    was = said(scene.status, _TYPE)
    kept = (before.status, was) if before is not None and was is not None else None
    if kept and (_stands(scene) or scene.state in TERMINAL):
        return kept
    if reached(scene):
        return "True", Headline(Reason.COST_EXCEEDED, _sentence(scene, limit, state))
    silent = _silent(scene)
    if silent and (kept is None or kept[0] != "True"):
        return kept  # a new leader's ledger says nothing in its first moments
    # What was reached by an older spec is not by this one: said again, it would be held against it for good.
    why = "" if silent else _unwatched(scene)
    if why:
        return "Unknown", Headline(Reason.COST_UNKNOWN, f"{_limit(limit)} cannot be watched: {why}")
    return "False", Headline(Reason.WITHIN_COST_LIMIT, f"{_limit(limit)} is watched, see status.cost")


def news(old: TrainingJobStatus, new: TrainingJobStatus) -> tuple[Event, ...]:
    """The limit is reached, or nobody can tell any more."""
    before, now = stored(old, _TYPE), stored(new, _TYPE)
    if now is None or now.status == "False":
        return ()
    if before is not None and (before.status, before.reason) == (now.status, now.reason):
        return ()
    return (Event(Reason(now.reason), now.message, warning=True),)


def watch_at(scene: Scene) -> datetime | None:
    """When to look again at what a live job with a limit has cost: no other change may tell."""
    if scene.spec.cost is None or scene.state not in LIVE or not scene.world.books.kept:
        return None
    return scene.now + timedelta(seconds=scene.world.settings.cost_poll_s)


def _stands(scene: Scene) -> bool:
    before = stored(scene.status, _TYPE)
    if before is None or before.status != "True":
        return False
    return before.observed_generation == scene.job.generation


def _silent(scene: Scene) -> bool:
    books, since = scene.world.books, scene.world.listening_since
    waits = books.kept and books.as_of is None and not books.problem
    return waits and (scene.now - since).total_seconds() <= STALE_S


def _limit(limit: CostSpec) -> str:
    return f"the limit of {limit.limit} {limit.currency} (spec.cost.limit)"


def _sentence(scene: Scene, limit: CostSpec, state: AttemptState | None) -> str:
    cost = told(scene)
    amount = f"{cost.amount} {cost.currency}" if cost is not None and cost.amount else "as much"
    then = "It has ended" if state is AttemptState.COMPLETE else _THEN[limit.on_exceeded]
    return f"the job has cost {amount}, and {_limit(limit)} is reached. {then}"


def _unwatched(scene: Scene) -> str:
    """Why nobody can say what the job costs; empty when somebody can."""
    cost = told(scene)
    return silence(scene.world.books, scene.now) or (cost.message if cost is not None else "")
