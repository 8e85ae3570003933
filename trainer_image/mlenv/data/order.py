"""Which sample comes when: a pure function of (what decides the order, the data's row groups, a position).

An epoch is a sequence of all rows. Shuffled, it is the row groups in a random order, turned by a random
number of rows, so that what a tail drops and where lanes begin differs in every epoch. A *pass* is the part
of the sequences that an epoch's steps consume, as the tail rule says:

    drop    whole global batches of this epoch; the rest is left out
    pad     the last batch is filled up with the epoch's first rows
    carry   the sequences of all epochs, one after the other; the rest of one opens the next

A global batch of B rows is L lanes of B / L rows, and ranks own ranges of lanes. Shuffled, lane l reads the
l-th of L equal stretches of the pass, so a rank reads only its own row groups; within a lane, the rows of
each *window* of row groups are shuffled. Unshuffled, the pass itself is cut into batches, and every rank
reads every row group.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

import numpy as np

from mlenv.data.mix import fold, permutation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlenv.data.mix import Indices

Tail: TypeAlias = Literal["drop", "pad", "carry"]
TAILS: Final = ("drop", "pad", "carry")
# What the keys of different uses are told apart by.
_GROUPS, _TURN, _ROWS = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Order:
    """All that decides the order of samples; a checkpoint holds it, and only one like it can go on."""

    seed: int
    batch: int
    """Rows of a global batch, of all ranks together."""
    lanes: int
    tail: Tail
    shuffle: bool
    window: int
    """Row groups whose rows are shuffled among each other."""


class Run(NamedTuple):
    """Rows of a sequence: of each row group, those from low to high."""

    group: Indices
    low: Indices
    high: Indices

    @property
    def rows(self) -> int:
        """How many rows."""
        return int((self.high - self.low).sum())


@dataclass(frozen=True)
class Window:
    """What a worker reads and shuffles at once: rows of one lane that follow each other."""

    epoch: int
    lane: int
    index: int
    start: int
    """The lane's row number of its first row, within the pass."""
    rows: int
    run: Run
    first: int
    """Position in the pass of the run's first row."""


