"""Worlds of ranks: real processes, forked by a server that has imported torch, so each test pays it once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

DEADLINE = 240.0
PRELOADED = [
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
    "torch.nn.parallel",
    "torch._dynamo",
    "mlenv.session",
]
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(PRELOADED)


@dataclass(frozen=True)
class Ended:
    """How one rank ended: its exit code (negative: by that signal), and what it returned or raised."""

    code: int
    value: Any
    error: str


def start(
    program: Callable[..., Any],
    folder: Path,
    world: int,
    *args: Any,
    env: dict[str, str] | None = None,
    nodes: int = 1,
) -> list[Any]:
    """Start `program(rank, *args)` in `world` new processes that form a gloo world, on so many nodes."""
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder / f"meet-{os.urandom(4).hex()}"
    started = []
    for rank in range(world):
        here = {"GROUP_RANK": str(rank * nodes // world), **(env or {})}
        target = (program, rank, world, str(meeting), str(folder / f"rank-{rank}.pickle"), here, args)
        process = _server.Process(target=_enter, args=target)
        process.start()
        started.append(process)
    return started


def finish(processes: Sequence[Any], folder: Path) -> list[Ended]:
    """Wait for all; what each returned. A rank that hangs fails the test."""
    ended = []
    for rank, process in enumerate(processes):
        process.join(DEADLINE)
        if process.exitcode is None:
            for one in processes:
                one.kill()
            raise AssertionError(f"rank {rank} still runs after {DEADLINE} s")
        path = folder / f"rank-{rank}.pickle"
        value, error = pickle.loads(path.read_bytes()) if path.exists() else (None, "")
        path.unlink(missing_ok=True)
        ended.append(Ended(process.exitcode, value, error))
    return ended


def run(program: Callable[..., Any], folder: Path, world: int, *args: Any, **more: Any) -> list[Any]:
    """What the ranks of a new world returned; all must end well."""
    ended = finish(start(program, folder, world, *args, **more), folder)
    errors = [one.error or f"exit code {one.code}" for one in ended if one.code or one.error]
    assert not errors, "\n".join(errors)
    return [one.value for one in ended]


def _enter(  # noqa: PLR0917
    program: Callable[..., Any],
    rank: int,
    world: int,
    meeting: str,
    answer: str,
    env: dict[str, str],
    args: Any,
) -> None:
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ.update({**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", **env})
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if world > 1 or env.get("FORM"):
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    value, error = None, ""
    try:
        value = program(rank, *args)
    except BaseException:  # noqa: BLE001  (it is told to the test)
        error = traceback.format_exc()
    with open(answer, "wb") as out:  # noqa: PTH123
        pickle.dump((value, error), out)
    sys.stdout.flush()
    # Peers may be gone, on purpose: an orderly end of the process group could wait for them.
    os._exit(1 if error else 0)
