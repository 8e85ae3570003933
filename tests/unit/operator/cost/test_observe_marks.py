"""Marks from stored status, and from what launchers say of their time."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import NOW, ago, pod, raw_job, raw_pod, raw_status, stamp

from mlenv_api.protocol import Beat, LauncherPhase, Progress, Spent
from mlenv_operator.core.project import parse_job, project_pod
from mlenv_operator.core.world import BeatView
from mlenv_operator.cost.facts import SECOND, Mark, Pod
from mlenv_operator.cost.moments import micros
from mlenv_operator.cost.observe_attempts import attempt_marks, highest_step, turns, world_formed
from mlenv_operator.cost.observe_spent import WINDOW, Meter, hear, tell
from mlenv_operator.cost.spans import life, owners, sort_marks, spans, states

MINUTE = 60 * SECOND


def status(state: str, **changes: Any) -> Any:
    return parse_job(raw_job(status=raw_status(state, **changes))).status


def record(number: int, start: float | None, end: float, **more: Any) -> dict[str, Any]:
    started = {} if start is None else {"startTime": stamp(ago(start))}
    return {"number": number, **started, "endTime": stamp(ago(end)), "reason": "ProgramFailed", **more}


def shown(marks: tuple[Mark, ...]) -> list[tuple[float, int, str]]:
    """As (seconds ago, attempt, category)."""
    return [((micros(NOW) - one.at) / 1e6, one.attempt, str(one.category)) for one in sort_marks(marks)]


RESTARTED = {
    "attempt": {"number": 3},
    "attempts": [record(2, 60, 50, lastStep=70), record(1, 80, 62, lastStep=40)],
}


class TestAttempts:
    def test_a_world_that_formed_runs_and_a_move_is_recovery(self) -> None:
        history = turns(status("Running", since=48, **RESTARTED))
        assert shown(attempt_marks(pod(), history)) == [
            (80, 1, "productive"),
            (62, 2, "recovery"),
            (60, 2, "productive"),
            (50, 3, "recovery"),
            (48, 3, "productive"),
        ]

    def test_a_pod_that_comes_later_joins_what_is_going_on(self) -> None:
        history = turns(status("Running", since=48, **RESTARTED))
        late = pod(state={"running": {"startedAt": stamp(ago(49))}})
        assert shown(attempt_marks(late, history)) == [(49, 3, "init"), (48, 3, "productive")]
        waits = turns(status("Assembling", since=20, **RESTARTED))
        new = pod(state={"running": {"startedAt": stamp(ago(10))}})
        assert shown(attempt_marks(new, waits)) == [(10, 3, "init")]

    def test_what_ended_drains(self) -> None:
        history = turns(status("Complete", since=8, attempts=[record(1, 80, 8)]))
        assert shown(attempt_marks(pod(), history))[-1] == (8, 1, "drain")
        gone = {"terminated": {"exitCode": 1, "startedAt": stamp(ago(90)), "finishedAt": stamp(ago(70))}}
        assert shown(attempt_marks(pod(state=gone), history)) == [(80, 1, "productive"), (70, 1, "drain")]

    def test_the_same_status_gives_the_same_marks_and_a_later_one_adds_some(self) -> None:
        before = attempt_marks(
            pod(), turns(status("Running", since=60, attempt={"number": 2}, attempts=[record(1, 80, 62)]))
        )
        after = attempt_marks(pod(), turns(status("Running", since=48, **RESTARTED)))
        assert set(before) <= set(after)

    def test_a_pod_that_has_not_started_has_none(self) -> None:
        view = project_pod(raw_pod(phase="Pending", state={}))
        assert view is not None
        assert attempt_marks(view, turns(status("Running"))) == ()

    def test_what_earlier_attempts_had_committed(self) -> None:
        told = status("Running", since=48, **RESTARTED)
        assert [highest_step(told, number) for number in (1, 2, 3)] == [0, 40, 70]
        assert world_formed(told) == micros(ago(48))
        assert world_formed(status("Assembling")) is None


SINCE = micros(NOW) // WINDOW * WINDOW
"""When the world was formed: the beginning of a third of an hour."""


def beat(
    at: int, step: int = 0, *, attempt: int = 1, skew: float = 0, phase: str = "Running", **spent: int
) -> BeatView:
    """A beat whose sums were reached at this microsecond of ours; the pod's clock is `skew` seconds ahead."""
    received = NOW + timedelta(microseconds=SINCE + at - micros(NOW))
    clock = received + timedelta(seconds=skew)
    said = Spent(**spent, time=clock)
    progress = Progress(step=step) if step else None
    return BeatView(
        Beat(
            protocol=1, attempt=attempt, phase=LauncherPhase(phase), spent=said, progress=progress, time=clock
        ),
        received,
    )


def heard(beats: list[BeatView], highest: int = 0) -> tuple[Meter | None, list[Mark]]:
    meter, marks = None, []
    for one in beats:
        meter, more = hear(meter, "u", one, since=SINCE, highest=highest)
        marks += more
    return meter, marks


def stretches(marks: list[Mark], end: int) -> list[tuple[int, int, str]]:
    """What a pod did until `end`, as (from, to, category), in microseconds since the world was formed."""
    held = Pod("u", "ns", "p", "j", "n", scheduled=SINCE, started=SINCE, telemetry=True)
    ordered = sort_marks(marks)
    points = states(held, ordered, life(held, ordered))
    found = spans(points, owners(held, ()), SINCE, SINCE + end)
    return [(one.t0 - SINCE, one.t1 - SINCE, str(one.category)) for one in found]


