"""Columns while they are read: NumPy arrays, and ragged ones as values and offsets. Pure.

NumPy and not torch, because reading happens in threads beside the training: torch's operations would start
a team of OpenMP threads in each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mlenv.data.mix import Indices


class Jagged(NamedTuple):
    """A list per row: row i is values[offsets[i]:offsets[i + 1]]."""

    values: NDArray[Any]
    offsets: Indices


if TYPE_CHECKING:
    Column: TypeAlias = NDArray[Any] | Jagged
    Columns: TypeAlias = Mapping[str, Column]


def rows(column: Column) -> int:
    """How many rows it has."""
    return len(column.offsets) - 1 if isinstance(column, Jagged) else len(column)


def size(column: Column) -> int:
    """Bytes that it takes."""
    return column.values.nbytes + column.offsets.nbytes if isinstance(column, Jagged) else int(column.nbytes)


def cut(column: Column, low: int, high: int) -> Column:
    """Rows low to high, without copying values."""
    if not isinstance(column, Jagged):
        return column[low:high]
    offsets = column.offsets[low : high + 1]
    return Jagged(column.values[offsets[0] : offsets[-1]], offsets - offsets[0])


def take(column: Column, index: Indices) -> Column:
    """The rows of `index`, in its order."""
    if not isinstance(column, Jagged):
        return column.take(index, axis=0)
    starts, lengths = column.offsets[index], np.diff(column.offsets)[index]
    offsets = _offsets(lengths)
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return Jagged(column.values.take(np.repeat(starts, lengths) + within, axis=0), offsets)


def join(parts: Sequence[Column]) -> Column:
    """One column after the other, in memory of its own: whoever changes it in place changes nothing else."""
    jagged = [part for part in parts if isinstance(part, Jagged)]
    if not jagged:
        return np.concatenate([part for part in parts if not isinstance(part, Jagged)])
    lengths = np.concatenate([np.diff(part.offsets) for part in jagged])
    return Jagged(np.concatenate([part.values for part in jagged]), _offsets(lengths))


def _offsets(lengths: Indices) -> Indices:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
