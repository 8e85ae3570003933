"""Data with a position: batches in an order that no world, worker or restart changes."""

from __future__ import annotations

import heapq
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast

import torch.distributed as dist

from mlenv import job as jobs
from mlenv import spent
from mlenv.data import audit
from mlenv.data import position as positions
from mlenv.data.errors import DataError, Exhausted, StateRefused
from mlenv.data.loader import Loader, Planned, kept_groups
from mlenv.data.mix import witness
from mlenv.data.order import TAILS, Order, Schedule, Tail, choose_lanes, share
from mlenv.data.position import Generation, Position, Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mlenv.data.batch import Batch
    from mlenv.data.catalogue import Source
    from mlenv.data.order import Window

LANES_PER_RANK: Final = 8
OPEN_BYTES: Final = 4 << 30
"""What the row groups that a rank has open may take, about, when the number of lanes is chosen for you."""


class Stream:
    """This rank's part of every global batch of `batch` rows, from wherever the position is.

    `source` is a file, folder, glob or URL of Parquet, a list of them, or a Source such as those of
    ``mlenv.data.synthetic``. Iterating gives the rest of the current epoch; `batches` all of them. The
    position that `state_dict` tells is that of the last `commit`; where nobody commits, a batch is consumed
    when it is given. Rank and world are found as by ``ml.init()``. `tail` is what happens to the rows that
    fill no batch: "drop", "pad" or "carry". `grown=True` lets a state of fewer files go on: new ones are read
    from the next epoch on.
    """

    def __init__(
        self,
        source: Source | str | Path | Sequence[str | Path],
        batch: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        tail: Tail = "drop",
        window: int = 1,
        lanes: int | None = None,
        epochs: int | None = None,
        workers: int = 2,
        rank: int | None = None,
        world: int | None = None,
        grown: bool = False,
    ) -> None:
        self.source: Final = as_source(source)
        self.rank, self.world = place(rank, world)
        self.workers, self.epochs, self._grown = workers, epochs, grown
        catalogue = self.source.catalogue
        catalogue.check()
        chosen = lanes or choose_lanes(batch, self.world, self._most_lanes(window))
        self._lanes_given = lanes is not None
        self._use(
            Order(seed=seed, batch=batch, lanes=chosen, tail=tail, shuffle=shuffle, window=window),
            [self._generation(epoch=0, files=len(catalogue.files))],
        )
        self._position = self._given = self._anchor = Position()
        self._commits = False
        self._loader: Loader | None = None
        self._turn = 0

    # -- what a loop uses

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch; raises Exhausted when there are no more epochs."""
        if self.done:
            raise Exhausted(f"all {self.epochs} epochs are consumed: raise epochs=, or end the loop before")
        self._turn += 1
        return self._rest_of(self._given.epoch, self._turn)

    def batches(self) -> Iterator[Batch]:
        """All batches that are left, over all epochs; without end unless `epochs` is given."""
        while not self.done:
            yield from self

    def __len__(self) -> int:
        """Global batches of the current epoch, from its beginning."""
        return self._schedule.steps(self._given.epoch)

    @property
    def done(self) -> bool:
        """Whether every batch of all epochs was given."""
        return self.epochs is not None and self._given.epoch >= self.epochs

    def commit(self) -> None:
        """What was given until now is consumed, and from the first call on nothing else. Sessions call it."""
        self._commits = True
        self._position = self._given

    def begin(self) -> None:
        """From here on commits decide what is consumed; what was only looked at is given again.

        A Session calls it, so that a batch taken to see its shape is not lost for training. After the first
        commit it does nothing.
        """
        if not self._commits and self._given != self._anchor:
            self._go_to(self._anchor)
        self._commits = True

    def skip(self, batches: int) -> None:
        """Pass over global batches, on every rank alike, and declare it in the state. Commits."""
        if batches < 0:
            raise ValueError(f"skip({batches}): data is passed over forwards only")
        now = start = self._given
        for _ in range(batches):
            now = now.moved(self._schedule.steps(now.epoch), 1)
        self._given = replace(now, skipped=(*now.skipped, Skipped(start.epoch, start.step, batches)))
        self._position = self._anchor = self._given
        self._close()

    # -- how far it is

    @property
    def epoch(self) -> int:
        """Whole epochs that are consumed."""
        return self._position.epoch

    @property
    def samples(self) -> int:
        """Rows that all ranks together consumed, padded ones included."""
        return self._position.batches * self.order.batch

    @property
    def lanes(self) -> range:
        """The lanes of this rank; its batches have ``len(lanes) / order.lanes`` of the global batch."""
        return self._lanes

    @property
    def position(self) -> Position:
        """What is consumed."""
        return self._position

    @property
    def open_bytes(self) -> int:
        """What the row groups that this rank has open at once take at most, about."""
        ahead = self._ahead if self.workers else 0
        groups = (len(self._lanes) + ahead + self.workers) * self.order.window
        kept = min(kept_groups(self.source, self.workers), len(self.source.catalogue.sizes))
        return (groups + kept) * self.source.catalogue.widest

    def counts(self) -> dict[str, int]:
        """Of all finished epochs: rows `dropped`, rows `padded`; and rows `carried` into the current one."""
        epochs, schedule, batch = range(self.epoch), self._schedule, self.order.batch
        return {
            "dropped": sum(schedule.left_out(epoch) for epoch in epochs),
            "padded": sum(schedule.padded(epoch) for epoch in epochs),
            "carried": schedule.start(self.epoch) % batch if self.order.tail == "carry" else 0,
        }

    def state_dict(self) -> dict[str, Any]:
        """This rank's position; ``mlenv.data.merge`` makes one for all ranks and any world out of them."""
        order = asdict(self.order)
        state = positions.encode(self._position, order, self._generations, rank=self.rank, world=self.world)
        return {**state, "counts": self.counts()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. Raises StateRefused when the state belongs to other data or another order."""
        position = positions.decode(state, rank=self.rank, world=self.world)
        sealed = dict(state["order"])
        given = asdict(self.order)
        if not self._lanes_given:
            given["lanes"] = sealed["lanes"]
        apart = positions.differences(sealed, given)
        if apart:
            raise StateRefused(
                f"the state was made with {'; '.join(apart)}: the order would change in the middle. "
                "Give the Stream what the state has, or begin anew without the state"
            )
        self._use(Order(**sealed), self._continued(state, position))
        self._go_to(position)

    def expected_witness(self) -> int:
        """What the witness of all ranks must be here, from the order alone; goes over all rows before."""
        return audit.expected(self._schedule, self.source.catalogue.starts, self._position)

    def agree(self) -> None:
        """Make sure that all ranks have the same data at the same position; a Session does it on entry.

        A file that appeared while ranks were listing would change the order on some of them. Collective;
        without a process group it checks nothing. Raises StateRefused.
        """
        if self.world > 1 and dist.is_initialized():
            every: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(every, self.state_dict())
            positions.merge(every)

    # -- inside

    @property
    def _ahead(self) -> int:
        return max(len(self._lanes), self.workers)

    def _go_to(self, position: Position) -> None:
        self._close()
        self._position = self._given = self._anchor = position
        self._turn += 1

    def _most_lanes(self, window: int) -> int:
        """As many lanes as memory allows, each with one window open and one read ahead."""
        affordable = OPEN_BYTES // (2 * max(1, window * self.source.catalogue.widest))
        return self.world * max(1, min(LANES_PER_RANK, affordable))

    def _use(self, order: Order, generations: list[Generation]) -> None:
        _check(order, generations[0].rows)
        self.order, self._generations = order, generations
        self._lanes = share(order.lanes, self.rank, self.world)
        catalogue = self.source.catalogue
        spans = [(one.epoch, catalogue.groups(one.files)) for one in generations]
        self._schedule = Schedule(order, catalogue.sizes, spans)

    def _generation(self, epoch: int, files: int) -> Generation:
        catalogue = self.source.catalogue
        rows = sum(file.rows for file in catalogue.files[:files])
        return Generation(epoch, files, rows, catalogue.digest(files))

    def _continued(self, state: Mapping[str, Any], position: Position) -> list[Generation]:
        """The state's generations, and one more when files were added."""
        past = [Generation(**one) for one in state["generations"]]
        files, now = len(self.source.catalogue.files), past[-1]
        if now.files > files or any(self._generation(one.epoch, one.files) != one for one in past):
            raise StateRefused(
                f"the state belongs to another data set ({now.files} files, {now.rows} rows): this one has "
                f"{files} files, {self._generation(0, files).rows} rows, and the first are not the same. "
                "Point the Stream to the data of the state, or begin anew without the state"
            )
        if now.files == files:
            return past
        if not self._grown:
            raise StateRefused(
                f"the data set grew from {now.files} to {files} files: give the Stream grown=True "
                "to read the new ones from the next epoch on, or leave them out"
            )
        epoch = position.epoch + (position.step > 0)
        return [*(one for one in past if one.epoch < epoch), self._generation(epoch, files)]

    def _rest_of(self, epoch: int, turn: int) -> Iterator[Batch]:
        while self._given.epoch == epoch:
            batch = self._next()
            yield batch
            if turn != self._turn:
                raise DataError(
                    "this pass over the data is over: another one was begun, or a state was loaded"
                )

    def _next(self) -> Batch:
        here = self._given
        asked = spent.monotonic_ns()
        try:
            batch = self._loader_here().take(self.order.batch // self.order.lanes)
        except BaseException:
            self._close()  # so that the next attempt begins at the same place
            raise
        spent.clock.took(spent.DATA_WAIT, asked)
        self._given = here.consumed(self._schedule.steps(here.epoch), witness(batch.ids))
        if not self._commits:
            self._position = self._given
        return batch

    def _loader_here(self) -> Loader:
        if self._loader is not None and self._loader.process != os.getpid():
            self._loader = None  # this is a fork: the threads stayed in the parent
        if self._loader is None:
            plan, select = self._plan(self._given), self._schedule.select
            self._loader = Loader(
                self.source, plan, select, self._lanes, workers=self.workers, ahead=self._ahead
            )
        return self._loader

    def _plan(self, start: Position) -> Iterator[Planned]:
        epoch, step = start.epoch, start.step
        while self.epochs is None or epoch < self.epochs:
            yield from self._plan_epoch(epoch, step)
            epoch, step = epoch + 1, 0

    def _plan_epoch(self, epoch: int, step: int) -> Iterator[Planned]:
        """Windows of this rank's lanes in the order in which they are needed."""
        rows = self.order.batch // self.order.lanes
        begin = step * rows

        def needed(window: Window) -> tuple[int, int, int]:
            return (max(window.start, begin) // rows, window.lane, window.index)

        lanes = (self._schedule.windows(epoch, lane) for lane in self._lanes)
        for window in heapq.merge(*lanes, key=needed):  # each lane's are in that order already
            if window.start + window.rows > begin:
                yield Planned(window, max(0, begin - window.start))

    def _close(self) -> None:
        if self._loader is not None:
            self._loader.close()
        self._loader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()


def as_source(source: Source | str | Path | Sequence[str | Path]) -> Source:
    """A Source as it is; anything else names Parquet files."""
    if isinstance(source, str | Path | list | tuple):
        from mlenv.data.parquet import Parquet  # noqa: PLC0415  (pyarrow only where files are read)

        return Parquet(source)
    return cast("Source", source)


def place(rank: int | None, world: int | None) -> tuple[int, int]:
    """This process's rank and world: as given, else as its launcher said."""
    if rank is not None and world is not None:
        return rank, world
    job = jobs.read(os.environ, cuda_devices=1 << 16)  # no device is used, so none can be missing
    return job.rank, job.world_size


def _check(order: Order, rows: int) -> None:
    if order.tail not in TAILS:
        raise ValueError(f"tail={order.tail!r} is none of {', '.join(TAILS)}")
    if order.batch < 1 or order.window < 1 or order.batch % order.lanes:
        raise ValueError(
            f"batch={order.batch}, lanes={order.lanes}, window={order.window}: all at least 1, "
            "and the lanes must divide the batch"
        )
    if order.batch > rows and order.tail != "pad":
        raise ValueError(
            f"a global batch of {order.batch} is larger than the data set ({rows} rows): none would be full. "
            "Choose a smaller one, or tail='pad'"
        )
