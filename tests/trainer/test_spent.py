"""What an attempt's time went to, from the loop to the beat."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

import mlenv as ml
from mlenv import page, spent
from mlenv.ckpt.checkpointer import Checkpointer
from mlenv.ckpt.restore import Restore
from mlenv.data.evaluation import Evaluation
from mlenv.data.synthetic import Clicks
from mlenv.resume import Keeper
from mlenv_api.protocol import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlenv_api.protocol import Spent


class Time:
    """Passes only when told; in microseconds."""

    def __init__(self) -> None:
        self.now = 10**15

    def passes(self, micros: int) -> None:
        self.now += micros * 1000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Iterator[Time]:
    found = Time()
    with monkeypatch.context() as patch:
        patch.setattr(spent, "monotonic_ns", found)
        spent.clock.begin()
        yield found
    spent.clock.begin()


@pytest.fixture
def job(tmp_path: Path) -> ml.Job:
    return ml.Job(run_dir=tmp_path / "run", name="demo", attempt=2)


def sums(found: Spent | None) -> dict[str, int]:
    assert found is not None
    amounts = found.model_dump(exclude={"time"}, by_alias=False)
    return {name: value for name, value in amounts.items() if value}


class Slow:
    """Data that takes its time."""

    def __init__(self, time: Time) -> None:
        self._time = time

    def __iter__(self) -> Iterator[torch.Tensor]:
        for _ in range(4):
            self._time.passes(30)
            yield torch.ones(2, 3)


class TestClock:
    def test_blocks_nest_and_all_time_goes_somewhere(self, time: Time) -> None:
        time.passes(1)
        with spent.clock.on(spent.EVAL):
            time.passes(10)
            with spent.clock.on(spent.DATA_WAIT):
                time.passes(100)
            time.passes(1000)
        time.passes(2)
        spent.clock.switch(spent.PRODUCTIVE)
        time.passes(10000)
        assert sums(spent.clock.read()) == {"init": 3, "eval": 1010, "data_wait": 100, "productive": 10000}

    def test_waits_within_waits_count_once(self, time: Time) -> None:
        spent.clock.switch(spent.PRODUCTIVE)
        asked = time()
        time.passes(1)
        inner = time()
        time.passes(10)
        spent.clock.took(spent.DATA_WAIT, inner)
        time.passes(100)
        spent.clock.took(spent.DATA_WAIT, asked)
        asked = time()
        with spent.clock.on(spent.EVAL):
            time.passes(1000)
        time.passes(10000)
        spent.clock.took(spent.DATA_WAIT, asked)
        assert sums(spent.clock.read()) == {"productive": 1, "data_wait": 10110, "eval": 1000}

    def test_an_error_ends_a_block(self, time: Time) -> None:
        with pytest.raises(RuntimeError), spent.clock.on(spent.EVAL):
            raise RuntimeError
        time.passes(5)
        assert sums(spent.clock.read()) == {"init": 5}

    def test_other_threads_do_not_count(self, time: Time) -> None:
        thread = threading.Thread(
            target=lambda: (spent.clock.switch(spent.EVAL), spent.clock.took(spent.EVAL, 0))
        )
        thread.start()
        thread.join()
        time.passes(7)
        assert sums(spent.clock.read()) == {"init": 7}

    def test_a_fork_begins_anew(self, time: Time) -> None:
        time.passes(9)
        spent.clock.switch(spent.PRODUCTIVE)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            time.passes(4)
            os.write(write, str(sums(spent.clock.read())).encode())
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 100) == b"{'init': 4}"
        assert sums(spent.clock.read()) == {"init": 9}

    def test_a_process_knows_its_age(self) -> None:
        assert 0 < spent.age_ns() < 10**9 * 86400


class TestSession:
    def test_a_loop_waits_for_data_steps_and_evaluates(self, job: ml.Job, time: Time) -> None:
        time.passes(1000)
        net = nn.Linear(3, 1)
        with ml.Session(job, net=net, opt=torch.optim.SGD(net.parameters()), data=Slow(time)) as run:
            assert sums(page.read_spent(job.run_dir, 2)) == {"init": 1000}
            assert page.read(job.run_dir, 2) is None
            for _ in run.steps(6):
                time.passes(200)
                run.commit()
                if run.step == 5:
                    with run.evaluating():
                        time.passes(50)
        found = page.read_spent(job.run_dir, 2)
        assert sums(found) == {"init": 1200, "data_wait": 180, "productive": 1000, "eval": 50}
        progress = page.read(job.run_dir, 2)
        assert progress is not None
        assert progress.step == 6

    def test_a_stream_says_itself_what_it_is_waited_for(
        self, job: ml.Job, time: Time, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream = ml.Stream(Clicks(64), 8, workers=0)
        here = stream._loader_here
        monkeypatch.setattr(stream, "_loader_here", lambda: (time.passes(30), here())[1])
        with ml.Session(job, data=stream) as run:
            for _ in run.steps(5):
                time.passes(200)
                run.commit()
        assert sums(page.read_spent(job.run_dir, 2)) == {"init": 200, "data_wait": 150, "productive": 800}

    def test_a_pass_over_held_out_data_is_evaluation_until_its_end(self, time: Time) -> None:
        spent.clock.switch(spent.PRODUCTIVE)
        for _ in Evaluation(Clicks(64), 8, workers=0):
            time.passes(10)
        time.passes(3)
        assert sums(spent.clock.read()) == {"eval": 80, "productive": 3}

    def test_checkpoints_are_told_apart(
        self, job: ml.Job, time: Time, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def slow(kind: type, name: str, micros: int) -> None:
            real = getattr(kind, name)
            monkeypatch.setattr(kind, name, lambda *a, **k: (time.passes(micros), real(*a, **k))[1])

        slow(Checkpointer, "_snapshot", 500)
        slow(Keeper, "_share", 11)
        slow(Restore, "run", 7000)
        kept = ml.Checkpoints(every_steps=2)
        net = nn.Linear(3, 1)
        with ml.Session(job, checkpoint=kept, net=net, data=Slow(time)) as run:
            for _ in run.steps(4):
                time.passes(200)
                run.commit()
        assert sums(page.read_spent(job.run_dir, 2)) == {
            "init": 200,
            "data_wait": 120,
            "productive": 600,
            "checkpoint_save": 1022,
            "checkpoint_restore": 7000,
        }


class TestBeat:
    def test_pages_of_programs_that_do_not_tell_are_none(self, tmp_path: Path) -> None:
        page.write(tmp_path, 2, Progress(step=1))
        assert page.read_spent(tmp_path, 2) is None

    def test_what_makes_no_sense_is_none(self, tmp_path: Path) -> None:
        (tmp_path / page.FILE).write_text('{"attempt": 2, "spent": {"init": -1}}')
        assert page.read_spent(tmp_path, 2) is None
