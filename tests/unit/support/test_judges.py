"""The judges of the random kills find what they are there for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from diary import Diary
from history import History
from hunt import Kill, unexplained
from worlds import raw_job, raw_status

from mlenv_api.trainingjob import AttemptRecord

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def record(number: int, after: float, **more: Any) -> AttemptRecord:
    values = {"reason": "ProgramFailed", "counted": True, **more}
    return AttemptRecord(number=number, end_time=NOON + timedelta(seconds=after), **values)


def kill(victim: str, after: float) -> Kill:
    return Kill(victim, "j", 0, 1, (NOON + timedelta(seconds=after)).timestamp())


def test_an_attempt_that_ends_for_its_kill_is_explained() -> None:
    records = [record(1, 10), record(2, 20, reason="PodLost", counted=False), record(3, 30)]
    mine = [kill("rank 0", 9), kill("pod", 18), kill("container", 28.5)]
    assert unexplained("j", [*records, record(4, 90, reason="Completed", counted=False)], mine) == []


@pytest.mark.parametrize(
    ("victims", "counted", "said"),
    [
        ([], True, "Killed then: nobody"),
        (["operator"], False, "Killed then: ['operator']"),
        (["pod"], True, "charged wrongly"),
        (["store"], True, "charged wrongly"),
        (["another rank"], False, "not charged"),
    ],
)
def test_an_end_that_its_kills_do_not_explain_is_found(
    victims: list[str], *, counted: bool, said: str
) -> None:
    mine = [kill(victim, 18) for victim in victims]
    (found,) = unexplained("j", [record(1, 20, counted=counted)], mine)
    assert said in found


def lines(*steps: int, attempt: int = 1, process: str = "a", world: int = 2) -> list[dict[str, Any]]:
    who = {"attempt": attempt, "rank": 0, "world": world, "process": process}
    return [{**who, "begins": steps[0]}, *({**who, "step": step, "loss": "0x1p0"} for step in steps[1:])]


def test_a_diary_in_which_training_goes_forward_has_no_contradictions() -> None:
    diary = Diary((*lines(0, 1, 2, 3), *lines(2, 3, 4, attempt=2, process="b")))
    assert diary.contradictions() == []
    assert diary.redone() == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (lines(2, 3, process="b"), "attempt 1 had 2 processes that were rank 0"),
        (lines(3, 4, world=4), "attempt 1 had worlds of [2, 4] ranks"),
        (lines(1, 3, attempt=2, process="b"), "rank 0 of attempt 2 went through [1, 3]"),
    ],
)
def test_what_cannot_be_in_a_diary_is_found(more: list[dict[str, Any]], said: str) -> None:
    assert said in Diary((*lines(0, 1, 2), *more)).contradictions()


def test_an_attempt_with_two_worlds_or_a_number_that_falls_is_found() -> None:
    history = History()
    for number, port in ((1, 1111), (2, 2222), (2, 3333), (1, 1111)):
        rendezvous = {"address": "10.0.0.1", "port": port}
        history.see(
            raw_job(status=raw_status("Running", attempt={"number": number, "rendezvous": rendezvous}))
        )
    found = " ".join(history.contradictions("ranker"))
    assert "attempt 2 had 2 rendezvous" in found
    assert "attempts went [1, 2, 2, 1]" in found
