"""What rank 0 writes of each committed step, and what is believed of it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

import mlenv as ml
from mlenv import history, rows, track
from mlenv.courier import runlog
from mlenv.courier.book import Book
from mlenv.history import History
from mlenv_api import names

if TYPE_CHECKING:
    from pathlib import Path

HEAD = rows.Head("uid-1", 1, 0)


def read(folder: Path, *, last: bool = True) -> list[rows.Row]:
    book = Book(folder, "uid-1")
    book.look()
    found: list[rows.Row] = []
    while (piece := book.read(last=last))[1]:
        found += piece[1]
    return found


class TestRows:
    @pytest.mark.parametrize(
        ("step", "after"), [(0, 1), (9_999, 10_000), (10_000, 10_010), (10_013, 10_020), (99_990, 100_000)]
    )
    def test_the_next_row_depends_on_the_step_alone(self, step: int, after: int) -> None:
        assert rows.following(step) == after

    def test_from_anywhere_the_same_steps_have_rows(self) -> None:
        whole = _chain(0, 2_000_000)
        assert len(whole) < 30_000
        for start in (5, 10_005, 123_456, 1_000_001):
            assert _chain(start, 2_000_000) == [one for one in whole if one > start]

    def test_a_row_comes_back_as_it_was(self) -> None:
        metrics = {"loss": 0.1 + 0.2, "ä/b": -1e300, "nan": math.inf}
        row = rows.Row(7, 1.5, metrics, 14, 2)
        assert rows.read(rows.row(row).encode()) == row

    @pytest.mark.parametrize(
        "line",
        [b"", b"[]", b'{"s":0,"t":1,"m":{}}', b'{"s":true,"t":1,"m":{}}', b'{"s":1,"t":"1","m":{}}',
         b"[" * 9999,
         b'{"s":1,"t":1}', b'{"s":1e300,"t":1,"m":{}}', b'{"s":1,"t":1e99,"m":{}}', b"\xff"],
    )  # fmt: skip
    def test_nonsense_is_passed_over(self, line: bytes) -> None:
        assert rows.read(line) is None

    def test_a_head_of_another_version_is_none(self) -> None:
        assert rows.read_head(rows.head(HEAD).encode()) == HEAD
        assert rows.read_head(rows.head(HEAD).replace("1", "2", 1).encode()) is None


def _chain(step: int, end: int) -> list[int]:
    found = []
    while (step := rows.following(step)) <= end:
        found.append(step)
    return found


class TestHistory:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        written = History(tmp_path, HEAD)
        changing = torch.tensor(1.0)
        written.add(1, {"loss": changing}, 2, 0)
        changing.add_(1.0)
        written.add(2, {"loss": changing, "wrong": torch.ones(2)}, 4, 0)
        written.note(2, {"auc": 0.5})
        written.close(0)
        assert [(one.step, one.metrics) for one in read(tmp_path)] == [
            (1, {"loss": 1.0}),
            (2, {"loss": 2.0, "auc": 0.5}),
        ]

    def test_the_newest_step_waits_for_what_may_come(self, tmp_path: Path) -> None:
        written = History(tmp_path, HEAD)
        for step in (1, 2):
            written.add(step, {"loss": 1.0}, step, 0)
        written.flush()
        assert [one.step for one in read(tmp_path, last=False)] == [1]

    def test_files_have_a_limit_and_so_has_the_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(history, "MAX_FILE", 1000)
        monkeypatch.setattr(history, "MAX_FOLDER", 5000)
        written = History(tmp_path, HEAD)
        written._size = 1000
        for step in range(1, 500):
            written.add(step, {"loss": 1.0}, step, 0)
            written.flush()
        assert sum(one.stat().st_size for one in tmp_path.iterdir()) < 7000
        assert "no history from here on" in capsys.readouterr().err
        steps = [one.step for one in read(tmp_path)]
        assert steps == list(range(1, len(steps) + 1))

    def test_what_was_logged_is_deleted_but_what_tells_of_the_past(self, tmp_path: Path) -> None:
        for attempt in (1, 2, 3):
            written = History(tmp_path, rows.Head("uid-1", attempt, attempt * 10))
            written.add(attempt * 10 + 1, {}, 0, 0)
            written.close(75)
        book = Book(tmp_path, "uid-1")
        book.look()
        while book.read(last=True)[1]:
            pass
        book.drop()
        assert {one.name for one in tmp_path.iterdir()} == {rows.name(2, 0), rows.name(3, 0)}

    def test_a_line_that_never_ends_stops_nobody(self, tmp_path: Path) -> None:
        text = rows.head(HEAD) + "x" * 10**6 + "\n" + rows.row(rows.Row(1, 1.0))
        (tmp_path / rows.name(1, 0)).write_text(text)
        assert [one.step for one in read(tmp_path)] == [1]


class TestSession:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(track, "_begun", set())
        monkeypatch.setenv(names.ENV_COURIER, str(tmp_path / "courier"))
        return tmp_path / rows.FOLDER

    @pytest.mark.usefixtures("alone")
    def test_every_commit_has_a_row_however_seldom_is_reported(self, folder: Path, job: ml.Job) -> None:
        with ml.Session(job, report_every=3600, checkpoint=None) as run:
            for step in run.steps(5):
                run.commit(loss=float(step), samples=3)
                if step == 2:
                    run.log(auc=0.5)
        found = read(folder)
        assert [(one.step, one.metrics["loss"], one.samples) for one in found] == [
            (step + 1, float(step), 3 * (step + 1)) for step in range(5)
        ]
        assert found[2].metrics["auc"] == 0.5
        about = json.loads((folder / rows.ABOUT).read_text())
        assert about["world_size"] == 1

    @pytest.mark.usefixtures("alone")
    def test_a_row_is_written_before_its_checkpoint_is_sealed(
        self, folder: Path, job: ml.Job, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        net = torch.nn.Linear(1, 1)
        policy = ml.Checkpoints(every_steps=2, folder=job.run_dir / "ckpt")
        seen: list[int] = []
        with ml.Session(job, report_every=3600, checkpoint=policy, net=net) as run:
            save = run._keeper._ck.save  # type: ignore[union-attr]

            def looked(step: int, **more: Any) -> Any:
                seen.append(read(folder)[-1].step - step)
                return save(step, **more)

            monkeypatch.setattr(run._keeper._ck, "save", looked)  # type: ignore[union-attr]
            for _ in run.steps(5):
                run.commit()
        assert seen == [0, 0]

    @pytest.mark.usefixtures("alone")
    @pytest.mark.parametrize(
        ("error", "code"), [(SystemExit(77), 77), (ValueError(), 1), (SystemExit("no"), 1)]
    )
    def test_how_it_ended_is_written(
        self, folder: Path, job: ml.Job, error: BaseException, code: int
    ) -> None:
        def train() -> None:
            with ml.Session(job, checkpoint=None) as run:
                for _ in run.steps(5):
                    run.commit()
                    raise error

        with pytest.raises(type(error)):
            train()
        book = Book(folder, "uid-1")
        book.look()
        assert [one.code for one in book.attempts] == [code]


class TestPlan:
    def test_the_newest_attempt_speaks(self) -> None:
        attempts = [runlog.Told(rows.Head("u", 1, 0)), runlog.Told(rows.Head("u", 2, 3))]
        found = [rows.Row(step, 1.0) for step in range(1, 6)]
        batch = runlog.batch(attempts, 1, found, runlog.Place())
        assert [row for row, _, _ in batch.log] == [1, 2, 3]

    def test_what_was_left_is_not_logged(self) -> None:
        attempts = [runlog.Told(rows.Head("u", 1, 0), 77), runlog.Told(rows.Head("u", 2, 3))]
        there = runlog.Place(10, 5, 1, 2)
        assert runlog.batch(attempts, 1, [rows.Row(9, 1.0)], there) == runlog.Batch(place=there)

    def test_a_new_start_is_a_branch(self) -> None:
        attempts = [runlog.Told(rows.Head("u", 1, 0)), runlog.Told(rows.Head("u", 2, 0, since=2))]
        batch = runlog.batch(attempts, 2, [rows.Row(1, 1.0)], runlog.Place(9, 10))
        assert batch.place == runlog.Place(10, 1, 1, 2)
        assert not batch.replayed
