"""Data without files: rows that are pure functions of (seed, row number), with a signal planted in them.

Each is a Source, so a Stream of it has the same order, position and state as one of files. What the best
possible model reaches is known, because the probabilities that labels were drawn with are.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from mlenv.data.catalogue import Catalogue, File
from mlenv.data.columns import Jagged, size
from mlenv.data.mix import fold, keyed, normal, uniform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mlenv.data.columns import Columns
    from mlenv.data.mix import Indices, Words

GROUP: Final = 4096
"""Rows of what takes the place of a row group, and of a file: more rows are more files."""
_LABEL, _FIELD, _WEIGHT, _VECTOR, _DENSE, _LENGTH, _ITEM, _INTEREST = range(1, 9)


class _Generated:
    """What is common: the catalogue, labels, and the AUC of whoever knows the probabilities."""

    def __init__(self, name: str, rows: int, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self._name = name

    @cached_property
    def catalogue(self) -> Catalogue:
        """One file of one row group for every GROUP rows."""
        counts = [min(GROUP, self.rows - start) for start in range(0, self.rows, GROUP)]
        files = tuple(File(f"{self._name}-{i}", 0, (count,), "") for i, count in enumerate(counts))
        one = self.columns(np.arange(min(16, self.rows)))
        width = sum(size(column) for column in one.values()) * GROUP // 16
        return Catalogue(files, width)

    def read(self, group: int) -> Columns:
        """The rows of one row group."""
        start = int(self.catalogue.starts[group])
        return self.columns(np.arange(start, start + int(self.catalogue.sizes[group])))

    def columns(self, ids: Indices) -> Columns:
        """Features and label of these rows."""
        raise NotImplementedError

    def probabilities(self, ids: Indices) -> NDArray[np.float64]:
        """What the labels of these rows are drawn with: the best that a model can say."""
        raise NotImplementedError

    def best_auc(self) -> float:
        """The AUC that knowing the probabilities gives on these rows, in expectation over the labels."""
        p = np.sort(self.probabilities(np.arange(self.rows)))
        below = np.cumsum(1 - p) - (1 - p)
        return float((p * below).sum() / (p.sum() * (1 - p).sum() - (p * (1 - p)).sum()))

    def _labels(self, ids: Indices) -> NDArray[np.float32]:
        drawn = uniform(self._key(_LABEL), ids.astype(np.uint64))
        return (drawn < self.probabilities(ids)).astype(np.float32)

    def _key(self, *parts: int) -> int:
        return fold(self.seed, *parts)


class Clicks(_Generated):
    """Ranking: categorical `fields` of these sizes and four dense numbers; columns f0, f1, ..., dense, label.

    The signal is half first order (a weight for each value) and half second order (products of hidden vectors
    of neighbouring fields), so that a factorization machine finds what a linear model cannot.
    """

    DENSE: Final = 4
    HIDDEN: Final = 4

    def __init__(self, rows: int, *, seed: int = 0, fields: Sequence[int] = (1000, 500, 100, 20)) -> None:
        super().__init__(f"clicks-{seed}-{'x'.join(map(str, fields))}", rows, seed)
        self.fields = tuple(fields)

    def columns(self, ids: Indices) -> Columns:
        """Features and label of these rows."""
        fields = {f"f{number}": values for number, values in enumerate(self._fields(ids))}
        return {**fields, "dense": self._dense(ids).astype(np.float32), "label": self._labels(ids)}

    def probabilities(self, ids: Indices) -> NDArray[np.float64]:
        """What the labels of these rows are drawn with."""
        values = self._fields(ids)
        first = sum(weight[value] for (weight, _), value in zip(self._tables, values, strict=True))
        hidden = [vector[value] for (_, vector), value in zip(self._tables, values, strict=True)]
        second = sum((a * b).sum(1) for a, b in pairwise(hidden))
        dense = self._dense(ids)
        logit = first + second + 0.3 * dense[:, 0] + 0.3 * dense[:, 1] * dense[:, 2] - 1.0
        return np.asarray(1 / (1 + np.exp(-logit)), np.float64)

    @cached_property
    def _tables(self) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        return [
            (
                0.5 * normal(self._key(_WEIGHT, number), _count(count)),
                0.6 * normal(self._key(_VECTOR, number), _count(count * self.HIDDEN)).reshape(count, -1),
            )
            for number, count in enumerate(self.fields)
        ]

    def _fields(self, ids: Indices) -> list[Indices]:
        # The square makes some values frequent and most of them rare.
        return [
            (count * uniform(self._key(_FIELD, number), ids.astype(np.uint64)) ** 2).astype(np.int64)
            for number, count in enumerate(self.fields)
        ]

    def _dense(self, ids: Indices) -> NDArray[np.float64]:
        counters = ids.astype(np.uint64)[:, None] * np.uint64(self.DENSE) + _count(self.DENSE)
        return normal(self._key(_DENSE), counters)


class Histories(_Generated):
    """Sequences: an `item`, a ragged `history` of items, a label; item i is of cluster i modulo `clusters`.

    A click is likely when the history holds the item's cluster, most of all when its last item is of it: who
    ignores the history, or its order, falls short.
    """

    def __init__(
        self, rows: int, *, seed: int = 0, items: int = 1000, clusters: int = 10, longest: int = 20
    ) -> None:
        super().__init__(f"histories-{seed}-{items}-{clusters}-{longest}", rows, seed)
        self.items, self.clusters, self.longest = items, clusters, longest

    def columns(self, ids: Indices) -> Columns:
        """Features and label of these rows."""
        return {"item": self._target(ids), "history": self._history(ids), "label": self._labels(ids)}

    def probabilities(self, ids: Indices) -> NDArray[np.float64]:
        """What the labels of these rows are drawn with."""
        target, history = self._target(ids) % self.clusters, self._history(ids)
        lengths = np.diff(history.offsets)
        same = np.repeat(target, lengths) == history.values % self.clusters
        before = np.concatenate([[0], np.cumsum(same)])
        share = (before[history.offsets[1:]] - before[history.offsets[:-1]]) / np.maximum(lengths, 1)
        last = np.zeros(len(ids))
        some = lengths > 0
        last[some] = same[history.offsets[1:][some] - 1]
        return np.asarray(1 / (1 + np.exp(2.5 - 3.0 * share - 2.0 * last)), np.float64)

    def _target(self, ids: Indices) -> Indices:
        return _below(self._key(_ITEM), ids.astype(np.uint64), self.items)

    def _history(self, ids: Indices) -> Jagged:
        counters = ids.astype(np.uint64)
        lengths = _below(self._key(_LENGTH), counters, self.longest + 1)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        row = np.repeat(counters, lengths)
        each = row * np.uint64(self.longest) + place.astype(np.uint64)
        # Half of what a user looks at is of one cluster.
        interest = _below(self._key(_INTEREST), row, self.clusters)
        item = _below(self._key(_ITEM, 1), each, self.items)
        loyal = uniform(self._key(_INTEREST, 1), each) < 0.5
        return Jagged(np.where(loyal, item // self.clusters * self.clusters + interest, item), offsets)


def _count(count: int) -> Words:
    return np.arange(count, dtype=np.uint64)


def _below(key: int, counters: Words, bound: int) -> Indices:
    return (keyed(key, counters) % np.uint64(bound)).astype(np.int64)
