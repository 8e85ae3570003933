"""Raw objects of the API server as slim views."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from sys import intern
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from mlenv_api import names
from mlenv_api.cel import MUTABLE_WHILE_LIVE
from mlenv_api.gitcode import Code
from mlenv_api.podtemplate import EnvironmentSpec
from mlenv_api.protocol import LastWords
from mlenv_api.trainingjob import TrainingJobSpec, TrainingJobStatus
from mlenv_operator.core.validate import job_problems
from mlenv_operator.core.world import (
    EPOCH,
    Disruption,
    DrainState,
    EnvironmentView,
    JobKey,
    JobView,
    NodeView,
    PodView,
    Terminated,
    Waiting,
)
from mlenv_operator.cost.observe_jobs import attribution
from mlenv_operator.cost.observe_nodes import machine, use_of
from mlenv_operator.cost.resources import of_pod

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


M = TypeVar("M", bound=BaseModel)

MAX_IMAGE: Final = 512
"""Characters of an image: an answer has room for them."""
_DISRUPTIONS: Final = ("DisruptionTarget", "TerminationTarget")
_UNREACHABLE: Final = frozenset({"node.kubernetes.io/unreachable", "node.kubernetes.io/out-of-service"})


def project_pod(raw: Mapping[str, Any]) -> PodView | None:
    """The view of a pod; null when it is not one of ours."""
    meta = raw["metadata"]
    slot = _slot(meta.get("annotations") or {})
    owner = _owner(meta)
    if slot is None or not owner:
        return None
    spec, status = raw.get("spec") or {}, raw.get("status") or {}
    container = _trainer(status.get("containerStatuses"), "name")
    state = container.get("state") or {}
    deleted_at, killed = _deletion(meta)
    started_at, finished_at = _ran(state), _finished_at(status)
    return PodView(
        namespace=intern(meta["namespace"]),
        name=meta["name"],
        uid=meta["uid"],
        job_uid=intern(owner),
        job_name=intern((meta.get("labels") or {}).get(names.LABEL_JOB, "")),
        index=slot[0],
        incarnation=slot[1],
        phase=intern(status.get("phase") or "Pending"),
        reason=status.get("reason") or "",
        message=status.get("message") or "",
        node=intern(spec.get("nodeName") or ""),
        pod_ip=status.get("podIP") or "",
        num_proc=_num_proc(spec),
        image=intern(str(container.get("imageID") or "")[:MAX_IMAGE]),
        running_since=started_at if "running" in state else None,
        started_at=started_at,
        finished_at=finished_at,
        held=of_pod(spec),
        terminated=_terminated(state.get("terminated")),
        waiting=_waiting(state.get("waiting")),
        words=_last_words(status.get("initContainerStatuses")),
        disruption=_disruption(status.get("conditions") or ()),
        unscheduled=_unscheduled(status.get("conditions") or ()),
        scheduled_at=_scheduled_at(status.get("conditions") or ()),
        deleted_at=deleted_at,
        killed=killed,
        finalizer_at=_position(meta.get("finalizers") or (), names.ACCOUNTED_FINALIZER),
    )


def project_node(raw: Mapping[str, Any]) -> NodeView:
    """The view of a node that exists."""
    status, spec = raw.get("status") or {}, raw.get("spec") or {}
    ready = _condition(status.get("conditions") or (), "Ready")
    taints = spec.get("taints") or ()
    is_ready = ready.get("status") == "True"
    return NodeView(
        name=intern(raw["metadata"]["name"]),
        ready=is_ready,
        unreachable=any(taint.get("key") in _UNREACHABLE for taint in taints),
        since=None if is_ready else _time(ready.get("lastTransitionTime")),
        machine=machine(raw),
        use=use_of(raw),
    )


def parse_job(raw: Mapping[str, Any], keep: Sequence[str] = ()) -> JobView:
    """The view of a TrainingJob; what cannot be read becomes problems, never an exception.

    `keep`: labels that its charges keep beside those that mean something anyway.
    """
    meta = raw["metadata"]
    raw_spec = raw.get("spec") or {}
    spec, problems = _parse(TrainingJobSpec, raw_spec, "spec")
    status, status_problems = _parse(TrainingJobStatus, raw.get("status") or {}, "status")
    if spec is not None:
        problems = job_problems(meta["name"], spec)
    return JobView(
        key=JobKey(meta["namespace"], meta["name"]),
        uid=meta["uid"],
        generation=int(meta.get("generation") or 0),
        resource_version=str(meta.get("resourceVersion") or ""),
        created=_time(meta.get("creationTimestamp")) or EPOCH,
        spec=spec,
        problems=problems,
        status=status or TrainingJobStatus(),
        status_problem="; ".join(status_problems),
        digest=spec_digest(spec) if spec is not None else "",
        checkpoint_requested=(meta.get("annotations") or {}).get(names.ANNOTATION_CHECKPOINT),
        code=Code.of(meta.get("annotations") or {}),
        deleting=bool(meta.get("deletionTimestamp")),
        managed=raw_spec.get("managedBy", names.MANAGED_BY) == names.MANAGED_BY,
        attribution=attribution(meta, keep),
    )


def parse_environment(raw: Mapping[str, Any]) -> EnvironmentView:
    """The view of a TrainingEnvironment or ClusterTrainingEnvironment."""
    meta = raw["metadata"]
    spec, problems = _parse(EnvironmentSpec, raw.get("spec") or {}, "spec")
    return EnvironmentView(
        kind=raw["kind"],
        name=meta["name"],
        uid=meta["uid"],
        generation=int(meta.get("generation") or 0),
        spec=spec,
        problems=problems,
    )


def drain_state(raw: Mapping[str, Any]) -> DrainState:
    """How the Job fares that carries a finished job's last checkpoint."""
    said = (raw.get("status") or {}).get("conditions") or ()
    for state in (DrainState.COMPLETE, DrainState.FAILED):
        if _condition(said, state.value).get("status") == "True":
            return state
    return DrainState.RUNNING


