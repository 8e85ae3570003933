"""Checkpoints as the spec of a TrainingJob asks for them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field

from mlenv_api import cel
from mlenv_api.base import Model
from mlenv_api.fields import Name253
from mlenv_api.sanity import SanitySpec


class ResumePolicy(StrEnum):
    """What an attempt runs from."""

    AUTO = "Auto"
    """The newest good checkpoint; a fresh start only where none ever was, or all went with their pods."""
    REQUIRED = "Required"
    """A checkpoint, also for the first attempt, or the job fails: one of its own, else the one in `from`."""
    NEVER = "Never"
    """Starts over, and ignores what is there; what is saved from then on is resumed from as with Auto."""
    FROM = "From"
    """Starts from the checkpoint that `from` names; what is saved then is resumed from as with Auto."""


class Resume(Model):
    """What an attempt runs from."""

    model_config = ConfigDict(json_schema_extra=cel.RESUME)

    policy: ResumePolicy = ResumePolicy.AUTO
    """Auto, Required, Never or From."""
    from_: Annotated[str, Field(max_length=1024)] | None = Field(default=None, alias="from")
    """With From and Required: a checkpoint's folder in the pods, or its version in W&B: ads/ctr/x-ckpt:v7."""
    things: tuple[Annotated[str, Field(max_length=253)], ...] = Field(default=(), max_length=64)
    """With `from`: names of the Session's things to take, as net; all unless set."""


class Spool(Model):
    """Where checkpoints are sealed."""

    volume_claim_name: Name253
    """A PersistentVolumeClaim that all nodes can mount (ReadWriteMany), or the one node of the job."""


class CheckpointSpec(Model):
    """When the Session of a program saves, where, and what it goes on from."""

    model_config = ConfigDict(json_schema_extra=cel.CHECKPOINT)

    interval_seconds: int | None = Field(default=None, ge=1, le=604800)
    """A checkpoint every so many seconds; 300 unless this or intervalSteps is set."""
    interval_steps: int | None = Field(default=None, ge=1)
    """A checkpoint every so many optimizer steps, instead of by time."""
    spool: Spool | None = None
    """A shared volume. Without one each node keeps its own folder, which goes with its pod."""
    resume: Resume = Resume()
    """What an attempt runs from."""
    sanity: SanitySpec | None = None
    """Which checks of checkpoints have a say. Without it only those that the program arms."""
