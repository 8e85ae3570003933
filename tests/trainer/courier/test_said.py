"""What the job's run tells besides its history: the program, its attempts, and what their time went to."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from resuming import Training, attempt
from wandb_server import Client

import mlenv as ml
from mlenv import introduce, spent

if TYPE_CHECKING:
    from pathlib import Path

    from bench import Pod
    from wandb_server import Server

pytestmark = pytest.mark.usefixtures("alone")

ARGV = ["python", "train.py", "--api-key=hush", "--db-password", "husher", "--lr", "0.1"]
LOOK = """
    run = wandb.Api().run(sys.argv[1])
    tell([dict(run.config), run.summary._json_dict])
"""


def test_two_attempts_are_told_in_one_run_without_secrets(
    pod: Pod, wandb_and_key: tuple[Server, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ARGV)
    with attempt(pod, monkeypatch, 1):
        Training(pod, 1).steps(6)
    with attempt(pod, monkeypatch, 2):
        Training(pod, 2).steps(9)
    pod.courier.scribe.last = True
    pod.carry()
    folder = tmp_path / "user"
    folder.mkdir()
    user = Client(wandb_and_key[0], folder, wandb_and_key[1], "ada")
    config, summary = user.run(LOOK, f"ada/{pod.config.project}/uid-1")
    ours: dict[str, Any] = config["mlenv"]
    assert (ours["job"], ours["uid"], ours["attempt"]) == ("ranker", "uid-1", 2)
    program = ours["program"]
    assert (program["world_size"], program["nodes"], program["device"]) == (1, 1, "cpu")
    assert (program["torch"], program["argv"][-2:]) == (torch.__version__, ["--lr", "0.1"])
    assert "hush" not in json.dumps(config)
    assert summary["mlenv/attempts/1"] == {"from_step": 0, "exit_code": 0}
    assert summary["mlenv/attempts/2"] == {"from_step": 6, "exit_code": 0}
    took = {key.rpartition("/")[2] for key in summary if key.startswith("mlenv/seconds/attempt-2/")}
    assert took == set(spent.NAMES)
    assert summary["mlenv/seconds/attempt-2/productive"] > 0


def test_texts_with_the_names_of_secrets_are_hidden_and_numbers_are_not(tmp_path: Path) -> None:
    job = ml.Job(run_dir=tmp_path, name="ranker", uid="uid-1", attempt=1)
    said = {"lr": 0.1, "max_tokens": 100, "hub": {"api_key": "hush", "names": ["a"]}, "passwords": ["hush"]}
    (tmp_path / introduce.CONFIG).write_text(json.dumps(said))
    found = introduce.of(job, {}, ["train.py", "--max-tokens", "100", "--secret", "hush", "--names", "a"])
    assert found["argv"] == ["train.py", "--max-tokens", "100", "--secret", "***", "--names", "a"]
    assert found["parameters"] == {
        "lr": 0.1,
        "max_tokens": 100,
        "hub": {"api_key": "***", "names": ["a"]},
        "passwords": ["***"],
    }
