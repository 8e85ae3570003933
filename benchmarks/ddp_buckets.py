"""What a restart that changes no bit costs under DDP: buckets in a fixed order, and other ways to it.

Plain DDP, DDP with find_unused_parameters and OrderedDDP train the same model in the same processes, in
turn, a few steps each; shown is the ratio of step times within each turn, so a busy machine hurts all alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mlenv.ckpt.buckets import OrderedDDP

STEPS = 10


def model(width: int, depth: int) -> nn.Module:
    """Many layers of one size: 2 x width x width x 4 bytes of gradients each."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)))


def turn(net: nn.Module, batch: torch.Tensor) -> float:
    """Seconds of a few steps, on the slowest rank."""
    dist.barrier()
    began = time.perf_counter()
    for _ in range(STEPS):
        net(batch).sum().backward()
        net.zero_grad()
    took = torch.tensor(time.perf_counter() - began)
    dist.all_reduce(took, dist.ReduceOp.MAX)
    return float(took)


def rank(args: argparse.Namespace) -> None:
    """One rank: all variants, in turn."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    nets: dict[str, nn.Module] = {
        "plain": DistributedDataParallel(model(args.width, args.depth)),
        "ordered": OrderedDDP(model(args.width, args.depth)),
        "find_unused_parameters": DistributedDataParallel(
            model(args.width, args.depth), find_unused_parameters=True
        ),
        "plain again": DistributedDataParallel(model(args.width, args.depth)),
    }
    batch = torch.randn(args.batch, args.width)
    for net in nets.values():
        turn(net, batch)
    seen: dict[str, list[float]] = {name: [] for name in nets}
    for number in range(args.turns):
        order = list(nets)[number % len(nets) :] + list(nets)[: number % len(nets)]
        for name in order:
            seen[name].append(turn(nets[name], batch))
    if dist.get_rank() == 0:
        show(seen, args)
    dist.destroy_process_group()


def show(seen: dict[str, list[float]], args: argparse.Namespace) -> None:
    """Ratios to plain DDP, turn by turn: the median, and where the middle half lies."""
    size = sum(one.numel() * 4 for one in model(args.width, args.depth).parameters()) / 1e6
    base = statistics.median(seen["plain"]) / STEPS * 1000
    print(f"{dist.get_world_size()} ranks, {size:.1f} MB of gradients, plain DDP {base:.2f} ms a step")
    for name, times in seen.items():
        ratios = [one / plain for one, plain in zip(times, seen["plain"], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        best = min(times) / min(seen["plain"])
        print(
            f"  {name:<24} {statistics.median(ratios):.3f} of plain  (middle half {low:.3f} to {high:.3f}); "
            f"fastest turns {best:.3f}"
        )


def main() -> int:
    """Start the ranks under the launcher, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--turns", type=int, default=24)
    args = parser.parse_args()
    if "RANK" in os.environ:
        warnings.simplefilter("ignore")
        rank(args)
        return 0
    launch = [sys.executable, "-m", "mlenv.launch", "--nproc-per-node", str(args.ranks), "--"]
    return subprocess.run([*launch, sys.executable, __file__, *sys.argv[1:]], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
