"""The Trainer: the same bits as a loop by hand, whatever is asked of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import namedtuple
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rig import DEADLINE
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import mlenv as ml
from mlenv import job as jobs
from mlenv.trainer import moved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

mse = nn.functional.mse_loss


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_current", None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MLENV_JOB_UID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def job(tmp_path: Path) -> ml.Job:
    return ml.Job(run_dir=tmp_path / "run")


class Parts:
    """All that a loop needs, the same each time."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.x, self.y = torch.randn(120, 8), torch.randn(120, 1)
        self.data = DataLoader(TensorDataset(self.x, self.y), batch_size=8, shuffle=True)
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))
        self.opt = torch.optim.AdamW(self.net.parameters(), 1e-2)
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.opt, 1.0, 0.1, total_iters=20)

    @property
    def state(self) -> Any:
        return [one.tolist() for one in self.net.parameters()], torch.get_rng_state().tolist()

    def loss(self, net: nn.Module, batch: Any) -> torch.Tensor:
        return mse(net(batch[0]), batch[1])


def by_hand(job: ml.Job, parts: Parts, *, scaled: bool, kind: torch.dtype | None, accumulate: int) -> None:
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    opt, net = parts.opt, parts.net
    with ml.Session(job, report_every=0, net=net, opt=opt, schedule=parts.schedule, data=parts.data) as run:
        for batches, (x, y) in enumerate(run.steps(20), 1):
            with torch.autocast("cpu", dtype=kind, enabled=kind is not None):
                loss = mse(net(x), y)
            scaler.scale(loss / accumulate).backward()
            if batches % accumulate == 0:
                scaler.unscale_(opt)
                norm = nn.utils.clip_grad_norm_(net.parameters(), 0.5)
                scaler.step(opt)
                scaler.update()
                opt.zero_grad()
                parts.schedule.step()
                run.commit(loss=loss, grad_norm=norm)


def rows(job: ml.Job) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (job.run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in {"time", "steps_per_second"}} for line in lines]


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("precision", [None, "bf16", "fp16"])
def test_it_is_the_loop_by_hand(tmp_path: Path, accumulate: int, precision: Any) -> None:
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    hand, ours = ml.Job(run_dir=tmp_path / "hand"), ml.Job(run_dir=tmp_path / "ours")
    expected = Parts()
    by_hand(hand, expected, scaled=precision == "fp16", kind=kind, accumulate=accumulate)
    state = expected.state
    parts = Parts()
    run = ml.Trainer(
        ours,
        net=parts.net,
        opt=parts.opt,
        loss=parts.loss,
        data=parts.data,
        steps=20,
        clip=0.5,
        accumulate=accumulate,
        precision=precision,
        schedule=parts.schedule,
        report_every=0,
    ).fit()
    assert parts.state == state
    assert rows(ours) == rows(hand)
    assert (run.step, run.samples, run.epoch) == (20, 20 * 8 * accumulate, 20 * accumulate // 15)


def trainer(job: ml.Job, parts: Parts, **more: Any) -> ml.Trainer:
    return ml.Trainer(
        job,
        **{"net": parts.net, "opt": parts.opt, "loss": parts.loss, "data": parts.data, "steps": 10, **more},
    )


def test_evaluations_do_not_change_training(job: ml.Job) -> None:
    plain = Parts()
    trainer(job, plain).fit()
    state = plain.state
    seen: list[tuple[bool, bool]] = []

    def evaluate(net: nn.Module) -> dict[str, float]:
        seen.append((net.training, torch.is_grad_enabled()))
        torch.rand(3)
        return {"drawn": 1.0}

    parts = Parts()
    run = trainer(job, parts, evaluate=(evaluate, 4)).fit()
    assert parts.state == state
    assert seen == [(False, False)] * 3
    assert [row["step"] for row in rows(job) if "drawn" in row] == [4, 8, 10]
    assert run.step == 10


def test_an_evaluation_is_repeated_when_training_goes_on_there(job: ml.Job) -> None:
    steps: list[int] = []
    for total in (4, 6):
        parts = Parts()
        kept = ml.Checkpoints(every_steps=4)
        evaluate = (lambda _: steps.append(len(steps)) or {"auc": 0.5}, 4)
        trainer(job, parts, evaluate=evaluate, checkpoint=kept, steps=total).fit()
    assert [row["step"] for row in rows(job) if "auc" in row] == [4, 4, 6]


def test_several_optimizers_and_things(job: ml.Job) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.EmbeddingBag(10, 4, sparse=True), nn.Linear(4, 1))
    opts = [torch.optim.SparseAdam(net[0].parameters()), torch.optim.SGD(net[1].parameters(), 0.1)]
    ema = torch.optim.swa_utils.AveragedModel(net[1])
    before = [one.clone() for one in net.parameters()]
    data = [torch.tensor([[1, 2], [3, 4]])] * 3
    steps, kept = 6, ml.Checkpoints(every_steps=3)
    made = ml.Trainer(
        job,
        net=net,
        opt=opts,
        loss=lambda net, x: net(x).sum(),
        data=data,
        steps=steps,
        checkpoint=kept,
        ema=ema,
    )
    made.fit()
    assert not any(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True) if a.ndim == 2)
    last = job.run_dir / "checkpoints" / "step-000000000006.a1"
    kept = "".join(one.read_text() for one in last.rglob("*.json"))
    assert all(name in kept for name in ("opt1", "ema"))


