"""The same program under ``torchrun --max-restarts``: two agents, as on two nodes, or one with two ranks."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from standstill import processes
from standstill.events import Tail, recovered, steady
from standstill.figures import TORCHRUN, Outcome
from standstill.ours import RANKS, STEADY_STEPS, poll

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from standstill.events import Event

MAX_RESTARTS: Final = 100
OWN_STORES: Final = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""By default torchrun 2.15 gives all worlds one store, and gloo finds the addresses of dead ranks there: most
restarts then fail, some of them for ever. With this switch each world has a store of its own."""
STUCK_S: Final = 60.0
"""A world that has not come about by then is counted as stuck, and its agents are ended."""


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

    def __init__(
        self, kind: str, folder: Path, name: str, env: Mapping[str, str], groups: Sequence[Path] = ()
    ) -> None:
        self.kind = kind
        self.tail = Tail(folder / f"{name}.jsonl")
        self.restarted = 0.0
        own = {"BENCH_EVENTS": str(self.tail.path), "GLOO_SOCKET_IFNAME": "lo"} | OWN_STORES
        self._log = (folder / f"{name}.log").open("wb")
        self._agents = [
            subprocess.Popen(argv, env={**os.environ, **env, **own}, stdout=self._log, stderr=self._log)
            for argv in commands(kind, folder / "program.py", free_port())
        ]

        for agent, group in zip(self._agents, groups, strict=False):
            (group / "cgroup.procs").write_text(str(agent.pid), encoding="utf-8")

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

    def last_words(self) -> str:
        """What the agents said last."""
        lines = Path(self._log.name).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines if re.match(r"[IWE]\d{4} ", line))[-3000:]

    def kill(self, rank: int, rest: float) -> Outcome:
        """Kill one rank once it has trained steadily for `rest` seconds more; wait until it does so again."""
        ranks = self.ready()
        time.sleep(rest)
        load, killed = os.getloadavg()[0], time.time()
        processes.kill([ranks[rank].pid])
        what = f"a step after the kill (see {self._log.name})"
        back = poll(lambda: recovered(self.tail.look(), killed, RANKS), what, STUCK_S)
        self.restarted = killed
        return Outcome(self.kind, rank, killed, back.moments, back.false_starts, load)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ready(self) -> dict[int, Event]:
        """Wait until it trains steadily; the first event of each rank."""
        what = f"steady training (see {self._log.name})"
        return poll(lambda: steady(self.tail.look(), self.restarted, RANKS, STEADY_STEPS), what)


def free_port() -> int:
    """One that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
