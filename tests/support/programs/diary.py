"""Trains on clicks and keeps a diary in the folder of its job: every step of every rank, and the end.

`python diary.py FOLDER STEPS`. The folder is shared by all pods, and outlives them. With DIE=ATTEMPT:STEP
ranks kill themselves there, once the last checkpoint is sealed. With HOLD=STEP they wait behind that step
until there is a file `go` in the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time

import torch
import torch.distributed as dist
from torch import nn

import mlenv as ml
from mlenv.data import merge
from mlenv.data.synthetic import Clicks


class Net(nn.Module):
    """Tables and a small tower with dropout, so that generators matter."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count, 8) for count in (1000, 500, 100, 20))
        self.top = nn.Sequential(nn.Linear(36, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 1))

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """One score a row."""
        found = [table(batch[f"f{i}"]) for i, table in enumerate(self.tables)]
        scores: torch.Tensor = self.top(torch.cat([*found, batch["dense"]], 1)).squeeze(1)
        return scores


def main() -> None:
    """Train, and write down what was done when it was done."""
    folder, steps = sys.argv[1], int(sys.argv[2])
    job = ml.init(seed=3)
    diary = os.open(f"{folder}/diary.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    who = {"attempt": job.attempt, "rank": job.rank, "world": job.world_size, "process": os.urandom(6).hex()}

    def tell(**more: object) -> None:
        os.write(diary, json.dumps({**who, "time": time.time(), **more}).encode() + b"\n")

    data = ml.Stream(Clicks(20_000), 48, lanes=8, tail="carry")
    net = ml.wrap(Net(), deterministic=True)
    opt = torch.optim.AdamW(net.parameters(), 0.01)
    torch.manual_seed(100 + job.rank)
    with ml.Session(job, report_every=0.3, net=net, opt=opt, data=data) as run:
        tell(begins=run.step)
        for batch in run.steps(steps):
            loss = nn.functional.binary_cross_entropy_with_logits(net(batch), batch["label"])
            opt.zero_grad()
            loss.backward()
            opt.step()
            run.commit(loss=loss)
            tell(step=run.step, loss=loss.item().hex())
            if os.environ.get("DIE") == f"{job.attempt}:{run.step}":
                run._keeper.finish()  # nobody else waits for a save
                os.kill(os.getpid(), signal.SIGKILL)
            while os.environ.get("HOLD") == str(run.step) and not os.path.exists(f"{folder}/go"):  # noqa: PTH110
                time.sleep(0.1)
            time.sleep(0.03)
    states = [data.state_dict()] * job.world_size
    if job.world_size > 1:
        dist.all_gather_object(states, data.state_dict())
    whole = merge(states)
    data.load_state_dict(whole)
    exact = data.expected_witness() == whole["witness"]["sealed"]
    weights = b"".join(one.detach().numpy().tobytes() for one in net.parameters())
    end = {"step": run.step, "samples": run.samples, "exact": exact}
    tell(end={**end, "weights": hashlib.sha256(weights).hexdigest()})


if __name__ == "__main__":
    main()
