"""The folder is gone, and training goes on from the artifact, bit for bit."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from resuming import Training, attempt

from mlenv import depot
from mlenv.ckpt import listing, names
from mlenv.courier import pages

if TYPE_CHECKING:
    from pathlib import Path

    from bench import Pod
    from wandb_server import Server

pytestmark = pytest.mark.usefixtures("alone")


def past(pod: Pod, step: int) -> dict[str, Any]:
    found = next(one for one in listing.read(pod.folder) if one.step == step)
    return {"attempt": found.attempt, "step": step, "digest": found.digest}


@pytest.fixture
def trained(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Six steps are done, and their checkpoints stored; the record of the newest."""
    with attempt(pod, monkeypatch, 1):
        Training(pod, 1).steps(6)
    pod.carry()
    return past(pod, 6)


class TestGoingOn:
    def test_without_its_folder_it_goes_on_bit_for_bit(
        self,
        pod: Pod,
        trained: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        wandb: Server,
    ) -> None:
        shutil.rmtree(pod.folder)
        with attempt(pod, monkeypatch, 2, past=trained):
            second = Training(pod, 2).steps(11)
        other = type(pod)(tmp_path / "whole", wandb, "-")
        with attempt(other, monkeypatch, 1, carries=False):
            whole = Training(other, 1).steps(11)
        other.close()
        assert second.seen == whole.seen[6:]
        assert second.weights == whole.weights

    def test_a_damaged_version_is_passed_over_for_an_older_one(
        self,
        pod: Pod,
        trained: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        wandb: Server,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        shutil.rmtree(pod.folder)
        newest = max(pod.store.heads(), key=lambda one: one.which.step)
        pod.store.delete(newest)
        with attempt(pod, monkeypatch, 2, past=trained):
            Training(pod, 2).steps(7)
        out = capsys.readouterr().out
        assert "goes on from step 4" in out
        assert "that of step 6 of attempt 1, which is recorded, is not to be had here" in out

    def test_a_damaged_folder_is_mended_from_the_store(
        self, pod: Pod, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for found in listing.read(pod.folder):
            (pod.folder / found.name / names.STATE).write_bytes(b"{}")
        with attempt(pod, monkeypatch, 2, past=trained):
            second = Training(pod, 2).steps(7)
        assert len(second.seen) == 1

    def test_the_ceiling_holds_for_the_store(
        self,
        pod: Pod,
        trained: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        shutil.rmtree(pod.folder)
        with attempt(pod, monkeypatch, 2, past=trained, ceilingStep=5):
            Training(pod, 2).steps(7)
        assert "goes on from step 4" in capsys.readouterr().out


class TestAway:
    def test_while_it_is_being_brought_patience_has_no_end(
        self, pod: Pod, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch, wandb: Server
    ) -> None:
        shutil.rmtree(pod.folder)
        monkeypatch.setenv("MLENV_STORE_PATIENCE", "0.01")
        pages.write(pod.own, pages.BROUGHT, pages.Brought(nonce="n", words="bringing", patience=60))
        monkeypatch.setattr(depot, "uuid", SimpleNamespace(uuid4=lambda: SimpleNamespace(hex="n")))
        with attempt(pod, monkeypatch, 2, past=trained):
            second = Training(pod, 2).steps(7)
        assert len(second.seen) == 1

    def test_a_first_attempt_asks_nobody(
        self, pod: Pod, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with attempt(pod, monkeypatch, 1, carries=False):
            Training(pod, 1).steps(2)
        assert "from the store" not in capsys.readouterr().out

    def test_without_a_recorded_past_it_starts_afresh_and_says_so(
        self, pod: Pod, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MLENV_STORE_PATIENCE", "0.2")
        with attempt(pod, monkeypatch, 2, carries=False):
            Training(pod, 2).steps(2)
        assert "the store cannot be asked (its courier has not answered yet)" in capsys.readouterr().out

    def test_nothing_starts_afresh_while_the_store_cannot_be_asked(
        self, pod: Pod, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch, wandb: Server
    ) -> None:
        shutil.rmtree(pod.folder)
        monkeypatch.setenv("MLENV_STORE_PATIENCE", "0.5")
        wandb.fault("ProjectArtifacts", status=503)
        with attempt(pod, monkeypatch, 2, past=trained), pytest.raises(SystemExit) as ended:
            Training(pod, 2).steps(7)
        assert ended.value.code == 75

    def test_what_is_here_is_gone_on_from_with_a_sentence(
        self,
        pod: Pod,
        trained: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        wandb: Server,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        shutil.rmtree(pod.folder / names.folder(6, 1))
        monkeypatch.setenv("MLENV_STORE_PATIENCE", "0.5")
        wandb.fault("ProjectArtifacts", status=503)
        with attempt(pod, monkeypatch, 2, past=trained):
            Training(pod, 2).steps(7)
        out = capsys.readouterr().out
        assert "the store cannot be asked" in out
        assert "goes on from step 4" in out


class TestHistory:
    def test_the_run_has_each_step_once_over_two_attempts(
        self, pod: Pod, trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.rmtree(pod.folder)
        with attempt(pod, monkeypatch, 2, past=trained):
            Training(pod, 2).steps(11)
        pod.courier.scribe.last = True
        pod.carry()
        found = pod.store.recorded(0, 100)
        assert [(one["_step"], one["step"], one["samples"]) for one in found] == [
            (step, step, 2 * step) for step in range(1, 12)
        ]
