"""A job starts from a checkpoint that another has in the store; what cannot be used is refused in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from bench import Pod
from resuming import Training, attempt

from mlenv_api import names as api_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wandb_server import Server

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def elder(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> Training:
    """A job that trained for four steps, whose checkpoints are stored."""
    with attempt(pod, monkeypatch, 1):
        found = Training(pod, 1).steps(4)
    pod.carry()
    return found


@pytest.fixture
def younger(pod: Pod, wandb_and_key: tuple[Server, str], tmp_path: Path) -> Iterator[Pod]:
    """The pod of another job in the same project."""
    server, key = wandb_and_key
    made = Pod(tmp_path / "younger", server, key, project=pod.config.project, uid="uid-2")
    yield made
    made.close()


@pytest.fixture
def start(younger: Pod, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Training]:
    """Run the younger job for no step more than its start."""

    def run(source: str, **resume: Any) -> Training:
        said = {"resume": {"policy": "From", "from": source, "things": ["net"], **resume}}
        monkeypatch.setenv(api_names.ENV_CHECKPOINT, json.dumps(said))
        with attempt(younger, monkeypatch, 1):
            return Training(younger, 1).steps(0)

    return run


def name(pod: Pod, which: str) -> str:
    return f"ada/{pod.config.project}/{pod.store.head}:{which}"


def test_it_starts_with_the_weights_of_another_job_by_version_or_alias(
    pod: Pod, elder: Training, start: Callable[[str], Training], capsys: pytest.CaptureFixture[str]
) -> None:
    newest = max(pod.store.heads(), key=lambda one: one.which.step)
    assert start(newest.name).weights == elder.weights
    assert f"starts at step 0 from {newest.name} (net)" in capsys.readouterr().out
    assert start(name(pod, "step-000000000004.a1")).weights == elder.weights


@pytest.mark.parametrize("which", ["v99", "no-such-alias"])
def test_one_that_is_not_there_is_refused_by_name(
    pod: Pod,
    elder: Training,
    start: Callable[[str], Training],
    capsys: pytest.CaptureFixture[str],
    which: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        start(name(pod, which))
    assert ended.value.code == 78
    said = capsys.readouterr().err
    assert f"this job starts from {name(pod, which)}: " in said
    assert "spec.checkpoint.resume.from" in said


def test_one_that_was_never_verified_is_refused(
    pod: Pod, elder: Training, start: Callable[[str], Training], capsys: pytest.CaptureFixture[str]
) -> None:
    newest = max(pod.store.heads(), key=lambda one: one.which.step)
    pod.store._do("mark", 60.0, name=newest.name, kind="checkpoint", metadata={"verified": False}, aliases=[])
    with pytest.raises(SystemExit) as ended:
        start(newest.name)
    assert ended.value.code == 78
    assert "it was never read back and verified" in capsys.readouterr().err


def test_a_server_that_is_away_is_asked_again_by_the_next_attempt(  # noqa: PLR0917
    pod: Pod,
    elder: Training,
    start: Callable[[str], Training],
    wandb: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    newest = max(pod.store.heads(), key=lambda one: one.which.step)
    monkeypatch.setenv("MLENV_STORE_PATIENCE", "0.5")
    wandb.fault("ArtifactByName", status=503)
    wandb.fault("ArtifactMembershipByName", status=503)
    with pytest.raises(SystemExit) as ended:
        start(newest.name)
    assert ended.value.code == 75
    assert "the next attempt asks again" in capsys.readouterr().err


def test_without_a_courier_it_is_said_what_to_add(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"resume": {"policy": "From", "from": "ada/p/ranker-ckpt:v1"}}
    monkeypatch.setenv(api_names.ENV_CHECKPOINT, json.dumps(said))
    with attempt(pod, monkeypatch, 1, carries=False):
        monkeypatch.delenv(api_names.ENV_COURIER)
        with pytest.raises(SystemExit) as ended:
            Training(pod, 1).steps(0)
    assert ended.value.code == 78
    assert "add spec.tracking.wandb" in capsys.readouterr().err
