"""The benchmark of loops: its figures by hand, and one small run of all its loops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loops import figures
from loops.setup import DIM, FILE, Rows, Size, build, write_rows
from loops.turns import BIG, LONG, TINY, Turn

import mlenv as ml

SIZE = Size(width=8, depth=1, batch=5, steps=4, table=10, rows=320, rounds=2)


def turns() -> dict[str, Turn]:
    seconds = dict.fromkeys([*BIG, *TINY, *LONG], 2.0)
    seconds |= {"session+checkpoint": 2.5, "hand+stream": 4.0, "hand+dataloader": 8.0, "session, tiny": 2.001}
    stalls = {"session+checkpoint": 0.05, "hand+torch.save": 0.5}
    return {name: Turn(one, 10, stalls.get(name, 0.0)) for name, one in seconds.items()}


def test_figures_by_hand() -> None:
    found = {name: one.median for name, one in figures.of([turns(), turns()]).items()}
    assert found["throughput_ratio"] == pytest.approx(0.8)
    assert found["stall_ratio"] == pytest.approx(0.02)
    assert found["session_us_per_step"] == pytest.approx(100)
    assert found["fabric_us_per_step"] == 0
    assert found["loader_to_frozen_ratio"] == pytest.approx(0.5)
    assert found["loader_to_dataloader_ratio"] == pytest.approx(2)
    assert found["stall_to_torch_save_ratio"] == pytest.approx(0.1)
    assert found["checkpoint_costs_s"] == pytest.approx(0.5)


def test_the_middle_half() -> None:
    assert figures.middle([1, 2, 3, 4, 100]) == figures.Middle(3, 2, 4)


def test_both_loaders_give_all_rows(tmp_path: Path) -> None:
    write_rows(tmp_path, SIZE)
    theirs = torch.cat([batch["y"] for batch in Rows(tmp_path / FILE, SIZE.batch)])
    stream = ml.Stream(tmp_path / FILE, SIZE.batch, rank=0, world=1)
    batches = list(stream)
    assert batches[0]["x"].shape == (SIZE.batch, DIM)
    ours = torch.cat([batch["y"] for batch in batches])
    assert len(ours) == SIZE.rows
    assert theirs.sort().values.tolist() == ours.sort().values.tolist()


def test_all_loops_train_the_same() -> None:
    first, second = (build(SIZE)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_small_run() -> None:
    script = Path(__file__).parents[3] / "benchmarks" / "checkpoint.py"
    ended = subprocess.run(
        [sys.executable, str(script), "--small"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found.keys() == figures.FIGURES.keys()
    assert found["stall_to_torch_save_ratio"] > 0
    assert found["checkpoint_writer_cpu_s"] > 0
