"""A checksum of a tensor that is the same however the tensor was cut into shards.

Each element's bits, as a whole number, are multiplied by an odd number that a mix of its index in the whole
tensor gives, and all are added up modulo 2**64. Additions commute, so shards are summed wherever they are and
the sums are added; an odd factor can be undone, so any change of a single element changes the sum, and a
swap of two different elements does but for one chance in about 2**63. A tree of hashes over fixed chunks
would be stronger, but a chunk whose elements lie on several ranks (uneven shards, shards by column) cannot be
hashed without moving them. Files are guarded by SHA-256; this guards what happens between file and model.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MODULUS: Final = 1 << 64
BLOCK: Final = 1 << 15
"""Elements at a time: what is in use fits a core's cache."""
_STEP: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_RAMP: Final = np.arange(1, BLOCK + 1, dtype=np.uint64) * _STEP
_BITS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_UNSIGNED: Final = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def of(local: torch.Tensor, shape: Sequence[int] | None = None, offset: Sequence[int] | None = None) -> int:
    """The sum over a box of a tensor of `shape` that begins at `offset`; over the whole one by default."""
    shape = tuple(local.shape) if shape is None else tuple(shape)
    offset = (0,) * len(shape) if offset is None else tuple(offset)
    if local.numel() == 0:
        return 0
    bits = _bits(local)
    width = bits.size // local.numel()  # complex128 is two numbers of 8 bytes
    starts, length = _runs(tuple(local.shape), shape, offset)
    return _total(bits.reshape(starts.size, length * width), starts * np.uint64(width)) % MODULUS


def text(total: int) -> str:
    """A sum as it stands in a seal."""
    return f"{total % MODULUS:016x}"


def _bits(local: torch.Tensor) -> NDArray[np.unsignedinteger]:
    flat = local.detach().contiguous().cpu().reshape(-1)
    size = min(flat.element_size(), 8)
    seen: NDArray[np.unsignedinteger] = flat.view(_BITS[size]).numpy().view(_UNSIGNED[size])
    return seen


def _runs(
    box: tuple[int, ...], shape: tuple[int, ...], offset: tuple[int, ...]
) -> tuple[NDArray[np.uint64], int]:
    """Where each piece of the box that lies in one row of memory begins in the whole, and their length."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    inner = len(shape)
    while inner > 0 and (inner == len(shape) or box[inner] == shape[inner]):
        inner -= 1
    starts = np.array([sum(o * s for o, s in zip(offset, strides, strict=True))], np.uint64)
    for axis in range(inner):
        along = np.arange(box[axis], dtype=np.uint64) * np.uint64(strides[axis])
        starts = (starts[:, None] + along).reshape(-1)
    return starts, prod(box[inner:])


def _total(rows: NDArray[np.unsignedinteger], starts: NDArray[np.uint64]) -> int:
    """Sum over rows of numbers whose indices count up from `starts`, a block at a time.

    All blocks are worked on in the same memory: fresh memory costs more than the arithmetic.
    """
    length = rows.shape[1]
    group = max(1, BLOCK // length)
    scratch = np.empty((2, min(rows.size, BLOCK)), np.uint64)
    firsts = starts * _STEP
    total = 0
    for first in range(0, length, BLOCK):
        here = firsts + np.uint64(first * int(_STEP) % MODULUS)
        for at in range(0, starts.size, group):
            part = rows[at : at + group, first : first + BLOCK]
            weights, numbers = (one[: part.size].reshape(part.shape) for one in scratch)
            np.add(here[at : at + group, None], _RAMP[: part.shape[1]], out=weights)
            _mix(weights, numbers)
            np.copyto(numbers, part)
            weights *= numbers
            total += int(weights.sum(dtype=np.uint64))
    return total


def _mix(weights: NDArray[np.uint64], spare: NDArray[np.uint64]) -> None:
    """An odd number for each index, of which its multiple of `_STEP` is given: splitmix64, in place."""
    for shift, factor in zip((30, 27), _MIX, strict=True):
        np.right_shift(weights, np.uint64(shift), out=spare)
        weights ^= spare
        weights *= factor
    np.right_shift(weights, np.uint64(31), out=spare)
    weights ^= spare
    weights |= np.uint64(1)
