"""A plain script of two ranks with nothing of ours but a Checkpointer, killed and started again."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from rig import DEADLINE, until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from rig import Rig

SCRIPT = """
import os
import signal
import sys

import torch
import torch.distributed as dist
from torch import nn

import mlenv as ml

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
net = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1)))
opt = torch.optim.Adam(net.parameters())
torch.manual_seed(rank)
ck = ml.Checkpointer("ck", every=4, net=net, opt=opt)
start = ck.restore()
for step in range(start.step + 1, 23):
    net(torch.rand(8, 4)).sum().backward()
    opt.step()
    opt.zero_grad()
    ck.commit(step)
    if step == 10 and len(sys.argv) > 1:
        ck.wait()
        open(f"at-ten-{rank}-{os.getpid()}", "w").close()
        dist.barrier()
        signal.pause()
ck.close()
torch.save([one.detach() for one in net.parameters()], f"end-{rank}.pt")
print("done", flush=True)
"""


def run(rig: Rig, name: str, *args: str) -> tuple[subprocess.Popen[bytes], Path]:
    argv = ["--nproc-per-node", "2", "--", "../plain.py", *args]
    return rig.start(argv, name, {})


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(SCRIPT)
    through = alone(rig, tmp_path / "through")
    broken = rig_in(rig, tmp_path / "broken")
    process, _ = run(broken, "first", "halt")
    marks = until(lambda: len(here := list(broken.folder.glob("at-ten-*"))) == 2 and here, "step 10")
    os.kill(int(marks[0].name.split("-")[3]), signal.SIGKILL)
    assert process.wait(DEADLINE) != 0
    process, log = run(broken, "second")
    assert process.wait(DEADLINE) == 0, log.read_text()
    assert "going on from step-000000000008.a1" in log.read_text()
    for rank in (0, 1):
        ended = [(folder / f"end-{rank}.pt").read_bytes() for folder in (through, broken.folder)]
        assert ended[0] == ended[1]


def rig_in(rig: Rig, folder: Path) -> Rig:
    folder.mkdir()
    return type(rig)(folder)


def alone(rig: Rig, folder: Path) -> Path:
    here = rig_in(rig, folder)
    process, log = run(here, "log")
    assert process.wait(DEADLINE) == 0, log.read_text()
    return folder
