"""Small training programs, with all that a restart must bring back."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mlenv.ckpt import buckets
from mlenv.ckpt.checkpointer import Checkpointer
from mlenv.sanity.rules import Sanity

WIDTH = 96


class Net(nn.Module):
    """Branches that are used in another order than they were made in, dropout, batch norm, an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(WIDTH, 1)
        self.emb = nn.Embedding(100, 8)
        self.a = nn.Linear(WIDTH, WIDTH)
        self.first = nn.Linear(16, WIDTH)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.b = nn.Linear(WIDTH, WIDTH)
        self.drop = nn.Dropout(0.2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.first(self.emb(ids).flatten(1))
        x = self.norm(torch.relu(self.b(x)))
        x = self.drop(torch.relu(self.a(x)))
        out: torch.Tensor = self.last(x)
        return out


class Things:
    """A model in its world, and everything that goes with it."""

    def __init__(self, how: str, options: dict[str, Any] | None = None, *, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.net: nn.Module = Net()
        options = dict(options or {})
        mend = options.pop("mend", False)
        if how in {"ddp", "noema"} and dist.is_initialized():
            ddp = (buckets.OrderedDDP if mend else DistributedDataParallel)(self.net, **options)
            self.net = ddp
        elif how in {"fsdp", "hsdp"} and dist.is_initialized():
            mesh = (
                init_device_mesh("cpu", (2, 2), mesh_dim_names=("copy", "shard")) if how == "hsdp" else None
            )
            for part in (self.net.a, self.net.b):
                fully_shard(part, mesh=mesh)  # type: ignore[arg-type]
            fully_shard(self.net, mesh=mesh)
        averaged = how not in {"fsdp", "hsdp", "noema"}
        self.ema = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.9)) if averaged else None
        self.opt = torch.optim.AdamW(self.net.parameters(), lr=1e-2, weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.opt, max_lr=1e-2, total_steps=100)
        self.scaler = Scaler()
        rank = dist.get_rank() if dist.is_initialized() else 0
        torch.manual_seed(1000 + rank)
        random.seed(1000 + rank)

    def all(self) -> dict[str, Any]:
        things = {"net": self.net, "opt": self.opt, "schedule": self.schedule, "scaler": self.scaler}
        return things | ({"ema": self.ema} if self.ema is not None else {})

    def step(self, number: int) -> float:
        """One step on the batch with this number; the loss on this rank."""
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        own = torch.Generator().manual_seed(number * world + rank)
        ids = torch.randint(0, 100, (8, 2), generator=own)
        wanted = torch.randn(8, 1, generator=own) + random.random()  # Python's generator counts too
        loss = nn.functional.mse_loss(self.net(ids), wanted)
        (loss * self.scaler.scale).backward()
        for weight in self.net.parameters():
            if weight.grad is not None:
                weight.grad /= self.scaler.scale
        self.opt.step()
        self.opt.zero_grad()
        self.schedule.step()
        self.scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(self.net)
        return float(loss.detach())


class Scaler:
    """As a GradScaler counts: the scale grows every few steps (the real one needs CUDA to be enabled)."""

    def __init__(self) -> None:
        self.scale, self.tracker = 1024.0, 0

    def update(self) -> None:
        self.tracker += 1
        if self.tracker == 4:
            self.scale, self.tracker = self.scale * 2, 0

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "growth_tracker": self.tracker}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scale, self.tracker = state["scale"], state["growth_tracker"]


def raw(things: Things) -> dict[str, Any]:
    """Everything as torch.save would keep it on this rank: local shards, generators and all."""
    from torch.distributed.tensor import DTensor

    def local(value: Any) -> Any:
        if isinstance(value, DTensor):
            return value.to_local().detach().clone()
        if isinstance(value, torch.Tensor):
            return value.detach().clone()
        if isinstance(value, dict):
            return {key: local(one) for key, one in value.items()}
        return [local(one) for one in value] if isinstance(value, list) else value

    found = {name: local(thing.state_dict()) for name, thing in things.all().items()}
    return found | {"rng": torch.get_rng_state(), "python": random.getstate()}


def put_back(things: Things, state: dict[str, Any]) -> None:
    """The reverse of `raw`, in a new process."""
    from torch.distributed.tensor import DTensor

    params = list(things.net.parameters())
    with torch.no_grad():
        for name, own in things.net.state_dict().items():
            (own.to_local() if isinstance(own, DTensor) else own).copy_(state["net"][name])
    opt = state["opt"]
    for number, entries in opt["state"].items():
        like = params[number]
        for key, value in entries.items():
            if isinstance(like, DTensor) and value.ndim:
                entries[key] = DTensor.from_local(
                    value, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
                )
    things.opt.load_state_dict(opt)
    for name in ("schedule", "scaler", "ema"):
        if name in state:
            things.all()[name].load_state_dict(state[name])
    torch.set_rng_state(state["rng"])
    random.setstate(state["python"])


