"""A program that is killed in the middle of its own wandb run: what it had written is sent all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from wandb_server import QUIET, Client, lose, wait_for

from mlenv_api import names

if TYPE_CHECKING:
    from pathlib import Path

    from bench import Pod
    from wandb_server import Server

PROGRAM = """
import time, wandb
run = wandb.init(id="own")
for step in range(10**9):
    run.log({"loss": step})
    time.sleep(0.001)
"""
LOOK = """
    run = wandb.Api().run(sys.argv[1])
    tell([run.group, [row["loss"] for row in run.scan_history()]])
"""


def start(pod: Pod, folder: Path) -> subprocess.Popen[str]:
    """In the environment that the operator gives; the client writes its file every second, not every 15."""
    given = {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "WANDB_ENTITY": "ada",
        "WANDB_PROJECT": pod.config.project,
        "WANDB_RUN_GROUP": pod.config.uid,
        "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
        "HOME": str(pod.folder.parent),
    }
    mine = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    argv = [sys.executable, "-c", PROGRAM]
    return subprocess.Popen(
        argv, env={**mine, **QUIET, **given}, cwd=pod.folder, start_new_session=True, text=True
    )


def test_its_rows_are_there_without_a_hole(
    pod: Pod, wandb_and_key: tuple[Server, str], tmp_path: Path
) -> None:
    folder = pod.own.parent / names.OFFLINE_DIR
    process = start(pod, folder)
    try:

        def written() -> bool:
            return any(
                one.stat().st_size > 40_000 for one in folder.glob("wandb/offline-run-*-own/run-own.wandb")
            )

        wait_for(written, "rows in the program's own run")
    finally:
        lose(process)
    pod.courier.ending = True
    pod.carry()
    (tmp_path / "user").mkdir()
    user = Client(wandb_and_key[0], tmp_path / "user", wandb_and_key[1], "ada")
    group, losses = user.run(LOOK, f"ada/{pod.config.project}/own")
    assert group == pod.config.uid
    assert losses == list(range(len(losses)))
    assert len(losses) > 10
