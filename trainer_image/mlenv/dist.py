"""Putting a model onto this rank's device and into the world."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn.parallel import DistributedDataParallel

from mlenv import job as jobs

if TYPE_CHECKING:
    from torch import nn


def wrap(model: nn.Module, **options: Any) -> nn.Module:
    """Move `model` to this rank's device and, when there are peers, average its gradients with theirs (DDP).

    `options` go to DistributedDataParallel. Build optimizers after this. A world of one gets the model
    itself, and so does a model without trainable parameters. Raises WorldError before ``ml.init()``.
    """
    job = jobs.current()
    model = model.to(job.device)
    trainable = any(parameter.requires_grad for parameter in model.parameters())
    if job.world_size == 1 or not trainable:
        return model
    devices = [job.device] if job.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, **options)
