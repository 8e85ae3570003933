"""Reading ahead: threads read and shuffle windows, and cannot change the order in which these are handed out.

Threads and not processes: pyarrow and NumPy release the GIL where the time goes, what is read needs no second
copy, and there is no process to lose and no shared memory to leave behind. A thread keeps nothing: every
window is a pure function of its plan, so one that failed is read anew by the next attempt.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from mlenv.data import columns as cols
from mlenv.data.batch import from_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from mlenv.data.batch import Batch
    from mlenv.data.catalogue import Source
    from mlenv.data.columns import Column, Columns
    from mlenv.data.mix import Indices
    from mlenv.data.order import Window

KEPT_BYTES: Final = 64 << 20
"""Row groups kept after use: for the lane that begins where another ends, and to read small data once."""


@dataclass(frozen=True)
class Planned:
    """A window to read, and what the lane takes of it."""

    window: Window
    skip: int = 0
    """Rows at its beginning that are consumed already."""


@dataclass(frozen=True)
class Block:
    """Rows of one lane in their final order."""

    columns: Columns
    ids: Indices


class _Result(Protocol):
    def result(self) -> Block: ...


class _OnDemand:
    """Without workers: read when it is asked for, and not before."""

    def __init__(self, make: Callable[[], Block]) -> None:
        self._make = make

    def result(self) -> Block:
        return self._make()


class Groups:
    """Row groups that several windows need: each is read once while it is used, the last few are kept."""

    def __init__(self, source: Source, keep: int) -> None:
        self._source = source
        self._keep = keep
        self._lock = threading.Lock()
        self._found: OrderedDict[int, Future[Columns]] = OrderedDict()

    def get(self, group: int) -> Columns:
        """The group's columns; who comes second waits for who came first."""
        with self._lock:
            future = self._found.get(group)
            mine = future is None
            if future is None:
                future = self._found[group] = Future()
            self._found.move_to_end(group)
        if mine:
            self._read(group, future)
        return future.result()

    def _read(self, group: int, future: Future[Columns]) -> None:
        try:
            future.set_result(self._source.read(group))
        except BaseException as error:  # noqa: BLE001  (whoever waits for it must hear of it)
            with self._lock:
                self._found.pop(group, None)
            future.set_exception(error)
        with self._lock:
            while len(self._found) > self._keep and next(iter(self._found.values())).done():
                self._found.popitem(last=False)


def kept_groups(source: Source, workers: int) -> int:
    """How many row groups stay in memory after use."""
    return max(2, workers, KEPT_BYTES // max(1, source.catalogue.widest))


class Loader:
    """Hands out rows of the given lanes, in the order of `plan`, reading `ahead` windows before their time.

    Open at once are one window per lane, `ahead` more, and a few row groups. Belongs to one thread of one
    process.
    """

    def __init__(
        self,
        source: Source,
        plan: Iterator[Planned],
        select: Callable[[Window], Indices | None],
        lanes: Sequence[int],
        *,
        workers: int,
        ahead: int,
    ) -> None:
        self.process = os.getpid()
        self._groups = Groups(source, kept_groups(source, workers))
        self._starts, self._sizes = source.catalogue.starts, source.catalogue.sizes
        self._plan, self._select, self._lanes = plan, select, lanes
        self._ahead = ahead if workers else 0
        self._pool = ThreadPoolExecutor(workers, "mlenv-data") if workers else None
        self._waiting: dict[int, deque[_Result]] = {lane: deque() for lane in lanes}
        self._open: dict[int, tuple[Block, int]] = {}
        self._outstanding = 0

    def take(self, rows: int) -> Batch:
        """The next `rows` rows of each lane, one lane after the other. Raises what reading raised."""
        if rows == 0:
            return self._nothing()
        parts = [part for lane in self._lanes for part in self._take(lane, rows)]
        names = parts[0].columns
        joined: dict[str, Column] = {
            name: cols.join([part.columns[name] for part in parts]) for name in names
        }
        return from_columns(joined, np.concatenate([part.ids for part in parts]))

    def close(self) -> None:
        """Forget everything; threads end when they are done with what they read now."""
        if self._pool is not None and self.process == os.getpid():
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _nothing(self) -> Batch:
        """A batch without rows, which has all columns nevertheless."""
        some = self._groups.get(int(np.argmax(self._sizes > 0)))
        return from_columns({name: cols.cut(column, 0, 0) for name, column in some.items()}, self._sizes[:0])

    # -- lanes

    def _take(self, lane: int, rows: int) -> Iterator[Block]:
        while rows:
            block, used = self._open.pop(lane) if lane in self._open else (self._next_block(lane), 0)
            some = min(rows, len(block.ids) - used)
            yield _cut(block, used, used + some)
            rows -= some
            if used + some < len(block.ids):
                self._open[lane] = (block, used + some)

    def _next_block(self, lane: int) -> Block:
        self._read_ahead()
        while not self._waiting[lane]:
            self._submit(next(self._plan))
        block = self._waiting[lane].popleft().result()
        self._outstanding -= 1
        self._read_ahead()
        return block

    def _read_ahead(self) -> None:
        while self._outstanding < self._ahead and (planned := next(self._plan, None)) is not None:
            self._submit(planned)

    def _submit(self, planned: Planned) -> None:
        def make() -> Block:
            return self._load(planned)

        result: _Result = self._pool.submit(make) if self._pool else _OnDemand(make)
        self._waiting[planned.window.lane].append(result)
        self._outstanding += 1

    # -- in a worker

    def _load(self, planned: Planned) -> Block:
        run, index = planned.window.run, self._select(planned.window)
        if index is not None and planned.skip:
            index = index[planned.skip :]
        pieces = [
            Block(self._groups.get(group), np.arange(low, high) + self._starts[group])
            for group, low, high in zip(*(array.tolist() for array in run), strict=True)
        ]
        bounds = list(zip(run.low.tolist(), run.high.tolist(), strict=True))
        return Block(
            {
                name: _gather(
                    [cols.cut(piece.columns[name], *b) for piece, b in zip(pieces, bounds, strict=True)],
                    index,
                )
                for name in pieces[0].columns
            },
            np.asarray(_gather([piece.ids for piece in pieces], index)),
        )


def _gather(parts: list[Column], index: Indices | None) -> Column:
    whole = parts[0] if len(parts) == 1 else cols.join(parts)
    return whole if index is None else cols.take(whole, index)


def _cut(block: Block, low: int, high: int) -> Block:
    return Block(
        {name: cols.cut(column, low, high) for name, column in block.columns.items()}, block.ids[low:high]
    )
