"""As much of Kubernetes as a gang needs, in memory: API server, kubelets, garbage collector, launchers.

Objects are raw dicts and are replaced, never changed, so a view that was handed out stays as it was.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlenv_api import names
from mlenv_api.checkpoints import FailedCheck
from mlenv_api.protocol import (
    Answer,
    Beat,
    Checkpoint,
    Evidence,
    Judged,
    LauncherPhase,
    Order,
    Origin,
    Progress,
    World,
)

if TYPE_CHECKING:
    from collections.abc import Callable

Raw = dict[str, Any]
START = datetime(2026, 1, 1, tzinfo=UTC)
GRACE_S = 30


class ApiError(Exception):
    """What the API server answers."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def checkpoint(step: int, attempt: int) -> Checkpoint:
    digest = hashlib.sha256(f"{step}/{attempt}".encode()).hexdigest()
    return Checkpoint(step=step, attempt=attempt, digest=digest)


def stamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class FakeLauncher:
    """PID 1 of one pod, as the protocol wants it."""

    port: int
    term: int = 0
    attempt: int = 0
    phase: LauncherPhase = LauncherPhase.WAITING
    evidence: list[Evidence] = field(default_factory=list)
    world: World | None = None
    stopped: bool = False
    step: int = 0
    sequence: int = 0
    sealed: Checkpoint | None = None
    armed: bool = False
    """Whether the program's checks have a say."""
    judged: Judged | None = None
    origin: Origin | None = None
    """What rank 0 proposes."""
    told: Answer | None = None
    """The last answer that was obeyed."""

    def beat(self, now: datetime) -> Beat:
        progress = Progress(step=self.step, samples=self.step * 32, time=now) if self.step else None
        return Beat(
            protocol=1,
            term=self.term,
            attempt=self.attempt,
            phase=self.phase,
            port=self.port,
            evidence=tuple(self.evidence),
            progress=progress,
            sealed=self.sealed,
            judged=self.judged,
            origin=self.origin,
            time=now,
        )

    def obey(self, answer: Answer, started: Callable[[int, World], None]) -> None:
        if (answer.term, answer.attempt) < (self.term, self.attempt):
            return
        self.evidence = [one for one in self.evidence if one.sequence > answer.stored_evidence]
        self.term, self.told = answer.term, answer
        if answer.order in (Order.STOP, Order.DRAIN):
            self.stopped = True
            return
        if answer.attempt > self.attempt:
            self.attempt, self.phase, self.world = answer.attempt, LauncherPhase.WAITING, None
            self.sealed = self.judged = self.origin = None
        if answer.world is not None and self.phase is LauncherPhase.WAITING:
            self.phase, self.world = LauncherPhase.RUNNING, answer.world
            started(self.attempt, answer.world)

    def seal(self, step: int) -> Checkpoint:
        """The ranks of the attempt that runs have sealed a checkpoint."""
        self.sealed = checkpoint(step, self.attempt)
        self.judged = Judged(checkpoint=self.sealed) if self.armed else None
        return self.sealed

    def doubt(self, step: int, **found: str) -> None:
        """They have sealed one that armed checks speak against: by check, what they found."""
        failed = tuple(FailedCheck(check=check, message=message) for check, message in found.items())
        self.judged = Judged(checkpoint=checkpoint(step, self.attempt), failed=failed)

    def fail(self, now: datetime, **what: Any) -> None:
        self.phase = LauncherPhase.FAILED
        self.sequence += 1
        base = {"rank": 0, "local_rank": 0, "exit_code": 1, "message": "RuntimeError: boom"}
        self.evidence.append(
            Evidence(**{**base, "sequence": self.sequence, "attempt": self.attempt, "time": now, **what})
        )


