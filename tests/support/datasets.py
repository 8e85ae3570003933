"""Data sets for tests: in memory, where rows say who they are, and as Parquet files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mlenv.data import Stream, merge
from mlenv.data.catalogue import Catalogue, File
from mlenv.data.columns import Jagged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from mlenv.data.batch import Batch
    from mlenv.data.columns import Columns


class Numbers:
    """A Source in memory, whose rows say their own number; every read is noted."""

    def __init__(self, files: Sequence[Sequence[int]], widest: int = 1 << 28) -> None:
        self.catalogue = Catalogue(
            tuple(File(f"numbers-{i}", 1, tuple(groups), "s") for i, groups in enumerate(files)),
            widest=widest,
        )
        self.reads: list[int] = []

    def read(self, group: int) -> Columns:
        self.reads.append(group)
        start, rows = self.catalogue.starts[group], self.catalogue.sizes[group]
        number = np.arange(start, start + rows)
        lengths = number % 3
        return {
            "number": number,
            "list": Jagged(np.repeat(number, lengths), np.concatenate([[0], np.cumsum(lengths)])),
        }


def ids(batch: Batch) -> list[int]:
    """The ids of a batch, after making sure that its features are those of the ids."""
    number = batch["number"].numpy()
    assert (number == batch.ids).all()
    assert (batch["list"].lengths.numpy() == number % 3).all()
    assert (batch["list"].values.numpy() == np.repeat(number, number % 3)).all()
    return [int(one) for one in batch.ids]


def world_of(source: Any, size: int, **options: Any) -> list[Stream]:
    """The streams of all ranks of a world."""
    return [Stream(source, rank=rank, world=size, **options) for rank in range(size)]


def steps_of(streams: list[Stream]) -> Iterator[list[int]]:
    """The global batches that the ranks of a world get together, until the end of their epochs."""
    for parts in zip(*(stream.batches() for stream in streams), strict=True):
        yield [one for part in parts for one in ids(part)]


def sealed(streams: list[Stream]) -> dict[str, Any]:
    """What a checkpoint would keep."""
    return merge([stream.state_dict() for stream in streams])


def write(path: Path, first: int, rows: int, *, group: int = 50, **columns: Any) -> Path:
    """A Parquet file of rows first, first + 1, ... in row groups of `group`."""
    number = np.arange(first, first + rows)
    lists = [[one] * (one % 3) for one in number.tolist()]
    table = pa.table({"number": number, "list": pa.array(lists, pa.list_(pa.int64())), **columns})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path
