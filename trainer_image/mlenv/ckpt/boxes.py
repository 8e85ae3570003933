"""Which part of a tensor this rank holds, and whether it is the one to speak for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from mlenv.ckpt import checksum
from mlenv.ckpt.errors import StateInvalid

if TYPE_CHECKING:
    import torch


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The memory that this rank holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def with_local(tensor: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """`memory` in the place of this rank's part of `tensor`."""
    if not isinstance(tensor, DTensor):
        return memory
    return DTensor.from_local(
        memory,
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def speaks(tensor: torch.Tensor) -> bool:
    """Whether this rank counts where several hold the same shard: the first of them does."""
    if not isinstance(tensor, DTensor):
        return True
    where = tensor.device_mesh.get_coordinate()
    if where is None:
        return False
    if any(isinstance(one, Partial) for one in tensor.placements):
        raise StateInvalid("a tensor with partial sums cannot be saved: reduce it first")
    return all(
        not isinstance(one, Replicate) or place == 0
        for one, place in zip(tensor.placements, where, strict=True)
    )


def share(tensor: torch.Tensor) -> int:
    """This rank's summand of the tensor's checksum."""
    if not isinstance(tensor, DTensor):
        return checksum.of(tensor)
    if not speaks(tensor):
        return 0
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    memory = tensor.to_local()
    assert tuple(memory.shape) == tuple(shape)
    return checksum.of(memory, tensor.shape, offset)
