"""Builders of raw objects and worlds; every argument replaces one detail of something ordinary."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from mlenv_api.protocol import Beat, Evidence, LauncherPhase
from mlenv_operator.core.classify import Scene, sort_pods
from mlenv_operator.core.project import parse_job, project_pod
from mlenv_operator.core.world import BeatView, PodView, World

Raw = dict[str, Any]
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def stamp(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")


def raw_job(*, status: Raw | None = None, name: str = "ranker", generation: int = 1, **spec: Any) -> Raw:
    trainer = {"image": "img:1", "command": ["train.py"], "numNodes": 2, **spec.pop("trainer", {})}
    return {
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": "job-uid",
            "generation": generation,
            "resourceVersion": "7",
            "creationTimestamp": stamp(ago(3600)),
        },
        "spec": {"trainer": trainer, **spec},
        "status": status or {},
    }


def raw_status(state: str, *, since: float = 100, nodes: int = 2, **changes: Any) -> Raw:
    """The stored status of an attempt that has been in ``state`` for so many seconds."""
    attempt = {"number": 1, "state": state, "since": stamp(ago(since)), **changes.pop("attempt", {})}
    if state == "Running":
        attempt.setdefault("rendezvous", {"address": "10.0.0.1", "port": 29400})
    status = {
        "observedGeneration": 1,
        "attempt": attempt,
        "runGeneration": 1,
        "incarnations": [0] * nodes,
        "startTime": stamp(ago(since)),
        **changes,
    }
    if state in ("Assembling", "Running"):
        status.setdefault("activeSince", stamp(ago(since)))
    if state in ("Complete", "Failed"):
        status.setdefault("completionTime", stamp(ago(since)))
    return status


def raw_pod(
    index: int = 0,
    incarnation: int = 0,
    *,
    phase: str = "Running",
    state: Raw | None = None,
    conditions: list[Raw] | None = None,
    status: Raw | None = None,
    **meta: Any,
) -> Raw:
    name = f"ranker-{index}-{incarnation}"
    if state is None and phase == "Running":
        state = {"running": {"startedAt": stamp(ago(90))}}
    return {
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": f"uid-{index}-{incarnation}",
            "labels": {"mlenv.io/job-name": "ranker", "mlenv.io/job-uid": "job-uid"},
            "annotations": {"mlenv.io/index": str(index), "mlenv.io/incarnation": str(incarnation)},
            "ownerReferences": [{"kind": "TrainingJob", "uid": "job-uid", "controller": True}],
            "finalizers": ["mlenv.io/accounted"],
            **meta,
        },
        "spec": {
            "nodeName": f"n{index + 1}" if phase != "Pending" else None,
            "containers": [{"name": "trainer", "env": [{"name": "MLENV_NUM_PROC_PER_NODE", "value": "2"}]}],
        },
        "status": {
            "phase": phase,
            "podIP": f"10.0.0.{index + 1}",
            "containerStatuses": [{"name": "trainer", "state": state or {}}],
            "conditions": conditions or [],
            **(status or {}),
        },
    }


def pod(index: int = 0, incarnation: int = 0, **changes: Any) -> PodView:
    view = project_pod(raw_pod(index, incarnation, **changes))
    assert view is not None
    return view


def ended_pod(index: int, exit_code: int, *, ago_s: float = 5, **terminated: Any) -> PodView:
    state = {"exitCode": exit_code, "finishedAt": stamp(ago(ago_s)), **terminated}
    return pod(index, phase="Failed" if exit_code else "Succeeded", state={"terminated": state})


def evidence(**changes: Any) -> Evidence:
    base = {"sequence": 1, "attempt": 1, "rank": 0, "local_rank": 0, "exit_code": 1, "time": ago(2)}
    return Evidence(**{**base, **changes})


def heard(*found: Evidence, received: float = 1, **changes: Any) -> BeatView:
    time = ago(received)
    base: Raw = {"protocol": 1, "attempt": 1, "phase": LauncherPhase.RUNNING, "port": 29400, "time": time}
    return BeatView(Beat(**{**base, "evidence": found, **changes}), time)


def world(
    *pods: PodView, job: Raw | None = None, beats: dict[int, BeatView] | None = None, **changes: Any
) -> World:
    by_uid = {one.uid: beats[one.index] for one in pods if beats and one.index in beats}
    view = parse_job(job or raw_job(status=raw_status("Running")))
    return World(now=NOW, job=view, pods=pods, has_service=True, beats=by_uid, **changes)


def scene(made: World) -> Scene:
    assert made.job is not None
    assert made.job.spec is not None
    return sort_pods(made, made.job, made.job.spec)
