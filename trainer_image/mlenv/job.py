"""What this process is: its job, its rank, its device. ``ml.init()`` finds out and forms the world."""

from __future__ import annotations

import atexit
import os
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
import torch.distributed as dist

from mlenv import leaving
from mlenv_api import names

if TYPE_CHECKING:
    from collections.abc import Mapping

CPU: Final = torch.device("cpu")
DEFAULT_TIMEOUT: Final = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Job:
    """One rank's place in the world, as its launcher said; one rank of one outside of any."""

    name: str = "local"
    namespace: str = ""
    uid: str = ""
    attempt: int = 1
    """Counts the worlds of this job, from 1."""
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    node_index: int = 0
    num_nodes: int = 1
    run_dir: Path = Path()
    """Folder for this run's files: metrics.jsonl, and the page that the launcher reads."""
    device: torch.device = CPU
    seed: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the rank that prints and logs."""
        return self.rank == 0


class WorldError(RuntimeError):
    """The environment does not describe a world that can be formed; the message says what is missing."""


_current: Job | None = None


def init(*, seed: int = 0, backend: str | None = None, timeout: timedelta = DEFAULT_TIMEOUT) -> Job:
    """Find this rank's place, form the process group if there are peers, pick the device, seed.

    Reads the environment that ``mlenv.launch`` and torchrun set; without one (a notebook, a plain script)
    the world is this process. Calling it again returns the same Job. Backend: NCCL with gloo for CPU tensors
    where there is CUDA, else gloo. All ranks get the same seed, so that weights start equal. Raises
    WorldError.
    """
    global _current  # noqa: PLW0603  (a process has one world, as torch.distributed has one default group)
    if _current is None:
        job = read(os.environ, cuda_devices=torch.cuda.device_count(), seed=seed)
        _use(job.device)
        _seed(seed)
        leaving.at_exit()
        if job.world_size > 1 and not dist.is_initialized():
            _form(job, backend, timeout)
        _current = job
    return _current


def current() -> Job:
    """The Job that ``init()`` returned. Raises WorldError before that."""
    if _current is None:
        raise WorldError("call ml.init() first: nobody has said yet which rank this process is")
    return _current


def current_or_read() -> Job:
    """The Job of ``init()``, or what the environment says where a program does without it."""
    return _current or read(os.environ, cuda_devices=torch.cuda.device_count())


def read(env: Mapping[str, str], *, cuda_devices: int, seed: int = 0) -> Job:
    """The Job described by `env`, on a machine that shows so many CUDA devices. Pure. Raises WorldError."""
    world_size = _number(env, "WORLD_SIZE", 1)
    rank = _number(env, "RANK", 0)
    local_rank = _number(env, "LOCAL_RANK", 0)
    if not 0 <= rank < world_size:
        raise WorldError(f"RANK={rank} is outside of a world of {world_size} (WORLD_SIZE)")
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if not env.get(name)]
    if world_size > 1 and missing:
        raise WorldError(
            f"WORLD_SIZE={world_size}, but {', '.join(missing)} not set: start with "
            "`python -m mlenv.launch --nproc-per-node N train.py` or torchrun"
        )
    return Job(
        name=env.get(names.ENV_JOB_NAME, "local"),
        namespace=env.get(names.ENV_JOB_NAMESPACE, ""),
        uid=env.get(names.ENV_JOB_UID, ""),
        attempt=_number(env, names.ENV_ATTEMPT, 1),
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        local_world_size=_number(env, "LOCAL_WORLD_SIZE", 1),
        node_index=_number(env, "GROUP_RANK", 0),
        num_nodes=_number(env, "GROUP_WORLD_SIZE", 1),
        run_dir=_run_dir(env),
        device=_device(local_rank, cuda_devices),
        seed=seed,
    )


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise WorldError(f"the variable {name} must be a whole number, not {text!r}") from None


def _run_dir(env: Mapping[str, str]) -> Path:
    given = env.get(names.ENV_RUN_DIR)
    if given:
        return Path(given)
    return Path("mlenv-runs", f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}")


def _device(local_rank: int, cuda_devices: int) -> torch.device:
    if cuda_devices == 0:
        return torch.device("cpu")
    if local_rank >= cuda_devices:
        raise WorldError(
            f"local rank {local_rank} has no GPU: {cuda_devices} visible here. "
            "Ask for as many GPUs as ranks (numProcPerNode), or hide them all with CUDA_VISIBLE_DEVICES="
        )
    return torch.device("cuda", local_rank)


def _use(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (programs that use the global generator should repeat too)
    torch.manual_seed(seed)  # type: ignore[no-untyped-call, unused-ignore]


def _form(job: Job, backend: str | None, timeout: timedelta) -> None:
    cuda = job.device.type == "cuda"
    dist.init_process_group(
        backend or ("cpu:gloo,cuda:nccl" if cuda else "gloo"),
        timeout=timeout,
        device_id=job.device if cuda else None,
    )
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
