"""Every pair of: a place in the code, who dies while rank 0 stands there, and the worlds before and after.

Rank 0 stops at the place, and says so; then the test kills, and lets it go on. Whatever it was, the job ends
with every sample once, and in the world it began in, with the bits of a run that nobody disturbed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from datasets import write
from rig import STOP, Launcher, Rig, Server, until, world

from mlenv.ckpt import failpoints
from mlenv.data import merge
from mlenv_api.protocol import Beat, LauncherPhase

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

STEPS: Final = 24
SEED: Final = int(os.environ.get("MLENV_MATRIX_SEED", "1"))
"""Which triples stand for all pairs."""
RESTORING: Final = ("verify", "load", "record")
POINTS: Final = (*failpoints.POINTS, "record")
VICTIMS: Final = ("rank 0", "another rank", "launcher", "operator")
WORLDS: Final = {"1": [(1, 1)] * 3, "2": [(2, 1)] * 3, "4": [(2, 2)] * 3, "4-2-4": [(2, 2), (1, 2), (2, 2)]}
"""(pods, ranks in each) of the attempts."""

PROGRAM = """
import hashlib, json, os, signal, sys, time
from pathlib import Path
import torch
from torch import nn
import mlenv as ml
from mlenv import claim
from mlenv.ckpt import failpoints, retain

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.norm = nn.Linear(32, 1), nn.LayerNorm(32)
        self.middle, self.first = nn.Linear(32, 32), nn.Linear(1, 32)

    def forward(self, x):
        x = nn.functional.dropout(torch.relu(self.middle(torch.relu(self.first(x)))), 0.3, self.training)
        return self.last(self.norm(x))

folder, steps = Path(sys.argv[1]), int(sys.argv[2])
point, at = os.environ["POINT"], int(os.environ["AT"])
job = ml.init(seed=3)
out = folder / os.environ["RUN"]
(out / f"pid-{job.attempt}-{job.rank}").write_text(str(os.getpid()))
done = 0

def stop(name, rank=0):
    here = name == point and rank == 0 and job.attempt == at and (done >= 10 or at == 2)
    if here and not (out / "reached").exists():
        (out / "reached").touch()
        while not (out / "go").exists():
            time.sleep(0.005)

def settle(*args, **more):
    stop("record", job.rank)
    return settled(*args, **more)

failpoints.hit = stop
settled, claim.settle = claim.settle, settle
data = ml.Stream(folder / "set", 24, lanes=8, tail="carry")
net = ml.wrap(Net(), deterministic=True)
opt = torch.optim.AdamW(net.parameters(), 0.01)
torch.manual_seed(100 + job.rank)
policy = ml.Checkpoints(every_steps=5, keep=retain.Policy(newest=1))
with ml.Session(job, report_every=0, checkpoint=policy, net=net, opt=opt, data=data) as run:
    for batch in run.steps(steps):
        loss = net(batch["number"].float().unsqueeze(1) / 300).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        done = run.step + 1
        run.commit(loss=loss)
        if os.environ.get("DIE") == f"{job.attempt}:{run.step}" and job.rank == 0:
            run._keeper.finish()
            os.kill(os.getpid(), signal.SIGKILL)
