"""The benchmark of W&B: its figures by hand, and that it is called as what it is about."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import wandb_
from carrying import figures
from carrying.figures import ALONE, DEAD, FAILING, HEALTHY, REFUSED, SLOW, Stored, Turn
from carrying.turns import steps_of
from carrying.watching import Processors
from loops.setup import DIM

from mlenv import rows

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from tasks import bench


def turns(dead: str, healthy: float = 1.0) -> dict[str, Turn]:
    return {ALONE: Turn(1.0), HEALTHY: Turn(healthy, commits=(3.0,)), SLOW: Turn(1.25), dead: Turn(2.0)}


def test_figures_by_hand() -> None:
    rounds = [turns(REFUSED), turns(FAILING, 1.25), turns(REFUSED)]
    found = figures.figures(rounds, Stored(10.0, (2.0, 4.0, 3.0)), Stored(200.0, (10.0,)), 123.44)
    assert found == {
        "artifact_commit_s_10mb": 3.0,
        "artifact_mb_per_s": 20.0,
        "training_throughput_ratio": {"healthy": 1.0, "slow": 0.8, "dead": 0.5},
        "history_rows_per_s": 123.4,
    }
    assert figures.commits(rounds) == [3.0, 3.0, 3.0]


def test_ratios_are_taken_within_a_round() -> None:
    slower = {name: Turn(one.per_step * 7) for name, one in turns(REFUSED, 1.25).items()}
    assert figures.ratios([turns(REFUSED, 1.25), slower], "healthy") == [pytest.approx(0.8)] * 2


def test_the_table_has_each_state_that_was_seen() -> None:
    found = wandb_.table([turns(REFUSED), turns(REFUSED, 1.25)]).splitlines()
    assert [one[:16].strip() for one in found] == ["", ALONE, HEALTHY, SLOW, REFUSED]
    assert found[3].split()[1:] == ["1250.000", "0.8000", "0.8000", "to", "0.8000", "0.000", *["0.00"] * 3]
    assert len({len(one) for one in found}) == 1


def test_each_state_comes_in_each_place_and_dead_is_both() -> None:
    orders = [figures.order(number) for number in range(4)]
    for place in range(4):
        assert {order[place] for order in orders} >= {ALONE, HEALTHY, SLOW}
    assert [next(one for one in order if one in DEAD) for order in orders] == [*DEAD, *DEAD]


def test_a_state_is_as_large_as_was_asked_for() -> None:
    size = wandb_.size_of(wandb_.arguments([]), 10)
    numbers = size.table * DIM + DIM * size.width + size.depth * size.width**2
    assert 12 * numbers / 1e6 == pytest.approx(10, rel=0.05)


def test_so_many_rows_have_so_many_steps() -> None:
    assert steps_of(60) == 60
    assert steps_of(rows.EVERY_STEP_UNTIL + 1) == rows.EVERY_STEP_UNTIL + 10


def spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_what_a_process_took_before_is_left_out() -> None:
    spin(0.5)
    counted = Processors({"me": os.getpid()})
    counted.look()
    spin(0.1)
    counted.cores()
    assert 0.05 <= counted._spent("me") < 0.5


def test_its_file_hides_no_module() -> None:
    assert not (bench.FOLDER / "wandb.py").exists()
    assert bench.found()["wandb"] == bench.FOLDER / "wandb_.py"
    import wandb

    assert hasattr(wandb, "init")
