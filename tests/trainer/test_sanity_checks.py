"""Each check finds the fault that it is for, and has nothing against training that goes well."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import nn

from mlenv.ckpt.group import Group
from mlenv.sanity import tables
from mlenv.sanity.rules import CHECKS, ENOUGH, Judge, Probed, Sanity, Seen, Table, Verdict
from mlenv.sanity.watch import Watch
from mlenv.spikes import Spikes

SEEDS = 40
ALONE = Group(None, (0,))


def names(found: list[Verdict]) -> list[str]:
    return [one.check for one in found]


def checked(weight: torch.Tensor, later: torch.Tensor | None = None, shards: int = 1) -> list[str]:
    """What is found of a table, at the second look if there is one; cut by rows among `shards` ranks."""
    table = nn.Embedding(*weight.shape)
    samplers = [tables.Sampler({"net": table}) for _ in range(shards)]
    for one in [weight] if later is None else [weight, later]:
        parts = one.chunk(shards)
        looks = [sampler.look({"net.weight": part}) for sampler, part in zip(samplers, parts, strict=True)]
    return names(Judge(Sanity()).judge(Seen({}, tables=tables.merge(looks))))


def normal(seed: int, rows: int = 1000, dim: int = 16) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


class TestTables:
    @pytest.mark.parametrize("shards", [1, 3])
    def test_one_direction_is_a_collapse(self, shards: int) -> None:
        flat = normal(0)[:, :1] * normal(1)[:1] + 1e-3 * normal(2)
        assert checked(flat, shards=shards) == ["embedding_collapse"]

    @pytest.mark.parametrize("shards", [1, 3])
    def test_rows_that_are_alike_are_a_collapse(self, shards: int) -> None:
        assert checked(5 * normal(1)[:1] + 0.1 * normal(2), shards=shards) == ["embedding_collapse"]

    @pytest.mark.parametrize("shards", [1, 3])
    def test_rows_that_never_change_are_dead(self, shards: int) -> None:
        assert checked(normal(0), normal(0), shards) == ["dead_rows"]

    def test_rows_of_zeros_are_dead(self) -> None:
        assert checked(torch.zeros(1000, 16), torch.zeros(1000, 16)) == ["dead_rows"]

    def test_a_few_rows_that_change_are_enough(self) -> None:
        later = normal(0)
        later[::20] += 1
        assert checked(normal(0), later) == []

    @pytest.mark.parametrize("dim", [4, 8, 16, 64, 128])
    def test_new_tables_are_well(self, dim: int) -> None:
        refused = [
            seed for seed in range(SEEDS) if checked(normal(seed, 300, dim), normal(seed + 1, 300, dim))
        ]
        assert refused == []

    def test_sums_of_shards_are_those_of_the_whole(self) -> None:
        whole = normal(3, 240)
        sampler = tables.Sampler({"net": nn.Embedding(240, 16)})
        one = tables.merge([sampler.look({"net.weight": whole})])[0]
        parts = [tables.Sampler({"net": nn.Embedding(240, 16)}) for _ in range(4)]
        looks = [part.look({"net.weight": own}) for part, own in zip(parts, whole.chunk(4), strict=True)]
        many = tables.merge(looks)[0]
        assert (many.rows, many.filled) == (one.rows, one.filled) == (240, 240)
        assert many.cosine == pytest.approx(one.cosine)
        assert many.rank == pytest.approx(one.rank)

    def test_a_mean_cosine_is_that_of_all_pairs(self) -> None:
        whole = normal(4, 50)
        found = tables.merge([tables.Sampler({"net": nn.Embedding(50, 16)}).look({"net.weight": whole})])[0]
        units = nn.functional.normalize(whole.double(), dim=1)
        pairs = (units @ units.T).sum() - 50
        assert found.cosine == pytest.approx(float(pairs) / (50 * 49))

    def test_small_ones_are_left_alone(self) -> None:
        assert checked(torch.ones(8, 16), torch.ones(8, 16)) == []


class TestSpikes:
    @staticmethod
    def after(values: list[float], metric: str) -> list[str]:
        spikes = Spikes()
        for step, value in enumerate(values, 1):
            spikes.feed(step, {metric: value})
        return names(Judge(Sanity()).judge(Seen({}, spikes.facts)))

    @pytest.mark.parametrize("metric", ["loss", "grad_norm"])
    def test_a_jump_is_one(self, metric: str) -> None:
        noisy = random.Random(1)
        usual = [1 + 0.05 * noisy.gauss(0, 1) for _ in range(60)]
        assert self.after([*usual, 3.0], metric) == [f"{metric}_spike"]

    def test_noise_and_heavy_tails_hardly_are(self) -> None:
        """Normal noise is never refused, a log-normal gradient norm at most once."""
        noisy = random.Random(2)
        normals = [self.after([2 + noisy.gauss(0, 0.2) for _ in range(80)], "loss") for _ in range(SEEDS)]
        tails = [
            self.after([noisy.lognormvariate(0, 0.5) for _ in range(80)], "grad_norm") for _ in range(SEEDS)
        ]
        assert sum(map(bool, normals)) == 0
        assert sum(map(bool, tails)) <= 1


class TestMetrics:
    def test_a_floor_and_what_is_not_a_number(self) -> None:
        judge = Judge(Sanity(floors={"auc": 0.6}))
        assert names(judge.judge(Seen({"auc": 0.59}))) == ["metric_floor"]
        assert names(judge.judge(Seen({"auc": math.nan}))) == ["metric_floor"]
        assert judge.judge(Seen({"auc": 0.61})) == judge.judge(Seen({})) == []

    @pytest.mark.parametrize(("bias", "wrong"), [(0.7, True), (1.3, True), (math.nan, True), (1.1, False)])
    def test_calibration(self, bias: float, wrong: bool) -> None:  # noqa: FBT001
        assert bool(Judge(Sanity()).judge(Seen({"calibration": bias}))) is wrong

    @pytest.mark.parametrize("rate", [0.01, 0.2])
    def test_labels_that_shift(self, rate: float) -> None:
        judge = Judge(Sanity())
        assert not any(judge.judge(Seen({"label_rate": 0.05})) for _ in range(ENOUGH))
        assert names(judge.judge(Seen({"label_rate": rate}))) == ["label_rate"]

    def test_labels_that_vary_do_not(self) -> None:
        """Of 10,000 rows with 5 % positive ones each."""
        noisy = random.Random(3)
        judge = Judge(Sanity())
        rates = [0.05 + noisy.gauss(0, math.sqrt(0.05 * 0.95 / 10_000)) for _ in range(SEEDS)]
        assert not any(judge.judge(Seen({"label_rate": rate})) for rate in rates)

    def test_what_an_armed_check_refused_is_no_example_for_later(self) -> None:
        judge = Judge(Sanity(armed=("label_rate",)))
        for _ in range(ENOUGH):
            judge.judge(Seen({"label_rate": 0.05}))
        found = [names(judge.judge(Seen({"label_rate": 0.5}))) for _ in range(100)]
        assert found == [["label_rate"]] * 100


class TestProbe:
    @staticmethod
    def asked(net: nn.Module, probe: Any) -> list[str]:
        watch = Watch(Sanity(probe=probe), {"net": net})
        watch.probe(ALONE)
        assert watch._probed is not None
        return names(Judge(Sanity()).judge(Seen({}, probed=watch._probed)))

    def test_a_model_that_answers_the_same_whatever_it_is_asked(self) -> None:
        net = nn.Linear(4, 1)
        batch = normal(0, 32, 4)
        assert self.asked(net, lambda: net(batch)) == []
        nn.init.zeros_(net.weight)
        assert self.asked(net, lambda: net(batch)) == ["constant_predictions"]

    def test_one_that_raises_or_gives_nan(self) -> None:
        assert self.asked(nn.Linear(1, 1), lambda: 1 / 0) == ["probe"]
        assert self.asked(nn.Linear(1, 1), lambda: math.nan) == ["probe"]

    def test_an_answer_that_moves(self) -> None:
        judge = Judge(Sanity())
        assert not any(judge.judge(Seen({}, probed=Probed(0.3 + 0.01 * n))) for n in range(ENOUGH))
        assert names(judge.judge(Seen({}, probed=Probed(0.6)))) == ["probe"]

    def test_it_leaves_no_trace(self) -> None:
        net = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
        net[1].eval()
        before = torch.get_rng_state(), {n: one.clone() for n, one in net.state_dict().items()}
        watch = Watch(Sanity(probe=lambda: net(torch.randn(8, 4))), {"net": net})
        watch.probe(ALONE)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert all(torch.equal(one, before[1][n]) for n, one in net.state_dict().items())
        assert (net.training, net[0].training, net[1].training) == (True, True, False)


def test_all_observe_until_armed() -> None:
    table = Table("t", 100, 16, 100, 0.99, 1.0, 0.0, 1.0)
    bad = Seen({"auc": 0.1, "calibration": 9.0}, {"loss_z": 99.0, "grad_norm_z": 99.0}, [table])
    floors = {"auc": 0.5}
    assert not any(one.armed for one in Judge(Sanity(floors=floors)).judge(bad))
    found = Judge(Sanity(armed=CHECKS, floors=floors)).judge(bad)
    assert len(found) == 6
    assert all(one.armed for one in found)


def test_a_check_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="a tuple of names among probe"):
        Sanity(armed=("los_spike",))
    with pytest.raises(ValueError, match="a tuple of names"):
        Sanity(armed="probe")  # type: ignore[arg-type]
