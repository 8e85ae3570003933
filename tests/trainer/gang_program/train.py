"""What the gangs of these tests run: `train.py OUT DATA STEPS`; every step of every rank is written down.

What is to happen to it is said by variables, and to rank 0 also by files in OUT while it runs: `upto` holds
it before a step, and `strike` stops it at a named place until the test has done there what it came for.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import mlenv as ml
from mlenv import claim
from mlenv.ckpt import failpoints, retain

OUT, DATA, STEPS = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
EVERY = os.environ.get("EVERY", "5")
"""A checkpoint every so many steps, or, with an s behind it, seconds."""
SLOWLY = "SLOWLY" in os.environ
DIE = os.environ.get("DIE")
"""attempt:rank:step after which it kills itself."""
SETTLED = "SETTLED" in os.environ
"""It does so only when all that it has begun to save is sealed in its own folder, too."""
SPOIL = os.environ.get("SPOIL")
"""attempt:rank:step in which one of its moments becomes NaN."""
LANES = int(os.environ.get("LANES", "6"))
DROPOUT = float(os.environ.get("DROPOUT", "0.3"))
SHARDS = "SHARDS" in os.environ
"""fully_shard instead of DDP."""
INSANE = int(os.environ.get("INSANE", "0"))
"""From this step on, in the first attempt, a metric is below the floor that an armed check holds."""
ARMED = tuple(os.environ.get("ARMED", "metric_floor probe").split())
NEWEST = int(os.environ.get("NEWEST", "0"))


class Net(nn.Module):
    """Made in another order than used: plain DDP would form other buckets after a step."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.norm = nn.Linear(96, 1), nn.LayerNorm(96)
        self.middle, self.first = nn.Linear(96, 96), nn.Linear(1, 96)

    def forward(self, x: Tensor) -> Tensor:
        """One number per row."""
        x = torch.relu(self.middle(torch.relu(self.first(x))))
        found: Tensor = self.last(self.norm(nn.functional.dropout(x, DROPOUT, self.training)))
        return found


def read(name: str) -> str:
    """A file of the test's, or nothing."""
    try:
        return (OUT / name).read_text()
    except FileNotFoundError:
        return ""


def stop(point: str, rank: int = 0) -> None:
    """Stand still at a place that the test named, once."""
    del rank
    number, _, wanted = read("strike").partition(" ")
    if wanted == point and job.rank == 0 and not (OUT / f"reached-{number}").exists():
        (OUT / f"reached-{number}").touch()
        while not (OUT / f"go-{number}").exists():
            time.sleep(0.003)


def settle(*args: Any) -> None:
    """Stand still before the record, too."""
    stop("record")
    settled(*args)


def hold(run: ml.Session) -> None:
    """No further than the test allows, unless all is to end."""
    while job.rank == 0 and int(read("upto") or STEPS) <= run.step and not run._told_to_stop:
        time.sleep(0.003)


def now(moment: str | None, run: ml.Session, *, step: int) -> bool:
    """Whether this is attempt:rank:step."""
    del run
    return moment == f"{job.attempt}:{job.rank}:{step}"


def digest() -> str:
    """Of all weights; all ranks ask for it."""
    whole = [one.full_tensor() if isinstance(one, DTensor) else one for one in net.parameters()]
    return hashlib.sha256(b"".join(one.detach().numpy().tobytes() for one in whole)).hexdigest()


def distributed() -> nn.Module:
    """A net on all ranks, equal everywhere."""
    made = Net()
    if not SHARDS:
        return ml.wrap(made, deterministic=True)
    for part in (made.first, made.middle, made):
        fully_shard(part)
    return made


job = ml.init(seed=3)
OUT.mkdir(parents=True, exist_ok=True)
(OUT / f"pid-{job.attempt}-{job.rank}").write_text(str(os.getpid()))
failpoints.hit = stop
settled, claim.settle = claim.settle, settle
data = ml.Stream(Path(DATA), 24, lanes=LANES, tail="carry")
net = distributed()
opt = torch.optim.AdamW(net.parameters(), 0.01)
torch.manual_seed(100 + job.rank)
line_of_numbers = torch.linspace(0, 1, 8).unsqueeze(1)
sanity = ml.Sanity(armed=ARMED, floors={"quality": 0.5}, probe=lambda: net(line_of_numbers))
seconds = float(EVERY[:-1]) if EVERY.endswith("s") else None
policy = ml.Checkpoints(
    every_steps=None if seconds else int(EVERY),
    every_seconds=seconds,
    sanity=sanity if INSANE else None,
    keep=retain.Policy(newest=NEWEST) if NEWEST else retain.Policy(),
)
log = (OUT / f"steps-{job.attempt}-{job.rank}").open("w")
with ml.Session(job, report_every=0, checkpoint=policy, net=net, opt=opt, data=data) as run:
    for batch in run.steps(STEPS):
        hold(run)
        number = batch["number"]
        wanted = (number * 37 % 100).float().unsqueeze(1) / 100
        loss = (net(number.float().unsqueeze(1) / 300) - wanted).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        if now(SPOIL, run, step=run.step + 1):
            opt.state[next(net.parameters())]["exp_avg"].view(-1)[0] = float("nan")
        line = [run.step + 1, batch.ids.tolist(), digest(), loss.item()]
        print(json.dumps(line), file=log, flush=True)
        bad = job.attempt == 1 and run.step + 1 >= INSANE
        more: dict[str, Any] = {"quality": 1.0 - bad} if INSANE else {}
        run.commit(loss=loss, **more)
        if SLOWLY:
            time.sleep(0.02)
        if now(DIE, run, step=run.step):
            if SETTLED and run._keeper is not None:
                run._keeper._ck.wait()
            os.kill(os.getpid(), signal.SIGKILL)
end = {"step": run.step, "samples": run.samples, "epoch": run.epoch, "data": data.state_dict()}
(OUT / f"end-{job.rank}").write_text(json.dumps({**end, "weights": digest()}))
