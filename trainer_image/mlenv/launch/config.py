"""A launcher's settings, from its command line and environment. Pure."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlenv_api import names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlenv.record import Known

KILL_MARGIN: Final = 2.0
"""Seconds before the kubelet's SIGKILL at which the launcher sends its own, to have time to report."""
NO_LIMIT: Final = 1 << 60
"""cgroup v1 says "no limit" with a number near 2**63."""
USAGE: Final = "usage: python -m mlenv.launch [--nproc-per-node N] [--] program [args ...]"


class UsageError(ValueError):
    """The command line or the environment makes no sense; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Config:
    """What this launcher is to run, where, and whom to tell."""

    program: tuple[str, ...]
    procs: int
    index: int
    num_nodes: int
    urls: tuple[str, ...]
    """Base URLs of the operator; empty outside a cluster: then one attempt runs here, alone."""
    token_file: Path
    run_dir: Path | None
    address: str
    """Address on which the store listens."""
    job_uid: str
    grace: float
    """Seconds from SIGTERM to SIGKILL for the ranks."""
    fork: bool = True
    """Whether ranks may be forked from a process that has torch imported."""

    @property
    def alone(self) -> bool:
        """Whether the whole world is one rank, which can host its own store."""
        return self.num_nodes * self.procs == 1


def read(argv: Sequence[str], env: Mapping[str, str]) -> Config:
    """The settings in `argv` (without the program's name) and `env`. Raises UsageError."""
    procs, program = _split(list(argv))
    urls = tuple(
        url.strip().rstrip("/") for url in env.get(names.ENV_OPERATOR_URLS, "").split(",") if url.strip()
    )
    run_dir = env.get(names.ENV_RUN_DIR)
    return Config(
        program=_runnable(program),
        procs=procs or _number(env, names.ENV_NUM_PROC_PER_NODE, 1, least=1),
        index=_number(env, names.ENV_NODE_INDEX, 0, least=0) if urls else 0,
        num_nodes=_number(env, names.ENV_NUM_NODES, 1, least=1) if urls else 1,
        urls=urls,
        token_file=Path(env.get(names.ENV_TOKEN_FILE, names.TOKEN_FILE)),
        run_dir=Path(run_dir) if run_dir else None,
        address=env.get(names.ENV_POD_IP) or "127.0.0.1",
        job_uid=env.get(names.ENV_JOB_UID) or f"local-{os.getpid()}",
        fork=env.get(names.ENV_FORK_SERVER, "").strip().lower() not in _NO,
        grace=max(1.0, _number(env, names.ENV_TERMINATION_GRACE_SECONDS, 30, least=0) - KILL_MARGIN),
    )


_NO: Final = ("0", "false", "no", "off")


def _split(argv: list[str]) -> tuple[int | None, list[str]]:
    procs: int | None = None
    while argv and argv[0].startswith("--"):
        flag, _, value = argv.pop(0).partition("=")
        if flag == "--":
            break
        if flag not in ("--nproc-per-node", "--nproc_per_node"):
            raise UsageError(f"unknown option {flag}\n{USAGE}")
        value = value or (argv.pop(0) if argv else "")
        if not value.isascii() or not value.isdigit() or int(value) < 1:
            raise UsageError(f"--nproc-per-node wants a number of at least 1, not {value!r}\n{USAGE}")
        procs = int(value)
    if not argv:
        raise UsageError(f"no program to run\n{USAGE}")
    return procs, argv


def _runnable(program: list[str]) -> tuple[str, ...]:
    python = program[0].endswith(".py") or program[0] == "-m"
    return (sys.executable, *program) if python else tuple(program)


def _number(env: Mapping[str, str], name: str, default: int, *, least: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise UsageError(f"the variable {name} must be a whole number of at least {least}, not {text!r}")
    return int(text)


def cpus() -> int:
    """Processors that this container may use: its CPU set, bounded by its quota."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota_v2() or _quota_v1()
    return max(1, min(allowed, int(quota))) if quota else allowed


def _quota_v2() -> float | None:
    parts = _words("/sys/fs/cgroup/cpu.max")
    return int(parts[0]) / int(parts[1]) if len(parts) == 2 and parts[0] != "max" else None


def _quota_v1() -> float | None:
    quota = _words("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period = _words("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    return int(quota[0]) / int(period[0]) if quota and period and int(quota[0]) > 0 else None


def _words(path: str) -> list[str]:
    try:
        return Path(path).read_text().split()
    except OSError:
        return []


def memory() -> int | None:
    """Bytes of memory that this container may use; None when nobody limits it."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        words = _words(path)
        if words and words[0].isdigit() and int(words[0]) < NO_LIMIT:
            return int(words[0])
    return None


def base_env(base: Mapping[str, str], cpus: int, procs: int) -> dict[str, str]:
    """What all ranks of a node have in common, and what acts when their Python starts."""
    return {
        "OMP_NUM_THREADS": str(max(1, cpus // procs)),
        "PYTHONUNBUFFERED": "1",  # or the last lines of a killed rank are lost in its buffer
        **base,
    }


def rank_env(
    config: Config, base: Mapping[str, str], attempt: int, local_rank: int, shape: RankShape
) -> dict[str, str]:
    """The environment of one rank: torchrun's names, so that a plain ``init_process_group()`` works."""
    world = shape.num_nodes * shape.procs
    env = {
        **base_env(base, shape.cpus, shape.procs),
        "RANK": str(shape.node_rank * shape.procs + local_rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(shape.procs),
        "GROUP_RANK": str(shape.node_rank),
        "GROUP_WORLD_SIZE": str(shape.num_nodes),
        "NODE_RANK": str(shape.node_rank),
        "MASTER_ADDR": shape.master_addr,
        "MASTER_PORT": str(shape.master_port),
        "TORCHELASTIC_USE_AGENT_STORE": str(world > 1),
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
        "TORCHELASTIC_RUN_ID": config.job_uid,
        names.ENV_ATTEMPT: str(attempt),
        names.ENV_NODE_INDEX: str(config.index),
        names.ENV_NUM_NODES: str(shape.num_nodes),
        names.ENV_NUM_PROC_PER_NODE: str(shape.procs),
    }
    if config.run_dir:
        env[names.ENV_RUN_DIR] = str(config.run_dir)
        if shape.known is not None:
            env[names.ENV_RESUME] = shape.known.model_dump_json(by_alias=True, exclude_none=True)
    return env


@dataclass(frozen=True, slots=True)
class RankShape:
    """Where one node's ranks stand in their world."""

    num_nodes: int
    node_rank: int
    procs: int
    master_addr: str
    master_port: int
    cpus: int
    known: Known | None = None
    """What its ranks are told of the past."""