class Schedule:
    """The passes of all epochs over row groups of these sizes.

    `generations` are (first epoch, number of row groups) of a data set that grew; one that did not has one.
    """

    def __init__(self, order: Order, sizes: Indices, generations: Sequence[tuple[int, int]]) -> None:
        self.order = order
        self._sizes = sizes
        self._generations = tuple(generations)
        self._first_epochs = [epoch for epoch, _ in generations]
        self._rows = [int(sizes[:groups].sum()) for _, groups in generations]
        self._pass = lru_cache(maxsize=2)(self._make_pass)

    def rows(self, epoch: int) -> int:
        """Rows of the data set in this epoch."""
        return self._rows[self._generation(epoch)]

    def start(self, epoch: int) -> int:
        """Rows of all epochs before this one."""
        total = 0
        for number, (first, rows) in enumerate(zip(self._first_epochs, self._rows, strict=True)):
            last = self._first_epochs[number + 1] if number + 1 < len(self._rows) else epoch
            total += rows * max(0, min(last, epoch) - first)
        return total

    def steps(self, epoch: int) -> int:
        """Global batches of this epoch's pass."""
        batch, rows = self.order.batch, self.rows(epoch)
        if self.order.tail == "carry":
            return self.start(epoch + 1) // batch - self.start(epoch) // batch
        return -(-rows // batch) if self.order.tail == "pad" else rows // batch

    def left_out(self, epoch: int) -> int:
        """Rows of this epoch that no step consumes (drop)."""
        return self.rows(epoch) % self.order.batch if self.order.tail == "drop" else 0

    def padded(self, epoch: int) -> int:
        """Rows that this epoch consumes a second time (pad)."""
        return -self.rows(epoch) % self.order.batch if self.order.tail == "pad" else 0

    def sequence(self, epoch: int) -> Run:
        """All rows of an epoch, in order."""
        groups = self._generations[self._generation(epoch)][1]
        group = np.flatnonzero(self._sizes[:groups])
        if self.order.shuffle:
            group = group[permutation(len(group), fold(self.order.seed, _GROUPS, epoch))]
        whole = Run(group, np.zeros(len(group), np.int64), self._sizes[group])
        if not self.order.shuffle:
            return whole
        turn = fold(self.order.seed, _TURN, epoch) % max(1, whole.rows)
        return chain([cut(whole, turn, whole.rows), cut(whole, 0, turn)])

    def windows(self, epoch: int, lane: int) -> Iterator[Window]:
        """What a lane reads in an epoch's pass, in its order."""
        return self._stretches(epoch, lane) if self.order.shuffle else self._slices(epoch, lane)

    def select(self, window: Window) -> Indices:
        """Which rows of the window's run the lane gets, and in which order."""
        order = self.order
        if order.shuffle:
            return permutation(window.rows, fold(order.seed, _ROWS, window.epoch, window.lane, window.index))
        share = order.batch // order.lanes
        within = (window.first + np.arange(window.run.rows)) % order.batch
        return np.flatnonzero(within // share == window.lane)

    # -- how

    def _generation(self, epoch: int) -> int:
        return bisect_right(self._first_epochs, epoch) - 1

    def _make_pass(self, epoch: int) -> Run:
        """The rows that an epoch's steps consume, in order."""
        batch, rows = self.order.batch, self.rows(epoch)
        consumed = self.steps(epoch) * batch
        if self.order.tail != "carry":
            times = -(-consumed // rows)
            return cut(chain([self.sequence(epoch)] * times), 0, consumed)
        return self._carried(self.start(epoch) // batch * batch, consumed)

    def _carried(self, low: int, rows: int) -> Run:
        """`rows` rows from `low` on, of all epochs' sequences after each other."""
        epoch, parts = self._epoch_at(low), []
        while rows > 0:
            skip = low - self.start(epoch)
            some = min(rows, self.rows(epoch) - skip)
            parts.append(cut(self.sequence(epoch), skip, skip + some))
            low, rows, epoch = low + some, rows - some, epoch + 1
        return chain(parts)

    def _epoch_at(self, row: int) -> int:
        for first, rows in reversed(list(zip(self._first_epochs, self._rows, strict=True))):
            if row >= self.start(first):
                return first + (row - self.start(first)) // rows
        return 0

    def _stretches(self, epoch: int, lane: int) -> Iterator[Window]:
        length = self.steps(epoch) * self.order.batch // self.order.lanes
        run = cut(self._pass(epoch), lane * length, (lane + 1) * length)
        start = 0
        for index, first in enumerate(range(0, len(run.group), self.order.window)):
            part = Run(*(array[first : first + self.order.window] for array in run))
            yield Window(epoch, lane, index, start, part.rows, part, lane * length + start)
            start += part.rows

    def _slices(self, epoch: int, lane: int) -> Iterator[Window]:
        run = self._pass(epoch)
        ends = np.cumsum(run.high - run.low)
        before, start = 0, 0
        for index, end in enumerate(ends.tolist()):
            rows = self._lane_rows(end, lane) - start
            if rows:
                part = Run(*(array[index : index + 1] for array in run))
                yield Window(epoch, lane, index, start, rows, part, before)
            before, start = end, start + rows

    def _lane_rows(self, position: int, lane: int) -> int:
        """How many of the pass's first rows belong to the lane, unshuffled."""
        share = self.order.batch // self.order.lanes
        batches, rest = divmod(position, self.order.batch)
        return batches * share + min(max(rest - lane * share, 0), share)


def cut(run: Run, low: int, high: int) -> Run:
    """Rows low to high of a run."""
    ends = np.cumsum(run.high - run.low)
    starts = ends - (run.high - run.low)
    first, last = int(np.searchsorted(ends, low, "right")), int(np.searchsorted(starts, high, "left"))
    if low >= high:
        last = first
    some = slice(first, last)
    return Run(
        run.group[some],
        run.low[some] + np.maximum(low - starts[some], 0),
        run.high[some] - np.maximum(ends[some] - high, 0),
    )


def chain(runs: Sequence[Run]) -> Run:
    """One run after the other."""
    return Run(*(np.concatenate(arrays) for arrays in zip(*runs, strict=True)))


def share(lanes: int, rank: int, world: int) -> range:
    """The lanes of a rank: ranges as equal as they can be, in the order of ranks. Raises ValueError."""
    if not 1 <= world <= lanes:
        raise ValueError(
            f"{lanes} lanes cannot be shared by {world} ranks: at most {lanes}. "
            "The number of lanes is fixed when a run begins: begin with lanes= of the largest world you plan"
        )
    return range(rank * lanes // world, (rank + 1) * lanes // world)


def choose_lanes(batch: int, world: int, most: int) -> int:
    """The most lanes that divide the batch, from one per rank up to `most`. Raises ValueError."""
    for lanes in range(max(world, most), world - 1, -1):
        if batch % lanes == 0:
            return lanes
    raise ValueError(
        f"a global batch of {batch} cannot be split into between {world} and {max(world, most)} equal lanes: "
        f"choose a batch that {world} (the number of ranks) divides"
    )
