"""What checkpoints cost: throughput with them against without, how long a step stands still, and what writes.

Two kinds of turns alternate in the same processes: so many steps with one checkpoint, and as many without.
Steps compute on one thread per rank, as a trainer would on a machine whose cores are taken.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from mlenv.ckpt import checksum, durable
from mlenv.ckpt.buckets import OrderedDDP
from mlenv.ckpt.checkpointer import Checkpointer


def turn(net: nn.Module, opt: torch.optim.Optimizer, ids: torch.Tensor, steps: int) -> None:
    """So many optimizer steps."""
    for _ in range(steps):
        net(ids).sum().backward()
        opt.step()
        opt.zero_grad()


def rank(args: argparse.Namespace) -> None:
    """One rank."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = args.megabytes * 1_000_000 // (3 * 4 * 64)  # weights and two moments
    deep = [nn.Sequential(nn.Linear(args.width, args.width), nn.ReLU()) for _ in range(args.depth)]
    net = OrderedDDP(nn.Sequential(nn.Linear(64, args.width), *deep))
    table = nn.Embedding(rows, 64)  # is kept, and not trained: the step stays the same for every size
    opt = torch.optim.Adam([*net.parameters(), *table.parameters()])
    for weight in table.parameters():
        opt.state[weight] = {n: torch.zeros_like(weight) for n in ("exp_avg", "exp_avg_sq")}
        opt.state[weight]["step"] = torch.tensor(1.0)
    held = OrderedDDP(table)
    batch = torch.randn(args.batch, 64)
    folder = Path(args.folder)
    ck = Checkpointer(folder / "ck", every=1, say=lambda _: None, net=net, table=held, opt=opt)
    turn(net, opt, batch, args.steps)
    ck.save(1)  # buffers are made once
    ck.wait()
    ratios = []
    for number in range(args.turns):
        took = {}
        for saves in (True, False) if number % 2 else (False, True):
            dist.barrier()
            began = time.perf_counter()
            if saves:
                ck.save(2 + number)
            turn(net, opt, batch, args.steps)
            took[saves] = time.perf_counter() - began
            ck.wait()
        ratios.append(took[False] / took[True])
    if dist.get_rank() == 0:
        show(ck, ratios, took[False] / args.steps, args)
    ck.close()
    dist.destroy_process_group()


def show(ck: Checkpointer, ratios: list[float], step: float, args: argparse.Namespace) -> None:
    """The figures, of rank 0."""
    low, _, high = statistics.quantiles(ratios, n=4)
    saves, size = ck.stats.saved, ck.sealed.size if ck.sealed else 0
    every = f"one in {args.steps} steps of {step * 1000:.1f} ms"
    print(f"{args.ranks} rank(s), {size / 1e6:.0f} MB a checkpoint, {every}")
    ratio = statistics.median(ratios)
    print(f"  throughput with / without   {ratio:.3f}  (middle half {low:.3f} to {high:.3f})")
    stalled = (ck.stats.stalled - ck.stats.waited) / (saves + ck.stats.failed)
    part = stalled / (step * args.steps)
    print(f"  a step stands still for     {stalled * 1000:.1f} ms a save ({part:.2%} of the time)")
    print(f"  written beside training in  {ck.stats.writing / saves:.2f} s a save ({ck.stats.failed} failed)")
    data = torch.randn(16_000_000)
    began = time.perf_counter()
    checksum.of(data)
    middle = time.perf_counter()
    durable.digest(data.numpy().tobytes())
    end = time.perf_counter()
    print(f"  checksum {64 / (middle - began):.0f} MB/s, SHA-256 {64 / (end - middle):.0f} MB/s (one thread)")


def main() -> int:
    """Start the ranks under the launcher, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--megabytes", type=int, default=100, help="of weights and optimizer state")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200, help="between two checkpoints")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--folder", help="where to write; a temporary one unless given")
    args = parser.parse_args()
    if "RANK" in os.environ:
        rank(args)
        return 0
    folder = args.folder or tempfile.mkdtemp()
    launch = [sys.executable, "-m", "mlenv.launch", "--nproc-per-node", str(args.ranks), "--"]
    code = subprocess.run(
        [*launch, sys.executable, __file__, *sys.argv[1:], "--folder", folder], check=False
    ).returncode
    if not args.folder:
        shutil.rmtree(folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
