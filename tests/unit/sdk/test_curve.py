from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from tests.unit.sdk.conftest import job

from mlenv_sdk import TrainingJob
from mlenv_sdk.view.curve import WIDTH, Curve


def told(step: int, loss: float | str, attempt: int = 1) -> TrainingJob:
    status: dict[str, Any] = {
        "phase": "Running",
        "attempt": {"number": attempt, "state": "Running", "since": "2026-01-01T12:00:00Z"},
        "progress": {"step": step, "metrics": [{"name": "loss", "value": str(loss)}]},
    }
    return TrainingJob.from_server(job(**status))


def drawn(curve: Curve, total: int | None = None) -> list[str]:
    shown = curve.render(total)
    if shown is None:
        return []
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(shown)
    return console.export_text().splitlines()


def test_a_falling_loss_is_a_falling_line() -> None:
    curve = Curve()
    for step in range(0, 1001, 100):
        curve.add(told(step, 1.0 - step / 2000))
    (line,) = drawn(curve)
    blocks = line.split()[2]
    assert len(blocks) == WIDTH
    assert list(blocks) == sorted(blocks, reverse=True)
    assert (blocks[0], blocks[-1]) == ("█", "▁")
    assert line.startswith("loss 1 ")
    assert line.endswith(" 0.5")


def test_what_is_to_come_is_empty() -> None:
    curve = Curve()
    for step in (0, 10, 20, 30):
        curve.add(told(step, step))
    blocks = drawn(curve, 300)[0].removeprefix("loss 0 ").removesuffix(" 30")
    assert len(blocks.rstrip()) == WIDTH // 10 + 1


def test_an_attempt_is_marked_where_the_one_before_ended_and_its_steps_replace_the_old_ones() -> None:
    curve = Curve()
    for step in (100, 200, 300):
        curve.add(told(step, 1.0))
    for step in (200, 300, 600):
        curve.add(told(step, 0.5, attempt=2))
    line, mark = drawn(curve)
    assert mark.strip() == "▲ attempt 2, after step 300"
    assert mark.index("▲") == line.index(line.split()[2]) + WIDTH // 2
    assert line.endswith(" 0.5")
    assert line.count("█") == WIDTH // 3  # only what was not done again is as it was


def test_little_and_nonsense_are_not_drawn() -> None:
    curve = Curve()
    curve.add(TrainingJob.from_server(job()))
    for step in range(5):
        curve.add(told(step, "NaN"))
    curve.add(told(6, 1.0))
    curve.add(told(7, 1.0))
    assert drawn(curve) == []
    curve.add(told(8, 1.0))
    assert len(drawn(curve)) == 1  # a flat line has no span to divide by
