"""What is not finite makes no checkpoint: weights, moments, losses; masks may hold what they always held."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import programs
import pytest
import torch
import worlds
from hypothesis import given
from hypothesis import strategies as st
from test_faults import Run, restored
from test_writing import litter, sealed
from torch import nn

from mlenv.ckpt import gate, names, seal
from mlenv.ckpt.checkpointer import Checkpointer
from mlenv.ckpt.gate import Census, Finding, Gate

if TYPE_CHECKING:
    from pathlib import Path

NAN, INF = math.nan, math.inf


class TestCensus:
    @given(st.lists(st.sampled_from([0.0, 1.0, -3e38, 3e38, NAN, INF, -INF]), max_size=40))
    def test_it_counts_what_is_not_finite(self, values: list[float]) -> None:
        nans = sum(math.isnan(one) for one in values)
        infinities = sum(math.isinf(one) for one in values)
        assert gate.census(torch.tensor(values)) == Census(nans, infinities)

    @pytest.mark.parametrize(
        "dtype",
        [
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.float8_e4m3fn,
            torch.float8_e5m2,
            torch.complex64,
        ],
    )
    def test_every_kind_of_number(self, dtype: torch.dtype) -> None:
        numbers = torch.ones(2, 3)
        assert gate.census(numbers.to(dtype)) == Census()
        numbers[1, 1] = NAN
        assert gate.census(numbers.to(dtype)) == Census(nans=1)

    def test_whole_numbers_and_nothing_are_finite(self) -> None:
        assert gate.census(torch.arange(3)) == gate.census(torch.zeros(0, 3)) == Census()
        assert gate.census(torch.zeros(1, dtype=torch.bool)) == Census()

    def test_a_sum_that_would_overflow_is_finite(self) -> None:
        assert gate.census(torch.full((9,), 3e38)) == Census()


class Masked(nn.Module):
    """A mask of -inf, as attention has it."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.register_buffer("mask", torch.tensor([0.0, -INF]))
        self.register_buffer("mean", torch.zeros(2))


class TestWhatMayBeInfinite:
    def look(self, known: Gate, net: nn.Module, **more: Any) -> Finding | None:
        return known.look({f"net.{n}": one.detach() for n, one in net.state_dict().items()}, **more)

    def test_a_buffer_that_was_so_when_the_run_began(self) -> None:
        net = Masked()
        known = Gate({"net": net})
        assert self.look(known, net) is None
        net.mask[0] = -INF
        assert self.look(known, net) is None
        net.mask[1] = NAN  # another kind than it had
        assert self.look(known, net) == Finding(
            "net.mask has 1 NaN and 1 infinite among 2 numbers", state=True
        )

    def test_another_buffer_may_not(self) -> None:
        net = Masked()
        known = Gate({"net": net})
        net.state_dict()["mean"][1] = INF
        assert self.look(known, net) == Finding("net.mean has 1 infinite among 2 numbers", state=True)

    def test_weights_that_are_trained_may_not_even_then(self) -> None:
        net = Masked()
        nn.init.constant_(net.linear.bias, NAN)
        assert self.look(Gate({"net": net}), net) is not None
        net.linear.requires_grad_(requires_grad=False)
        assert self.look(Gate({"net": net}), net) is None

    def test_moments_may_not(self) -> None:
        net = nn.Linear(1, 1)
        opt = torch.optim.Adam(net.parameters())
        found = Gate({"net": net, "opt": opt}).look({"opt.weight.exp_avg_sq": torch.tensor([1.0, INF])})
        assert found == Finding("opt.weight.exp_avg_sq has 1 infinite among 2 numbers", state=True)

    def test_the_state_comes_before_the_loss(self) -> None:
        net = Masked()
        known = Gate({"net": net})
        assert self.look(known, net, loss=1.0) is None
        assert self.look(known, net, loss=NAN) == Finding("the committed loss is nan", state=False)
        nn.init.constant_(net.linear.weight, NAN)
        found = self.look(known, net, loss=NAN)
        assert found is not None
        assert found.state

    def test_the_verdict_names_the_rank(self) -> None:
        bad, loss = Finding("w has 1 NaN", state=True), Finding("the committed loss is inf", state=False)
        assert gate.judge([None, None]) is None
        assert gate.judge([None, loss]) == Finding("rank 1: the committed loss is inf", state=False)
        assert gate.judge([loss, None, bad, bad]) == Finding(
            "rank 2: w has 1 NaN (rank(s) 0, 3 found something too)", state=True
        )


def spoil(tensor: torch.Tensor, value: float = NAN) -> float:
    """Put `value` into its first element; what was there."""
    with torch.no_grad():
        before = tensor.view(-1)[0].item()
        tensor.view(-1)[0] = value
    return before


