"""Embedding tables, looked at by a sample of their rows: each rank has sums of its own part, which add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from mlenv.ckpt import boxes, things
from mlenv.sanity.rules import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROWS: Final = 256
"""Of each rank's part of a table."""
DIMS: Final = 32
"""The first so many numbers of a row: what ranks tell each other stays small."""
TABLES: Final = 32


@dataclass(frozen=True, slots=True)
class Sums:
    """One rank's summand of what is known of one table."""

    rows: int
    filled: int
    still: int | None
    units: torch.Tensor
    """Sum of the rows, each brought to length one."""
    moment: torch.Tensor
    """Sum of each such row's outer product with itself."""


class Sampler:
    """Looks at the same rows of the same tables each time."""

    def __init__(self, living: Mapping[str, Any]) -> None:
        self._names = tuple(dict.fromkeys(_tables(living)))[:TABLES]
        self._first: dict[str, torch.Tensor] = {}

    def look(self, copies: Mapping[str, torch.Tensor]) -> dict[str, Sums]:
        """Of the tables of which this rank has a part, or all."""
        found = {}
        for name in self._names:
            sample = _sample(copies[name]) if name in copies else None
            if sample is not None:
                found[name] = _sums(sample, self._first.get(name))
                self._first.setdefault(name, sample)
        return found


def merge(everybody: Sequence[Mapping[str, Sums]]) -> list[Table]:
    """What all ranks' sums say together."""
    names = sorted({name for one in everybody for name in one})
    return [_table(name, [one[name] for one in everybody if name in one]) for name in names]


def _tables(living: Mapping[str, Any]) -> Iterator[str]:
    for name, thing in living.items():
        if isinstance(thing, nn.Module):
            for path, module in thing.named_modules():
                if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                    key = f"{path}.weight" if path else "weight"
                    yield f"{name}.{things.canonical(thing, key)}"


def _sample(table: torch.Tensor) -> torch.Tensor | None:
    memory = boxes.local(table).detach()
    whole_rows = memory.dim() == 2 and memory.shape[1] == table.shape[1]
    if not whole_rows or not len(memory) or not memory.is_floating_point() or not boxes.speaks(table):
        return None
    count = min(ROWS, len(memory))
    chosen = torch.arange(count, device=memory.device) * len(memory) // count
    return memory[chosen, :DIMS].double().cpu()


def _sums(sample: torch.Tensor, first: torch.Tensor | None) -> Sums:
    lengths = sample.norm(dim=1)
    units = sample[lengths > 0] / lengths[lengths > 0, None]
    still = None
    if first is not None and first.shape == sample.shape:
        still = int(((sample == first).all(dim=1) | (lengths == 0)).sum())
    return Sums(len(sample), len(units), still, units.sum(dim=0), units.T @ units)


def _table(name: str, parts: Sequence[Sums]) -> Table:
    rows, filled = sum(one.rows for one in parts), sum(one.filled for one in parts)
    known = [one.still for one in parts if one.still is not None]
    units = torch.stack([one.units for one in parts]).sum(dim=0)
    moment = torch.stack([one.moment for one in parts]).sum(dim=0)
    pairs = filled * (filled - 1)
    return Table(
        name=name,
        rows=rows,
        dim=len(units),
        filled=filled,
        cosine=(float(units @ units) - filled) / pairs if pairs else 0.0,
        rank=_rank(moment),
        zero=1 - filled / rows,
        still=sum(known) / rows if len(known) == len(parts) else None,
    )


def _rank(moment: torch.Tensor) -> float:
    shares = torch.linalg.eigvalsh(moment).clamp_min(0)
    total = shares.sum()
    if not total > 0:
        return 0.0
    shares = shares[shares > 0] / total
    return float((-(shares * shares.log()).sum()).exp())
