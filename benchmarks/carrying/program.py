"""What trains: one rank under the real launcher, which takes turns, each a Session of its own.

All turns are made by one process, so that they differ in nothing but what the benchmark is about: a turn with
a courier writes its history for it, and whoever else works on this machine meanwhile.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from loops.setup import build, frozen
from torch import nn

import mlenv as ml
from carrying import order as orders
from mlenv_api import names

if TYPE_CHECKING:
    from carrying.order import Order


def turn(job: ml.Job, asked: Order) -> orders.Told:
    """Train so many steps; the time of all but the first ones."""
    folder = Path(asked.folder)
    os.environ.pop(names.ENV_COURIER, None)
    if asked.tracked:
        os.environ[names.ENV_COURIER] = str(folder / "courier")
    net, opt = build(asked.size)
    batch = frozen(asked.size)
    policy = ml.Checkpoints(folder=folder / "checkpoints", every_steps=asked.every) if asked.every else None
    began, cpu = time.perf_counter(), time.thread_time()
    with ml.Session(job, checkpoint=policy, net=net, opt=opt) as run:
        for _ in run.steps(asked.steps):
            if run.step == asked.warm:
                (folder / orders.WINDOW).touch()
                began, cpu = time.perf_counter(), time.thread_time()
            loss = nn.functional.mse_loss(net(batch["x"]).squeeze(1), batch["y"])
            opt.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            opt.step()
            run.commit(loss=loss, rate=opt.param_groups[0]["lr"])
        seconds, cpu = time.perf_counter() - began, time.thread_time() - cpu
    return orders.Told(seconds, asked.steps - asked.warm, cpu)


def main() -> None:
    """Take turns until somebody ends it."""
    home = Path(sys.argv[1])
    job = ml.init(seed=0)
    torch.set_num_threads(1)
    for number in itertools.count():
        path = home / orders.ORDER.format(number)
        while not path.exists():
            time.sleep(orders.LOOK_SECONDS)
        orders.write(home / orders.TOLD.format(number), turn(job, orders.order(path)))


if __name__ == "__main__":
    main()
