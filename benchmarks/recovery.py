"""How long training stands still when a rank or a pod dies, in phases, against ``torchrun --max-restarts``.

A real local cluster with the chart installed on it, and one small DDP program: as a TrainingJob of two
nodes, and under torchrun with two agents on the same machine, in turns. A rank is killed with SIGKILL (its
pod stays), or all processes of a trainer container (an OOM kill under cgroup v2; its pod is replaced).
Measured from the kill to the first step that every rank of the new world has committed. There are no
checkpoints yet: the new attempt begins at step 0, and nothing is restored.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from standstill import ours, processes, torchrun
from standstill.figures import IN_PLACE, ONE_AGENT, REPLACED, TORCHRUN, figures, line, schedule, table

from mlenv_local import Cluster
from mlenv_local.platform import install
from mlenv_local.progress import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from standstill.figures import Outcome

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "benchmarks" / "standstill" / "program.py"
CLUSTER = "mlenv-bench-r"
THREADS = {"OMP_NUM_THREADS": "1"}
UNCOMPILED = {"PYTHONPYCACHEPREFIX": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
REST_S = (1.0, 3.0)
"""A kill comes so long after training is steady, drawn anew: never in step with beats and polls."""


class Bench:
    """One run."""

    def __init__(self, cluster: Cluster, folder: Path, args: argparse.Namespace) -> None:
        self._folder = folder
        self._run = f"r{secrets.token_hex(3)}"
        self._notes = args.notes
        self._env = THREADS | (UNCOMPILED if args.uncompiled else {})
        self._random = random.Random(args.seed)
        self._place = ours.place(cluster, folder)
        self._groups = processes.cpu_groups(Path(cluster.layout.cgroup), ours.RANKS)
        self._kills: dict[str, int] = {}
        self.outcomes: list[Outcome] = []
        self.stuck = {TORCHRUN: 0, ONE_AGENT: 0}

    def block(self, kind: str, kills: int, number: int) -> None:
        """One job, and so many kills of it."""
        name = f"{self._run}-{number}"
        if kind in (IN_PLACE, REPLACED):
            with ours.Job(self._place, name, self._env) as job:
                for _ in range(kills):
                    self._tell(job.kill(kind, self._rank(kind), self._random.uniform(*REST_S)))
            return
        with torchrun.Job(kind, self._folder, name, self._env, self._groups) as plain:
            try:
                for _ in range(kills):
                    self._tell(plain.kill(self._rank(kind), self._random.uniform(*REST_S)))
            except ours.GaveUpError as error:
                self.stuck[kind] += 1
                print(f"{kind}: {error}; counted as stuck\n{plain.last_words()}", flush=True)

    def _rank(self, kind: str) -> int:
        """They take turns."""
        self._kills[kind] = self._kills.get(kind, -1) + 1
        return self._kills[kind] % ours.RANKS

    def _tell(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        print(line(outcome), flush=True)
        for text, after in sorted(outcome.notes.items(), key=lambda one: one[1]) if self._notes else ():
            print(f"    {after:7.3f} s  {text}")


def warm_up(folder: Path) -> None:
    """Run once, so that both find compiled bytecode and a warm page cache, as in an image that is in use.

    Pods of the environment ``local`` mount this virtual environment read-only, and can compile nothing.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run([sys.executable, "-c", "import mlenv; mlenv.Session, mlenv.init"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-c", "import mlenv.launch.loop, mlenv.store"], cwd=folder, check=True)
    with torchrun.Job(ONE_AGENT, folder, "warm-up", THREADS) as plain:
        plain.ready()


@contextmanager
def shared_folder() -> Iterator[Path]:
    """Program and events, for pods of another user to read and write."""
    folder = Path(tempfile.mkdtemp(prefix="mlenv-bench-"))
    try:
        folder.chmod(0o777)
        shutil.copy(PROGRAM, folder / "program.py")
        (folder / "program.py").chmod(0o644)
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def platform(args: argparse.Namespace) -> Iterator[Cluster]:
    """A cluster with the chart installed; one that was there is used, and left."""
    cluster = Cluster(args.cluster, reporter=Reporter())
    there = cluster.exists()
    try:
        cluster.up(nodes=2)
        install(cluster, ROOT, namespaces=("default", ours.NAMESPACE))
        yield cluster
    finally:
        if not there and not args.keep:
            cluster.down()


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--in-place", type=int, default=20, help="ranks killed, of a TrainingJob")
    parser.add_argument("--replaced", type=int, default=6, help="trainer containers killed")
    parser.add_argument("--torchrun", type=int, default=8, help="ranks killed, two agents")
    parser.add_argument("--one-agent", type=int, default=4, help="ranks killed, one agent of two ranks")
    parser.add_argument("--small", action="store_true", help="one or two kills of each kind: does it work?")
    parser.add_argument("--notes", action="store_true", help="after each kill, what the launchers said when")
    parser.add_argument("--uncompiled", action="store_true", help="without bytecode: uv compiles none itself")
    parser.add_argument("--cluster", default=CLUSTER)
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def kills(args: argparse.Namespace) -> dict[str, int]:
    """How many of each kind."""
    if args.small:
        return {IN_PLACE: 2, REPLACED: 1, TORCHRUN: 1, ONE_AGENT: 1}
    wanted = {IN_PLACE: args.in_place, REPLACED: args.replaced}
    return wanted | {TORCHRUN: args.torchrun, ONE_AGENT: args.one_agent}


def main() -> None:
    """Run, print the table, and as the last line the figures as JSON."""
    args = arguments()
    with shared_folder() as folder, platform(args) as cluster:
        warm_up(folder)
        bench = Bench(cluster, folder, args)
        for number, (kind, count) in enumerate(schedule(kills(args), ours.FREE_KILLS)):
            bench.block(kind, count, number)
    print(
        f"\nA TrainingJob is killed at most {ours.FREE_KILLS} times, then a new one begins: after more than"
        " two attempts of under 60 s in a row\nthe operator waits before the next, which would show here."
        " Every attempt begins at step 0.\n"
    )
    print(table(bench.outcomes))
    print(json.dumps(figures(bench.outcomes, bench.stuck)))


if __name__ == "__main__":
    main()
