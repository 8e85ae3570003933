"""Data and batches of any kind: what a Session asks of them."""

from __future__ import annotations

from typing import Any

import torch


def samples_in(batch: Any) -> int:
    """How many rows it has; 0 where that does not show."""
    if isinstance(batch, torch.Tensor):
        return batch.shape[0] if batch.ndim else 1
    rows = getattr(batch, "rows", None)
    if isinstance(rows, int):
        return rows  # our batches, and ragged features
    if isinstance(batch, dict):
        batch = tuple(batch.values())
    if isinstance(batch, tuple | list):
        return next((count for item in batch if (count := samples_in(item))), 0)
    return 0


def set_epoch(data: Any, epoch: int) -> None:
    """Tell data, and its sampler, which pass begins, if they ask for it."""
    for thing in (data, getattr(data, "sampler", None)):
        tell = getattr(thing, "set_epoch", None)
        if callable(tell):
            tell(epoch)
