"""The part of a pod that users and the platform team may shape."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from mlenv_api import cel
from mlenv_api.base import Model
from mlenv_api.fields import (
    EnvName,
    Image,
    LabelKey,
    Name253,
    RawObject,
    Resources,
    Text,
    keyed_by,
)
from mlenv_api.tracking import TrackingSpec


class PullPolicy(StrEnum):
    """When the kubelet pulls an image."""

    ALWAYS = "Always"
    IF_NOT_PRESENT = "IfNotPresent"
    NEVER = "Never"


class KeySelector(Model):
    """One key of a Secret or a ConfigMap in the job's namespace."""

    name: Name253
    """Name of the Secret or ConfigMap."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """Key within it."""
    optional: bool | None = None
    """Whether the pod may start without it."""


class EnvVarSource(Model):
    """Where the value of a variable comes from."""

    model_config = ConfigDict(json_schema_extra=cel.ENV_VAR_SOURCE)

    secret_key_ref: KeySelector | None = None
    """A key of a Secret."""
    config_map_key_ref: KeySelector | None = None
    """A key of a ConfigMap."""


class EnvVar(Model):
    """An environment variable of the trainer container."""

    model_config = ConfigDict(json_schema_extra=cel.ENV_VAR)

    name: EnvName
    """Name; those of the platform and of torch.distributed are reserved."""
    value: Text | None = None
    """A literal value."""
    value_from: EnvVarSource | None = None
    """A value taken from a Secret or a ConfigMap."""


class ResourceRequirements(Model):
    """What one node's pod asks for, as in core/v1."""

    requests: Resources = Field(default_factory=dict)
    """What the scheduler reserves."""
    limits: Resources = Field(default_factory=dict)
    """What the pod may not exceed; extended resources such as nvidia.com/gpu go here."""


class PodMetadata(Model):
    """Labels and annotations added to every pod."""

    model_config = ConfigDict(json_schema_extra=cel.POD_METADATA)

    labels: dict[LabelKey, Annotated[str, Field(max_length=63)]] = Field(default_factory=dict, max_length=32)
    """Added labels; those of the platform cannot be replaced."""
    annotations: dict[LabelKey, Text] = Field(default_factory=dict, max_length=32)
    """Added annotations; those of the platform cannot be replaced."""


class LocalObjectReference(Model):
    """The name of an object in the job's namespace."""

    name: Name253
    """Name of the object."""


class PodSpecOverrides(Model):
    """The restricted part of a pod spec that may be set; all else is the platform's."""

    node_selector: dict[LabelKey, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict, max_length=32
    )
    """Labels that a node must have."""
    tolerations: tuple[RawObject, ...] = Field(default=(), max_length=32)
    """Taints to tolerate, as in core/v1."""
    affinity: RawObject | None = None
    """Affinity, as in core/v1."""
    topology_spread_constraints: tuple[RawObject, ...] = Field(default=(), max_length=16)
    """How to spread the gang, as in core/v1."""
    volumes: tuple[RawObject, ...] = Field(default=(), max_length=32)
    """Volumes, as in core/v1."""
    volume_mounts: tuple[RawObject, ...] = Field(default=(), max_length=32)
    """Where the trainer container mounts them, as in core/v1."""
    service_account_name: Name253 | None = None
    """Account of the pods."""
    image_pull_secrets: tuple[LocalObjectReference, ...] = Field(
        default=(), max_length=16, json_schema_extra=keyed_by("name")
    )
    """Secrets for private registries."""
    priority_class_name: Name253 | None = None
    """Priority of the pods."""
    runtime_class_name: Name253 | None = None
    """Container runtime, as nvidia."""
    scheduler_name: Name253 | None = None
    """Scheduler, when it is not the default one."""
    security_context: RawObject | None = None
    """Security context of the pod; merged over the platform's restricted one."""
    termination_grace_period_seconds: int | None = Field(default=None, ge=1, le=3600)
    """Seconds between SIGTERM and SIGKILL (30 unless set)."""


class PodTemplateOverrides(Model):
    """What to add to every pod of the job."""

    metadata: PodMetadata = PodMetadata()
    """Labels and annotations."""
    spec: PodSpecOverrides = PodSpecOverrides()
    """The settable part of the pod spec."""


class EnvironmentDefaults(Model):
    """What a job gets that does not say otherwise."""

    resources_per_node: ResourceRequirements | None = None
    """Resources of each pod."""
    num_proc_per_node: int | None = Field(default=None, ge=1, le=64)
    """Ranks per pod."""


class EnvironmentSpec(Model):
    """What the platform team provides: image, environment, volumes and defaults."""

    image: Image
    """Image of the trainer container unless the job names its own."""
    image_pull_policy: PullPolicy | None = None
    """When to pull the image."""
    launcher_command: tuple[Text, ...] = Field(default=("python3", "-m", "mlenv.launch", "--"), max_length=64)
    """Starts the launcher in this image; the program of the job follows."""
    env: tuple[EnvVar, ...] = Field(default=(), max_length=256, json_schema_extra=keyed_by("name"))
    """Variables, under those of the job."""
    pod_template: PodTemplateOverrides = PodTemplateOverrides()
    """Volumes, tolerations and the rest, under those of the job."""
    defaults: EnvironmentDefaults = EnvironmentDefaults()
    """Used where the job is silent."""
    tracking: TrackingSpec | None = None
    """Where checkpoints of jobs are carried that say nothing of it themselves."""
    description: Annotated[str, Field(max_length=1024)] = ""
    """For people: what this environment is for."""