def parse_revision(raw: Mapping[str, Any]) -> EnvironmentSpec | None:
    """The environment kept in a ControllerRevision; null when it cannot be read."""
    return _parse(EnvironmentSpec, (raw.get("data") or {}).get("spec") or {}, "data.spec")[0]


def spec_digest(spec: TrainingJobSpec) -> str:
    """A digest of what only a suspended job may change.

    Defaults are left out, so that a field that a newer version adds does not change it.
    """
    data = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    kept = {key: value for key, value in data.items() if key not in MUTABLE_WHILE_LIVE}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parse(model: type[M], data: Mapping[str, Any], root: str) -> tuple[M | None, tuple[str, ...]]:
    try:
        return model.model_validate(data), ()
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        return None, tuple(f"{_path(root, one['loc'])}: {one['msg']}" for one in details[:5])


def _path(root: str, location: tuple[int | str, ...]) -> str:
    return root + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _slot(annotations: Mapping[str, str]) -> tuple[int, int] | None:
    try:
        return int(annotations[names.ANNOTATION_INDEX]), int(annotations[names.ANNOTATION_INCARNATION])
    except (KeyError, ValueError):
        return None


def _owner(meta: Mapping[str, Any]) -> str:
    for owner in meta.get("ownerReferences") or ():
        if owner.get("controller"):
            return str(owner["uid"]) if owner.get("kind") == names.TRAINING_JOB else ""
    return str((meta.get("labels") or {}).get(names.LABEL_JOB_UID, ""))


def _trainer(items: Any, key: str) -> Mapping[str, Any]:
    return next((item for item in items or () if item.get(key) == names.TRAINER_CONTAINER), {})


def _num_proc(spec: Mapping[str, Any]) -> int:
    for variable in _trainer(spec.get("containers"), "name").get("env") or ():
        if variable.get("name") == names.ENV_NUM_PROC_PER_NODE:
            return int(variable.get("value") or 1)
    return 1


def _deletion(meta: Mapping[str, Any]) -> tuple[datetime | None, bool]:
    """When deletion was asked for (the stored time is that of its end), and whether no grace is left."""
    ends = _time(meta.get("deletionTimestamp"))
    grace = meta.get("deletionGracePeriodSeconds") or 0
    return (ends - timedelta(seconds=grace), grace == 0) if ends else (None, False)


def _terminated(raw: Mapping[str, Any] | None) -> Terminated | None:
    if raw is None:
        return None
    return Terminated(
        exit_code=int(raw.get("exitCode") or 0),
        reason=raw.get("reason") or "",
        signal=int(raw.get("signal") or 0),
        message=raw.get("message") or "",
        finished_at=_time(raw.get("finishedAt")),
    )


def _last_words(sidecars: Any) -> LastWords | None:
    """What a courier that ended left behind: input from outside, and nothing where it makes no sense."""
    found: Mapping[str, Any] = next(
        (one for one in sidecars or () if one.get("name") == names.COURIER_CONTAINER), {}
    )
    text = ((found.get("state") or {}).get("terminated") or {}).get("message") or ""
    try:
        return LastWords.model_validate_json(text) if text.startswith("{") else None
    except ValidationError:
        return None


def _ran(state: Mapping[str, Any]) -> datetime | None:
    """When a container began that runs, or has ended."""
    ran = state.get("running") or state.get("terminated") or {}
    return _time(ran.get("startedAt"))


def _finished_at(status: Mapping[str, Any]) -> datetime | None:
    """When the last container ended; null while the pod has not, or where that was never seen."""
    if status.get("phase") not in ("Succeeded", "Failed"):
        return None
    kinds = ("containerStatuses", "initContainerStatuses")
    states = [one.get("state") or {} for kind in kinds for one in status.get(kind) or ()]
    ends = [_time((state.get("terminated") or {}).get("finishedAt")) for state in states]
    return max((end for end in ends if end is not None), default=None)


def _waiting(raw: Mapping[str, Any] | None) -> Waiting | None:
    if raw is None:
        return None
    return Waiting(reason=intern(raw.get("reason") or ""), message=raw.get("message") or "")


def _disruption(conditions: Any) -> Disruption | None:
    for type_ in _DISRUPTIONS:
        found = _condition(conditions, type_)
        if found.get("status") == "True":
            return Disruption(reason=found.get("reason") or "", message=found.get("message") or "")
    return None


def _unscheduled(conditions: Any) -> str:
    found = _condition(conditions, "PodScheduled")
    return (found.get("message") or "no node fits") if found.get("status") == "False" else ""


def _scheduled_at(conditions: Any) -> datetime | None:
    found = _condition(conditions, "PodScheduled")
    return _time(found.get("lastTransitionTime")) if found.get("status") == "True" else None


def _condition(conditions: Any, type_: str) -> Mapping[str, Any]:
    return next((one for one in conditions if one.get("type") == type_), {})


def _position(items: Any, item: str) -> int:
    return next((at for at, one in enumerate(items) if one == item), -1)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
