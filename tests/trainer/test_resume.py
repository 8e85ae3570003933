"""Checkpoints of a Session in this process: what comes back, when they are taken, what is refused."""

from __future__ import annotations

import itertools
import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch
from datasets import Numbers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

import mlenv as ml
from mlenv import page
from mlenv.ckpt.errors import Incompatible
from mlenv.cursor import Cursor
from mlenv.pace import LOOK, Pace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


pytestmark = pytest.mark.usefixtures("alone")

EVERY_2 = ml.Checkpoints(every_steps=2)


class Training:
    """A model with dropout, which trains on rows of `data` for some steps."""

    def __init__(self, job: ml.Job, data: Any, checkpoint: Any = EVERY_2) -> None:
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
        self.opt = torch.optim.Adam(self.net.parameters(), 0.1)
        self.data = data
        self.seen: list[Any] = []
        self.run = ml.Session(
            job, report_every=0, checkpoint=checkpoint, net=self.net, opt=self.opt, data=data
        )

    def steps(self, total: int, then: Callable[[ml.Session], None] = lambda _: None) -> Training:
        """Train up to `total`, with `then` after every commit."""
        with self.run as run:
            for batch in run.steps(total):
                numbers = batch["number"] if isinstance(batch, dict) else batch
                self.seen.append(numbers.tolist())
                self.opt.zero_grad()
                self.net(numbers.float().reshape(-1, 1)).square().mean().backward()
                self.opt.step()
                run.commit(loss=float(run.step))
                then(run)
        return self

    @property
    def weights(self) -> list[Any]:
        return [one.tolist() for one in self.net.parameters()]


def shuffled() -> DataLoader[int]:
    return DataLoader(range(10), batch_size=2, shuffle=True)  # type: ignore[arg-type]


def stateful() -> Any:
    loader = pytest.importorskip("torchdata.stateful_dataloader")
    return loader.StatefulDataLoader(list(range(10)), batch_size=2, shuffle=True)


DATA = {
    "stream": lambda: ml.Stream(Numbers([[10]]), 2, rank=0, world=1),
    "list": lambda: [torch.tensor([i, i + 1]) for i in range(5)],
    "shuffled loader": shuffled,
    "stateful loader": stateful,
}


class TestGoingOn:
    @pytest.mark.parametrize("kind", DATA)
    @pytest.mark.parametrize("cut", [2, 4, 10])
    def test_any_kind_of_data_goes_on_bit_for_bit(self, job: ml.Job, kind: str, cut: int) -> None:
        make = DATA[kind]
        torch.manual_seed(5)
        first = Training(job, make(), ml.Checkpoints(every_steps=cut)).steps(cut)
        torch.manual_seed(99)
        second = Training(job, make(), ml.Checkpoints(every_steps=cut)).steps(13)
        torch.manual_seed(5)
        whole = Training(job, make(), None).steps(13)
        assert first.seen + second.seen == whole.seen
        assert second.weights == whole.weights
        assert (second.run.step, second.run.samples) == (13, 26)
        assert second.run.epoch == whole.run.epoch == 2

    def test_it_says_from_where(self, job: ml.Job, capsys: pytest.CaptureFixture[str]) -> None:
        Training(job, DATA["stream"]()).steps(5)
        out = capsys.readouterr().out
        folder = job.run_dir / "checkpoints"
        assert out.count("fresh start at step 0") == 1
        assert f"fresh start at step 0 (no checkpoint in {folder})" in out
        Training(job, DATA["stream"]()).steps(6)
        out = capsys.readouterr().out
        assert out.count("goes on from step 4, saved by attempt 1") == 1
        assert f"({folder}/step-000000000004.a1)" in out

    def test_data_that_cannot_tell_its_place_is_remarked_on(
        self, job: ml.Job, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Training(job, DATA["list"]()).steps(3)
        Training(job, DATA["list"]()).steps(4)
        assert "the first 2 batches of this epoch are passed over" in capsys.readouterr().out

    def test_a_loop_that_was_at_its_end_ends_at_once(self, job: ml.Job) -> None:
        Training(job, DATA["stream"]()).steps(4)
        again = Training(job, DATA["stream"]()).steps(4)
        assert (again.seen, again.run.step, again.run.samples) == ([], 4, 8)

    def test_metrics_and_progress_go_on(self, job: ml.Job) -> None:
        def log(run: ml.Session) -> None:
            if run.step == 1:
                run.log(auc=0.5)

        Training(job, DATA["stream"]()).steps(5, log)
        before = len(rows(job))
        training = Training(job, DATA["stream"]())
        with training.run:
            shown = page.read(job.run_dir, job.attempt)
            assert shown is not None
            assert (shown.step, shown.samples) == (4, 8)
            assert {"loss": 3.0, "auc": 0.5}.items() <= shown.metrics.items()
        assert len(rows(job)) == before  # no step, no row
        Training(job, DATA["stream"]()).steps(6)
        assert [row["step"] for row in rows(job)[before:]][:2] == [5, 6]

    def test_steps_without_data(self, job: ml.Job) -> None:
        for total, numbers in ((4, [0, 1, 2, 3]), (6, [4, 5])):
            net = nn.Linear(1, 1)
            seen = []
            with ml.Session(job, checkpoint=EVERY_2, net=net) as run:
                for number in run.steps(total):
                    seen.append(number)
                    run.commit()
            assert seen == numbers


def rows(job: ml.Job) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.run_dir / "metrics.jsonl").read_text().splitlines()]