weights = b"".join(one.detach().numpy().tobytes() for one in net.parameters())
end = {"step": run.step, "samples": run.samples, "data": data.state_dict()}
end["weights"] = hashlib.sha256(weights).hexdigest()
(out / f"end-{job.rank}").write_text(json.dumps(end))
"""


def pairwise(seed: int) -> list[tuple[str, str, str]]:
    """Few triples in which every pair of values of two factors occurs."""
    factors = (POINTS, VICTIMS, tuple(WORLDS))
    every = [one for one in itertools.product(*factors) if one[1:] != ("another rank", "1")]
    chance = random.Random(seed)
    left = {pair for one in every for pair in _pairs(one)}
    chosen: list[tuple[str, str, str]] = []
    while left:
        chance.shuffle(every)
        best = max(every, key=lambda one: len(left & _pairs(one)))
        left -= _pairs(best)
        chosen.append(best)
    return sorted(chosen)


def _pairs(one: tuple[str, ...]) -> set[tuple[int, str, int, str]]:
    return {(i, one[i], j, one[j]) for i, j in itertools.combinations(range(len(one)), 2)}


@dataclass
class Gang:
    """The pods of one job, attempt after attempt; checkpoints are on a shared volume."""

    rig: Rig
    server: Server
    name: str
    shapes: list[tuple[int, int]]
    env: dict[str, str]
    attempt: int = 0
    pods: dict[int, Launcher] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.out.mkdir()
        (self.rig.folder / "train.py").write_text(PROGRAM)
        if not (self.rig.folder / "set").exists():
            write(self.rig.folder / "set" / "0.parquet", 0, 300)
        (self.out / "spool").mkdir()
        for index in range(self.shapes[0][0]):
            self.launch(index, "")

    @property
    def out(self) -> Path:
        return self.rig.folder / self.name

    def launch(self, index: int, suffix: str) -> None:
        """A pod for this slot."""
        self.pods[index] = self.rig.launch(
            str(self.rig.folder / "train.py"),
            str(self.rig.folder),
            str(STEPS),
            urls=self.server.url,
            pod=f"{self.name}{index}{suffix}",
            index=index,
            nodes=self.shapes[0][0],
            procs=self.shapes[0][1],
            way="fork",
            RUN=self.name,
            MLENV_SPOOL=str(self.out / "spool" / "uid-1"),
            **self.env,
        )

    def begin(self) -> None:
        """The next attempt."""
        self.attempt += 1
        now, (nodes, procs) = self.attempt, self.shapes[min(self.attempt, len(self.shapes)) - 1]

        def waits(beat: Beat) -> bool:
            return beat.attempt == now and beat.phase is LauncherPhase.WAITING

        live = [self.pods[index].pod for index in range(nodes)]
        for pod in live:
            self.server.say(pod, now, stored_evidence=99)
            self.server.wait(pod, waits, f"attempt {now}")
        port = self.server.wait(live[0], lambda b: waits(b) and b.port is not None, "a port").port
        for rank, pod in enumerate(live):
            shape = world(port, nodes=nodes, rank=rank, procs=procs)
            self.server.say(pod, now, world=shape, stored_evidence=99)

    def until(self, phase: LauncherPhase, index: int) -> None:
        now, pod = self.attempt, self.pods[index].pod
        self.server.wait(pod, lambda b: b.attempt == now and b.phase is phase, f"{phase} of attempt {now}")

    def ends(self) -> list[dict[str, Any]]:
        """What each rank of the last attempt ended with."""
        nodes, procs = self.shapes[min(self.attempt, len(self.shapes)) - 1]
        for index in range(nodes):
            self.until(LauncherPhase.SUCCEEDED, index)
            self.server.say(self.pods[index].pod, self.attempt, order=STOP)
        return [json.loads((self.out / f"end-{rank}").read_text()) for rank in range(nodes * procs)]

    def kill_rank(self, rank: int) -> None:
        """And wait until its launcher has told."""
        os.kill(int((self.out / f"pid-{self.attempt}-{rank}").read_text()), signal.SIGKILL)
        self.until(LauncherPhase.FAILED, rank // self.shapes[0][1])

    def kill_pod(self, index: int) -> None:
        """With all that runs in it, as a kubelet does; and have it replaced."""
        for pid in family(self.pods[index].process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.pods[index].process.wait()
        self.launch(index, "-b")

    def lose_operator(self) -> None:
        """It goes away, and comes back with what it had stored."""
        old = self.server
        old.close()
        self.server = self.rig.server(old.port)
        self.server.answers, self.server.beats = old.answers, old.beats
        self.server.origins, self.server.sealed = old.origins, old.sealed


def family(pid: int) -> list[int]:
    """A process, its children, theirs, and so on."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """By world, how it ends when nobody disturbs it."""
    rig = Rig(tmp_path_factory.mktemp("undisturbed"))
    server = rig.server()
    found = {}
    for name in ("1", "2", "4"):
        gang = Gang(rig, server, f"u{name}x", WORLDS[name], {"POINT": "", "AT": "0"})
        gang.begin()
        found[name] = gang.ends()
    yield found
    rig.close()


def witness(ends: list[dict[str, Any]]) -> int:
    return int(merge([end["data"] for end in ends])["witness"]["sealed"])


def strike(gang: Gang, victim: str) -> bool:
    """Kill while rank 0 stands at the place; whether the attempt is over."""
    if victim == "operator":
        gang.lose_operator()
        (gang.out / "go").touch()
        return False
    if victim == "launcher":
        gang.kill_pod(0)
    else:
        ranks = len(list(gang.out.glob(f"pid-{gang.attempt}-*")))
        gang.kill_rank(0 if victim == "rank 0" else ranks - 1)
    (gang.out / "go").touch()
    return True


@pytest.mark.parametrize("case", pairwise(SEED), ids=", ".join)
def test_whatever_dies_the_job_ends_as_if_it_had_not(
    rig: Rig, server: Server, undisturbed: dict[str, list[dict[str, Any]]], case: tuple[str, str, str]
) -> None:
    point, victim, shape = case
    at = 2 if point in RESTORING else 1
    gang = Gang(rig, server, "m", WORLDS[shape], {"POINT": point, "AT": str(at), "DIE": f"{3 - at}:16"})
    gang.begin()
    if at == 2:
        gang.until(LauncherPhase.FAILED, 0)
        gang.begin()
    until((gang.out / "reached").exists, f"rank 0 at {point}")
    over = strike(gang, victim)
    if not over and shape == "4-2-4" and at == 1:
        gang.kill_rank(0)
        over = True
    while over:
        gang.begin()
        over = gang.attempt == 2 and at == 1 and _dies_again(gang)
    ends = gang.ends()
    assert {(end["step"], end["samples"]) for end in ends} == {(STEPS, 24 * STEPS)}
    assert witness(ends) == witness(undisturbed[shape[0]])
    if shape in undisturbed:
        assert [end["weights"] for end in ends] == [end["weights"] for end in undisturbed[shape]]
    assert gang.server.errors == []


def _dies_again(gang: Gang) -> bool:
    """The second attempt dies by itself, where it comes by step 16."""
    gang.until(LauncherPhase.FAILED, 0)
    return True
