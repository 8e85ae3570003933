from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console
from tests.unit.sdk.conftest import complete, condition, failed, job

from mlenv_sdk import Event, NotFound, Pod, TrainingJob, Unreachable
from mlenv_sdk.view import describe, tables, words
from mlenv_sdk.view.live import Lines
from mlenv_sdk.view.snapshot import GIVE_UP_SECONDS, Snapshot, snapshots

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (0.4, "0 s"), (59.4, "59 s"), (60, "1 min"), (185, "3 min 5 s"), (7800, "2 h 10 min")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_days() -> None:
    assert words.duration(4 * 86400 + 3 * 3600 + 59) == "4 d 3 h"


@pytest.mark.parametrize(
    ("text", "shown"), [("0.123456", "0.1235"), ("NaN", "NaN"), ("-Infinity", "-Infinity")]
)
def test_numbers(text: str, shown: str) -> None:
    assert words.number(text) == shown


def progress(**values: Any) -> dict[str, Any]:
    return {"step": 5, **values}


def typed(raw: dict[str, Any]) -> TrainingJob:
    return TrainingJob.from_server(raw)


def test_the_loss_comes_first() -> None:
    metrics = [{"name": "auc", "value": "0.7"}, {"name": "loss", "value": "0.5"}]
    assert words.metrics(typed(job(progress=progress(metrics=metrics)))) == (("loss", "0.5"), ("auc", "0.7"))


def test_checkpoints_are_told_beside_the_program_s_own_values() -> None:
    metrics = [{"name": "checkpoint_age_s", "value": "4.7"}, {"name": "loss", "value": "0.5"}]
    sealed = {"step": 40, "attempt": 2, "digest": "a" * 64, "time": "2026-01-01T11:59:20Z"}
    told = typed(job(progress=progress(metrics=metrics), checkpoint={"sealed": sealed}))
    assert words.metrics(told) == (("loss", "0.5"),)
    assert words.checkpoint(told, NOW) == "step 40, by attempt 2, 40 s ago"
    assert words.checkpoint(typed(job()), NOW) == "-"
    doubted = {"step": 60, "attempt": 2, "digest": "c" * 64, "failed": [{"check": "probe", "message": "x"}]}
    told = typed(job(checkpoint={"insane": doubted}))
    assert words.checkpoint(told, NOW) == "-; that of step 60 is not sane"


def test_eta_is_told_while_the_job_runs() -> None:
    soon = progress(estimatedCompletionTime="2026-01-01T12:00:25Z")
    assert words.eta(typed(job(phase="Running", progress=soon)), NOW) == "25 s"
    assert words.eta(typed(job(phase="Restarting", progress=soon)), NOW) == "-"
    assert words.eta(typed(complete() | {"status": complete()["status"] | {"progress": soon}}), NOW) == "-"
    assert words.eta(typed(job()), NOW) == "-"


def test_failure_explains_more_than_anything_else() -> None:
    both = [
        condition("Stalled", "stalled"),
        condition("Failed", "failed"),
        condition("Complete", "", "False"),
    ]
    assert words.why(typed(job(conditions=both))) == "failed"
    assert words.why(typed(job(conditions=[condition("PodsReady", "fine")]))) == ""


def snapshot(
    raw: dict[str, Any], seconds: float = 0, events: tuple[Event, ...] = (), trouble: str = ""
) -> Snapshot:
    return Snapshot(typed(raw), (), events, NOW + timedelta(seconds=seconds), trouble)


def said(count: int = 1) -> Event:
    return Event("uid", "Normal", "Started", "All pods run.", count, NOW, "")


def test_lines_say_everything_once() -> None:
    lines = Lines()
    running = job(phase="Running", progress=progress())
    assert len(lines.new(snapshot(job(), events=(said(),)))) == 2
    assert lines.new(snapshot(job(), 1, events=(said(),))) == []
    assert len(lines.new(snapshot(running, 2, events=(said(2),)))) == 2
    assert lines.new(snapshot(running, 60, events=(said(2),))) == []


def test_lines_tell_progress_every_few_seconds_and_trouble_at_once() -> None:
    lines = Lines()
    lines.new(snapshot(job(progress=progress())))
    assert lines.new(snapshot(job(progress={"step": 6}), 1)) == []
    assert "step 7" in lines.new(snapshot(job(progress={"step": 7}), 6))[0]
    assert lines.new(snapshot(job(progress={"step": 7}), 7, trouble="away"))[1].strip() == "away"


