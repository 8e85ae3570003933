"""The checks of the schema once more, for clusters and versions whose schema lets more pass."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mlenv_api import names
from mlenv_api.tracking import is_artifact
from mlenv_api.trainingjob import Launcher
from mlenv_operator.core.render.effective import mount_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlenv_api.podtemplate import EnvironmentSpec, EnvVar, PodSpecOverrides
    from mlenv_api.tracking import TrackingSpec
    from mlenv_api.trainingjob import TrainingJobSpec

MAX_POD_TEXT: Final = 256 * 1024
"""Bytes of command, arguments and environment: the kernel takes 2 MiB, but each pod stores its own copy."""
RESERVED_VOLUMES: Final = (
    "mlenv-run",
    "mlenv-spool",
    "mlenv-tmp",
    "mlenv-token",
    "mlenv-wandb-key",
    "mlenv-courier-tmp",
)
_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


def job_problems(name: str, spec: TrainingJobSpec) -> tuple[str, ...]:
    """What is wrong with a job as such; empty when nothing is."""
    return tuple(_job_problems(name, spec))


def environment_problems(spec: TrainingJobSpec, environment: EnvironmentSpec | None) -> tuple[str, ...]:
    """What is wrong with a job in this environment; empty when nothing is."""
    if environment is None:
        return ()
    found = [
        *_reserved(environment.env, "env of the environment"),
        *_volumes(environment.pod_template.spec, "podTemplate of the environment"),
        *_spool(spec, environment.pod_template.spec, "podTemplate of the environment"),
    ]
    found += _artifact(spec, spec.tracking or environment.tracking)
    return tuple(found) or tuple(_size(spec, environment))


def _job_problems(name: str, spec: TrainingJobSpec) -> Iterator[str]:
    if len(name) > names.MAX_JOB_NAME or not _NAME.fullmatch(name):
        yield (
            f"metadata.name must be a lower-case DNS label of at most {names.MAX_JOB_NAME} characters that"
            " begins with a letter; delete the job and create it under another name"
        )
    if spec.environment_ref is None and not spec.trainer.image:
        yield "spec.trainer.image is missing: name an image, or an environment in spec.environmentRef"
    if spec.launcher is Launcher.MLENV and not (spec.trainer.command or spec.trainer.args):
        yield "spec.trainer.command is missing: name the program to run, as [train.py]"
    yield from _reserved(spec.trainer.env, "spec.trainer.env")
    yield from _volumes(spec.pod_template_overrides.spec, "spec.podTemplateOverrides")
    yield from _spool(spec, spec.pod_template_overrides.spec, "spec.podTemplateOverrides")
    if spec.environment_ref is None:  # else the environment may say where the store is
        yield from _artifact(spec, spec.tracking)
    yield from _unread(spec)
    yield from _size(spec, None)


def _reserved(env: Iterable[EnvVar], where: str) -> Iterator[str]:
    for variable in env:
        if variable.name in names.OPEN_ENV:
            continue
        if variable.name in names.RESERVED_ENV or variable.name.startswith(names.RESERVED_ENV_PREFIXES):
            yield f"{where} sets {variable.name}, which the platform sets itself; use another name"


def _volumes(spec: PodSpecOverrides, where: str) -> Iterator[str]:
    for volume in spec.volumes:
        if volume.get("name") in RESERVED_VOLUMES:
            yield f"{where} has a volume {volume['name']}, which the platform adds itself; use another name"


def _spool(spec: TrainingJobSpec, pod: PodSpecOverrides, where: str) -> Iterator[str]:
    """Nothing but the claim may lie where checkpoints go: they would be sealed into something else."""
    if spec.checkpoint.spool is None:
        return
    for path in map(mount_path, pod.volume_mounts):
        if f"{path}/".startswith(f"{names.SPOOL_DIR}/"):
            yield (
                f"{where} mounts a volume at {path}, where spec.checkpoint.spool goes; mount it elsewhere, or"
                " remove spec.checkpoint.spool"
            )


def _unread(spec: TrainingJobSpec) -> Iterator[str]:
    """Without our launcher nothing settles what an attempt runs from."""
    said = spec.checkpoint.model_dump(by_alias=True, exclude_defaults=True).keys() - {"spool"}
    if spec.launcher is Launcher.NONE and said:
        yield (
            f"spec.checkpoint.{min(said)} is read by our launcher only, and spec.launcher is None; remove it"
            " (spool may stay)"
        )
    if spec.launcher is Launcher.NONE and spec.tracking and spec.tracking.wandb:
        yield "spec.tracking.wandb is read with our launcher only, and spec.launcher is None; remove it"


def _artifact(spec: TrainingJobSpec, tracking: TrackingSpec | None) -> Iterator[str]:
    """Only a courier has a key."""
    source = spec.checkpoint.resume.from_
    if is_artifact(source) and not (tracking and tracking.wandb):
        yield (
            f"spec.checkpoint.resume.from names {source} in W&B, and nothing says with whose key it is read;"
            " add spec.tracking.wandb, or name a folder"
        )


def _size(spec: TrainingJobSpec, environment: EnvironmentSpec | None) -> Iterator[str]:
    env = (*(environment.env if environment else ()), *spec.trainer.env)
    texts = [*spec.trainer.command, *spec.trainer.args, *(variable.value or "" for variable in env)]
    size = sum(len(text.encode()) for text in texts)
    if size > MAX_POD_TEXT:
        yield (
            f"command, arguments and environment have {size} bytes together, more than {MAX_POD_TEXT}; move"
            " big values into a ConfigMap or a file of the image"
        )
