"""A copy of the state in this host's memory, made while training waits; the buffers are kept and reused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mlenv.ckpt import boxes

if TYPE_CHECKING:
    from collections.abc import Mapping


class Stage:
    """Host memory for one snapshot, as large as what this rank writes.

    There is one, so memory is bounded: who takes the next snapshot waits until the last one is written.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copies that training does not change, under the same names; shards stay shards."""
        copies = {}
        cuda = False
        for name, tensor in tensors.items():
            memory = boxes.local(tensor).detach()
            buffer = self._buffer(name, memory)
            buffer.copy_(memory, non_blocking=memory.is_cuda)
            cuda = cuda or memory.is_cuda
            copies[name] = boxes.with_local(tensor, buffer)
        if cuda:
            torch.cuda.synchronize()
        for gone in self._buffers.keys() - tensors.keys():
            del self._buffers[gone]
        return copies

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(one.numel() * one.element_size() for one in self._buffers.values())

    def _buffer(self, name: str, memory: torch.Tensor) -> torch.Tensor:
        known = self._buffers.get(name)
        if known is None or known.shape != memory.shape or known.dtype != memory.dtype:
            known = torch.empty(memory.shape, dtype=memory.dtype, pin_memory=memory.is_cuda)
            self._buffers[name] = known
        return known