class TestSpent:
    def test_what_came_together_is_laid_at_the_end_of_the_stretch(self) -> None:
        first = beat(100, init=90, checkpoint_restore=7)
        second = beat(400, 5, init=95, checkpoint_restore=7, productive=200, data_wait=60, checkpoint_save=30)
        assert stretches(heard([first, second])[1], 500) == [
            (0, 93, "init"),
            (93, 100, "checkpoint_restore"),
            (100, 105, "init"),
            (105, 305, "productive"),
            (305, 365, "data_wait"),
            (365, 395, "checkpoint_save"),
            (395, 500, "productive"),
        ]

    def test_what_came_together_is_told_a_few_times_an_hour(self) -> None:
        step = 2 * SECOND
        beats = [
            beat(step * n, n, init=SECOND, productive=(2 * n - 1) * SECOND - n, data_wait=n)
            for n in range(1, 1000)
        ]
        marks = heard(beats)[1]
        # Two stretches a window, whatever the number of beats.
        assert len(marks) <= 3 + 2 * 3
        total = Counter[str]()
        for t0, t1, category in stretches(marks, 2 * WINDOW):
            total[category] += t1 - t0
        assert total["init"] == SECOND
        assert total["data_wait"] == 600

    def test_steps_made_again_are_lost_work(self) -> None:
        beats = [
            beat(10, 0, init=10),
            beat(110, 4, init=10, productive=100),
            beat(210, 8, init=10, productive=200),
            beat(310, 12, init=10, productive=300),
        ]
        meter, marks = heard(beats, highest=6)
        assert meter is not None
        _, last = tell(meter, 6, SINCE + 10 * MINUTE)
        assert stretches([*marks, *last], 310) == [
            (0, 10, "init"),
            (10, 160, "lost_work"),
            (160, 310, "productive"),
        ]

    def test_a_clock_that_is_wrong_is_corrected_by_the_beat(self) -> None:
        right = heard([beat(100, init=90), beat(400, 3, init=95, productive=300)])[1]
        assert (
            heard([beat(100, skew=300, init=90), beat(400, 3, skew=300, init=95, productive=300)])[1] == right
        )

    def test_words_that_overtook_each_other_or_come_twice_change_nothing(self) -> None:
        early, late = beat(100, init=90), beat(400, 3, init=95, productive=300)
        meter, _ = heard([early, late])
        again = hear(meter, "u", late, since=SINCE, highest=0)
        assert again == (meter, ())
        assert hear(meter, "u", early, since=SINCE, highest=0) == (meter, ())
        assert hear(meter, "u", beat(500, attempt=0, init=1), since=SINCE, highest=0) == (meter, ())

    def test_a_launcher_that_does_not_tell_has_no_meter(self) -> None:
        quiet = BeatView(Beat(protocol=1, attempt=1, time=NOW), NOW)
        assert hear(None, "u", quiet, since=SINCE, highest=0) == (None, ())

    def test_the_last_word_is_told_at_once_and_not_beyond_the_end_of_the_attempt(self) -> None:
        beats = [beat(100, 1, init=50, productive=50), beat(300, 2, init=50, productive=150, data_wait=100)]
        meter, _ = heard(beats)
        assert meter is not None
        assert [one.at - SINCE for one in tell(meter, 0, SINCE + 250)[1]] == [200]

    def test_when_its_ranks_have_ended_a_pod_recovers_or_drains(self) -> None:
        after = {
            "Failed": (300, 400, "recovery"),
            "Succeeded": (300, 400, "drain"),
            "Stopping": (50, 400, "productive"),
        }
        for phase, expected in after.items():
            last = beat(300, 2, init=50, productive=150, data_wait=100, phase=phase)
            meter, marks = heard([beat(100, 1, init=50, productive=50), last])
            assert stretches(marks, 400)[-1] == expected
            assert hear(meter, "u", last, since=SINCE, highest=0) == (meter, ())

    def test_a_new_attempt_begins_anew_behind_its_world(self) -> None:
        meter, _ = heard([beat(100, 1, init=50, productive=50)])
        later = beat(900, attempt=2, init=950)
        found, marks = hear(meter, "u", later, since=SINCE + 700, highest=0)
        assert found is not None
        assert (found.attempt, found.begun - SINCE, [one.at - SINCE for one in marks]) == (2, 700, [700])

    def test_time_in_which_a_process_was_stopped_is_passed_over(self) -> None:
        beats = [
            beat(100, 1, init=50, productive=50),
            beat(10 * MINUTE, 2, init=50, productive=70, data_wait=30, phase="Failed"),
        ]
        marks = heard(beats)[1]
        assert stretches(marks, 10 * MINUTE)[-1] == (10 * MINUTE - 30, 10 * MINUTE, "data_wait")

    @settings(max_examples=80, deadline=None)
    @given(
        st.lists(st.tuples(*[st.integers(0, 4 * MINUTE)] * 6, st.integers(0, 3)), min_size=1, max_size=30),
        st.integers(0, 20),
    )
    def test_the_stretches_add_up_to_what_was_told(self, deltas: list[tuple[int, ...]], highest: int) -> None:
        names = ("init", "productive", "data_wait", "checkpoint_save", "checkpoint_restore", "eval")
        sums, step, beats = Counter[str](), 0, []
        for *amounts, steps in deltas:
            sums.update(dict(zip(names, amounts, strict=True)))
            step += steps
            beats.append(beat(sum(sums.values()), step, **sums))
        meter, marks = heard(beats, highest)
        assert meter is not None
        marks += tell(meter, highest, 2 * SINCE)[1]
        total = Counter[str]()
        for t0, t1, category in stretches(marks, sum(sums.values())):
            total[category] += t1 - t0
        total["productive"] += total.pop("lost_work", 0)
        assert +total == +sums
