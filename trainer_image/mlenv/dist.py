"""Putting a model onto this rank's device and into the world."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.nn.parallel import DistributedDataParallel

from mlenv import job as jobs
from mlenv.ckpt.buckets import OrderedDDP

if TYPE_CHECKING:
    from torch import nn


CUBLAS: Final = "CUBLAS_WORKSPACE_CONFIG"


def wrap(model: nn.Module, *, deterministic: bool = False, **options: Any) -> nn.Module:
    """Move `model` to this rank's device and, when there are peers, average its gradients with theirs (DDP).

    `options` go to DistributedDataParallel. Build optimizers after this. A world of one gets the model
    itself, and so does a model without trainable parameters. Raises WorldError before ``ml.init()``.

    With `deterministic` a run that was cut off and went on from a checkpoint ends bit for bit like one that
    was not, in a world of the same size on the same devices: gradients are added up in an order that does not
    change after the first step (from three ranks on plain DDP's does); and for the whole process torch takes
    deterministic kernels, which may be slower, and raises where it has none.
    """
    job = jobs.current()
    if deterministic:
        os.environ.setdefault(CUBLAS, ":4096:8")  # read when CUDA is first used; torch asks for it
        torch.use_deterministic_algorithms(mode=True)
    model = model.to(job.device)
    trainable = any(parameter.requires_grad for parameter in model.parameters())
    if job.world_size == 1 or not trainable:
        return model
    devices = [job.device] if job.device.type == "cuda" else None
    ddp = OrderedDDP if deterministic else DistributedDataParallel
    return ddp(model, device_ids=devices, **options)
