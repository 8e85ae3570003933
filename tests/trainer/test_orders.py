"""Sessions used in an order that makes no sense say which one does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import mlenv as ml
from mlenv.session import SessionError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def job(tmp_path: Path) -> ml.Job:
    return ml.Job(run_dir=tmp_path / "run")


def session(job: ml.Job, **more: Any) -> ml.Session:
    net = nn.Linear(1, 1)
    return ml.Session(job, net=net, opt=torch.optim.SGD(net.parameters(), 0.1), **more)


DATA = [torch.ones(1, 1) * number for number in range(5)]


def test_a_commit_of_data_that_nobody_took(job: ml.Job) -> None:
    with session(job, data=DATA) as run, pytest.raises(SessionError, match=r"commit\(\) before steps\(\)"):
        run.commit()


def test_a_loop_without_data_may_count_by_itself(job: ml.Job) -> None:
    with session(job) as run:
        while run.step < 3:
            run.commit()


def test_a_session_in_a_session(job: ml.Job) -> None:
    with session(job) as run:
        with pytest.raises(SessionError, match="a Session inside of another"), session(job):
            pass
        run.commit()
    with pytest.raises(ZeroDivisionError), session(job):
        raise ZeroDivisionError
    with session(job) as run:
        run.commit()


def test_a_loop_in_a_loop(job: ml.Job) -> None:
    def nested(run: ml.Session) -> None:
        for _ in run.steps(3):
            for _ in run.steps(3):
                run.commit()

    with session(job, data=DATA) as run:
        with pytest.raises(SessionError, match=r"steps\(\) inside of a loop over steps\(\)"):
            nested(run)
        for _ in run.steps(5):
            run.commit()
            break
        for _ in run.steps(6):
            run.commit()
        assert run.step == 6


@pytest.mark.parametrize("cut", [3, 5, 6, 9])
def test_several_loops_go_on_where_the_one_before_stopped(job: ml.Job, cut: int) -> None:
    def train(name: str, upto: int, checkpoint: ml.Checkpoints | None = None) -> list[float]:
        seen = []
        own = ml.Job(run_dir=job.run_dir / name)
        with ml.Session(own, checkpoint=checkpoint, net=nn.Linear(1, 1), data=DATA) as run:
            for total in (3, 5, 12):
                for batch in run.steps(min(total, upto)):
                    seen.append(batch.item())
                    run.commit()
            assert run.epoch == (min(12, upto) - 1) // 5
        return seen

    whole = train("whole", 12)
    assert whole == [number % 5 for number in range(12)]
    kept = ml.Checkpoints(every_steps=cut)
    assert train("cut", cut, kept) + train("cut", 12, kept) == whole


def test_a_loop_left_without_commit_has_done_no_step(job: ml.Job, capsys: pytest.CaptureFixture[str]) -> None:
    with session(job, data=DATA) as run:
        for _ in run.steps(3):
            break
    assert run.step == run.samples == 0
    assert "done at step 0" in capsys.readouterr().out


def test_steps_are_whole(job: ml.Job) -> None:
    with session(job) as run, pytest.raises(ValueError, match=r"steps\(2.5\): a number of steps is whole"):
        run.steps(2.5)  # type: ignore[arg-type]


def test_an_optimizer_without_its_model(job: ml.Job) -> None:
    with pytest.raises(ValueError, match="holds 2 parameter\\(s\\) that are not in any model"):
        ml.Session(job, opt=torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1))


def test_a_model_in_place_of_the_job() -> None:
    with pytest.raises(TypeError, match=r"the Job that ml.init\(\) returned, not a Linear"):
        ml.Session(nn.Linear(1, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [True, "kept"])
def test_a_policy_that_is_none(job: ml.Job, given: Any) -> None:
    with pytest.raises(TypeError, match=r"give ml.Checkpoints\(folder="):
        session(job, checkpoint=given)