def test_lines_explain_a_state_once() -> None:
    lines = Lines()
    assert [line.strip() for line in lines.new(snapshot(failed()))][1:] == ["Rank 1 exited with code 3."]


def in_store(step: int, version: int) -> dict[str, Any]:
    """A status.checkpoint of which the store has the newest."""
    ref = {"step": step, "attempt": 1, "digest": f"{version:064}", "time": "2026-01-01T11:59:20Z"}
    names = {"artifact": f"ads/ctr/ranker-77aa-ckpt:v{version}", "url": "https://w.example/ads/ctr/runs/77aa"}
    return {"sealed": ref, "uploaded": {**ref, **names}}


def going_on(number: int, version: int) -> dict[str, Any]:
    """A status.attempt that goes on from a version in the store."""
    origin = {"checkpoint": in_store(40, version)["sealed"]}
    return {"number": number, "state": "Running", "since": "2026-01-01T12:00:00Z", "origin": origin}


def test_lines_tell_each_checkpoint_in_the_store_and_its_run_once() -> None:
    lines = Lines()
    first = lines.new(snapshot(job(checkpoint=in_store(40, 0))))
    assert [line.partition("  ")[2] for line in first[:2]] == [
        "Run: https://w.example/ads/ctr/runs/77aa",
        "Stored: step 40, by attempt 1, as ads/ctr/ranker-77aa-ckpt:v0",
    ]
    assert lines.new(snapshot(job(checkpoint=in_store(40, 0)), 1)) == []
    assert "step 60, by attempt 1" in lines.new(snapshot(job(checkpoint=in_store(60, 1)), 2))[0]


def test_lines_name_what_an_attempt_goes_on_from_also_when_the_store_has_newer_ones() -> None:
    lines = Lines()
    for step, version in ((40, 0), (60, 1)):
        lines.new(snapshot(job(checkpoint=in_store(step, version))))
    resumed = job(attempt=going_on(2, 0), checkpoint=in_store(60, 1))
    told = "Attempt 2 goes on from ads/ctr/ranker-77aa-ckpt:v0"
    assert [line.partition("  ")[2] for line in lines.new(snapshot(resumed, 1))] == [told]
    assert lines.new(snapshot(resumed, 2)) == []
    unknown = job(attempt=going_on(3, 7), checkpoint=in_store(60, 1))
    assert not any("goes on" in line for line in lines.new(snapshot(unknown, 3)))


def test_the_frame_and_the_report_name_the_artifact_and_the_page_of_the_run() -> None:
    raw = job(checkpoint=in_store(40, 0))
    for text in (
        rendered(tables.frame(snapshot(raw))),
        rendered(describe.report(typed(raw), (), (), NOW)),
    ):
        assert "step 40, by attempt 1, as ads/ctr/ranker-77aa-ckpt:v0" in text
        assert "https://w.example/ads/ctr/runs/77aa" in text
    assert "store" not in rendered(tables.frame(snapshot(job())))


def test_the_page_of_the_run_is_told_before_anything_is_stored() -> None:
    raw = job(tracking={"url": "https://w.example/ads/ctr/runs/77aa"})
    for text in (
        rendered(tables.frame(snapshot(raw))),
        rendered(describe.report(typed(raw), (), (), NOW)),
        "".join(Lines().new(snapshot(raw))),
    ):
        assert "https://w.example/ads/ctr/runs/77aa" in text
        assert "store" not in text


def test_the_report_names_the_commit_that_annotations_tell_of() -> None:
    raw = job()
    assert "Code:" not in rendered(describe.report(typed(raw), (), (), NOW))
    said = {"commit": "9f2c" * 10, "remote": "git.example:ads/ranker", "branch": "wide", "dirty": "true"}
    raw["metadata"]["annotations"] = {f"mlenv.io/git-{name}": value for name, value in said.items()}
    text = rendered(describe.report(typed(raw), (), (), NOW))
    assert "9f2c9f2c9f2c of git.example:ads/ranker, branch wide, and changes that were not committed" in text


def rendered(what: Any) -> str:
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(what)
    return console.export_text()


