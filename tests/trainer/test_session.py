"""ml.init, ml.wrap and the Session, in this process: a world of one."""

from __future__ import annotations

import json
import math
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import mlenv as ml
from mlenv import job as jobs
from mlenv import page, session, values
from mlenv.session import SessionError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def job(tmp_path: Path) -> ml.Job:
    return ml.Job(run_dir=tmp_path / "run", name="demo", attempt=2)


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(session, "time", clock)
    return clock


def model() -> tuple[nn.Linear, torch.optim.SGD]:
    net = nn.Linear(3, 1)
    return net, torch.optim.SGD(net.parameters(), 0.1)


def rows(job: ml.Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.run_dir / "metrics.jsonl").read_text().splitlines()]


class TestLoop:
    def test_trains_counts_and_reports(self, job: ml.Job, capsys: pytest.CaptureFixture[str]) -> None:
        net, opt = model()
        data = [torch.randn(4, 3) for _ in range(5)]
        with ml.Session(job, net=net, opt=opt, data=data) as run:
            for batch in run.steps(12):
                loss = net(batch).square().mean()
                opt.zero_grad()
                loss.backward()
                opt.step()
                run.commit(loss=loss)
            run.log(auc=0.75)
        assert (run.step, run.samples, run.epoch) == (12, 48, 2)
        progress = page.read(job.run_dir, attempt=2)
        assert progress is not None
        assert (progress.step, progress.total_steps, progress.samples) == (12, 12, 48)
        assert progress.metrics == {"loss": pytest.approx(loss.item()), "auc": 0.75}
        assert progress.time is not None
        assert rows(job)[0]["step"] == 1
        assert rows(job)[-1]["step"] == 12
        out = capsys.readouterr().out
        assert "demo: attempt 2, 1 rank(s) on cpu" in out
        assert "fresh start at step 0" in out
        assert "step 12/12" in out
        assert "done at step 12" in out

    def test_commit_never_steps(self, job: ml.Job) -> None:
        net, opt = model()
        before = net.weight.clone()
        with ml.Session(job, net=net, opt=opt) as run:
            net(torch.ones(1, 3)).sum().backward()
            run.commit()
        assert torch.equal(net.weight, before)

    def test_the_device_is_waited_for_only_when_a_report_is_due(
        self, job: ml.Job, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[float] = []
        monkeypatch.setattr(values, "_number", lambda _name, value: read.append(1.0) or float(value))
        with ml.Session(job, report_every=2.0) as run:
            for _ in range(100):
                run.commit(loss=torch.tensor(1.0))
                clock.now += 0.05
        # At once, then every 2 of 5 seconds, and at the end.
        assert len(read) == 4

    def test_a_committed_loss_keeps_no_graph_alive(self, job: ml.Job) -> None:
        loss = torch.ones(1, requires_grad=True).sum()
        with ml.Session(job) as run:
            run.commit(loss=loss)
            (kept,) = run._committed.values()
            assert isinstance(kept, torch.Tensor)
            assert kept.grad_fn is None

    def test_speed_leaves_out_the_first_step(self, job: ml.Job, clock: Clock) -> None:
        with ml.Session(job, report_every=1.0) as run:
            clock.now += 30.0
            run.commit()
            for _ in range(50):
                clock.now += 0.1
                run.commit()
        assert page.read(job.run_dir, 2).steps_per_second == pytest.approx(10.0)
        assert rows(job)[0]["steps_per_second"] is None

    def test_console_lines_become_rare(
        self, job: ml.Job, clock: Clock, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with ml.Session(job) as run:
            for _ in range(3600):
                clock.now += 1.0
                run.commit()
        assert 100 < capsys.readouterr().out.count("\n") < 180

    def test_several_batches_for_one_step(self, job: ml.Job) -> None:
        with ml.Session(job, data=[torch.zeros(2, 3)] * 6) as run:
            for i, _ in enumerate(run.steps(4)):
                if i % 3 == 2:
                    run.commit()
        assert (run.step, run.samples) == (4, 24)

    @pytest.mark.parametrize(
        ("batch", "count"),
        [
            (torch.zeros(5, 2), 5),
            ((torch.zeros(5, 2), torch.zeros(5)), 5),
            ({"x": torch.zeros(7), "y": 3}, 7),
            (["text", torch.zeros(3)], 3),
            (torch.tensor(1.0), 1),
            ("text", 0),
        ],
    )
    def test_samples_are_counted(self, job: ml.Job, batch: object, count: int) -> None:
        with ml.Session(job, data=[batch]) as run:
            for _ in run.steps(1):
                run.commit()
        assert run.samples == count

    def test_every_rank_counts_for_all(self, tmp_path: Path) -> None:
        job = ml.Job(rank=1, local_rank=1, world_size=4, run_dir=tmp_path)
        with ml.Session(job) as run:
            run.commit(samples=3)
        assert run.samples == 12

    def test_other_ranks_are_quiet(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with ml.Session(ml.Job(rank=1, local_rank=1, world_size=2, run_dir=tmp_path / "run")) as run:
            run.commit(loss=1.0)
            run.log(auc=1.0)
        assert capsys.readouterr().out == ""
        assert not (tmp_path / "run").exists()

    def test_first_rank_of_another_node_writes_the_page_only(self, tmp_path: Path) -> None:
        with ml.Session(ml.Job(rank=2, local_rank=0, world_size=4, run_dir=tmp_path)) as run:
            run.commit(loss=1.0)
        assert [path.name for path in tmp_path.iterdir()] == [page.FILE]

    def test_a_diverged_loss_is_news(self, job: ml.Job, capsys: pytest.CaptureFixture[str]) -> None:
        with ml.Session(job) as run:
            run.commit(loss=torch.tensor(math.nan))
        assert math.isnan(page.read(job.run_dir, 2).metrics["loss"])
        assert rows(job)[0]["loss"] == "NaN"
        assert "loss nan" in capsys.readouterr().out

    def test_a_full_disk_stops_no_training(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "run").write_text("a file where a folder should be")
        with ml.Session(ml.Job(run_dir=tmp_path / "run")) as run:
            for _ in range(3):
                run.commit(loss=1.0)
        assert run.step == 3
        assert capsys.readouterr().err.count("cannot write to") == 1

    def test_epochs_are_told_to_data_and_sampler(self, job: ml.Job) -> None:
        told: list[tuple[str, int]] = []

        class Sampler:
            def set_epoch(self, epoch: int) -> None:
                told.append(("sampler", epoch))

        class Data:
            sampler = Sampler()

            def set_epoch(self, epoch: int) -> None:
                told.append(("data", epoch))

            def __iter__(self) -> Iterator[int]:
                return iter([1, 2])

        with ml.Session(job, data=Data()) as run:
            for _ in run.steps(3):
                run.commit()
        assert told == [("data", 0), ("sampler", 0), ("data", 1), ("sampler", 1)]


class TestOrder:
    def test_commit_outside(self, job: ml.Job) -> None:
        run = ml.Session(job)
        with pytest.raises(SessionError, match=r"commit\(\) before the with block"):
            run.commit()
        with run:
            pass
        with pytest.raises(SessionError, match=r"commit\(\) after the with block"):
            run.commit()
        with pytest.raises(SessionError, match=r"steps\(\) after"):
            run.steps(1)
        with pytest.raises(SessionError, match=r"log\(\) after"):
            run.log(x=1)

    def test_entered_once(self, job: ml.Job) -> None:
        run = ml.Session(job)
        with run, pytest.raises(SessionError, match="entered once"):
            run.__enter__()

    def test_forgotten_commit(self, job: ml.Job) -> None:
        with (
            ml.Session(job, data=[1, 2]) as run,
            pytest.raises(SessionError, match=r"without run.commit\(\)"),
        ):
            for _ in run.steps(3):
                pass
        with ml.Session(job) as run, pytest.raises(SessionError, match=r"without run.commit\(\)"):
            for _ in run.steps(3):
                pass

    def test_empty_data(self, job: ml.Job) -> None:
        with ml.Session(job, data=[]) as run, pytest.raises(SessionError, match="data is empty"):
            next(iter(run.steps(3)))

    def test_negative_total(self, job: ml.Job) -> None:
        with ml.Session(job) as run, pytest.raises(ValueError, match="not negative"):
            run.steps(-1)

    def test_reserved_names(self, job: ml.Job) -> None:
        with ml.Session(job) as run, pytest.raises(ValueError, match="step: this name is taken"):
            run.log(step=1)

    def test_not_a_number(self, job: ml.Job) -> None:
        with pytest.raises(TypeError, match="loss must be one number"), ml.Session(job) as run:
            run.commit(loss=torch.zeros(2))

    def test_an_error_in_the_loop_is_the_users(self, job: ml.Job, capsys: pytest.CaptureFixture[str]) -> None:
        def loop() -> None:
            with ml.Session(job) as run:
                run.commit(loss=1.0)
                run.commit(loss=torch.zeros(2))  # not read: the error below is what counts
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            loop()
        assert "ended by ZeroDivisionError at step 2" in capsys.readouterr().out
        progress = page.read(job.run_dir, 2)
        assert (progress.step, progress.metrics) == (2, {"loss": 1.0})


class TestThings:
    def test_an_optimizer_of_another_model_is_refused(self, job: ml.Job) -> None:
        net, _ = model()
        _, opt = model()
        with pytest.raises(ValueError, match="opt holds 2 parameter"):
            ml.Session(job, net=net, opt=opt)

    def test_an_optimizer_built_before_parameters_were_replaced_is_refused(self, job: ml.Job) -> None:
        net, opt = model()
        net.weight = nn.Parameter(net.weight.detach().clone())
        with pytest.raises(ValueError, match="Build the optimizer after"):
            ml.Session(job, net=net, opt=opt)

    def test_parameters_of_all_models_count(self, job: ml.Job) -> None:
        tower, head = nn.Linear(2, 2), nn.Linear(2, 1)
        opt = torch.optim.Adam([*tower.parameters(), *head.parameters()])
        schedule = torch.optim.lr_scheduler.StepLR(opt, 1)
        ml.Session(job, tower=tower, head=head, opt=opt, schedule=schedule)

    def test_what_has_no_state_is_refused(self, job: ml.Job) -> None:
        with pytest.raises(TypeError, match="extra=int has no state_dict"):
            ml.Session(job, extra=3)


class TestSignals:
    def test_sigterm_ends_at_the_next_commit(self, job: ml.Job, capsys: pytest.CaptureFixture[str]) -> None:
        before = signal.getsignal(signal.SIGTERM)

        def loop() -> None:
            with ml.Session(job) as run:
                for step in run.steps(10):
                    if step == 3:
                        os.kill(os.getpid(), signal.SIGTERM)
                    run.commit(loss=float(step))

        with pytest.raises(SystemExit) as caught:
            loop()
        assert caught.value.code == 143
        assert "told to stop at step 4" in capsys.readouterr().out
        assert page.read(job.run_dir, 2).step == 4
        assert signal.getsignal(signal.SIGTERM) is before

    def test_poll_ends_evaluations(self, job: ml.Job) -> None:
        with ml.Session(job) as run:
            run.poll()
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(SystemExit):
                run.poll()


class TestJob:
    def test_without_a_launcher(self) -> None:
        job = jobs.read({}, cuda_devices=0)
        assert (job.rank, job.world_size, job.main, job.device.type) == (0, 1, True, "cpu")
        assert job.run_dir.parts[0] == "mlenv-runs"

    def test_in_a_pod(self) -> None:
        env = {
            "RANK": "3",
            "LOCAL_RANK": "1",
            "WORLD_SIZE": "4",
            "LOCAL_WORLD_SIZE": "2",
            "GROUP_RANK": "1",
            "GROUP_WORLD_SIZE": "2",
            "MASTER_ADDR": "10.0.0.1",
            "MASTER_PORT": "1234",
            "MLENV_JOB_NAME": "ranker",
            "MLENV_ATTEMPT": "5",
            "MLENV_RUN_DIR": "/var/run/mlenv",
        }
        job = jobs.read(env, cuda_devices=2, seed=7)
        assert (job.name, job.attempt, job.rank, job.node_index, job.num_nodes) == ("ranker", 5, 3, 1, 2)
        assert (str(job.device), job.main, job.seed, str(job.run_dir)) == (
            "cuda:1",
            False,
            7,
            "/var/run/mlenv",
        )

    @pytest.mark.parametrize(
        ("env", "match"),
        [
            ({"WORLD_SIZE": "2", "RANK": "0"}, "LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"),
            ({"WORLD_SIZE": "2", "RANK": "2"}, "outside of a world of 2"),
            ({"RANK": "one"}, "RANK must be a whole number"),
            ({"LOCAL_RANK": "1"}, "local rank 1 has no GPU: 1 visible"),
        ],
    )
    def test_nonsense_gets_a_sentence(self, env: dict[str, str], match: str) -> None:
        with pytest.raises(jobs.WorldError, match=match):
            jobs.read(env, cuda_devices=1)

    def test_init_wrap_and_seed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs, "_current", None)
        with pytest.raises(jobs.WorldError, match=r"ml.init\(\) first"):
            ml.wrap(nn.Linear(1, 1))
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name, raising=False)
        job = ml.init(seed=5)
        first = torch.rand(3)
        assert ml.init() is job
        net = nn.Linear(1, 1)
        assert ml.wrap(net) is net
        torch.manual_seed(5)
        assert torch.equal(torch.rand(3), first)
