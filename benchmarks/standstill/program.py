"""The program under test: a small DDP model on gloo that says when it did what, to BENCH_EVENTS.

``--plain`` is for torchrun and knows nothing of mlenv. The variants share everything but the import, how they
meet (`world`), and the loop around `step` (`train`).
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS: Final = 10_000_000
"""More than anybody waits for: the program is ended, never done."""
BATCH: Final = 64
WIDTH: Final = 256
PLAIN: Final = "--plain" in sys.argv

_events: Final = os.open(os.environ["BENCH_EVENTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
_who: Final = {"process": os.urandom(6).hex(), "rank": int(os.environ["RANK"]), "pid": os.getpid()}


def tell(what: str, **more: float) -> None:
    """One line of the file, in one write."""
    os.write(_events, json.dumps({"what": what, "time": time.time(), **_who, **more}).encode() + b"\n")


def began(process: str) -> float:
    """When a process was started, by the wall clock; exact to 10 ms."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    after_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + after_boot


def load() -> Any:
    """Torch, and what else the variant needs."""
    import torch.distributed  # noqa: PLC0415

    if not PLAIN:
        from mlenv import Session, init  # noqa: F401, PLC0415
    return torch


def world() -> Any:
    """Meet the other ranks."""
    if PLAIN:
        import torch.distributed as dist  # noqa: PLC0415

        dist.init_process_group("gloo")
        return None
    import mlenv as ml  # noqa: PLC0415

    return ml.init(backend="gloo")


def train(job: Any, net: Any, opt: Any, step: Callable[[], Any]) -> None:
    """Step until ended."""
    if PLAIN:
        for number in range(1, STEPS):
            step()
            tell("step", step=number)
        return
    import mlenv as ml  # noqa: PLC0415

    with ml.Session(job, checkpoint=None, net=net, opt=opt) as run:
        for _ in run.steps(STEPS):
            run.commit(loss=step())
            tell("step", step=run.step)


def main() -> None:
    """Start, import, meet, train: one line at the end of each."""
    tell("started", began=began("self"), launcher_began=began("1"))
    torch = load()
    tell("imported")
    job = world()
    tell("connected")
    torch.manual_seed(0)
    shape = (WIDTH, 2 * WIDTH, 2 * WIDTH, 1)
    layers = [torch.nn.Linear(a, b) for a, b in pairwise(shape)]
    net = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(*layers))
    opt = torch.optim.SGD(net.parameters(), lr=1e-3)
    batch = torch.randn(BATCH, WIDTH)
    tell("built")

    def step() -> Any:
        opt.zero_grad()
        loss = net(batch).square().mean()
        loss.backward()
        opt.step()
        return loss

    train(job, net, opt, step)


if __name__ == "__main__":
    main()
