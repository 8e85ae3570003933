"""The promise: whatever worlds, workers and restarts do, the same samples come in the same order."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pytest
from datasets import Numbers, sealed, steps_of, world_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mlenv.data import Exhausted, Stream
from mlenv.data.mix import witness

EXAMPLES = settings(max_examples=80, deadline=None)


@dataclass(frozen=True)
class Case:
    """A data set, an order, and worlds that follow each other, each for some steps."""

    files: list[list[int]]
    lanes: int
    share: int
    tail: str
    shuffle: bool
    window: int
    seed: int
    phases: list[tuple[int, int, int]] = field(default_factory=list)
    """(ranks, workers, steps)"""

    @property
    def rows(self) -> int:
        return sum(map(sum, self.files))

    @property
    def batch(self) -> int:
        return self.lanes * self.share

    def options(self, **more: Any) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "lanes": self.lanes,
            "tail": self.tail,
            "shuffle": self.shuffle,
            "window": self.window,
            "seed": self.seed,
            **more,
        }

    def undisturbed(self, steps: int) -> list[list[int]]:
        return list(islice(steps_of(world_of(Numbers(self.files), 1, **self.options(workers=0))), steps))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    groups = st.lists(st.integers(0, 9), min_size=1, max_size=5)
    files = draw(st.lists(groups, min_size=1, max_size=4).filter(lambda f: sum(map(sum, f)) > 0))
    rows = sum(map(sum, files))
    tail = draw(st.sampled_from(["drop", "pad", "carry"]))
    lanes = draw(st.integers(1, 6 if tail == "pad" else min(6, rows)))
    share = draw(st.integers(1, 3 if tail == "pad" else max(1, min(3, rows // lanes))))
    phase = st.tuples(st.integers(1, lanes), st.integers(0, 3), st.integers(0, 6))
    return Case(
        files=files,
        lanes=lanes,
        share=share,
        tail=tail,
        shuffle=draw(st.booleans()),
        window=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 3)),
        phases=draw(st.lists(phase, min_size=1, max_size=4)),
    )


@EXAMPLES
@given(cases())
def test_worlds_that_change_see_what_one_undisturbed_rank_sees(case: Case) -> None:
    source, got, state = Numbers(case.files), [], None
    for ranks, workers, steps in case.phases:
        streams = world_of(source, ranks, **case.options(workers=workers))
        for stream in streams:
            if state is not None:
                stream.load_state_dict(json.loads(json.dumps(state)))
            stream.commit()
        got += list(islice(steps_of(streams), steps))
        for stream in streams:
            stream.commit()
        state = sealed(streams)
    assert got == case.undisturbed(len(got))
    assert state is not None
    assert state["witness"]["sealed"] == sum(map(witness, [as_array(step) for step in got])) % 2**64
    assert state["batches"] == len(got)
    assert state["witness"]["sealed"] == streams[0].expected_witness()


def as_array(numbers: list[int]) -> Any:
    import numpy as np

    return np.array(numbers, np.int64)


@EXAMPLES
@given(cases())
def test_no_sample_is_lost_or_doubled(case: Case) -> None:
    epochs = 3
    (stream,) = world_of(Numbers(case.files), 1, **case.options(workers=0, epochs=epochs))
    passes = []
    while not stream.done:
        passes.append([one for batch in stream for one in batch.ids.tolist()])
    counts = stream.counts()
    seen = Counter(one for each in passes for one in each)
    if case.tail == "drop":
        assert all(len(set(each)) == len(each) == case.rows - case.rows % case.batch for each in passes)
        assert counts == {"dropped": epochs * (case.rows % case.batch), "padded": 0, "carried": 0}
    elif case.tail == "pad":
        assert all(set(each) == set(range(case.rows)) for each in passes)
        assert counts["padded"] == sum(seen.values()) - epochs * case.rows
    else:
        assert seen.total() + counts["carried"] == epochs * case.rows
        assert counts["carried"] < case.batch
        fewest = seen.total() // case.rows
        assert all(fewest <= seen[one] <= fewest + (seen.total() % case.rows > 0) for one in range(case.rows))


@settings(max_examples=25, deadline=None)
@given(cases(), st.data())
def test_every_position_is_restored(case: Case, data: st.DataObject) -> None:
    """Before the first batch, in the middle, at the ends of epochs, after the last."""
    ranks = data.draw(st.integers(1, case.lanes))
    source, options = Numbers(case.files), case.options(workers=0, epochs=3)
    streams = world_of(source, ranks, **options)
    states, all_steps = [sealed(streams)], []
    for step in steps_of(streams):
        all_steps.append(step)
        states.append(sealed(streams))
    drawn = data.draw(st.lists(st.sampled_from(range(len(states))), max_size=5))
    for number in [0, *drawn, len(states) - 1]:
        (again,) = world_of(source, 1, **options)
        again.load_state_dict(states[number])
        assert list(steps_of([again])) == all_steps[number:]


def test_the_end_of_an_epoch_is_the_beginning_of_the_next() -> None:
    stream = Stream(Numbers([[8]]), 4, rank=0, world=1, workers=0)
    first = [batch.ids.tolist() for batch in stream]
    state = stream.state_dict()
    assert (state["epoch"], state["step"], len(first)) == (1, 0, 2)
    again = Stream(Numbers([[8]]), 4, rank=0, world=1, workers=0)
    again.load_state_dict(state)
    second = [batch.ids.tolist() for batch in again]
    assert len(second) == 2  # neither empty nor the third epoch
    assert second == [batch.ids.tolist() for batch in stream]
    assert second != first


def test_a_pass_after_the_last_is_no_silent_success() -> None:
    stream = Stream(Numbers([[8]]), 4, rank=0, world=1, epochs=1)
    assert len(list(stream.batches())) == 2
    assert stream.done
    assert list(stream.batches()) == []
    with pytest.raises(Exhausted, match="all 1 epochs are consumed"):
        iter(stream)


class TestCommits:
    def make(self) -> Stream:
        return Stream(Numbers([[40]]), 4, rank=0, world=1, workers=2)

    def test_only_what_was_committed_is_consumed(self) -> None:
        stream = self.make()
        stream.commit()
        batches = iter(stream)
        given_ids = [next(batches).ids.tolist() for _ in range(3)]
        assert (stream.state_dict()["step"], stream.samples) == (0, 0)
        stream.commit()
        next(batches)  # given, read ahead of any commit
        state = stream.state_dict()
        assert (state["step"], stream.samples) == (3, 12)
        again = self.make()
        again.load_state_dict(state)
        fourth = next(iter(again)).ids.tolist()
        assert fourth not in given_ids
        stream.load_state_dict(stream.state_dict())  # back to the last commit
        assert next(iter(stream)).ids.tolist() == fourth

    def test_where_nobody_commits_what_was_given_is_consumed(self) -> None:
        stream = self.make()
        batches = iter(stream)
        next(batches)
        next(batches)
        assert stream.state_dict()["step"] == 2

    def test_a_loop_that_was_left_goes_on_behind_it(self) -> None:
        stream = self.make()
        got = []
        for _ in range(3):
            for batch in stream:
                got.append(batch.ids.tolist())
                break
        assert got == [batch.ids.tolist() for batch in islice(self.make(), 3)]

    def test_an_old_loop_cannot_go_on(self) -> None:
        stream = self.make()
        old = iter(stream)
        next(old)
        next(iter(stream))
        with pytest.raises(RuntimeError, match="another one was begun"):
            next(old)

    def test_skipping_is_declared_and_leaves_the_rest_as_it_was(self) -> None:
        plain = [batch.ids.tolist() for batch in islice(self.make().batches(), 15)]
        stream = self.make()
        batches = stream.batches()
        got = [next(batches).ids.tolist() for _ in range(2)]
        stream.skip(9)  # over the end of the epoch
        got += [batch.ids.tolist() for batch in islice(stream.batches(), 3)]
        assert got == plain[:2] + plain[11:14]
        state = stream.state_dict()
        assert state["skipped"] == [{"epoch": 0, "step": 2, "batches": 9}]
        assert (state["epoch"], state["step"], state["batches"]) == (1, 4, 5)
        assert state["witness"]["own"] == stream.expected_witness()


@settings(max_examples=40, deadline=None)
@given(cases(), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=4))
def test_the_witness_is_what_the_order_says_also_around_skips(
    case: Case, moves: list[tuple[int, int]]
) -> None:
    (stream,) = world_of(Numbers(case.files), 1, **case.options(workers=0))
    got = []
    for steps, skipped in moves:
        got += [one for batch in islice(stream.batches(), steps) for one in batch.ids.tolist()]
        stream.skip(skipped)
    assert stream.state_dict()["witness"]["own"] == witness(as_array(got)) == stream.expected_witness()


def test_seeds_and_epochs_give_different_orders_and_everything_else_the_same() -> None:
    def order(seed: int, epochs: int = 1) -> list[int]:
        stream = Stream(Numbers([[50], [50]]), 10, seed=seed, rank=0, world=1, epochs=epochs)
        return [one for batch in stream.batches() for one in batch.ids.tolist()]

    assert order(1) == order(1) != order(2)
    two = order(1, epochs=2)
    assert two[:100] == order(1)
    assert two[100:] != two[:100]


def test_without_shuffling_the_global_order_is_the_files() -> None:
    streams = world_of(Numbers([[7, 9], [24]]), 3, batch=8, lanes=4, shuffle=False, epochs=1)
    assert [one for step in steps_of(streams) for one in step] == list(range(40))


class TestReading:
    def reads(self, **options: Any) -> list[list[int]]:
        reads = []
        for rank in range(4):
            source = Numbers([[100] * 16] * 4)
            stream = Stream(source, 80, lanes=8, rank=rank, world=4, epochs=1, **options)
            assert sum(batch.rows for batch in stream) == 1600
            reads.append(source.reads)
        return reads

    def test_each_rank_reads_its_own_row_groups_and_little_else(self) -> None:
        reads = self.reads()
        assert set().union(*reads) == set(range(64))
        assert sum(map(len, reads)) <= 64 + 2 * 8  # lanes begin and end within a row group

    def test_small_data_is_read_once_for_all_epochs(self) -> None:
        source = Numbers([[100] * 16] * 4, widest=1000)
        assert len(list(Stream(source, 80, rank=0, world=1, epochs=3).batches())) == 240
        assert sorted(source.reads) == list(range(64))

    def test_in_file_order_each_rank_reads_everything_once(self) -> None:
        assert all(sorted(each) == list(range(64)) for each in self.reads(shuffle=False, workers=0))

    def test_a_first_batch_is_drawn_from_as_many_row_groups_as_there_are_lanes(self) -> None:
        stream = Stream(Numbers([[100] * 16] * 4), 80, lanes=8, rank=0, world=1)
        assert len({one // 100 for one in next(iter(stream)).ids.tolist()}) >= 8

    def test_not_more_is_read_ahead_than_was_said(self) -> None:
        source = Numbers([[10] * 1000])
        stream = Stream(source, 8, lanes=8, rank=0, world=1, workers=3)
        next(iter(stream))
        stream.__exit__()
        assert len(source.reads) <= 8 + 8 + 3
