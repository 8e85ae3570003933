"""What the witness of a position must be, from the order alone: a check of what was consumed. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlenv.data.mix import MASK, witness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlenv.data.mix import Indices
    from mlenv.data.order import Schedule
    from mlenv.data.position import Position


def expected(schedule: Schedule, starts: Indices, position: Position) -> int:
    """The witness of everything before `position` but its skipped batches; reads no data."""
    total = 0
    for epoch, low, high in consumed(schedule, position):
        for lane in range(schedule.order.lanes):
            total += witness(ids(schedule, starts, epoch, lane, steps=range(low, high)))
    return total & MASK


def consumed(schedule: Schedule, position: Position) -> Iterator[tuple[int, int, int]]:
    """Ranges of steps (epoch, low, high) before the position, without skipped ones."""
    skips = [(one.epoch, one.step, one.batches) for one in position.skipped]
    for epoch in range(position.epoch + 1):
        steps = position.step if epoch == position.epoch else schedule.steps(epoch)
        low = 0
        while skips and skips[0][0] == epoch and skips[0][1] <= steps:
            _, at, batches = skips.pop(0)
            yield epoch, low, at
            low = min(at + batches, schedule.steps(epoch))
            if left := at + batches - low:
                skips.insert(0, (epoch + 1, 0, left))
        yield epoch, low, max(low, steps)


def ids(schedule: Schedule, starts: Indices, epoch: int, lane: int, *, steps: range) -> Indices:
    """The samples of a lane in these steps of an epoch, in order."""
    share = schedule.order.batch // schedule.order.lanes
    first, last = steps.start * share, steps.stop * share
    found = [np.zeros(0, np.int64)]
    for window in schedule.windows(epoch, lane):
        if window.start < last and window.start + window.rows > first:
            run = zip(*(array.tolist() for array in window.run), strict=True)
            rows = np.concatenate([starts[group] + np.arange(bottom, top) for group, bottom, top in run])
            chosen = rows[schedule.select(window)]
            found.append(chosen[max(0, first - window.start) : last - window.start])
    return np.concatenate(found)
