"""TrainingJobs, pods and events as typed, frozen values; all that is unknown to them is ignored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import AwareDatetime, Field, ValidationError

from mlenv_api.base import Model
from mlenv_api.conditions import ConditionType
from mlenv_api.names import ANNOTATION_CHECKPOINT, ANNOTATION_INCARNATION, ANNOTATION_INDEX
from mlenv_api.trainingjob import Condition, TrainingJobSpec, TrainingJobStatus
from mlenv_sdk.errors import InvalidManifest, Unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlenv_api.checkpoints import CheckpointRef


class Metadata(Model):
    """The part of an object's metadata that people and programs ask for."""

    name: str = ""
    """Name, unique within the namespace."""
    namespace: str | None = None
    """Namespace; the client's own unless set."""
    uid: str = ""
    """Identity, set by the server."""
    generation: int = 0
    """Counts the changes of spec."""
    resource_version: str = ""
    """Changes with every write."""
    creation_timestamp: AwareDatetime | None = None
    """When the server took it."""
    deletion_timestamp: AwareDatetime | None = None
    """When its deletion was asked for."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations."""


class TrainingJob(Model):
    """A training job: what a user wants (spec) and what the operator tells (status)."""

    api_version: Literal["mlenv.io/v1alpha1"] = "mlenv.io/v1alpha1"
    """Group and version of the API."""
    kind: Literal["TrainingJob"] = "TrainingJob"
    """Always TrainingJob."""
    metadata: Metadata
    """Name, namespace and labels."""
    spec: TrainingJobSpec
    """What is wanted."""
    status: TrainingJobStatus = TrainingJobStatus()
    """What is observed; written by the operator only."""

    @classmethod
    def from_manifest(cls, data: Mapping[str, Any]) -> Self:
        """The job that a manifest describes; InvalidManifest says which fields are wrong."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InvalidManifest(f"This is no valid TrainingJob: {_sentences(error)}.") from None

    @classmethod
    def from_server(cls, data: Mapping[str, Any]) -> Self:
        """The job that the API server sent; Unreadable when its API is newer than this SDK."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            name = (data.get("metadata") or {}).get("name", "?")
            raise Unreadable(
                f'This mlenv is too old to read the job "{name}" ({_sentences(error)}): upgrade mlenv-sdk.'
            ) from None

    def manifest(self) -> dict[str, Any]:
        """What is sent to the server: all that was set, without status."""
        data: dict[str, Any] = self.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude_unset=True, exclude={"status"}
        )
        return {"apiVersion": self.api_version, "kind": self.kind} | data

    def condition(self, kind: str) -> Condition | None:
        """The condition of this type, if the operator has said anything of it."""
        return next((condition for condition in self.status.conditions if condition.type == kind), None)

    def holds(self, kind: str) -> bool:
        """Whether the condition of this type is True."""
        condition = self.condition(kind)
        return condition is not None and condition.status == "True"

    @property
    def complete(self) -> bool:
        """Whether the job ended well."""
        return self.holds(ConditionType.COMPLETE)

    @property
    def failed(self) -> bool:
        """Whether the job ended badly."""
        return self.holds(ConditionType.FAILED)

    @property
    def finished(self) -> bool:
        """Whether the job ended, one way or the other."""
        return self.complete or self.failed

    @property
    def ordered(self) -> CheckpointOrder | None:
        """The checkpoint that somebody has ordered, and what came of that so far."""
        at = self.metadata.annotations.get(ANNOTATION_CHECKPOINT)
        if at is None:
            return None
        known = self.status.checkpoint.request if self.status.checkpoint else None
        if known is None or known.requested_at != at:
            return CheckpointOrder()
        return CheckpointOrder(known.sealed, known.message)

    @property
    def phase(self) -> str:
        """One word for people; Pending before the operator has seen the job."""
        return self.status.phase.value if self.status.phase else "Pending"


@dataclass(frozen=True)
class CheckpointOrder:
    """An order to take a checkpoint."""

    sealed: CheckpointRef | None = None
    """The one that served it."""
    message: str = ""
    """Why it is not obeyed."""

    @property
    def answered(self) -> bool:
        """Whether nothing more is to come."""
        return self.sealed is not None or bool(self.message)


@dataclass(frozen=True)
class Pod:
    """One pod of a job, as people want to see it."""

    name: str
    index: int
    incarnation: int
    phase: str
    """Pod phase, or the reason why its container waits (ImagePullBackOff), or Terminating."""
    node: str
    message: str
    """Why it is not running, when the cluster says so."""
    created: datetime | None

    @classmethod
    def from_server(cls, raw: Mapping[str, Any]) -> Self:
        """The view of a raw pod."""
        metadata, status = raw.get("metadata") or {}, raw.get("status") or {}
        annotations = metadata.get("annotations") or {}
        phase, message = _pod_phase(metadata, status)
        return cls(
            name=metadata.get("name", ""),
            index=_number(annotations.get(ANNOTATION_INDEX)),
            incarnation=_number(annotations.get(ANNOTATION_INCARNATION)),
            phase=phase,
            node=(raw.get("spec") or {}).get("nodeName") or "",
            message=message,
            created=parse_time(metadata.get("creationTimestamp")),
        )


@dataclass(frozen=True)
class Event:
    """Something that the operator or the cluster said of a job."""

    uid: str
    type: str
    """Normal or Warning."""
    reason: str
    message: str
    count: int
    time: datetime | None
    """When it was last seen."""
    regarding: str
    """UID of the job that it speaks of; events of an older job of the same name have another one."""

    def concerns(self, job: TrainingJob) -> bool:
        """Whether it speaks of this very job."""
        return self.regarding in {"", job.metadata.uid}

    @classmethod
    def from_server(cls, raw: Mapping[str, Any]) -> Self:
        """The view of a raw core/v1 Event, old fields and new."""
        series = raw.get("series") or {}
        metadata = raw.get("metadata") or {}
        seen = (
            series.get("lastObservedTime")
            or raw.get("lastTimestamp")
            or raw.get("eventTime")
            or metadata.get("creationTimestamp")
        )
        return cls(
            uid=metadata.get("uid", ""),
            type=raw.get("type") or "Normal",
            reason=raw.get("reason") or "",
            message=(raw.get("message") or "").strip(),
            count=int(series.get("count") or raw.get("count") or 1),
            time=parse_time(seen),
            regarding=str((raw.get("involvedObject") or {}).get("uid") or ""),
        )


def parse_time(text: str | None) -> datetime | None:
    """A Kubernetes timestamp, with or without a fraction of a second."""
    return datetime.fromisoformat(text) if text else None


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _pod_phase(metadata: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[str, str]:
    phase = str(status.get("phase") or "Pending")
    if metadata.get("deletionTimestamp") and phase not in {"Succeeded", "Failed"}:
        return "Terminating", ""
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            return str(waiting.get("reason") or phase), str(waiting.get("message") or "")
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason") or phase), str(condition.get("message") or "")
    return phase, str(status.get("message") or "")


def _sentences(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in problems)
