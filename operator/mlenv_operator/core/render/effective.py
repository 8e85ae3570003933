"""A job together with its environment: what its pods are made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlenv_api.podtemplate import EnvironmentSpec, ResourceRequirements
from mlenv_api.trainingjob import Launcher
from mlenv_operator.core.quantity import quantity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mlenv_api.podtemplate import EnvVar, PodSpecOverrides
    from mlenv_api.tracking import WandbSpec
    from mlenv_api.trainingjob import TrainingJobSpec

GPU: Final = "nvidia.com/gpu"
GRACE_SECONDS: Final = 30
_DEFAULT_LAUNCHER: Final[tuple[str, ...]] = EnvironmentSpec.model_fields["launcher_command"].default
_SCALARS: Final = (
    "affinity",
    "priority_class_name",
    "runtime_class_name",
    "scheduler_name",
    "service_account_name",
)


@dataclass(frozen=True, slots=True)
class Effective:
    """The job's words over those of its environment."""

    image: str
    image_pull_policy: str | None
    command: tuple[str, ...]
    args: tuple[str, ...]
    env: tuple[EnvVar, ...]
    resources: ResourceRequirements
    num_nodes: int
    num_proc: int
    mlenv: bool
    """Whether our launcher is PID 1."""
    labels: dict[str, str]
    annotations: dict[str, str]
    pod: dict[str, Any]
    """Fields of the pod spec as they are."""
    security_context: dict[str, Any]
    volumes: tuple[dict[str, Any], ...]
    mounts: tuple[dict[str, Any], ...]
    grace_seconds: int
    spool: str = ""
    """Claim of the volume for checkpoints; empty without one."""
    checkpoint: str = ""
    """spec.checkpoint for the Session, as JSON without defaults; empty when it says nothing."""
    wandb: WandbSpec | None = None
    """Where a courier carries checkpoints; none without."""
    courier: tuple[str, ...] = ("python3", "-m", "mlenv.courier")
    """The command of the courier: mlenv is started there as the launcher is here."""


def effective(spec: TrainingJobSpec, environment: EnvironmentSpec | None) -> Effective:
    """Merge a job into its environment (null: it has none)."""
    base = environment or EnvironmentSpec(image=spec.trainer.image or "")
    trainer, over, under = spec.trainer, spec.pod_template_overrides, base.pod_template
    resources = trainer.resources_per_node or base.defaults.resources_per_node or ResourceRequirements()
    mlenv = spec.launcher is Launcher.MLENV
    policy = trainer.image_pull_policy or base.image_pull_policy
    command, args = _program(spec, base.launcher_command)
    return Effective(
        image=trainer.image or base.image,
        image_pull_policy=None if policy is None else policy.value,
        command=command,
        args=args,
        env=tuple({one.name: one for one in (*base.env, *trainer.env)}.values()),
        resources=resources,
        num_nodes=trainer.num_nodes,
        num_proc=trainer.num_proc_per_node or base.defaults.num_proc_per_node or _gpus(resources) or 1,
        mlenv=mlenv,
        labels={**under.metadata.labels, **over.metadata.labels},
        annotations={**under.metadata.annotations, **over.metadata.annotations},
        pod=_pod_fields(under.spec, over.spec),
        security_context={**(under.spec.security_context or {}), **(over.spec.security_context or {})},
        volumes=_merged(under.spec.volumes, over.spec.volumes, lambda one: str(one.get("name"))),
        mounts=_merged(under.spec.volume_mounts, over.spec.volume_mounts, mount_path),
        grace_seconds=(
            over.spec.termination_grace_period_seconds
            or under.spec.termination_grace_period_seconds
            or GRACE_SECONDS
        ),
        spool=spec.checkpoint.spool.volume_claim_name if spec.checkpoint.spool else "",
        checkpoint=_checkpoint(spec) if mlenv else "",
        wandb=_wandb(spec, base) if mlenv else None,
        courier=_courier(base.launcher_command or _DEFAULT_LAUNCHER),
    )


def mount_path(mount: Mapping[str, Any]) -> str:
    """Where a volume is mounted, without a slash at its end."""
    return str(mount.get("mountPath")).rstrip("/")


def _checkpoint(spec: TrainingJobSpec) -> str:
    said = spec.checkpoint.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return json.dumps(said, separators=(",", ":"), sort_keys=True) if said else ""


def _wandb(spec: TrainingJobSpec, base: EnvironmentSpec) -> WandbSpec | None:
    tracking = spec.tracking or base.tracking
    return tracking.wandb if tracking else None


def _courier(launcher: tuple[str, ...]) -> tuple[str, ...]:
    """What runs Python modules in this image, as far as the launcher's command shows it."""
    before = launcher[: launcher.index("-m")] if "-m" in launcher else _DEFAULT_LAUNCHER[:1]
    return (*before, "-m", "mlenv.courier")


def _program(spec: TrainingJobSpec, launcher: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Command and arguments of the container."""
    trainer = spec.trainer
    if spec.launcher is Launcher.NONE:
        return trainer.command, trainer.args
    return (*(launcher or _DEFAULT_LAUNCHER), *trainer.command, *trainer.args), ()


def _gpus(resources: ResourceRequirements) -> int:
    return quantity(resources.limits.get(GPU, 0)) or 0


def _pod_fields(under: PodSpecOverrides, over: PodSpecOverrides) -> dict[str, Any]:
    fields = {_camel(name): getattr(over, name) or getattr(under, name) for name in _SCALARS}
    fields["imagePullSecrets"] = [
        {"name": name}
        for name in dict.fromkeys(one.name for one in (*under.image_pull_secrets, *over.image_pull_secrets))
    ]
    fields["nodeSelector"] = {**under.node_selector, **over.node_selector}
    fields["tolerations"] = [*under.tolerations, *over.tolerations]
    fields["topologySpreadConstraints"] = [
        *under.topology_spread_constraints,
        *over.topology_spread_constraints,
    ]
    return {name: value for name, value in fields.items() if value}


def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(word.title() for word in tail)


def _merged(
    under: Iterable[dict[str, Any]], over: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], str]
) -> tuple[dict[str, Any], ...]:
    return tuple({key(one): one for one in (*under, *over)}.values())
