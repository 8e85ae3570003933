"""Two launchers, one world: torch finds its peers through the store process, attempt after attempt."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rig import STOP, WAYS, until, world

from mlenv_api.protocol import LauncherPhase

if TYPE_CHECKING:
    from rig import Launcher, Rig, Server

PROGRAM = """
import os
import torch
import torch.distributed as dist

attempt = os.environ["MLENV_ATTEMPT"]
if attempt == "1":
    dist.init_process_group("gloo")  # as any program does
else:
    import mlenv as ml
    job = ml.init()
value = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(value)
print("attempt", attempt, "sum", value.item(), flush=True)
dist.barrier()
if attempt == "1":
    if dist.get_rank() == 1:
        os._exit(9)
    dist.barrier()

torch.manual_seed(job.rank)
net = ml.wrap(torch.nn.Linear(2, 1))
with ml.Session(job, net=net, data=[torch.full((4, 2), job.rank + 1.0)]) as run:
    for batch in run.steps(3):
        net(batch).sum().backward()
        with torch.no_grad():
            for weight in net.parameters():
                weight -= 0.1 * weight.grad
                weight.grad = None
        run.commit(loss=1.0)
print("weight", net.module.weight.tolist(), flush=True)
"""


def two(rig: Rig, server: Server, way: str) -> list[Launcher]:
    script = rig.folder / "gang.py"
    script.write_text(PROGRAM)
    return [
        rig.launch(str(script), urls=server.url, pod=f"p{i}", index=i, nodes=2, way=way) for i in range(2)
    ]


def give_world(server: Server, attempt: int, port: int | None, stored: int = 0) -> None:
    for i in range(2):
        shape = world(port, nodes=2, rank=i)
        server.say(f"p{i}", attempt, world=shape, stored_evidence=stored)


def store_of(launcher: Launcher) -> int | None:
    for pid in launcher.children():
        with contextlib.suppress(OSError):  # it has just ended
            if b"mlenv.store" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    return None


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_world_forms_breaks_and_forms_again_in_the_same_pods(rig: Rig, server: Server, way: str) -> None:
    first, second = two(rig, server, way)
    for i in range(2):
        server.say(f"p{i}", 1)
    port = server.wait("p0", lambda b: b.port is not None, "the store's port").port
    assert server.wait("p1", lambda b: b.attempt == 1, "attempt 1").port is None
    store = store_of(first)
    assert store_of(second) is None

    give_world(server, 1, port)
    failed = server.wait("p1", lambda b: b.phase is LauncherPhase.FAILED, "the crash")
    assert [(e.rank, e.exit_code) for e in failed.evidence] == [(1, 9)]
    for i in range(2):
        server.say(f"p{i}", 2, stored_evidence=9)
        server.wait(f"p{i}", lambda b: b.attempt == 2 and b.phase is LauncherPhase.WAITING, "waiting")
    again = server.wait("p0", lambda b: b.attempt == 2 and b.port is not None, "another store").port
    assert again != port
    assert store_of(first) == store
    give_world(server, 2, again, stored=9)
    for i in range(2):
        server.wait(f"p{i}", lambda b: b.attempt == 2 and b.phase is LauncherPhase.SUCCEEDED, "success")
        server.say(f"p{i}", 2, order=STOP)
    progress = server.wait("p0", lambda b: b.progress is not None, "progress").progress
    assert progress is not None
    assert (progress.step, progress.samples, progress.metrics["loss"]) == (3, 24, 1.0)
    assert [first.exit_code(), second.exit_code()] == [0, 0]
    for attempt in (1, 2):
        assert f"[a{attempt} r0] attempt {attempt} sum 3.0" in first.text()
        assert f"[a{attempt} r1] attempt {attempt} sum 3.0" in second.text()
    # Gradients and initial weights were shared: both ranks hold the same.
    weights = [re.findall(r"\] weight (.*)", launcher.text()) for launcher in (first, second)]
    assert weights[0] == weights[1] != []
    assert store is not None
    until(lambda: not listens(again or 0), "the end of the store")


def test_the_store_comes_back_on_its_port(rig: Rig, server: Server) -> None:
    launcher = rig.launch("true", urls=server.url, nodes=2)
    port = server.wait("p0", lambda b: b.port is not None, "the store's port").port
    assert port is not None
    old = store_of(launcher)
    assert old is not None
    os.kill(old, signal.SIGKILL)
    until(lambda: store_of(launcher) not in (old, None) and listens(port), "the store")
    assert server.beats["p0"][-1].port == port


def test_a_store_that_cannot_start_is_told_and_ends_the_pod(rig: Rig, server: Server) -> None:
    (rig.folder / "torch").mkdir()
    (rig.folder / "torch" / "__init__.py").write_text("raise ImportError('this torch is broken')")
    launcher = rig.launch("true", urls=server.url, nodes=2, PYTHONPATH=str(rig.folder))
    assert launcher.exit_code() == 1
    assert re.search("store of this world cannot be started.*this torch is broken", launcher.text())
