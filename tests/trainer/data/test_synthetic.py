"""Data without files: reproducible, with a position, and a signal that is as strong as promised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from datasets import sealed, world_of

from mlenv.data import Ragged, StateRefused, Stream, synthetic
from mlenv.data.columns import Jagged

if TYPE_CHECKING:
    from numpy.typing import NDArray


def auc(score: NDArray[Any], label: NDArray[Any]) -> float:
    rank = np.empty(len(score))
    rank[np.argsort(score)] = np.arange(1, len(score) + 1)
    positive = label.sum()
    return float(
        (rank[label == 1].sum() - positive * (positive + 1) / 2) / (positive * (len(label) - positive))
    )


@pytest.mark.parametrize("make", [synthetic.Clicks, synthetic.Histories])
class TestAll:
    def test_a_row_does_not_depend_on_how_it_is_read(self, make: Any) -> None:
        source = make(5000, seed=3)
        whole, some = source.read(1), source.columns(np.array([4999, 4096]))
        for name, column in some.items():
            if isinstance(column, Jagged):
                low, high = whole[name].offsets[-2:]
                assert whole[name].values[low:high].tolist() == column.values[: column.offsets[1]].tolist()
            else:
                assert column.tolist() == whole[name][[-1, 0]].tolist()

    def test_whoever_knows_the_probabilities_reaches_the_best_auc(self, make: Any) -> None:
        source = make(40_000)
        everything = np.arange(source.rows)
        label = np.asarray(source.columns(everything)["label"])
        assert auc(source.probabilities(everything), label) == pytest.approx(source.best_auc(), abs=0.01)
        assert 0.7 < source.best_auc() < 0.95
        assert 0.1 < label.mean() < 0.6

    def test_streams_of_any_world_are_the_same(self, make: Any) -> None:
        def run(world: int) -> tuple[list[float], dict[str, Any]]:
            streams = world_of(make(5000), world, batch=100, lanes=4, epochs=1)
            steps = zip(*(stream.batches() for stream in streams), strict=True)
            labels = [one for parts in steps for batch in parts for one in batch["label"].tolist()]
            return labels, sealed(streams)

        assert run(1) == run(3)

    def test_other_data_is_noticed_and_growth_too(self, make: Any) -> None:
        def stream(rows: int, seed: int = 0, **options: Any) -> Stream:
            return Stream(make(rows, seed=seed), 64, rank=0, world=1, **options)

        state = stream(4096).state_dict()
        with pytest.raises(StateRefused, match="another data set"):
            stream(4096, seed=1).load_state_dict(state)
        stream(10_000, grown=True).load_state_dict(state)


def test_half_of_the_clicks_signal_is_hidden_from_linear_models() -> None:
    source = synthetic.Clicks(40_000, fields=(20, 20, 20))
    columns = source.columns(np.arange(source.rows))
    hot = [np.eye(20)[columns[f"f{i}"]] for i in range(3)]
    label = np.asarray(columns["label"])
    features = np.concatenate([*hot, columns["dense"]], 1)
    weights = np.linalg.lstsq(features, label, rcond=None)[0]
    assert auc(features @ weights, label) < source.best_auc() - 0.02


def test_histories_are_ragged() -> None:
    batch = next(iter(Stream(synthetic.Histories(1000, longest=5), 100, rank=0, world=1)))
    assert isinstance(batch["history"], Ragged)
    assert batch["history"].rows == batch.rows == 100
    assert int(batch["history"].lengths.max()) == 5
    assert int(batch["history"].lengths.min()) == 0
