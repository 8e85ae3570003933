"""A Session whose numbers go bad: what it says, when it ends, what it goes on from; and how saves fare."""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING, Any

import pytest
import torch
from datasets import Numbers
from rig import until
from torch import nn

import mlenv as ml
from mlenv import page
from mlenv.ckpt import seal
from mlenv.spikes import ENOUGH, HIGH, Spikes, zscore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("alone")

EVERY_2 = ml.Checkpoints(every_steps=2)


class Training:
    """A model with dropout, which trains on numbers for some steps."""

    def __init__(self, job: ml.Job, checkpoint: ml.Checkpoints | None = EVERY_2) -> None:
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.opt = torch.optim.Adam(self.net.parameters(), 0.1)
        data = ml.Stream(Numbers([[10]]), 2, rank=0, world=1)
        self.run = ml.Session(
            job, report_every=0, checkpoint=checkpoint, net=self.net, opt=self.opt, data=data
        )

    def steps(self, total: int, then: Callable[[ml.Session], None] = lambda _: None) -> Training:
        """Train up to `total`, with `then` after every commit."""
        with self.run as run:
            for batch in run.steps(total):
                self.opt.zero_grad()
                self.net(batch["number"].float().reshape(-1, 1)).square().mean().backward()
                self.opt.step()
                run.commit(loss=float(run.step))
                then(run)
        return self

    @property
    def weights(self) -> list[Any]:
        return [one.tolist() for one in self.net.parameters()]


def rows(job: ml.Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.run_dir / "metrics.jsonl").read_text().splitlines()]


def sealed(job: ml.Job) -> list[int]:
    return sorted(int(one.parent.name[5:17]) for one in job.run_dir.glob("checkpoints/step-*/SEAL.json"))


def spoiling(training: Training, step: int) -> Callable[[ml.Session], None]:
    """After the commit of `step` one weight is NaN."""

    def then(run: ml.Session) -> None:
        if run.step == step:
            with torch.no_grad():
                next(training.net.parameters())[0, 0] = math.nan

    return then


def code_of(training: Training, total: int, then: Callable[[ml.Session], None]) -> Any:
    with pytest.raises(SystemExit) as caught:
        training.steps(total, then)
    return caught.value.code


class TestState:
    def test_it_ends_with_77_and_goes_on_from_the_last_good_one(
        self, job: ml.Job, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = Training(job)
        assert code_of(first, 1000, spoiling(first, 4)) == 77
        assert first.run.step <= 31  # looks are at most twice as far apart as the last time
        said = capsys.readouterr()
        assert "no checkpoint of step 6 (1 refused in a row): rank 0: net.0.weight has 8 NaN" in said.out
        assert f"ended with exit code 77 at step {first.run.step}" in said.out
        assert "mlenv: the state is not finite, and does not heal: rank 0: net.0.weight has" in said.err
        assert "Exit code 77, to go back to the checkpoint of step 4" in said.err
        assert sealed(job) == [2, 4]
        second = Training(job).steps(13)
        torch.manual_seed(1)
        assert second.weights == Training(job, None).steps(13).weights
        assert second.run.step == 13

    def test_without_any_checkpoint_it_says_so(self, job: ml.Job, capsys: pytest.CaptureFixture[str]) -> None:
        first = Training(job)
        assert code_of(first, 1000, spoiling(first, 1)) == 77
        assert "to go back to the beginning, as there is no checkpoint" in capsys.readouterr().err

    @pytest.mark.parametrize("last", [8, 9])  # the state that a save would have kept, and one after it
    def test_training_that_ends_so_ends_with_77(
        self, job: ml.Job, capsys: pytest.CaptureFixture[str], last: int
    ) -> None:
        first = Training(job)
        assert code_of(first, last, spoiling(first, last)) == 77
        said = capsys.readouterr()
        assert f"ended with exit code 77 at step {last}" in said.out
        assert "mlenv: the state is not finite, and does not heal: rank 0: net.0.weight has 1 NaN" in said.err
        assert f"Exit code 77, to go back to the checkpoint of step {last // 2 * 2}" in said.err
        second = Training(job).steps(last)
        torch.manual_seed(1)
        assert second.weights == Training(job, None).steps(last).weights

    def test_told_not_to_it_ends_well_and_warns(
        self, job: ml.Job, capsys: pytest.CaptureFixture[str]
    ) -> None:
        training = Training(job, ml.Checkpoints(every_steps=2, rollback_after=None))
        training.steps(8, spoiling(training, 8))
        said = capsys.readouterr().out
        assert "warning: training ends with a state that is not finite: rank 0: net.0.weight" in said
        assert "done at step 8" in said

    def test_told_not_to_it_goes_on_and_warns(self, job: ml.Job, capsys: pytest.CaptureFixture[str]) -> None:
        policy = ml.Checkpoints(every_steps=2, rollback_after=None)
        training = Training(job, policy)
        training.steps(40, spoiling(training, 2))
        assert sealed(job) == [2]
        assert "WARNING, 9 in a row: a failure now costs 0 minutes of training" in capsys.readouterr().out

    def test_allowed_it_is_kept(self, job: ml.Job) -> None:
        training = Training(job, ml.Checkpoints(every_steps=2, nonfinite="allow"))
        training.steps(8, spoiling(training, 4))
        assert sealed(job) == [2, 4, 6, 8]  # 2 and 4 are the newest good ones

    def test_nonsense_is_refused(self) -> None:
        with pytest.raises(ValueError, match="nonfinite='no'"):
            ml.Checkpoints(nonfinite="no")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="rollback_after=0: at least 1, or None"):
            ml.Checkpoints(rollback_after=0)
        with pytest.raises(ValueError, match="retry_after=0: at least 1, or None"):
            ml.Checkpoints(retry_after=0)


