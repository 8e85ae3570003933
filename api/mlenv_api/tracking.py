"""Weights & Biases: where a job's courier carries its checkpoints and history, and what of them is there."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import Field

from mlenv_api.base import Model
from mlenv_api.checkpoints import CheckpointRef
from mlenv_api.fields import Name253

Part = Annotated[str, Field(min_length=1, max_length=128, pattern="^[A-Za-z0-9_.-]+$")]


ARTIFACT: Final = re.compile(
    r"[A-Za-z0-9_.-]{1,128}/[A-Za-z0-9_.-]{1,128}/[A-Za-z0-9_.-]{1,128}:[A-Za-z0-9_.-]+"
)
"""As in resume.from: entity, project, name, and a version or an alias; no absolute path has that form."""


def is_artifact(text: str | None) -> bool:
    """Whether this names a version in the store, and no folder."""
    return text is not None and ARTIFACT.fullmatch(text) is not None


class SecretKey(Model):
    """One key of a Secret in the job's namespace."""

    name: Name253
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253)]
    """Key within it."""


class WandbSpec(Model):
    """A project of Weights & Biases, or of a server that speaks its API."""

    entity: Part
    """Team or user."""
    project: Part
    """Project of that entity."""
    base_url: Annotated[str, Field(max_length=1024, pattern="^https?://")] | None = Field(
        default=None, alias="baseURL"
    )
    """Address of the server; the public service unless set."""
    api_key_secret_ref: SecretKey
    """Where the API key is. It is mounted into the courier alone."""
    expose_key_to_trainer: bool = False
    """True gives the program the key as well, as WANDB_API_KEY."""


class TrackingSpec(Model):
    """Where checkpoints are carried besides."""

    wandb: WandbSpec | None = None
    """Each pod has a courier, a sidecar that uploads sealed checkpoints as artifacts."""


class TrackingStatus(Model):
    """The one run that the job has in the store over all its attempts."""

    url: Annotated[str, Field(max_length=1024)] = ""
    """Its page."""


class UploadedRef(CheckpointRef):
    """A checkpoint in the store, read back and verified there."""

    artifact: Annotated[str, Field(max_length=256)] = ""
    """Name and version, as team/project/ranker-77aa-ckpt:v7."""
    url: Annotated[str, Field(max_length=1024)] = ""
    """Page of the run that logged it."""