class TestSaving:
    def test_what_is_not_finite_leaves_nothing_and_the_one_before_stays(self, tmp_path: Path) -> None:
        run = Run(tmp_path / "ck")
        run.ck.restore()
        run.step(1)
        before = spoil(run.net[1].weight)
        run.ck.save(2)
        assert not run.ck.wait()
        assert (sealed(tmp_path / "ck"), litter(tmp_path / "ck")) == ([names.folder(1, 1)], [])
        assert "no checkpoint of step 2 (1 refused in a row): rank 0: net.1.weight has 1 NaN" in run.said[-1]
        assert "the newest checkpoint is the one of step 1" in run.said[-1]
        assert (run.ck.stats.refused, run.ck.stats.spoilt, run.ck.stats.failed) == (1, 1, 0)
        spoil(run.net[1].weight, before)
        run.ck.save(3)
        assert run.ck.wait()
        assert (run.ck.stats.missed, run.ck.stats.spoilt, run.ck.stats.saved) == (0, 0, 2)
        run.ck.close()
        assert restored(tmp_path / "ck")[1].step == 3

    def test_a_moment_of_adam(self, tmp_path: Path) -> None:
        run = Run(tmp_path / "ck")
        run.step(1)
        spoil(run.opt.state[run.net[0].weight]["exp_avg_sq"], INF)
        run.ck.save(2)
        assert not run.ck.wait()
        assert "opt.net.0.weight.exp_avg_sq has 1 infinite among 800 numbers" in run.said[-1]

    def test_a_loss_refuses_and_spoils_nothing(self, tmp_path: Path) -> None:
        run = Run(tmp_path / "ck")
        run.ck.save(1, metrics={"loss": INF, "auc": NAN})
        assert not run.ck.wait()
        assert "rank 0: the committed loss is inf" in run.said[-1]
        assert (run.ck.stats.refused, run.ck.stats.spoilt) == (1, 0)
        run.ck.save(2, metrics={"loss": 1.0, "auc": NAN})
        assert run.ck.wait()

    def test_a_mask_is_kept_and_comes_back(self, tmp_path: Path) -> None:
        for number in (1, 2):
            net = Masked()
            with Checkpointer(tmp_path / "ck", every=1, say=lambda _: None, net=net) as ck:
                assert ck.restore().step == number - 1
                assert net.mask.tolist() == [0.0, -INF]
                ck.save(number)
                assert ck.wait(), ck.stats.errors

    def test_allowed_it_is_written_down_and_never_the_newest_good_one(self, tmp_path: Path) -> None:
        folder = tmp_path / "ck"
        run = Run(folder, nonfinite="allow")
        run.ck.house.policy = run.ck.house.policy.__class__(newest=1)
        run.step(1)
        spoil(run.net[1].weight)
        for step in (2, 3):
            run.ck.save(step)
            assert run.ck.wait()
        run.ck.close()
        assert sealed(folder) == [names.folder(1, 1), names.folder(3, 1)]
        seals = [seal.parse((folder / one / names.SEAL).read_bytes()) for one in sealed(folder)]
        assert [one.nonfinite for one in seals] == ["", "rank 0: net.1.weight has 1 NaN among 8 numbers"]

    def test_nonsense_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="nonfinite='maybe': one of refuse, allow"):
            Run(tmp_path / "ck", nonfinite="maybe")


def test_one_rank_s_shard_refuses_on_all_and_going_on_is_as_if_it_had_not_been(tmp_path: Path) -> None:
    folder = str(tmp_path / "ck")
    ref = worlds.run(programs.train, tmp_path / "w", 2, "fsdp", str(tmp_path / "ref"), 12)
    ran = worlds.run(spoilt_shard, tmp_path / "w", 2, folder)
    assert [one["stats"].refused for one in ran] == [1, 1]
    assert [one["stats"].spoilt for one in ran] == [1, 1]
    assert "no checkpoint of step 10" in ran[0]["said"][-1]
    assert "rank 1: net.a.weight has 1 NaN among 4608 numbers" in ran[0]["said"][-1]
    assert sealed(tmp_path / "ck") == [names.folder(5, 1)]
    again = worlds.run(programs.train, tmp_path / "w", 2, "fsdp", folder, 12)
    assert [one["start"] for one in again] == [5, 5]
    assert [one["state"] for one in again] == [one["state"] for one in ref]


def spoilt_shard(rank: int, folder: str) -> Any:
    """Five steps and a checkpoint; then one number of rank 1's own part goes bad."""
    import os

    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    things = programs.Things("fsdp")
    said: list[str] = []
    with Checkpointer(folder, every=5, say=said.append, **things.all()) as ck:
        start = ck.restore()
        for step in range(start.step, 5):
            things.step(step)
            ck.commit(step + 1)
        assert ck.wait()
        if rank == 1:
            spoil(things.net.a.weight.to_local())
        ck.save(10)
    return {"said": said, "stats": ck.stats}


def test_a_loss_on_one_rank_only_refuses_on_all(tmp_path: Path) -> None:
    ran = worlds.run(lonely_loss, tmp_path / "w", 2, str(tmp_path / "ck"))
    assert [stats.refused for stats, _ in ran] == [1, 1]
    assert "rank 1: the committed loss is inf" in ran[0][1][-1]
    assert sealed(tmp_path / "ck") == []


def lonely_loss(rank: int, folder: str) -> Any:
    said: list[str] = []
    with Checkpointer(folder, say=said.append, net=nn.Linear(1, 1)) as ck:
        ck.save(1, metrics={"loss": INF if rank else 0.5})
    return ck.stats, said
