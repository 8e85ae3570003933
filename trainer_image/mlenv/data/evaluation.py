"""A held-out set, each sample exactly once, in any world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv import spent
from mlenv.data.loader import Loader, Planned
from mlenv.data.order import Order, Run, Schedule, Window, cut
from mlenv.data.stream import as_source, place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mlenv.data.batch import Batch
    from mlenv.data.catalogue import Source


class Evaluation:
    """This rank's part of one pass over `source`, in file order; each iteration is a whole pass.

    Every rank gets as many batches, so collective operations in the loop cannot hang; they differ by at most
    one row, and all ranks together get at most about `batch` rows at once. With fewer rows than ranks some
    get empty batches. There is no position: an interrupted evaluation begins anew.
    """

    def __init__(
        self,
        source: Source | str | Path | Sequence[str | Path],
        batch: int,
        *,
        workers: int = 2,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        self.source = as_source(source)
        self.source.catalogue.check()
        self._rank, self._world = place(rank, world)
        self._workers = workers
        total = int(self.source.catalogue.sizes.sum())
        self._steps = -(-total // batch)
        self._low, self._high = (total * part // self._world for part in (self._rank, self._rank + 1))

    def __len__(self) -> int:
        """Batches of every rank."""
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        rows = self._high - self._low
        loader = Loader(
            self.source, self._plan(), lambda _: None, [0], workers=self._workers, ahead=self._workers
        )
        before = spent.clock.switch(spent.EVAL)
        try:
            for step in range(self._steps):
                yield loader.take((step + 1) * rows // self._steps - step * rows // self._steps)
        finally:
            spent.clock.switch(before)
            loader.close()

    def _plan(self) -> Iterator[Planned]:
        order = Order(seed=0, batch=1, lanes=1, tail="drop", shuffle=False, window=1)
        sizes = self.source.catalogue.sizes
        whole = cut(Schedule(order, sizes, [(0, len(sizes))]).sequence(0), self._low, self._high)
        for index in range(len(whole.group)):
            run = Run(*(array[index : index + 1] for array in whole))
            yield Planned(Window(0, 0, index, 0, run.rows, run, 0))
