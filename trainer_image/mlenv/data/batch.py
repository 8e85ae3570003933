"""What a loop gets: names to tensors, and ragged features as plain values and offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

import numpy as np
import torch

from mlenv.data.columns import Jagged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mlenv.data.columns import Column, Columns
    from mlenv.data.mix import Indices


class Ragged(NamedTuple):
    """A list per row: row i is values[offsets[i]:offsets[i + 1]].

    A named tuple of two tensors, so that pytrees, DDP and torch.export take it as it is.
    """

    values: torch.Tensor
    offsets: torch.Tensor
    """[rows + 1] int64, from 0."""

    @property
    def rows(self) -> int:
        """How many lists; ``len`` is 2, as of any pair."""
        return self.offsets.shape[0] - 1

    @property
    def lengths(self) -> torch.Tensor:
        """[rows] how long each list is."""
        return self.offsets.diff()

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Ragged:
        """Both tensors on `device`."""
        return Ragged(*(part.to(device, non_blocking=non_blocking) for part in self))

    def pin_memory(self) -> Ragged:
        """Both tensors in page-locked memory, for copies that do not block."""
        return Ragged(*(part.pin_memory() for part in self))


Feature: TypeAlias = torch.Tensor | Ragged


class Batch(dict[str, Feature]):
    """A dict of features; `ids` are the samples' numbers in the data set, on the CPU."""

    def __init__(
        self,
        features: Mapping[str, Feature] | Iterable[tuple[str, Feature]] = (),
        *,
        ids: Indices | None = None,
    ) -> None:
        super().__init__(features)
        self.ids = np.zeros(0, np.int64) if ids is None else ids

    @property
    def rows(self) -> int:
        """How many samples."""
        return len(self.ids)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same batch on `device`."""
        return self._each(lambda feature: feature.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory."""
        return self._each(lambda feature: feature.pin_memory())

    def _each(self, change: Callable[[Feature], Feature]) -> Self:
        return type(self)({name: change(feature) for name, feature in self.items()}, ids=self.ids)


def from_columns(columns: Columns, ids: Indices) -> Batch:
    """The batch of these columns; the memory is shared, not copied."""
    return Batch({name: _feature(column) for name, column in columns.items()}, ids=ids)


def _feature(column: Column) -> Feature:
    if isinstance(column, Jagged):
        return Ragged(torch.from_numpy(column.values), torch.from_numpy(column.offsets))
    return torch.from_numpy(column)