class FakeCluster:
    """The truth. ``writes`` has one line for each write of the operator that the API server was asked."""

    def __init__(self, spec: Raw, *, name: str = "ranker", environment: Raw | None = None) -> None:
        self.now = START
        self.writes: list[str] = []
        self.pods: dict[str, Raw] = {}
        self.nodes = {node: self._node(node) for node in ("n1", "n2", "n3")}
        self.services: dict[str, Raw] = {}
        self.revisions: dict[str, Raw] = {}
        self.drains: dict[str, Raw] = {}
        """Jobs of batch/v1."""
        self.environment = environment
        self.launchers: dict[str, FakeLauncher] = {}
        self.refuse: ApiError | None = None
        """Answer to every POST of a pod."""
        self.starts: list[tuple[int, int, str, World]] = []
        """(attempt, index, pod UID, world) of every start of ranks."""
        self._count = 0
        self.job: Raw | None = {
            "metadata": {
                "name": name,
                "namespace": "ns",
                "uid": self._uid("job"),
                "generation": 1,
                "resourceVersion": self._version(),
                "creationTimestamp": stamp(self.now),
            },
            "spec": spec,
            "status": {"observedGeneration": -1},
        }

    # ---- API server -------------------------------------------------------------------------------------

    def create_pod(self, manifest: Raw) -> Raw:
        name = manifest["metadata"]["name"]
        self.writes.append(f"create pod {name}")
        if self.refuse is not None:
            raise self.refuse
        if name in self.pods:
            raise ApiError(409, "already exists")
        return self._store_pod(
            manifest, uid=self._uid(name), creationTimestamp=stamp(self.now), status={"phase": "Pending"}
        )

    def create_service(self, manifest: Raw) -> Raw:
        self.writes.append("create service")
        return self.services.setdefault(manifest["metadata"]["name"], manifest)

    def create_revision(self, manifest: Raw) -> Raw:
        self.writes.append("create controllerrevision")
        return self.revisions.setdefault(manifest["metadata"]["name"], manifest)

    def drain(self, manifest: Raw) -> Raw:
        name = manifest["metadata"]["name"]
        if name not in self.drains:
            self.writes.append(f"create job {name}")
            self.drains[name] = manifest
        return self.drains[name]

    def delete_pod(self, name: str, uid: str, *, by_operator: bool = True) -> None:
        if by_operator:
            self.writes.append(f"delete pod {name}")
        pod = self._get_pod(name, uid)
        if pod["metadata"].get("deletionTimestamp"):
            return
        runs = pod["status"]["phase"] == "Running" and "nodeName" in pod["spec"]
        grace = GRACE_S if runs else 0
        self._store_pod(
            pod,
            deletionTimestamp=stamp(self.now + timedelta(seconds=grace)),
            deletionGracePeriodSeconds=grace,
        )

    def strip_finalizer(self, name: str, uid: str, position: int) -> None:
        self.writes.append(f"strip pod {name}")
        pod = self._get_pod(name, uid)
        finalizers = list(pod["metadata"].get("finalizers") or ())
        if finalizers[position : position + 1] != [names.ACCOUNTED_FINALIZER]:
            raise ApiError(422, "the test failed")
        del finalizers[position]
        self._store_pod(pod, finalizers=finalizers)

    def put_status(self, uid: str, resource_version: str, status: Raw) -> Raw:
        self.writes.append("status")
        if self.job is None or self.job["metadata"]["uid"] != uid:
            raise ApiError(404)
        if self.job["metadata"]["resourceVersion"] != resource_version:
            raise ApiError(409, "the object has been modified")
        self._store_job(status=status)
        return self.job

    def delete_job(self, uid: str | None = None) -> None:
        if uid is not None:
            self.writes.append("delete job")
        if self.job is not None and uid in (None, self.job["metadata"]["uid"]):
            self.job = None

    # ---- people -----------------------------------------------------------------------------------------

    def edit(self, **changes: Any) -> None:
        """Edit the spec, as kubectl does."""
        if self.job is not None:
            spec = {**self.job["spec"], **changes}
            if spec != self.job["spec"]:
                self._store_job(spec=spec, generation=self.job["metadata"]["generation"] + 1)

    def order_checkpoint(self, at: str | None) -> None:
        """Set the annotation that orders one, or remove it."""
        if self.job is not None:
            notes = {names.ANNOTATION_CHECKPOINT: at} if at is not None else {}
            meta = {**self.job["metadata"], "resourceVersion": self._version(), "annotations": notes}
            self.job = {**self.job, "metadata": meta}

    def edit_environment(self, **changes: Any) -> None:
        if self.environment is not None:
            meta = self.environment["metadata"]
            self.environment = {
                **self.environment,
                "metadata": {**meta, "generation": meta["generation"] + 1},
                "spec": {**self.environment["spec"], **changes},
            }

    # ---- kubelets and controllers -----------------------------------------------------------------------

    def run_pod(self, name: str, node: str) -> None:
        """Schedule and start a pending pod."""
        pod = self.pods[name]
        if pod["status"]["phase"] != "Pending" or pod["metadata"].get("deletionTimestamp"):
            return
        status = {
            "phase": "Running",
            "podIP": f"10.0.0.{len(self.launchers) + 1}",
            "containerStatuses": [_container({"running": {"startedAt": stamp(self.now)}})],
        }
        stored = self._store_pod(pod, spec={**pod["spec"], "nodeName": node}, status=status)
        if names.ENV_TOKEN_FILE in {one["name"] for one in pod["spec"]["containers"][0]["env"]}:
            self.launchers[stored["metadata"]["uid"]] = FakeLauncher(port=20000 + len(self.launchers))

    def set_pod_status(self, name: str, **status: Any) -> None:
        pod = self.pods[name]
        self._store_pod(pod, status={**pod["status"], **status})

    def set_waiting(self, name: str, reason: str, message: str = "") -> None:
        waiting = {"waiting": {"reason": reason, "message": message}}
        self.set_pod_status(name, containerStatuses=[_container(waiting)])

    def set_unschedulable(self, name: str, message: str) -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self.set_pod_status(name, conditions=[condition])

    def end_drain(self, how: str) -> None:
        """The Job that carries a last checkpoint is Complete, or Failed."""
        for name, raw in self.drains.items():
            self.drains[name] = {**raw, "status": {"conditions": [{"type": how, "status": "True"}]}}

    def end_pod(self, name: str, exit_code: int, **terminated: Any) -> None:
        """End the container; the pod's phase follows."""
        pod = self.pods[name]
        if pod["status"]["phase"] != "Running":
            return
        self.launchers.pop(pod["metadata"]["uid"], None)
        state = {"exitCode": exit_code, "reason": "Error", "finishedAt": stamp(self.now), **terminated}
        self.set_pod_status(
            name,
            phase="Failed" if exit_code else "Succeeded",
            containerStatuses=[_container({"terminated": state})],
        )

    def finish_deletion(self, name: str) -> None:
        """The kubelet has ended the containers of a pod that is being deleted."""
        if self.pods[name]["metadata"].get("deletionTimestamp") is None:
            return
        self.end_pod(name, 143)
        pod = self.pods[name]
        self._store_pod(pod, deletionGracePeriodSeconds=0, deletionTimestamp=stamp(self.now))

    def taint(self, node: str) -> None:
        """The node is not heard any more."""
        if node in self.nodes:
            self.nodes[node] = self._node(node, ready=False)

    def remove_node(self, node: str) -> None:
        """The node leaves; the garbage collector of pods lets go of what ran there."""
        self.nodes.pop(node, None)
        for name, pod in list(self.pods.items()):
            if pod["spec"].get("nodeName") == node:
                self.launchers.pop(pod["metadata"]["uid"], None)
                self._store_pod(
                    pod,
                    deletionTimestamp=stamp(self.now),
                    deletionGracePeriodSeconds=0,
                    status={**pod["status"], "phase": "Failed"},
                )
                assert name in self.pods or not pod["metadata"]["finalizers"]

    def collect_garbage(self) -> None:
        if self.job is None:
            self.services.clear()
            for name, pod in list(self.pods.items()):
                self.delete_pod(name, pod["metadata"]["uid"], by_operator=False)

    def launcher_of(self, name: str) -> FakeLauncher | None:
        return self.launchers.get(self.pods[name]["metadata"]["uid"])

    # ---- storage ----------------------------------------------------------------------------------------

    def _get_pod(self, name: str, uid: str) -> Raw:
        pod = self.pods.get(name)
        if pod is None or pod["metadata"]["uid"] != uid:
            raise ApiError(404)
        return pod

    def _store_pod(self, pod: Raw, *, spec: Raw | None = None, status: Raw | None = None, **meta: Any) -> Raw:
        new = {**pod, "metadata": {**pod["metadata"], **meta, "resourceVersion": self._version()}}
        new["spec"] = spec or new["spec"]
        new["status"] = status or new.get("status")
        name, metadata = new["metadata"]["name"], new["metadata"]
        # A pod vanishes once nothing holds it: neither a finalizer nor a grace period.
        gone = metadata.get("deletionTimestamp") and metadata.get("deletionGracePeriodSeconds") == 0
        if gone and not metadata.get("finalizers"):
            self.pods.pop(name, None)
            self.launchers.pop(metadata["uid"], None)
        else:
            self.pods[name] = new
        return new

    def _store_job(self, *, generation: int | None = None, **parts: Raw) -> None:
        assert self.job is not None
        meta = {**self.job["metadata"], "resourceVersion": self._version()}
        if generation is not None:
            meta["generation"] = generation
        self.job = {**self.job, **copy.deepcopy(parts), "metadata": meta}

    def _node(self, name: str, *, ready: bool = True) -> Raw:
        taints = [] if ready else [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]
        condition = {
            "type": "Ready",
            "status": "True" if ready else "Unknown",
            "lastTransitionTime": stamp(self.now),
        }
        return {"metadata": {"name": name}, "spec": {"taints": taints}, "status": {"conditions": [condition]}}

    def _version(self) -> str:
        self._count += 1
        return str(self._count)

    def _uid(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}-uid-{self._count}"


def _container(state: Raw) -> Raw:
    return {"name": names.TRAINER_CONTAINER, "state": state}