def uninterrupted(rank: int, how: str, options: dict[str, Any], folder: str, span: tuple[int, int]) -> Any:
    """Steps of `span`; begins from the files of an earlier world unless that starts at 0."""
    first, last = span
    things = Things(how, options)
    path = f"{folder}/raw-{how}-{rank}.pt"
    if first:
        put_back(things, torch.load(path, weights_only=False))
    losses = [things.step(number) for number in range(first, last)]
    torch.save(raw(things), path)
    final = raw(things)
    return losses, [(name, value.numpy().tobytes()) for name, value in flat(final)]


def flat(value: Any, name: str = "") -> list[tuple[str, torch.Tensor]]:
    """The tensors in a nested value, by path."""
    if isinstance(value, torch.Tensor):
        return [(name, value)]
    if isinstance(value, dict):
        return [pair for key, one in value.items() for pair in flat(one, f"{name}.{key}")]
    return []


def train(rank: int, how: str, folder: str, last: int, more: dict[str, Any] | None = None) -> Any:
    """Restore, train up to step `last`, saving every five steps; what happened, and the state at the end."""
    more = dict(more or {})
    things = Things(how, {"mend": how in {"ddp", "noema"}}, seed=more.pop("seed", 0))
    said: list[str] = []
    seen = more.pop("restore", {})
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    where = f"{folder}/node-{os.environ['GROUP_RANK']}" if more.get("per_node") else folder
    with Checkpointer(where, say=said.append, **{"every": 5, **more}, **things.all()) as ck:
        start = ck.restore(**seen)
        losses = {}
        for step in range(start.step, last):
            losses[step] = things.step(step)
            ck.commit(step + 1, samples=8 * (step + 1))
    return {
        "start": start.step,
        "passed": [f"{one.name}: {one.why}" for one in start.passed],
        "losses": losses,
        "state": whole(things),
        "said": said,
        "stats": ck.stats,
        "digest": start.digest,
    }


def whole(things: Things) -> dict[str, bytes]:
    """Every tensor, put together from all ranks, under its canonical name; and generators of this rank."""
    from torch.distributed.tensor import DTensor

    from mlenv.ckpt import things as kept

    found = {}
    for name, held in kept.collect(things.all()).tensors.items():
        tensor = held.tensor.full_tensor() if isinstance(held.tensor, DTensor) else held.tensor
        found[name] = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    found["rng"] = torch.get_rng_state().numpy().tobytes()
    found["python"] = repr(random.getstate()).encode()
    return found


def resave(rank: int, how: str, folder: str, step: int | None) -> Any:
    """Restore, save the same under a new step unless that is None, and show what there is."""
    things = Things(how, {"mend": how in {"ddp", "noema"}}, seed=99)
    with Checkpointer(folder, every=1, say=lambda _: None, **things.all()) as ck:
        start = ck.restore()
        if step is not None:
            ck.save(step)
            assert ck.wait(), ck.stats.errors
    passed = [one.why for one in start.passed]
    return {"start": start.step, "state": whole(things), "same": start.same_world, "passed": passed}


def lone_error(rank: int, folder: str) -> dict[str, Any]:
    """Rank 1 raises at once, and rank 0 leaves the probe only some work later."""
    things, raised = Things("fsdp"), Path(folder) / "raised"
    ids, left = torch.ones(4, 2, dtype=torch.long), 0.0

    def probe() -> torch.Tensor:
        nonlocal left
        found: torch.Tensor = things.net(ids)
        if rank == 1:
            raised.touch()
            raise ValueError("only here")
        while not raised.exists():
            time.sleep(0.001)
        for _ in range(300):
            torch.randn(128, 128) @ torch.randn(128, 128)
        left = time.monotonic()
        return found

    kept = Path(folder) / "kept"
    with Checkpointer(kept, every=1, sanity=Sanity(armed=("probe",), probe=probe), **things.all()) as ck:
        ck.restore()
        things.step(0)
        ck.commit(1)
        after = time.monotonic()
        things.step(1)
        ck.wait()
        errors = ck.stats.errors
    return {"left": left, "after": after, "sealed": ck.sealed, "errors": errors}
