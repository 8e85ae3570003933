"""Which replays, failures and silences of history are worth a condition: pure decisions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlenv import rows
from mlenv.courier import runlog, trouble
from mlenv.courier.faults import Fault, Kind
from mlenv.courier.trouble import Verdict


def row(step: int, **metrics: float) -> rows.Row:
    return rows.Row(step, 1000.0 + step, metrics)


def stored(step: int, when: float = 1.0, **metrics: float) -> dict[str, Any]:
    return {"step": step, "_step": step, "_timestamp": when, **metrics}


def judge(new: rows.Row, old: dict[str, Any], *, exact: bool) -> bool:
    """Whether it is told that they differ."""
    found = trouble.judged(Verdict(exact=exact), 2, [new], [old])
    return trouble.of_replay(found, 0, "a/p/u") is not None


@pytest.mark.parametrize(("off", "exact", "told"), [
    (0.0, True, False),
    (1e-9, True, True),
    (1e-9, False, False),
    (0.005, False, False),
    (0.02, False, True),
])  # fmt: skip
def test_deterministic_programs_are_held_to_the_last_bit_and_others_to_a_band(
    *, off: float, exact: bool, told: bool
) -> None:
    assert judge(row(5, loss=1.0 + off), stored(5, loss=1.0), exact=exact) == told


def test_what_a_program_measures_of_time_is_no_drift() -> None:
    assert not judge(row(5, loss=1.0, rate=80.0), stored(5, loss=1.0, rate=99.0), exact=True)
    assert not judge(row(5, rate=80.0), stored(5, rate=99.0), exact=True)
    assert judge(row(5, **{"train/ctr_loss": 2.0}), stored(5, **{"train/ctr_loss": 1.0}), exact=False)


def test_a_row_is_not_compared_with_itself() -> None:
    same = stored(5, when=1005.0, loss=1.0)
    assert runlog.compare([row(5, loss=1.0)], [same], runlog.Drift()) == runlog.Drift()
    assert runlog.compare([row(5, loss=1.0)], [stored(5, loss=1.0)], runlog.Drift()).compared == 1


def test_without_deterministic_kernels_a_few_steps_may_go_astray() -> None:
    old = [stored(step, loss=1.0) for step in range(1, 11)]
    astray = [row(step, loss=1.5 if step in (3, 8) else 1.0) for step in range(1, 11)]
    assert not trouble.judged(Verdict(), 2, astray, old).off
    assert trouble.judged(Verdict(exact=True), 2, astray, old).off


def test_what_was_said_of_an_attempt_stays_and_the_next_one_starts_afresh() -> None:
    bad = trouble.judged(Verdict(), 2, [row(1, loss=2.0)], [stored(1, loss=1.0)])
    assert bad.off
    later = [row(step, loss=1.0) for step in range(2, 9)]
    found = trouble.judged(bad, 2, later, [stored(step, loss=1.0) for step in range(2, 9)])
    assert (found.off, found.drift.differ, found.drift.compared) == (True, 1, 8)
    assert bad.with_(replace(found, off=False)).off, "rows were read again, in other pieces"
    good = trouble.judged(found, 3, [row(9, loss=1.0)], [stored(9, loss=1.0)])
    assert (good.off, good.drift.compared) == (False, 1)


def drifted(attempt: int, differ: int, compared: int = 10) -> Verdict:
    drift = runlog.Drift(compared, differ, 0.5 if differ else 0.0, 7, "loss")
    return Verdict(attempt, drift, off=differ > 0)


def test_the_later_attempt_that_replayed_anything_has_the_last_word() -> None:
    bad = drifted(2, 3)
    assert bad.with_(drifted(2, 1)) == bad, "rows are being read again"
    assert bad.with_(Verdict(3)) == bad, "nothing was replayed"
    assert bad.with_(drifted(1, 9)) == bad
    assert bad.with_(drifted(3, 0)) == drifted(3, 0)


def test_what_was_left_by_a_roll_back_is_not_held_against_the_job() -> None:
    assert trouble.of_replay(drifted(2, 3), 2, "a/p/u") is not None
    assert trouble.of_replay(drifted(2, 3), 3, "a/p/u") is None


@pytest.mark.parametrize(("kind", "failures", "ending", "reason"), [
    (Kind.AWAY, 1, False, None),
    (Kind.AWAY, 3, False, "StoreUnreachable"),
    (Kind.AWAY, 1, True, "StoreUnreachable"),
    (Kind.KEY, 1, False, "StoreUnauthorized"),
    (Kind.OTHER, 3, False, "HistoryNotLogged"),
])  # fmt: skip
def test_what_a_person_must_mend_is_told_at_once_and_the_rest_when_it_lasts(
    kind: Kind, failures: int, *, ending: bool, reason: str | None
) -> None:
    found = trouble.of_store(Fault(kind, "it fails"), failures, ending=ending, done=False)
    assert (found and found.reason) == reason


def test_a_courier_that_ends_says_that_rows_are_left() -> None:
    assert trouble.of_store(None, 0, ending=False, done=False) is None
    assert trouble.of_store(None, 0, ending=True, done=True) is None
    found = trouble.of_store(None, 0, ending=True, done=False)
    assert found is not None
    assert found.reason == "HistoryNotLogged"


def test_a_sentence_has_room_for_its_advice() -> None:
    drift = runlog.Drift(9, 9, 0.5, 7, "m" * 200)
    found = trouble.of_replay(Verdict(2, drift, off=True), 0, "entity/project/" + "u" * 36)
    assert found is not None
    assert found.message.endswith("one is not what it was")
    assert len(found.message) <= 400


def test_history_that_an_older_attempt_did_not_write_is_no_trouble_of_a_newer() -> None:
    assert trouble.of_rank((2, "full"), 2) is not None
    assert trouble.of_rank((2, "full"), 3) is None
    assert trouble.of_rank((0, ""), 0) is None
