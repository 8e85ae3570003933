"""A gang of two pods loses all its folders: it goes on from the artifact, as if nothing had been."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from bench import Pod
from rig import STOP, Rig, world

from mlenv_api.protocol import Beat, Checkpoint, LauncherPhase

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rig import Server
    from wandb_server import Server as Wandb

PROGRAM = """
import hashlib, json, os, signal, sys, time
from pathlib import Path
import torch
from torch import nn
import mlenv as ml

job = ml.init(seed=3)
net = ml.wrap(nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.3), nn.Linear(32, 1)), deterministic=True)
opt = torch.optim.AdamW(net.parameters(), 0.01)
torch.manual_seed(100 + job.rank)
wait = Path(sys.argv[1])
policy = ml.Checkpoints(every_steps=5)
with ml.Session(job, report_every=0, checkpoint=policy, net=net, opt=opt) as run:
    for _ in run.steps(12):
        loss = net(torch.randn(8, 4)).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        run.commit(loss=loss)
        while job.attempt == 1 and run.step == 11 and not wait.exists():
            time.sleep(0.02)
        if job.attempt == 1 and run.step == 11 and os.environ.get("DIE") and job.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
weights = b"".join(one.detach().numpy().tobytes() for one in net.parameters())
(Path(sys.argv[2]) / f"end-{job.rank}").write_text(hashlib.sha256(weights).hexdigest())
"""


class Gang:
    """Two launchers, each with a courier beside it where a server is given."""

    def __init__(self, rig: Rig, server: Server, name: str, **env: str) -> None:
        self.rig, self.server, self.name = rig, server, name
        self.out = rig.folder / f"out-{name}"
        self.out.mkdir()
        self.wait = rig.folder / f"wait-{name}"
        script = rig.folder / "train.py"
        script.write_text(PROGRAM)
        self.launchers = [
            rig.launch(
                str(script),
                str(self.wait),
                str(self.out),
                urls=server.url,
                pod=f"{name}{i}",
                index=i,
                nodes=2,
                way="fork",
                MLENV_COURIER=str(rig.folder / f"{name}{i}" / "courier"),
                **env,
            )
            for i in range(2)
        ]

    def start(self, attempt: int, **more: Any) -> None:
        pods = [f"{self.name}{i}" for i in range(2)]

        def waits(beat: Beat) -> bool:
            return beat.attempt == attempt and beat.phase is LauncherPhase.WAITING

        for pod in pods:
            self.server.say(pod, attempt, stored_evidence=9, **more)
            self.server.wait(pod, waits, f"attempt {attempt}")
        port = self.server.wait(pods[0], lambda b: waits(b) and b.port is not None, "a port").port
        for i, pod in enumerate(pods):
            self.server.say(pod, attempt, world=world(port, nodes=2, rank=i), stored_evidence=9, **more)

    def ends(self, attempt: int) -> list[str]:
        for i in range(2):
            pod = f"{self.name}{i}"
            self.server.wait(
                pod, lambda b: b.attempt == attempt and b.phase is LauncherPhase.SUCCEEDED, "success"
            )
            self.server.say(pod, attempt, order=STOP)
        return [(self.out / f"end-{rank}").read_text() for rank in range(2)]


@pytest.fixture
def couriers(
    rig: Rig, wandb: Wandb, wandb_and_key: tuple[Wandb, str]
) -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for one in started:
        one.terminate()
        one.wait(120)


def courier(root: Path, server: Wandb, key: str, node: int) -> subprocess.Popen[bytes]:
    plain = Pod(root, server, key, node=node, project="gang")
    plain.close()
    with (root / "courier.log").open("ab") as log:
        return subprocess.Popen([sys.executable, "-m", "mlenv.courier"], env=plain.env, stderr=log)


@pytest.mark.slow
def test_both_folders_gone_it_ends_bit_for_bit(
    rig: Rig,
    server: Server,
    wandb_and_key: tuple[Wandb, str],
    couriers: list[subprocess.Popen[bytes]],
) -> None:
    whole = Gang(rig, server, "u")
    whole.wait.touch()
    whole.start(1)
    wanted = whole.ends(1)
    gang = Gang(rig, server, "p", DIE="1")
    couriers += [courier(rig.folder / f"p{i}", *wandb_and_key, i) for i in range(2)]
    gang.start(1)
    stored = server.wait(
        "p0", lambda b: b.uploaded is not None and b.uploaded.step == 10, "the upload"
    ).uploaded
    assert stored is not None
    assert re.fullmatch(r"ada/gang/ranker-uid-1-ckpt:v\d+", stored.artifact)
    gang.wait.touch()
    server.wait("p0", lambda b: b.attempt == 1 and b.phase is LauncherPhase.FAILED, "the failure")
    for launcher in gang.launchers:
        shutil.rmtree(launcher.run_dir / "checkpoints")  # as in new pods
    past = Checkpoint(attempt=stored.attempt, step=stored.step, digest=stored.digest)
    gang.start(2, past=past)
    assert gang.ends(2) == wanted
    text = gang.launchers[0].text()
    assert "was brought from ada/gang/ranker-uid-1-ckpt:" in text
    assert "goes on from step 10" in text
    origin = server.origins["p", 2].checkpoint
    assert origin == past
    log = "".join((rig.folder / f"p{i}" / "courier.log").read_text() for i in range(2))
    assert wandb_and_key[1] not in log + text
