"""Every loop of docs/training.md, cut off in the middle, ends bit for bit like one that was not."""

from __future__ import annotations

import code
import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pagecode
import pytest
import torch
from rig import DEADLINE, until

from mlenv import job as jobs
from mlenv.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAMS = pagecode.programs()
APART = {"start", "fsdp"}
LOOPS = sorted(PROGRAMS.keys() - APART - {name for name in PROGRAMS if name.startswith("entry")})
CUT = 14


class Cut(KeyboardInterrupt):
    """What a person does to a cell that runs for too long."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that no launcher started, in a folder of its own."""
    monkeypatch.setattr(jobs, "_current", None)
    for name in [name for name in os.environ if name.startswith(("MLENV_", "MASTER_"))]:
        monkeypatch.delenv(name)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@contextlib.contextmanager
def cut_at(step: int) -> Iterator[None]:
    """Within this, the commit of a step is the last thing that a loop does."""
    commit = Session.commit

    def until_then(self: Session, **metrics: Any) -> None:
        commit(self, **metrics)
        if self.step == step:
            raise Cut

    Session.commit = until_then  # type: ignore[method-assign, assignment]
    try:
        with pytest.raises(Cut):
            yield
    finally:
        Session.commit = commit  # type: ignore[method-assign]


def states(namespace: dict[str, Any]) -> dict[str, Any]:
    """The weights of every model, and where torch's generator is."""
    models = {name: one for name, one in namespace.items() if isinstance(one, torch.nn.Module)}
    found = {f"{name}.{at}": w.tolist() for name, one in models.items() for at, w in one.state_dict().items()}
    return {**found, "generator": torch.get_rng_state().tolist()}


def train(name: str) -> dict[str, Any]:
    """Run a loop of the page as a new process would, with what it begins with."""
    jobs._current = None
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(PROGRAMS["start"], namespace)
    exec(PROGRAMS[name], namespace)
    return states(namespace)


@pytest.mark.parametrize("name", LOOPS)
def test_it_goes_on_bit_for_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    whole = train(name)
    monkeypatch.chdir(tmp_path / "cut")
    with cut_at(CUT):
        train(name)
    assert train(name) == whole


@pytest.mark.parametrize("cut", [12, 13])
def test_evaluating_at_the_top_is_exact_at_any_step(cut: int, tmp_path: Path) -> None:
    whole_run = tmp_path / "whole"
    whole_run.mkdir()
    with contextlib.chdir(whole_run):
        whole = train("evaluation")
    with cut_at(cut):
        train("evaluation")
    assert train("evaluation") == whole


def test_fully_sharded(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(PROGRAMS["fsdp"])
    ended = {}
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    for folder, points in (("whole", ""), ("cut", "sealed=kill@0"), ("cut", "")):
        ended[folder, points] = subprocess.run(
            [sys.executable, "-m", "mlenv.launch", "--nproc-per-node", "2", str(script)],
            cwd=tmp_path / folder,
            env={**os.environ, "MLENV_FAILPOINTS": points, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )
    codes = [one.returncode != 0 for one in ended.values()]
    assert codes == [False, True, False], [one.stdout for one in ended.values()]
    assert "goes on from step" in ended["cut", ""].stdout
    for rank in (0, 1):
        weights = [torch.load(tmp_path / folder / f"net-{rank}.pt") for folder in ("whole", "cut")]
        assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


class TestNotebooks:
    """Cells in one process; one of them is stopped and run again."""

    def run(self, shell: code.InteractiveInterpreter, cell: str) -> None:
        shell.runcode(compile(cell, "<cell>", "exec"))

    def test_a_stopped_cell_goes_on(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        whole_run = tmp_path / "whole"
        whole_run.mkdir()
        with contextlib.chdir(whole_run):
            whole = train("accumulation")
        jobs._current = None
        shell = code.InteractiveInterpreter({"__name__": "__main__"})
        self.run(shell, PROGRAMS["start"])
        with cut_at(CUT):
            try:
                exec(PROGRAMS["accumulation"], shell.locals)
            except Cut:
                until(lambda: list(tmp_path.glob("kept/step-000000000012.a1/SEAL.json")), "a checkpoint")
                raise
        self.run(shell, PROGRAMS["accumulation"])
        assert "goes on from step 12" in capsys.readouterr().out
        assert states(dict(shell.locals)) == whole

    def test_a_second_cell_trains_something_else(self) -> None:
        shell = code.InteractiveInterpreter({"__name__": "__main__"})
        for cell in ("start", "sparse", "start"):
            self.run(shell, PROGRAMS[cell])
        self.run(shell, "before = job\njob = ml.init()\nsame = job is before")
        assert shell.locals["same"] is True
