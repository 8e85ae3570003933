"""The benchmark of W&B: its figures by hand, and that it is called as what it is about."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import wandb_
from carrying import figures
from carrying.figures import ALONE, DEAD, FAILING, HEALTHY, REFUSED, SLOW, Seen, Stored, Turn
from carrying.turns import steps_of
from carrying.watching import Processors
from loops.setup import DIM

from mlenv import rows

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from tasks import bench


def seen(state: str, per_step: float, *alone: float, commits: tuple[float, ...] = ()) -> Seen:
    before, after = alone or (1.0, 1.0)
    return Seen(state, Turn(per_step, commits=commits), (Turn(before), Turn(after)))


def one_round(dead: str, healthy: float = 1.0) -> list[Seen]:
    return [seen(HEALTHY, healthy, commits=(3.0,)), seen(SLOW, 1.25), seen(dead, 2.0)]


def test_figures_by_hand() -> None:
    turns = [*one_round(REFUSED), *one_round(FAILING, 1.25), *one_round(REFUSED)]
    found = figures.figures(turns, Stored(10.0, (2.0, 4.0, 3.0)), Stored(200.0, (10.0,)), 123.44)
    assert found == {
        "artifact_commit_s_10mb": 3.0,
        "artifact_mb_per_s": 20.0,
        "training_throughput_ratio": {"healthy": 1.0, "slow": 0.8, "dead": 0.5},
        "history_rows_per_s": 123.4,
    }
    assert figures.commits(turns) == [3.0, 3.0, 3.0]


def test_a_machine_that_becomes_slower_all_the_time_changes_no_ratio() -> None:
    drifting = [seen(HEALTHY, 7.0, 6.5, 7.5), seen(HEALTHY, 8.0, 7.5, 8.5)]
    assert figures.ratios(drifting, "healthy") == [pytest.approx(1.0)] * 2


def test_the_table_has_each_state_that_was_seen() -> None:
    found = wandb_.table([*one_round(REFUSED), *one_round(REFUSED, 1.25)]).splitlines()
    assert [one[:16].strip() for one in found] == ["", ALONE, HEALTHY, SLOW, REFUSED]
    assert found[3].split()[1:] == ["1250.000", "0.8000", "0.8000", "to", "0.8000", "0.000", *["0.00"] * 3]
    assert len({len(one) for one in found}) == 1


def test_each_state_comes_in_each_place_and_dead_is_both() -> None:
    states = figures.states(6)
    rounds = [states[3 * number : 3 * number + 3] for number in range(6)]
    for place in range(3):
        assert {one[place] for one in rounds} >= {HEALTHY, SLOW}
    assert [next(state for state in one if state in DEAD) for one in rounds] == [*DEAD] * 3


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
