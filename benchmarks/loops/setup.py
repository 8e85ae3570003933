"""What all loops share: the size, the model, the rows."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIM = 32
FILE = "rows.parquet"


@dataclass(frozen=True)
class Size:
    """How much is trained."""

    width: int = 512
    depth: int = 4
    batch: int = 128
    steps: int = 100
    table: int = 200_000
    rows: int = 200_000
    rounds: int = 8
    seconds: int = 540
    interval: int = 30
    threads: int = 1

    @classmethod
    def options(cls) -> Iterator[tuple[str, int, str]]:
        """Name, default and meaning of each."""
        texts = {
            "width": "of a hidden layer",
            "depth": "hidden layers",
            "batch": "rows a step",
            "steps": "a turn, of those that are not as long as an interval",
            "table": f"rows of the embedding of {DIM} numbers, kept with two moments each",
            "rows": "of the data",
            "rounds": "in each of which every loop has a turn",
            "seconds": "after which no further round begins",
            "interval": "seconds from checkpoint to checkpoint; 0: a turn of so many steps",
            "threads": "of each loop; the writer has the cores that are left",
        }
        for field in fields(cls):
            yield field.name, int(str(field.default)), texts[field.name]

    def describe(self) -> str:
        """In words."""
        megabytes = 12 * (self.table * DIM + self.depth * self.width**2) / 1e6
        return (
            f"{megabytes:.0f} MB of weights and moments, {self.batch} rows a step, {self.steps} steps "
            f"a turn, a checkpoint every {self.interval} s, {self.threads} thread(s)"
        )


class Model(nn.Module):
    """A tower over rows; and a table that is kept, and not trained, so that its size costs no step."""

    def __init__(self, width: int, depth: int, table: int) -> None:
        super().__init__()
        hidden = [nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(depth)]
        self.tower = nn.Sequential(nn.Linear(DIM, width), nn.ReLU(), *hidden, nn.Linear(width, 1))
        self.table = nn.Embedding(table, DIM)

    def forward(self, x: Tensor) -> Tensor:
        """One number per row."""
        found: Tensor = self.tower(x)
        return found


def build(size: Size) -> tuple[Model, torch.optim.Optimizer]:
    """Model and optimizer, the same for every loop."""
    torch.manual_seed(0)
    net = Model(size.width, size.depth, size.table)
    opt = torch.optim.Adam(net.parameters())
    weight = net.table.weight
    opt.state[weight] = {name: torch.zeros_like(weight) for name in ("exp_avg", "exp_avg_sq")}
    opt.state[weight]["step"] = torch.tensor(1.0)
    return net, opt


def frozen(size: Size) -> dict[str, Tensor]:
    """One batch."""
    made = torch.Generator().manual_seed(1)
    return {"x": torch.randn(size.batch, DIM, generator=made), "y": torch.randn(size.batch, generator=made)}


def write_rows(folder: Path, size: Size) -> None:
    """The data as a Parquet file of 32 row groups."""
    draw = np.random.default_rng(0)
    values = pa.array(draw.standard_normal(size.rows * DIM, np.float32))
    table = pa.table(
        {
            "x": pa.FixedSizeListArray.from_arrays(values, DIM),
            "y": pa.array(draw.standard_normal(size.rows, np.float32)),
        }
    )
    pq.write_table(table, folder / FILE, row_group_size=max(1, size.rows // 32))


class Rows(torch.utils.data.IterableDataset[dict[str, Tensor]]):
    """The same file for a DataLoader: row groups dealt to the workers, each shuffled, in batches."""

    def __init__(self, file: Path, batch: int) -> None:
        self.file, self.batch = file, batch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        source = pq.ParquetFile(self.file)
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for group in range(first, source.num_row_groups, step):
            table = source.read_row_group(group)
            order = np.random.default_rng(group).permutation(table.num_rows)
            x = table["x"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)[order]
            y = table["y"].to_numpy()[order]
            for at in range(0, len(order) - self.batch + 1, self.batch):
                rows = slice(at, at + self.batch)
                yield {"x": torch.from_numpy(x[rows]), "y": torch.from_numpy(y[rows])}
