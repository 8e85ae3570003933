"""Checkpoints as the status of a TrainingJob tells of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from mlenv_api.base import Model
from mlenv_api.fields import Sentence


class CheckpointRef(Model):
    """One sealed checkpoint."""

    step: int = Field(ge=0)
    """Committed optimizer steps that it holds."""
    attempt: int = Field(ge=1)
    """The attempt that saved it."""
    digest: Annotated[str, Field(max_length=64, pattern="^[0-9a-f]{64}$")]
    """SHA-256 of its seal, which covers every file."""
    time: AwareDatetime | None = None
    """When it was first heard of."""


class CheckpointRequest(Model):
    """An order to take a checkpoint, by the annotation mlenv.io/checkpoint-requested-at."""

    requested_at: Annotated[str, Field(max_length=64)]
    """The annotation, as it was when this was stored; another text is another order."""
    sealed: CheckpointRef | None = None
    """The first checkpoint sealed after the order was stored; null while the order stands."""
    message: Sentence = ""
    """Why it is not obeyed."""
