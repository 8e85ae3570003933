"""A held-out set: each sample exactly once in any world, and as many batches on every rank."""

from __future__ import annotations

import pytest
from datasets import Numbers, ids
from hypothesis import given, settings
from hypothesis import strategies as st

from mlenv.data import DataError, Evaluation


@settings(max_examples=100, deadline=None)
@given(
    files=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=3).filter(
        lambda files: sum(map(sum, files)) > 0
    ),
    world=st.integers(1, 7),
    batch=st.integers(1, 30),
    workers=st.integers(0, 3),
)
def test_each_sample_once_and_no_rank_waits(
    files: list[list[int]], world: int, batch: int, workers: int
) -> None:
    ranks = [
        Evaluation(Numbers(files), batch, rank=rank, world=world, workers=workers) for rank in range(world)
    ]
    passes = [[ids(one) for one in rank] for rank in ranks]
    assert sorted(one for rank in passes for step in rank for one in step) == list(
        range(sum(map(sum, files)))
    )
    assert {len(rank) for rank in passes} == {len(ranks[0])}
    sizes = [len(step) for rank in passes for step in rank]
    assert max(sizes) - min(sizes) <= 2
    assert max(sum(len(rank[step]) for rank in passes) for step in range(len(ranks[0]))) <= batch + world


def test_every_iteration_is_a_whole_pass() -> None:
    held_out = Evaluation(Numbers([[5, 5]]), 4, rank=0, world=1)
    once = [ids(batch) for batch in held_out]
    next(iter(held_out))
    assert [ids(batch) for batch in held_out] == once


def test_nothing_to_evaluate_is_said() -> None:
    with pytest.raises(DataError, match="no rows"):
        Evaluation(Numbers([[0]]), 4, rank=0, world=1)
