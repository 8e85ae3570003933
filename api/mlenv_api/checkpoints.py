"""Checkpoints as status names them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, Field

from mlenv_api.base import Model


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
