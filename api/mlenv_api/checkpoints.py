"""Checkpoints as the status of a TrainingJob tells of them."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AwareDatetime, Field

from mlenv_api.base import Model
from mlenv_api.fields import Sentence

MAX_CHECK: Final = 63
MAX_FAILED: Final = 5
MAX_REASON: Final = 200
"""Beats and statuses stay small: the seal, and the log of rank 0, have all that checks found."""


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


class FailedCheck(Model):
    """An armed sanity check that a checkpoint failed."""

    check: Annotated[str, Field(max_length=MAX_CHECK)]
    """Its name, as loss_spike."""
    message: Annotated[str, Field(max_length=MAX_REASON)] = ""
    """What it found, a sentence."""


class DoubtedRef(CheckpointRef):
    """A sealed checkpoint that is not gone on from."""

    failed: tuple[FailedCheck, ...] = Field(default=(), max_length=MAX_FAILED)
    """The armed checks that it failed: the first few, each with the first thing that it found."""


class CheckpointRequest(Model):
    """An order to take a checkpoint, by the annotation mlenv.io/checkpoint-requested-at."""

    requested_at: Annotated[str, Field(max_length=64)]
    """The annotation, as it was when this was stored; another text is another order."""
    sealed: CheckpointRef | None = None
    """The first checkpoint sealed after the order was stored; null while the order stands."""
    message: Sentence = ""
    """Why it is not obeyed."""
