"""The same program under ``torchrun --max-restarts``: two agents, as on two nodes, or one with two ranks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from standstill import processes
from standstill.events import Tail, recovered, steady
from standstill.figures import TORCHRUN, Outcome
from standstill.ours import RANKS, STEADY_STEPS, poll

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from standstill.events import Event

MAX_RESTARTS: Final = 100


def commands(kind: str, program: Path, port: int) -> list[list[str]]:
    """What is started: an agent for each node."""
    nodes, ranks = (RANKS, 1) if kind == TORCHRUN else (1, RANKS)
    shared = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nnodes={nodes}", f"--nproc-per-node={ranks}", f"--max-restarts={MAX_RESTARTS}"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=bench"),
        "--local-addr=127.0.0.1",
    ]
    return [[*shared, f"--node-rank={node}", str(program), "--plain"] for node in range(nodes)]


class Job:
    """Agents that run until closed."""

    def __init__(self, kind: str, folder: Path, name: str, env: Mapping[str, str]) -> None:
        self.kind = kind
        self.tail = Tail(folder / f"{name}.jsonl")
        self.restarted = 0.0
        events = {"BENCH_EVENTS": str(self.tail.path), "GLOO_SOCKET_IFNAME": "lo"}
        self._log = (folder / f"{name}.log").open("wb")
        self._agents = [
            subprocess.Popen(argv, env={**os.environ, **env, **events}, stdout=self._log, stderr=self._log)
            for argv in commands(kind, folder / "program.py", free_port())
        ]

    def close(self) -> None:
        """End the agents, and with them their ranks."""
        for agent in self._agents:
            agent.send_signal(signal.SIGTERM)
        for agent in self._agents:
            try:
                agent.wait(60)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait()
        self._log.close()

    def kill(self, rank: int, rest: float) -> Outcome:
        """Kill one rank once it has trained steadily for `rest` seconds more; wait until it does so again."""
        ranks = self.ready()
        time.sleep(rest)
        killed = time.time()
        processes.kill([ranks[rank].pid])
        what = f"a step after the kill (see {self._log.name})"
        back = poll(lambda: recovered(self.tail.look(), killed, RANKS), what)
        self.restarted = killed
        return Outcome(self.kind, rank, killed, back.moments, back.false_starts)

    def ready(self) -> dict[int, Event]:
        """Wait until it trains steadily; the first event of each rank."""
        what = f"steady training (see {self._log.name})"
        return poll(lambda: steady(self.tail.look(), self.restarted, RANKS, STEADY_STEPS), what)


@contextmanager
def job(kind: str, folder: Path, name: str, env: Mapping[str, str]) -> Iterator[Job]:
    """A job that is over when the block is."""
    made = Job(kind, folder, name, env)
    try:
        yield made
    finally:
        made.close()


def free_port() -> int:
    """One that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
