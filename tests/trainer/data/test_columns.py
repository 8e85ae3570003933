"""Columns against plain Python lists."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlenv.data import Batch, Ragged, columns
from mlenv.data.columns import Jagged

if TYPE_CHECKING:
    from mlenv.data.columns import Column

LISTS = st.lists(st.lists(st.integers(0, 99), max_size=4), max_size=8)


def jagged(lists: list[list[int]]) -> Jagged:
    flat = np.array([one for each in lists for one in each], np.int64)
    return Jagged(flat, np.cumsum([0, *map(len, lists)]))


def plain(column: Column) -> list[list[int]]:
    assert isinstance(column, Jagged)
    ends = column.offsets.tolist()
    assert (ends[0], ends[-1]) == (0, len(column.values))
    return [column.values[low:high].tolist() for low, high in itertools.pairwise(ends)]


@given(LISTS, st.data())
def test_cut_and_take(lists: list[list[int]], data: st.DataObject) -> None:
    low = data.draw(st.integers(0, len(lists)))
    high = data.draw(st.integers(low, len(lists)))
    assert plain(columns.cut(jagged(lists), low, high)) == lists[low:high]
    index = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=9)) if lists else []
    assert plain(columns.take(jagged(lists), np.array(index, np.int64))) == [lists[one] for one in index]
    assert columns.rows(jagged(lists)) == len(lists)


@given(st.lists(LISTS, min_size=1, max_size=4))
def test_join(parts: list[list[list[int]]]) -> None:
    joined = columns.join([jagged(part) for part in parts])
    assert plain(joined) == [one for part in parts for one in part]


@pytest.mark.parametrize("parts", [1, 2])
def test_what_was_joined_shares_no_memory(parts: int) -> None:
    array, lists = np.arange(3), jagged([[1], [2, 3]])
    joined, lists_joined = columns.join([array] * parts), columns.join([lists] * parts)
    assert isinstance(lists_joined, Jagged)
    joined[:] = 9
    lists_joined.values[:] = 9
    assert (array.tolist(), lists.values.tolist()) == ([0, 1, 2], [1, 2, 3])


def test_batches_keep_their_ids_and_are_dicts() -> None:
    ragged = Ragged(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3]))
    batch = Batch({"x": torch.zeros(2), "r": ragged}, ids=np.array([4, 7]))
    moved = batch.to("cpu", non_blocking=True)
    assert (moved.rows, moved.ids.tolist(), dict(moved).keys()) == (2, [4, 7], {"x", "r"})
    # Pytrees, and so DDP and torch.export, see two tensors in a ragged feature.
    leaves, _ = torch.utils._pytree.tree_flatten(dict(moved))
    assert len(leaves) == 3
