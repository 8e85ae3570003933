"""A program's own wandb calls without a key: they write offline, and the courier sends what they wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from wandb_server import QUIET, Client

from mlenv_api import names

if TYPE_CHECKING:
    from pathlib import Path

    from bench import Pod
    from wandb_server import Server

PROGRAM = """
import sys, wandb
run = wandb.init(id=sys.argv[1])
for step in range(3):
    run.log({"loss": 1.0 / (step + 1)})
run.finish()
"""
LOOK = """\
    run = wandb.Api().run(sys.argv[1])
    tell({"group": run.group, "state": run.state, "losses": [row["loss"] for row in run.scan_history()]})
"""


def train(pod: Pod, run: str) -> None:
    """A program that knows nothing of couriers, in the environment that the operator gives it."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    given = {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder(pod)),
        "WANDB_ENTITY": "ada",
        "WANDB_PROJECT": pod.config.project,
        "WANDB_RUN_GROUP": pod.config.uid,
    }
    argv = [sys.executable, "-c", PROGRAM, run]
    home = {"HOME": str(pod.folder.parent)}
    subprocess.run(argv, env={**mine, **QUIET, **given, **home}, cwd=pod.folder, check=True)


def folder(pod: Pod) -> Path:
    return pod.own.parent / names.OFFLINE_DIR


@pytest.fixture
def client(wandb_and_key: tuple[Server, str], tmp_path: Path) -> Client:
    (tmp_path / "client").mkdir()
    return Client(wandb_and_key[0], tmp_path / "client", wandb_and_key[1], "ada")


def test_what_a_program_logged_is_sent_when_it_has_ended_into_the_group_of_its_job(
    pod: Pod, client: Client
) -> None:
    train(pod, "own1")
    pod.turn()
    assert pod.courier.done, "while it may still be written nothing is sent"
    pod.courier.ending = True
    assert not pod.courier.done
    pod.carry()
    found = client.run(LOOK, f"ada/{pod.config.project}/own1")
    assert (found["group"], found["state"]) == (pod.config.uid, "finished")
    assert found["losses"] == [1.0, 0.5, 1.0 / 3]


def test_what_cannot_be_read_is_said_once_and_holds_up_no_other(pod: Pod, client: Client) -> None:
    broken = folder(pod) / "wandb" / "offline-run-0-broken" / "run-broken.wandb"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"no transaction log")
    train(pod, "own2")
    pod.courier.ending = True
    pod.carry()
    assert client.run(LOOK, f"ada/{pod.config.project}/own2")["state"] == "finished"
    assert sum("offline-run-0-broken is not sent" in one for one in pod.said) == 1