def test_several_values_and_a_clip_of_ones_own(job: ml.Job) -> None:
    parts = Parts()

    def loss(net: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        found = net(batch[0])
        return {"loss": mse(found, batch[1]), "mean": found.mean()}

    def clip(parameters: Any) -> torch.Tensor:
        nn.utils.clip_grad_value_(parameters, 0.1)
        return torch.tensor(7.0)

    trainer(job, parts, loss=loss, clip=clip, report_every=0).fit()
    assert all(row["grad_norm"] == 7.0 and "mean" in row for row in rows(job)[:-1])


def only_mean(net: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
    return {"mean": net(batch[0]).mean()}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"accumulate": 0}, "are at least 1"),
        ({"evaluate": (only_mean, 0)}, "are at least 1"),
        ({"precision": "fp8"}, "precision='fp8': one of bf16, fp16"),
        ({"loss": only_mean}, 'the loss function gave mean: one of them must be called "loss"'),
    ],
)
def test_nonsense_is_refused(job: ml.Job, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        trainer(job, Parts(), **more).fit()


def test_an_optimizer_of_another_model_is_refused(job: ml.Job) -> None:
    with pytest.raises(ValueError, match="holds 4 parameter"):
        trainer(job, Parts(), opt=Parts().opt).fit()


def test_fit_again_begins_without_the_gradients_of_half_a_step(job: ml.Job) -> None:
    class Stopped(Exception):  # noqa: N818
        pass

    def stop_at(batch: int) -> Callable[..., torch.Tensor]:
        seen: list[int] = []

        def loss(net: nn.Module, found: Any) -> torch.Tensor:
            seen.append(1)
            if len(seen) == batch:
                raise Stopped
            return mse(net(found[0]), found[1])

        return loss

    whole = Parts()
    trainer(ml.Job(run_dir=job.run_dir / "whole"), whole, accumulate=3).fit()
    state = whole.state
    parts, kept = Parts(), ml.Checkpoints(every_steps=2)
    cell = trainer(job, parts, accumulate=3, checkpoint=kept, loss=stop_at(3 * 5 + 3))
    with pytest.raises(Stopped):
        cell.fit()
    cell.loss = parts.loss
    assert cell.fit().step == 10
    assert parts.state == state


def test_batches_move_to_the_device() -> None:
    meta = torch.device("meta")
    pair = namedtuple("pair", ["x", "y"])  # noqa: PYI024  (as DataLoaders give them)
    batch = {"a": torch.ones(1), "b": [torch.ones(1), "text"], "c": pair(torch.ones(1), 3)}
    found = moved(batch, meta)
    assert found["a"].device == found["b"][0].device == found["c"].x.device == meta
    assert (found["b"][1], found["c"].y) == ("text", 3)
    assert moved(batch, torch.device("cpu")) is batch


GANG = """
import sys
import torch
from torch import nn
import mlenv as ml

job = ml.init(seed=1)
rows = torch.randn(64, 8, generator=torch.Generator().manual_seed(job.rank))
data = [rows[i : i + 8] for i in range(0, 64, 8)]
ends = []
for ours in (False, True):
    torch.manual_seed(0)
    net = ml.wrap(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)), deterministic=True)
    opt = torch.optim.Adam(net.parameters(), 1e-2)
    if ours:
        ml.Trainer(job, net=net, opt=opt, loss=lambda net, x: net(x).square().mean(), data=data, steps=9,
                   accumulate=2, clip=0.5).fit()
    else:
        with ml.Session(job, net=net, opt=opt, data=data) as run:
            for count, x in enumerate(run.steps(9), 1):
                if count % 2:
                    with net.no_sync():
                        (net(x).square().mean() / 2).backward()
                    continue
                (net(x).square().mean() / 2).backward()
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
                opt.step()
                opt.zero_grad()
                run.commit()
    ends.append([one.tolist() for one in net.parameters()])
print("equal" if ends[0] == ends[1] else f"differ: {ends}")
"""


def test_in_a_gang(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(GANG)
    ended = subprocess.run(
        [sys.executable, "-m", "mlenv.launch", "--nproc-per-node", "2", "train.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert ended.stdout.count("] equal") == 2, ended.stdout + ended.stderr
