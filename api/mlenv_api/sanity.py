"""Sanity checks of checkpoints, as a job's spec arms them: the checks themselves are in the trainer."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from mlenv_api.base import Model

Decimal = Annotated[str, Field(max_length=24, pattern=r"^-?(0|[1-9][0-9]{0,9})(\.[0-9]{1,9})?$")]
"""A decimal number, as 0.62: text, because a float is not exact."""
Positive = Annotated[str, Field(max_length=24, pattern=r"^(0|[1-9][0-9]{0,9})(\.[0-9]{1,9})?$")]
"""The same, not negative."""
Factor = Annotated[str, Field(max_length=24, pattern=r"^[1-9][0-9]{0,9}(\.[0-9]{1,9})?$")]
"""The same, at least 1."""


class Check(StrEnum):
    """What can be found wrong with a checkpoint that is finite."""

    PROBE = "probe"
    """The program's probe raises, is not finite, or has moved too far."""
    CONSTANT_PREDICTIONS = "constant_predictions"
    """The probe's predictions are all alike."""
    LOSS_SPIKE = "loss_spike"
    """The metric loss is far above its recent median."""
    GRAD_NORM_SPIKE = "grad_norm_spike"
    """The metric grad_norm is."""
    EMBEDDING_COLLAPSE = "embedding_collapse"
    """Rows of an embedding table are alike, or use few of its dimensions."""
    DEAD_ROWS = "dead_rows"
    """Rows of an embedding table are zero, or never changed."""
    LABEL_RATE = "label_rate"
    """The metric label_rate is not what it was."""
    METRIC_FLOOR = "metric_floor"
    """A metric is below its floor."""
    CALIBRATION = "calibration"
    """The metric calibration is out of bounds."""


class Calibration(Model):
    """Bounds of the metric calibration: the sum of predictions by the sum of labels."""

    least: Positive = "0.8"
    """No less than this."""
    most: Positive = "1.25"
    """No more than this."""


class SanitySpec(Model):
    """Which sanity checks have a say, and what they may find; what the program sets comes first."""

    armed: tuple[Check, ...] = Field(
        default=(), max_length=len(Check), json_schema_extra={"x-kubernetes-list-type": "set"}
    )
    """A checkpoint that fails one of these is not gone on from; what the program arms is armed, too."""
    floors: dict[Annotated[str, Field(max_length=63)], Decimal] = Field(default_factory=dict, max_length=16)
    """The least that metrics may be, as {"auc": "0.62"}; where the program has a floor, too, that counts."""
    probe_band: Positive | None = None
    """So far, relative to the median before, may the program's probe move; 0.5 unless set."""
    loss_z: Positive | None = None
    """Robust deviations above the recent median from which loss has spiked; 10 unless set."""
    grad_norm_z: Positive | None = None
    """The same of grad_norm; 10 unless set."""
    cosine: Positive | None = None
    """Mean cosine of pairs of a table's rows above which they are alike; 0.95 unless set."""
    rank_share: Positive | None = None
    """A table has collapsed when it uses less than this share of its dimensions; 0.1 unless set."""
    dead_rows: Positive | None = None
    """Share of a table's rows that may be zero or as they were; 0.99 unless set."""
    label_rate_ratio: Factor | None = None
    """How many times more, or less, than before label_rate may be; 1.5 unless set."""
    calibration: Calibration | None = None
    """Bounds of calibration; 0.8 to 1.25 unless set."""
