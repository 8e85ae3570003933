"""A Stream in a Session: commits mark what is consumed, epochs are the data's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from datasets import Numbers
from torch.utils.data import DataLoader

import mlenv as ml
from mlenv.session import SessionError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def job(tmp_path: Path) -> ml.Job:
    return ml.Job(run_dir=tmp_path / "run")


def stream(**options: Any) -> ml.Stream:
    return ml.Stream(Numbers([[28]]), 4, **{"rank": 0, "world": 1, **options})


def test_commits_mark_what_is_consumed(job: ml.Job) -> None:
    data = stream()
    with ml.Session(job, data=data) as run:
        for number, batch in enumerate(run.steps(5)):
            assert batch["number"].shape == (4,)
            assert data.state_dict()["batches"] == number // 3 * 3
            if number % 3 == 2:  # three batches for a step; every second epoch ends in the middle of one
                run.commit()
    assert (run.step, run.samples, run.epoch) == (5, 60, 2)
    assert (data.epoch, data.state_dict()["step"]) == (2, 1)


def test_a_restart_at_any_commit_sees_the_same(job: ml.Job, tmp_path: Path) -> None:
    def train(data: ml.Stream, steps: int, run_dir: Path) -> list[list[int]]:
        got = []
        with ml.Session(ml.Job(run_dir=run_dir), data=data) as run:
            for number, batch in enumerate(run.steps(steps)):
                got.append(batch["number"].tolist())
                if number % 3 == 2:
                    run.commit()
        return got

    whole = train(stream(), 8, tmp_path / "whole")
    for steps in range(1, 8):
        first = stream()
        before = train(first, steps, tmp_path / f"{steps}")
        again = stream()
        again.load_state_dict(first.state_dict())
        assert before + train(again, 8 - steps, tmp_path / f"{steps}b") == whole


def test_a_batch_that_was_only_looked_at_is_trained_on(job: ml.Job) -> None:
    data = stream()
    looked_at = next(iter(data)).ids.tolist()
    with ml.Session(job, data=data) as run:
        batches = run.steps(3)
        assert next(batches).ids.tolist() == looked_at
        run.commit()
        second = next(batches).ids.tolist()
        assert next(run.steps(3)).ids.tolist() != second  # a loop that was left goes on behind it


def test_samples_are_those_of_all_ranks_also_when_their_shares_differ(tmp_path: Path) -> None:
    job = ml.Job(rank=1, local_rank=1, world_size=3, run_dir=tmp_path)
    with ml.Session(job, data=stream(rank=1, world=3, lanes=4)) as run:
        for _ in run.steps(2):
            run.commit()
    assert run.samples == 8


def test_a_session_goes_on_at_the_epoch_of_the_data(job: ml.Job) -> None:
    first = stream()
    list(first)
    data = stream()
    data.load_state_dict(first.state_dict())
    with ml.Session(job, data=data) as run:
        assert run.epoch == 1


def test_data_that_ends_before_the_steps_is_an_error(job: ml.Job) -> None:
    run = ml.Session(job, data=stream(epochs=1))

    def loop() -> None:
        with run:
            for _ in run.steps(8):
                run.commit()

    with pytest.raises(RuntimeError, match="all 1 epochs"):
        loop()
    assert run.step == 7


def test_a_forgotten_commit_is_noticed(job: ml.Job) -> None:
    with ml.Session(job, data=stream()) as run, pytest.raises(SessionError, match=r"without run.commit\(\)"):
        list(run.steps(1))


def test_loaders_of_others_work_too(job: ml.Job) -> None:
    with ml.Session(job, data=DataLoader([torch.ones(2)] * 6, batch_size=3)) as run:
        for _ in run.steps(3):
            run.commit()
    assert (run.samples, run.epoch) == (9, 1)


def test_a_stateful_loader_of_torchdata(job: ml.Job) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    loader = stateful.StatefulDataLoader(list(range(12)), batch_size=2)
    with ml.Session(job, data=loader) as run:
        for _ in run.steps(2):
            run.commit()
        state = loader.state_dict()
    again = stateful.StatefulDataLoader(list(range(12)), batch_size=2)
    again.load_state_dict(state)
    with ml.Session(job, data=again) as run:
        assert next(iter(run.steps(1))).tolist() == [4, 5]
