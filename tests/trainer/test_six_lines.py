"""The scripts of docs/training.md: few lines change, and what is killed ends as if it had not been."""

from __future__ import annotations

import difflib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pagecode
import pytest
import torch
from rig import DEADLINE, WAYS, until

if TYPE_CHECKING:
    from pathlib import Path

CHANGES = pagecode.changes()
PYTHON = [sys.executable]
GANG = [sys.executable, "-m", "mlenv.launch", "--nproc-per-node", "2"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


class Runs:
    """One script in one folder, started again and again."""

    def __init__(self, folder: Path, code: str, start: list[str], **env: str) -> None:
        folder.mkdir()
        (folder / "train.py").write_text(code)
        self.folder, self.argv, self.count = folder, [*start, "train.py"], 0
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLENV_", "MASTER_"))}
        self.env = {**clean, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **env}

    def start(self, **env: str) -> tuple[subprocess.Popen[bytes], Path]:
        self.count += 1
        log = self.folder / f"{self.count}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                self.argv, cwd=self.folder, env={**self.env, **env}, stdout=out, stderr=subprocess.STDOUT
            )
        return process, log

    def whole(self, **env: str) -> str:
        """What a run prints that ends well."""
        process, log = self.start(**env)
        assert process.wait(DEADLINE) == 0, log.read_text()
        return log.read_text()

    def killed(self) -> str:
        """What a run prints that gets SIGKILL once a checkpoint is there, and cannot end before.

        Its next save would wait for the one that stands still.
        """
        process, log = self.start(MLENV_FAILPOINTS=f"retain=wait:{self.folder / 'never'}")
        sealed = "kept/step-*.a[0-9]/SEAL.json"
        until(lambda: process.poll() is not None or list(self.folder.glob(sealed)), "a checkpoint")
        process.kill()
        assert process.wait(DEADLINE) == -signal.SIGKILL, log.read_text()
        return log.read_text()

    @property
    def weights(self) -> list[Any]:
        found = torch.load(self.folder / "net.pt")
        return [(name, weight.tolist()) for name, weight in found.items()]


def losses(text: str, of: str = "") -> list[str]:
    """The losses that a log tells, of one rank if its lines say so."""
    lines = [line for line in text.splitlines() if of in line]
    return [line.rpartition("loss ")[2] for line in lines if "loss 0." in line and "step " not in line]


@pytest.mark.parametrize("name", CHANGES)
def test_few_lines_change(name: str) -> None:
    one = CHANGES[name]
    diff = list(difflib.ndiff(one.before.splitlines(), one.after.splitlines()))
    # Lines that only go need no thought of anybody's.
    assert 0 < sum(line.startswith("+ ") for line in diff) <= 6
    assert 20 <= one.before.count("\n") <= 35


def test_a_killed_script_ends_like_one_that_was_not(tmp_path: Path) -> None:
    change = CHANGES["alone"]
    plain = Runs(tmp_path / "plain", change.before, PYTHON)
    expected = losses(plain.whole())
    assert len(expected) == 1500
    undisturbed = Runs(tmp_path / "undisturbed", change.after, PYTHON)
    assert losses(undisturbed.whole()) == expected
    runs = Runs(tmp_path / "killed", change.after, PYTHON)
    first = losses(runs.killed())
    text = runs.whole()
    rest = losses(text)
    assert first == expected[: len(first)]
    assert rest == expected[-len(rest) :]
    assert 0 < len(rest) < len(expected)
    assert f"goes on from step {len(expected) - len(rest)}, saved by attempt 1" in text
    assert runs.weights == undisturbed.weights == plain.weights


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Any]]:
    """What a gang prints, and what it ends with."""
    runs = Runs(tmp_path_factory.mktemp("gang") / "undisturbed", CHANGES["ddp"].after, GANG)
    return runs.whole(), runs.weights


@pytest.mark.parametrize("way", WAYS)
def test_a_killed_gang_ends_like_one_that_was_not(
    tmp_path: Path, way: str, undisturbed: tuple[str, list[Any]]
) -> None:
    expected, weights = undisturbed
    runs = Runs(tmp_path / "killed", CHANGES["ddp"].after, GANG, **WAYS[way])
    process, log = runs.start(MLENV_FAILPOINTS="sealed=kill@0")
    assert process.wait(DEADLINE) != 0
    assert "SIGKILL" in log.read_text()
    text = runs.whole()
    for rank in ("r0]", "r1]"):
        all_of, first, rest = (losses(each, rank) for each in (expected, log.read_text(), text))
        assert len(all_of) == 375
        assert first == all_of[: len(first)]
        assert rest == all_of[-len(rest) :]
        assert 0 < len(rest) < len(all_of)
    assert runs.weights == weights


def test_the_plain_gang_trains_the_same(tmp_path: Path, undisturbed: tuple[str, list[Any]]) -> None:
    plain = Runs(tmp_path / "plain", CHANGES["ddp"].before, TORCHRUN)
    plain.whole()
    assert plain.weights == undisturbed[1]