def sealed(job: ml.Job) -> list[int]:
    return sorted(int(one.parent.name[5:17]) for one in job.run_dir.glob("checkpoints/step-*/SEAL.json"))


class TestWhen:
    def test_in_a_cluster_by_itself_and_elsewhere_when_asked(self, job: ml.Job, tmp_path: Path) -> None:
        net = nn.Linear(1, 1)
        outside = ml.Job(run_dir=tmp_path / "outside")
        for where, options, taken in (
            (job, {}, True),
            (job, {"checkpoint": None}, False),
            (outside, {}, False),
            (outside, {"checkpoint": ml.Checkpoints()}, True),
        ):
            with ml.Session(where, net=net, **options):
                assert (where.run_dir / "checkpoints").exists() == taken
            if taken:
                (where.run_dir / "checkpoints").rmdir()

    def test_an_error_in_the_loop_saves_nothing_more(self, job: ml.Job) -> None:
        def fail(run: ml.Session) -> None:
            if run.step == 3:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            Training(job, DATA["stream"]()).steps(9, fail)
        again = Training(job, DATA["stream"]()).steps(3)
        assert again.seen == Training(job, DATA["stream"](), None).steps(3).seen[2:]

    def test_told_to_stop_it_saves_and_says_so_by_its_exit_code(self, job: ml.Job) -> None:
        def tell(run: ml.Session) -> None:
            if run.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        never = ml.Checkpoints(every_steps=1000)
        with pytest.raises(SystemExit) as caught:
            Training(job, DATA["stream"](), never).steps(9, tell)
        assert caught.value.code == 76
        assert sealed(job) == [3]

    def test_a_disk_that_takes_nothing_stops_no_training(
        self, job: ml.Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MLENV_FAILPOINTS", "write=full")
        assert Training(job, DATA["stream"]()).steps(5).run.step == 5
        out = capsys.readouterr().out
        assert "the checkpoint of step 4 was not written (2 in a row): " in out
        assert "disk is full" in out

    def test_told_to_stop_with_a_full_disk_it_does_not_say_saved(
        self, job: ml.Job, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLENV_FAILPOINTS", "write=full")
        with pytest.raises(SystemExit) as caught:
            Training(job, DATA["stream"]()).steps(
                9, lambda run: os.kill(os.getpid(), signal.SIGTERM) if run.step == 2 else None
            )
        assert caught.value.code == 143

    def test_what_cannot_be_kept_is_told_and_stops_no_training(
        self, job: ml.Job, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Odd:
            def state_dict(self) -> Any:
                return {"lock": object()}

            def load_state_dict(self, state_dict: Any) -> None:
                raise NotImplementedError

        with ml.Session(job, checkpoint=EVERY_2, odd=Odd()) as run:
            for _ in run.steps(4):
                run.commit()
        out = capsys.readouterr().out
        assert out.count("was not written") == 2
        assert "odd.lock is a builtins.object, which a checkpoint cannot keep" in out

    def test_nonsense_is_refused(self) -> None:
        with pytest.raises(ValueError, match="every_steps=0: at least 1"):
            ml.Checkpoints(every_steps=0)
        with pytest.raises(ValueError, match="every_seconds=0: more than 0"):
            ml.Checkpoints(every_seconds=0)


class TestRefusals:
    def test_a_past_that_fits_nothing_is_not_for_another_attempt(
        self, job: ml.Job, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Training(job, DATA["stream"]()).steps(3)
        with pytest.raises(SystemExit) as caught:
            Training(job, DATA["list"]()).steps(5)
        assert caught.value.code == 78
        err = capsys.readouterr().err
        assert "data has a count of batches, and the checkpoint keeps a position" in err

    def test_a_folder_that_cannot_be_there_is_for_another_attempt(
        self, job: ml.Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        policy = ml.Checkpoints(folder=tmp_path / "not mounted" / "checkpoints")
        with pytest.raises(SystemExit) as caught:
            Training(job, DATA["stream"](), policy).steps(5)
        assert caught.value.code == 75
        assert "there can be no checkpoints in" in capsys.readouterr().err

    def test_a_state_of_single_ranks_does_not_fit_another_world(self) -> None:
        class Own:
            def __init__(self, place: Any) -> None:
                self.place = place

            def __iter__(self) -> Any:
                return iter(())

            def state_dict(self) -> Any:
                return {"place": self.place}

            def load_state_dict(self, state_dict: Any) -> None:
                self.place = state_dict["place"]

        def save(*places: Any) -> Any:
            ranks = [Cursor(Own(place), len(places)) for place in places]
            shares = [one.share() for one in ranks]
            for one in ranks:
                one.settle(shares)
            return ranks[0].state_dict()

        data = Own(0)
        Cursor(data, 3).load_state_dict(save(7, 7))
        assert data.place == 7
        for apart in (save(7, 8), save(torch.tensor(7), torch.tensor(7))):
            with pytest.raises(
                Incompatible, match="differs between the 2 ranks that saved it, and there are 3"
            ):
                Cursor(data, 3).load_state_dict(apart)


class TestPace:
    @given(st.lists(st.floats(1e-4, 20), min_size=1, max_size=300), st.floats(1, 1000))
    @settings(deadline=None)
    def test_it_looks_ahead_by_at_most_twice_as_many_steps(self, lasts: list[float], every: float) -> None:
        pace, now, look, gap, saves = Pace(every, 0, 0.0), 0.0, 1, 1, []
        for step, seconds in enumerate(lasts, 1):
            now += seconds
            if step == look:
                due, more = pace.look(step, now)
                assert 1 <= more <= 2 * gap
                look, gap = step + more, more
                saves += [now] * due
        # Never sooner than the interval, but for the first; a look is at most half a LOOK early.
        assert all(b - a >= every - LOOK / 2 for a, b in itertools.pairwise(saves))

    def test_a_steady_run_saves_on_time(self) -> None:
        pace, look, saves, looks = Pace(300.0, 0, 0.0), 1, [], 0
        for step in range(1, 200_000):
            if step == look:
                due, gap = pace.look(step, step / 100)
                look, looks = step + gap, looks + 1
                saves += [step / 100] * due
        assert saves[0] == pytest.approx(30, abs=LOOK)
        gaps = [b - a for a, b in itertools.pairwise(saves)]
        assert gaps == [pytest.approx(300, abs=LOOK)] * 6
        assert looks < 200_000 / 100 / LOOK + 20

    def test_by_steps_the_clock_says_nothing(self) -> None:
        pace = Pace(None, 5, 0.0)
        assert pace.look(6, 1e9) == (False, 1)


def test_deterministic_wrap_asks_torch_for_deterministic_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    ml.init()
    net = nn.Linear(1, 1)
    try:
        assert ml.wrap(net, deterministic=True) is net
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(mode=False)
