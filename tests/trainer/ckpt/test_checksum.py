"""The checksum of a tensor is the same however it is cut, and any change of it is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlenv.ckpt import checksum

if TYPE_CHECKING:
    import pytest

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
]


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    count = int(np.prod(shape)) * torch.empty((), dtype=dtype).element_size()
    raw = np.random.default_rng(seed).integers(0, 2 if dtype is torch.bool else 256, count, np.uint8)
    return torch.from_numpy(raw).view(dtype).reshape(shape)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_boxes_of_any_cut_add_up_to_the_whole(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    whole = random(shape, data.draw(st.sampled_from(DTYPES)), data.draw(st.integers(0, 99)))
    cuts = [
        sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=2), label=f"cuts of axis {axis}")})
        for axis, n in enumerate(shape)
    ]

    def boxes(axis: int) -> Any:
        if axis == len(shape):
            yield ()
            return
        for first, end in zip(cuts[axis], cuts[axis][1:], strict=False):
            for rest in boxes(axis + 1):
                yield ((first, end), *rest)

    total = 0
    for box in boxes(0):
        part = whole[tuple(slice(first, end) for first, end in box)]
        total += checksum.of(part, shape, [first for first, _ in box])
    assert total % checksum.MODULUS == checksum.of(whole)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 31))
def test_one_flipped_bit_is_seen(at: int, bit: int) -> None:
    whole = random((10_000,), torch.int32)
    other = whole.clone()
    other[at] = int(np.int32(int(other[at])) ^ np.int32(np.uint32(1 << bit).astype(np.int32)))
    assert checksum.of(other) != checksum.of(whole)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 9999))
def test_two_swapped_elements_are_seen(one: int, two: int) -> None:
    whole = torch.arange(10_000)
    other = whole.clone()
    other[one], other[two] = whole[two], whole[one]
    assert (checksum.of(other) == checksum.of(whole)) == (one == two)


def test_zero_of_either_sign_and_every_nan_is_itself() -> None:
    zeros = [torch.tensor([0.0]), torch.tensor([-0.0])]
    nans = [torch.tensor([0x7FC00000 + i], dtype=torch.int32).view(torch.float32) for i in range(3)]
    assert len({checksum.of(one) for one in zeros + nans}) == 5


def test_memory_order_does_not_matter() -> None:
    whole = random((7, 5), torch.float32)
    assert checksum.of(whole.t().contiguous().t()) == checksum.of(whole)


def test_blocks_and_rows_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = random((300, 70), torch.float32)
    known = checksum.of(whole)
    for block in (1, 7, 64, 1000):
        monkeypatch.setattr(checksum, "BLOCK", block)
        assert checksum.of(whole) == known
        assert (
            checksum.of(whole[:, :33], whole.shape) + checksum.of(whole[:, 33:], whole.shape, (0, 33))
        ) % (checksum.MODULUS) == known


def test_the_sum_stays_the_same_in_later_versions() -> None:
    """Seals of years ago must still fit."""
    assert checksum.text(checksum.of(torch.arange(100_000, dtype=torch.float32))) == KNOWN


KNOWN = "a78754c7a2a02d00"


def test_empty_and_single_tensors() -> None:
    assert checksum.of(torch.empty(0, 3)) == 0
    assert checksum.of(torch.tensor(3)) == checksum.of(torch.tensor([3]))
