"""What a state says, which ones are refused and with what sentence, and data sets that grow."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any, Final

import pytest
from datasets import Numbers, sealed, steps_of, world_of

from mlenv.data import StateRefused, Stream, merge

FILES = [[10, 10], [10], [6, 4]]


def make(files: list[list[int]] = FILES, **options: Any) -> Stream:
    return Stream(Numbers(files, widest=100), **{"batch": 4, "rank": 0, "world": 1, "workers": 0, **options})


def after(steps: int, **options: Any) -> dict[str, Any]:
    stream = make(**options)
    assert len(list(islice(stream.batches(), steps))) == steps
    return stream.state_dict()


def test_a_state_is_small_and_json() -> None:
    state = after(13)
    assert json.loads(json.dumps(state)) == state
    assert len(json.dumps(state)) < 1000
    assert (state["epoch"], state["step"], state["batches"]) == (1, 3, 13)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch": 8}, "batch=4, not 8"),
        ({"seed": 7}, "seed=0, not 7"),
        ({"shuffle": False}, "shuffle=True, not False"),
        ({"tail": "pad"}, "tail='drop', not 'pad'"),
        ({"window": 2}, "window=1, not 2"),
        ({"lanes": 2}, "lanes=4, not 2"),
        ({"batch": 8, "seed": 7}, "seed=0, not 7; batch=4, not 8"),
    ],
)
def test_another_order_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StateRefused, match=f"{sentence}.*would change in the middle.*begin anew"):
        make(**options).load_state_dict(after(3))


@pytest.mark.parametrize("files", [[[10, 10], [10], [6, 3]], [[10, 10], [10]], [[20], [10], [6, 4]]])
def test_other_data_is_refused(files: list[list[int]]) -> None:
    with pytest.raises(StateRefused, match=r"another data set \(3 files, 40 rows\)"):
        make(files).load_state_dict(after(3))


def test_a_refused_state_changes_nothing() -> None:
    stream = make(seed=7)
    with pytest.raises(StateRefused):
        stream.load_state_dict(after(3))
    assert stream.state_dict() == after(0, seed=7)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(StateRefused, match="format 2, and this version reads 1"):
        make().load_state_dict({**after(3), "format": 2})


def test_the_number_of_lanes_comes_from_the_state() -> None:
    state = merge([after(1, batch=32)])
    assert state["order"]["lanes"] == 8
    two = make(batch=32, world=2)
    assert two.order.lanes == 16
    two.load_state_dict(state)
    assert two.order.lanes == 8
    with pytest.raises(ValueError, match="8 lanes cannot be shared by 16 ranks: at most 8"):
        make(batch=32, world=16).load_state_dict(state)


class TestMerging:
    def streams(self) -> list[Stream]:
        streams = world_of(Numbers(FILES), 3, batch=4, lanes=4, workers=0)
        list(islice(steps_of(streams), 3))
        return streams

    def test_one_ranks_state_is_that_ranks_only(self) -> None:
        streams = self.streams()
        streams[1].load_state_dict(streams[1].state_dict())
        with pytest.raises(StateRefused, match=r"state of rank 1 of 3, not of 0 of 1.*mlenv.data.merge"):
            make(lanes=4).load_state_dict(streams[1].state_dict())

    def test_all_ranks_are_needed_once(self) -> None:
        states = [stream.state_dict() for stream in self.streams()]
        for some in (states[:2], [states[0], states[0], states[2]], []):
            with pytest.raises(StateRefused, match="every rank of a world once"):
                merge(some)
        assert merge(reversed(states)) == merge(states) == merge([merge(states)])

    def test_ranks_at_different_places_are_noticed(self) -> None:
        streams = self.streams()
        next(iter(streams[2]))
        with pytest.raises(StateRefused, match="differ in batches, step: take them all at the same commit"):
            sealed(streams)

    def test_ranks_with_different_files_are_noticed(self) -> None:
        streams = [
            Stream(Numbers(files), 4, lanes=4, rank=rank, world=2)
            for rank, files in enumerate([FILES, FILES[:2]])
        ]
        with pytest.raises(StateRefused, match="differ in generations"):
            sealed(streams)


class TestGrowth:
    MORE: Final = [*FILES, [12, 12]]

    def test_it_is_asked_for(self) -> None:
        with pytest.raises(StateRefused, match=r"grew from 3 to 4 files.*grown=True"):
            make(self.MORE).load_state_dict(after(3))

    @pytest.mark.parametrize("tail", ["drop", "pad", "carry"])
    def test_new_files_are_read_from_the_next_epoch_on(self, tail: str) -> None:
        old = make(batch=3, tail=tail)
        plain = [batch.ids.tolist() for batch in old]
        state = after(3, batch=3, tail=tail)
        grown = make(self.MORE, batch=3, tail=tail, grown=True)
        grown.load_state_dict(state)
        assert [batch.ids.tolist() for batch in grown] == plain[3:]
        second = [one for batch in grown for one in batch.ids.tolist()]
        fresh = [one for one in second if one >= 40]
        assert len(set(fresh)) >= 22  # at most a tail of them is missing
        if tail == "carry":
            assert len(second) == (40 + 64) // 3 * 3 - 40 // 3 * 3

    def test_a_state_of_a_grown_set_goes_on_and_grows_again(self) -> None:
        state = after(12)
        for files in (self.MORE, [*self.MORE, [8]]):
            stream = make(files, grown=True)
            stream.load_state_dict(state)
            for _ in range(9):
                next(iter(stream))
            state = stream.state_dict()
        assert [(one["epoch"], one["files"]) for one in state["generations"]] == [(0, 3), (2, 4), (3, 5)]
        again = make([*self.MORE, [8]])
        again.load_state_dict(state)
        assert again.state_dict() == state

    def test_at_the_end_of_an_epoch_they_are_read_at_once(self) -> None:
        state = after(10)
        stream = make(self.MORE, grown=True)
        stream.load_state_dict(state)
        assert len(stream) == 16


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"batch": 41}, r"batch of 41 is larger than the data set \(40 rows\)"),
            ({"tail": "wrap"}, "tail='wrap' is none of drop, pad, carry"),
            ({"lanes": 3}, "the lanes must divide the batch"),
            ({"window": 0}, "all at least 1"),
            ({"batch": 17, "world": 2}, "cannot be split into between 2 and 16 equal lanes"),
        ],
    )
    def test_nonsense_gets_a_sentence(self, options: dict[str, Any], sentence: str) -> None:
        with pytest.raises(ValueError, match=sentence):
            make(**options)

    @pytest.mark.parametrize(
        ("batch", "world", "lanes"),
        [(4096, 1, 8), (4096, 4, 32), (4, 1, 4), (6, 2, 6), (7, 7, 7), (100, 2, 10)],
    )
    def test_default_lanes(self, batch: int, world: int, lanes: int) -> None:
        assert make([[5000]], batch=batch, world=world).order.lanes == lanes

    def test_wide_row_groups_make_fewer_lanes(self) -> None:
        stream = Stream(Numbers([[5000]], widest=1 << 30), 4096, rank=0, world=1)
        assert stream.order.lanes == 2
        assert stream.open_bytes < 9 << 30

    def test_ranks_have_lanes_of_about_equal_number(self) -> None:
        streams = world_of(Numbers([[100]]), 3, batch=8, lanes=8)
        assert [list(stream.lanes) for stream in streams] == [[0, 1], [2, 3, 4], [5, 6, 7]]

    def test_rank_and_world_come_from_the_launcher(self, monkeypatch: pytest.MonkeyPatch) -> None:
        where = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
        for name, value in where.items():
            monkeypatch.setenv(name, value)
        stream = Stream(Numbers([[100]]), 8)
        assert (stream.rank, stream.world, list(stream.lanes)) == (1, 2, [4, 5, 6, 7])