class TestLoss:
    def train(self, job: ml.Job, bad: Callable[[int], bool], total: int, every: int) -> None:
        """`total` steps; the loss of some is infinite."""
        net = nn.Linear(1, 1)
        with ml.Session(job, report_every=0, checkpoint=ml.Checkpoints(every_steps=every), net=net) as run:
            for _ in run.steps(total):
                run.commit(loss=math.inf if bad(run.step + 1) else 1.0)
                assert run._keeper is not None
                until(lambda: not run._keeper._ck.busy, "the save")  # type: ignore[union-attr]

    def test_the_next_one_comes_sooner_than_it_is_due(self, job: ml.Job) -> None:
        self.train(job, lambda step: step == 6, 8, every=6)
        assert sealed(job) == [7]

    def test_it_is_no_bad_end(self, job: ml.Job) -> None:
        self.train(job, lambda step: step == 8, 8, every=6)
        assert sealed(job) == [6]

    def test_it_never_ends_training(self, job: ml.Job, capsys: pytest.CaptureFixture[str]) -> None:
        self.train(job, lambda _: True, 40, every=2)
        assert sealed(job) == []
        assert "no checkpoint of step 40" in capsys.readouterr().out


class TestTelling:
    def test_metrics_of_checkpoints(self, job: ml.Job, capsys: pytest.CaptureFixture[str]) -> None:
        Training(job).steps(6)
        ours = {"checkpoint_age_s", "checkpoint_stall_s", "checkpoints_missed"}
        last = rows(job)[-1]
        assert ours <= last.keys()
        assert last["checkpoints_missed"] == 0
        assert last["checkpoint_stall_s"] > 0
        shown = page.read(job.run_dir, job.attempt)
        assert shown is not None
        assert ours <= shown.metrics.keys()
        assert "checkpoint_age_s" not in capsys.readouterr().out

    def test_none_without(self, job: ml.Job) -> None:
        Training(job, None).steps(3)
        assert not [name for name in rows(job)[-1] if name.startswith("checkpoint")]

    def test_failed_saves_are_counted_and_end_it_when_asked(
        self, job: ml.Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MLENV_FAILPOINTS", "write=full")
        training = Training(job, ml.Checkpoints(every_steps=2, retry_after=3))
        assert code_of(training, 1000, lambda _: None) == 75
        said = capsys.readouterr()
        assert "checkpoints in a row were not written: writing: the disk is full" in said.err
        assert "Exit code 75" in said.err
        assert rows(job)[-1]["checkpoints_missed"] >= 3

    def test_another_job_s_folder_is_refused(
        self,
        job: ml.Job,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        policy = ml.Checkpoints(every_steps=2, folder=tmp_path / "shared")
        monkeypatch.setenv("MLENV_JOB_UID", "uid-1")
        Training(job, policy).steps(3)
        monkeypatch.setenv("MLENV_JOB_UID", "uid-2")
        assert code_of(Training(job, policy), 3, lambda _: None) == 78
        assert "belongs to job uid-1, and this is job uid-2" in capsys.readouterr().err
        monkeypatch.setenv("MLENV_JOB_UID", "uid-1")
        assert Training(job, policy).steps(4).run.step == 4


class TestSpikes:
    def test_one_that_stands_out(self) -> None:
        spikes, noise = Spikes(), random.Random(0)
        said = [spikes.feed(step, {"loss": noise.gauss(2.0, 0.1)}) for step in range(1, 200)]
        assert said == [[]] * 199
        (told,) = spikes.feed(200, {"loss": 9.0, "auc": 99.0})
        assert told.startswith("loss 9 at step 200 is a spike (median ")
        assert told.endswith(f", z {spikes.facts['loss_z']:.1f})")
        assert spikes.feed(200, {"loss": 9.0}) == []  # the same report again
        assert spikes.feed(201, {"loss": 9.0}) == []  # told once
        assert spikes.counts == {"loss_spikes": 2}

    def test_too_few_values_say_nothing(self) -> None:
        spikes = Spikes()
        for step in range(1, ENOUGH + 1):
            assert spikes.feed(step, {"grad_norm": 10.0**step, "loss": math.nan}) == []
        assert spikes.counts == {}

    def test_a_constant_has_no_spread(self) -> None:
        from collections import deque

        assert zscore(5.0, deque([0.0] * ENOUGH)) == (0.0, 0.0)
        assert zscore(1.05, deque([1.0] * ENOUGH))[0] < HIGH < zscore(1.07, deque([1.0] * ENOUGH))[0]

    def test_a_run_counts_them_and_a_checkpoint_keeps_the_statistic(
        self, job: ml.Job, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with ml.Session(job, report_every=0, checkpoint=EVERY_2, net=nn.Linear(1, 1)) as run:
            for number in run.steps(30):
                run.commit(loss=100.0 if number == 25 else 1.0 + 0.01 * (number % 3))
        assert "loss 100 at step 26 is a spike" in capsys.readouterr().out
        counts = [row.get("loss_spikes") for row in rows(job)]
        assert counts[:25] == [None] * 25
        assert set(counts[25:]) == {1}
        (path,) = job.run_dir.glob("checkpoints/step-000000000030.a1/SEAL.json")
        observed = seal.parse(path.read_bytes()).observed
        assert observed["loss_spikes"] == 1
        assert observed["loss_median"] == pytest.approx(1.01)
        assert json.loads(path.read_text())["seal"]["metrics"] == {"loss": pytest.approx(1.02)}