def test_the_frame_shows_pods_progress_and_events() -> None:
    raw = job(
        phase="Running",
        attempt={"number": 2, "state": "Running", "since": "2026-01-01T12:00:00Z"},
        progress=progress(totalSteps=10, stepsPerSecond="2.5", metrics=[{"name": "loss", "value": "0.5"}]),
    )
    pods = tuple(Pod(f"ranker-{i}-0", i, 0, "Running", f"node-{i}", "", NOW) for i in range(20))
    text = rendered(tables.frame(Snapshot(typed(raw), pods, (said(3),), NOW, "The API server is away.")))
    for part in (
        "attempt 2",
        "5/10",
        "steps/s 2.5",
        "loss 0.5",
        "ranker-0-0",
        "… and 4 more pods",
        "(3 times)",
        "away",
    ):
        assert part in text


def test_the_bar_has_a_line_of_its_own() -> None:
    why = [condition("Reconciling", "0 of 2 pods are ready")]
    text = rendered(tables.frame(snapshot(job(conditions=why, progress=progress(totalSteps=10)))))
    assert "0 of 2 pods are ready" in text.splitlines()


@pytest.mark.parametrize(
    ("raw", "phase", "message"),
    [
        ({"status": {"phase": "Running"}}, "Running", ""),
        ({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Running"}}, "Terminating", ""),
        ({"metadata": {"deletionTimestamp": "x"}, "status": {"phase": "Failed"}}, "Failed", ""),
        (
            {
                "status": {
                    "conditions": [
                        {
                            "type": "PodScheduled",
                            "status": "False",
                            "reason": "Unschedulable",
                            "message": "no GPU",
                        }
                    ]
                }
            },
            "Unschedulable",
            "no GPU",
        ),
        ({}, "Pending", ""),
    ],
)
def test_a_pods_phase_says_what_it_waits_for(raw: dict[str, Any], phase: str, message: str) -> None:
    pod = Pod.from_server(raw)
    assert (pod.phase, pod.message) == (phase, message)


def test_events_of_the_new_api_are_read_too() -> None:
    raw = {"eventTime": "2026-01-01T12:00:00.123456Z", "series": {"count": 4, "lastObservedTime": None}}
    assert Event.from_server(raw).count == 4
    assert Event.from_server(raw).time == datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


class FakeClient:
    """Gives these jobs in turn; an exception is raised."""

    def __init__(self, *jobs: TrainingJob | Exception) -> None:
        self.jobs = list(jobs)
        self.pod_reads = 0
        self.time = 0.0

    def get(self, name: str) -> TrainingJob:
        one = self.jobs.pop(0) if len(self.jobs) > 1 else self.jobs[0]
        if isinstance(one, Exception):
            raise one
        return one

    def pods(self, name: str) -> tuple[Pod, ...]:
        self.pod_reads += 1
        return ()

    def events(self, name: str) -> tuple[Event, ...]:
        old = Event("old", "Normal", "Started", "of a job before", 1, NOW, "another uid")
        return (old, Event("new", "Normal", "Started", "of this job", 1, NOW, "uid-ranker"))

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def all(self) -> list[Snapshot]:
        taken = snapshots(self, "ranker", wall=lambda: NOW, monotonic=lambda: self.time, sleep=self.sleep)  # type: ignore[arg-type]
        return list(taken)


def test_snapshots_end_with_the_job_and_leave_out_older_jobs_events() -> None:
    taken = FakeClient(typed(job()), typed(job()), typed(complete()), typed(complete())).all()
    assert [one.job.phase for one in taken] == ["Pending", "Pending", "Complete"]
    assert [event.uid for event in taken[-1].events] == ["new"]


def test_pods_are_not_read_every_second() -> None:
    client = FakeClient(*[typed(job())] * 9, typed(complete()), typed(complete()))
    client.all()
    assert client.pod_reads < 8


def test_snapshots_survive_a_short_absence_and_say_so() -> None:
    taken = FakeClient(typed(job()), Unreachable("away"), typed(complete()), typed(complete())).all()
    assert [one.trouble for one in taken] == ["", "away", ""]


def test_snapshots_give_up_after_a_minute() -> None:
    client = FakeClient(typed(job()), Unreachable("away"))
    with pytest.raises(Unreachable):
        client.all()
    assert client.time > GIVE_UP_SECONDS


def test_a_deleted_job_ends_the_view() -> None:
    with pytest.raises(NotFound):
        FakeClient(typed(job()), NotFound("gone")).all()
