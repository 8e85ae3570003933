"""What rank 0 leaves behind, and what its courier then tells of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlenv import rows
from mlenv.courier import pages
from mlenv.history import History

if TYPE_CHECKING:
    from bench import Pod

    from mlenv_api.protocol import Tracking


def loss(step: int) -> float:
    return 1.0 / (step + 0.1)


def train(pod: Pod, attempt: int, start: int, end: int, code: int | None = None, **more: Any) -> None:
    """What rank 0 of an attempt leaves behind that went on from `start`; killed, unless it has a code."""
    off = more.pop("off", 0.0)
    history = History(pod.own.parent / rows.FOLDER, rows.Head("uid-1", attempt, start, **more))
    for step in range(start + 1, end + 1):
        history.add(step, {"loss": loss(step) + off}, step * 2, 0)
    history.flush()
    history.close(code)


def log(pod: Pod, turns: int = 12) -> None:
    """Log all there is, as when the pod ends."""
    pod.courier.scribe.last = True
    for _ in range(turns):
        pod.turn()
        if pod.courier.scribe.done and pod.courier.scribe.fault is None:
            return
    raise AssertionError(f"not logged after {turns} turns: {pod.said}")


def tail(pod: Pod) -> dict[str, Any]:
    found: dict[str, Any] = pod.store._do("tail", 180, path=pod.store.path)
    return found


def report(pod: Pod) -> Tracking:
    """What the courier tells of the run."""
    found = pages.read(pod.own, pages.REPORT, pages.Report)
    assert found is not None
    assert found.tracking is not None
    return found.tracking
