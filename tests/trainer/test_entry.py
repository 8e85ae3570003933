"""Programs made of functions: what a command line and a file may say, and what is refused."""

from __future__ import annotations

import enum
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pagecode
import pytest
import torch
from pydantic import BaseModel, Field
from rig import DEADLINE, WAYS

import mlenv as ml
from mlenv import commandline
from mlenv import job as jobs
from mlenv.commandline import read


class Color(enum.Enum):
    RED = "red"
    DARK_BLUE = "dark-blue"


@dataclass
class Optimizer:
    lr: float = 0.1
    """How far a step goes."""
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass
class Config:
    path: Path
    """Where the rows are."""
    seed: int = 3
    sizes: list[int] = field(default_factory=lambda: [1, 2])
    color: Color = Color.RED
    mode: Literal["fast", "exact"] = "fast"
    warm: bool = False
    clip: float | None = 1.0
    weights: dict[str, float] = field(default_factory=dict)
    optimizer: Optimizer = field(default_factory=Optimizer)
    learning_rate: float = 0.5


class Model(BaseModel):
    """A pydantic one."""

    batch: int = Field(default=8, gt=0)
    name: str = "x"


@ml.entry
def main(config: Config, job: ml.Job) -> int:
    """Trains something."""
    sys.stdout.write(f"drawn {torch.rand(1).item()} {job.rank} {config.path}\n")
    return 5 if config.warm else 0


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(jobs, "_current", None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MLENV_JOB_UID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLENV_RUN_DIR", str(tmp_path / "run"))


def refused(argv: list[str], kind: type[Any] = Config) -> int | str | None:
    with pytest.raises(SystemExit) as caught:
        read(kind, argv)
    return caught.value.code


def test_every_kind_of_value() -> None:
    words = (
        "--path p --sizes 3 4 5 --color dark-blue --mode exact --warm True --clip None --weights a 1 b 2 "
        "--optimizer.lr 0.25 --optimizer.betas 0 1 --learning_rate 2"
    )
    assert read(Config, words.split()) == Config(
        path=Path("p"),
        sizes=[3, 4, 5],
        color=Color.DARK_BLUE,
        mode="exact",
        warm=True,
        clip=None,
        weights={"a": 1.0, "b": 2.0},
        optimizer=Optimizer(0.25, (0.0, 1.0)),
        learning_rate=2.0,
    )
    assert read(Config, ["--path", "p", "--learning-rate", "2"]).learning_rate == 2.0
    assert read(Config, ["--path=--p"]) == Config(path=Path("--p"))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["Required", "--path PATH", "Where the rows are."]),
        (["--path", "p", "--optimiser.lr", "1"], ["--optimiser.lr", "Perhaps you meant", "--optimizer.lr"]),
        (["--path", "p", "--seed", "much"], ["--seed", "much", "INT"]),
        (["--path", "p", "--sizes", "1", "x"], ["--sizes", "x", "INT"]),
        (["--path", "p", "--color", "RED"], ["--color", "red", "dark-blue"]),
        (["--path", "p", "--mode", "slow"], ["--mode", "slow", "fast", "exact"]),
        (["--path", "p", "--warm", "maybe"], ["--warm", "maybe", "True"]),
        (["--path", "p", "--clip", "much"], ["--clip", "much", "FLOAT"]),
        (["--path", "p", "--optimizer.betas", "1"], ["--optimizer.betas"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--config"], ["--config", "expected one argument"]),
    ],
)
def test_what_is_wrong_is_refused(
    argv: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(argv) == 2
    told = "".join(capsys.readouterr())
    for word in words:
        assert word in told


def test_in_a_job_no_other_attempt_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLENV_JOB_UID", "uid-1")
    assert refused(["--seed", "much"]) == 78
    assert refused(["--config", "nowhere.yaml"]) == 78


def test_other_ranks_are_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(commandline, "FIRST_SPEAKS_S", 0.01)
    assert refused(["--seed", "much"]) == 2
    assert refused(["--config", "nowhere.yaml"]) == 2
    assert "".join(capsys.readouterr()) == ""


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read(Config, ["--help"], description="Trains something.")
    assert caught.value.code == 0
    told = capsys.readouterr().out
    for word in ("Trains something.", "--config FILE", "How far a step goes.", "--optimizer.lr", "0.1"):
        assert word in told


FILES = {
    "base.yaml": """
path: rows
sizes: [7]
color: dark-blue
clip: null
warm: true
weights: {a: 1}
optimizer:
  lr: 0.25
""",
    "base.json": json.dumps(
        {
            "path": "rows",
            "sizes": [7],
            "color": "dark-blue",
            "clip": None,
            "warm": True,
            "weights": {"a": 1},
            "optimizer": {"lr": 0.25},
        }
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_it_and_the_command_line_wins(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(FILES[name])
    expected = Config(
        path=Path("rows"),
        sizes=[7],
        color=Color.DARK_BLUE,
        clip=None,
        warm=True,
        weights={"a": 1.0},
        optimizer=Optimizer(0.25),
    )
    assert read(Config, ["--config", str(file)]) == expected
    expected.sizes, expected.optimizer.lr = [8, 9], 2.0
    assert read(Config, ["--sizes", "8", "9", f"--config={file}", "--optimizer.lr", "2"]) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path: p\noptimizer: {lrr: 1}", ["--optimizer.lrr", "--optimizer.lr"]),
        ("path: p\nseed: much", ["--seed", "much"]),
        ("seed: 1", ["Required", "--path"]),
        ("- 1\n- 2", ["names and values are expected, not a list"]),
    ],
)
def test_a_file_is_held_to_the_same(
    text: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "base.yaml"
    file.write_text(text)
    assert refused(["--config", str(file)]) == 2
    told = "".join(capsys.readouterr())
    for word in words:
        assert word in told


def test_pydantic_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert read(Model, ["--batch", "9"]) == Model(batch=9)
    assert refused(["--batch", "0"], Model) == 2
    told = "".join(capsys.readouterr())
    assert "batch" in told
    assert "greater than 0" in told


def test_with_arguments_it_is_the_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Config(Path("p"), warm=True), ml.Job()) == 5
    assert main(config=Config(Path("p")), job=ml.Job()) == 0
    assert not (tmp_path / "run").exists()
    assert main.__name__ == "main"
    assert jobs._current is None
    assert capsys.readouterr().out.count("drawn") == 2


def test_as_a_program_it_seeds_and_writes_what_it_runs_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--path", "p", "--warm", "True", "--color", "dark-blue"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 5
    torch.manual_seed(3)
    assert f"drawn {torch.rand(1).item()} 0 p" in capsys.readouterr().out
    written = tmp_path / "run" / "config.json"
    assert json.loads(written.read_text())["color"] == "dark-blue"
    again = read(Config, ["--config", str(written)])
    assert again == Config(Path("p"), warm=True, color=Color.DARK_BLUE)


def test_a_folder_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("a file")
    monkeypatch.setattr(sys, "argv", ["train.py", "--path", "p"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert "config.json was not written" in capsys.readouterr().err


def test_a_function_without_a_config_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])

    @ml.entry
    def nothing() -> None: ...

    @ml.entry
    def number(count: int) -> None: ...

    for one in (nothing, number):
        with pytest.raises(TypeError, match="must be annotated with a dataclass or a pydantic model"):
            one()


@pytest.mark.parametrize("way", WAYS)
def test_in_a_gang(way: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(pagecode.programs()["entry"])
    run_dir = tmp_path / "run"

    def launch(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mlenv.launch", "--nproc-per-node", "2", "train.py", *argv],
            cwd=tmp_path,
            env={**os.environ, "MLENV_RUN_DIR": str(run_dir), **WAYS[way]},
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )

    ended = launch("--lr", "0.1", "--data.batch", "64")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for rank in (0, 1):
        expected = "Config(lr=0.1, seed=0, sizes=[64, 32], data=Data(batch=64))"
        assert f"rank {rank} of 2: {expected}" in ended.stdout
    assert json.loads((run_dir / "config.json").read_text())["data"] == {"batch": 64}
    # Rank 0 is late, and still heard: the other rank's end would be its own. How late does not matter here.
    late = 'import os, time\nif os.environ["RANK"] == "0":\n    time.sleep(2)\n'
    late += f"from mlenv import commandline\ncommandline.FIRST_SPEAKS_S = {DEADLINE}\n"
    (tmp_path / "train.py").write_text(late + pagecode.programs()["entry"])
    wrong = launch("--lr", "0.1", "--data.bach", "64")
    assert wrong.returncode == 2, wrong.stdout + wrong.stderr
    assert (wrong.stdout + wrong.stderr).count("Perhaps you meant") == 1
