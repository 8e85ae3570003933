"""MovieLens-100k as arrays, split by time; the baseline of two averages; AUC. Needs numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

UNKNOWN = 0
"""Row of every table for what training has not seen."""
LIKED = 4.0
"""A rating from here on is a positive label."""


@dataclass(frozen=True)
class Ratings:
    """Rated (user, item) pairs, oldest first; the last ones are held out."""

    fields: NDArray[np.int64]
    """[ratings, 7] rows of one embedding table: user, item, age, gender, occupation, region, year."""
    genres: NDArray[np.float32]
    """[ratings, genres] 1 where the movie has the genre."""
    labels: NDArray[np.float32]
    stars: NDArray[np.float32]
    train: int
    """How many, from the oldest on, are for training."""
    rows: int
    """Size of the embedding table."""
    firsts: NDArray[np.int64]
    """[7] the row of each field that means unknown."""


def load(folder: Path) -> Ratings:
    """Read the three files of RecBole's ml-100k and hold out the last tenth by time."""
    rated = _table(folder / "ml-100k.inter")
    rated.sort(key=lambda row: (float(row[3]), int(row[0]), int(row[1])))
    users = {row[0]: row for row in _table(folder / "ml-100k.user")}
    items = {row[0]: row for row in _table(folder / "ml-100k.item")}
    train = len(rated) - len(rated) // 10
    values = [_fields(users.get(row[0]), items.get(row[1]), row) for row in rated]
    columns = [_encode(list(column), train) for column in zip(*values, strict=True)]
    firsts = np.cumsum([0, *(size for _, size in columns)])
    names = sorted({genre for row in items.values() for genre in row[3].split()})
    stars = np.array([float(row[2]) for row in rated], np.float32)
    return Ratings(
        fields=np.stack([codes for codes, _ in columns], axis=1) + firsts[:-1],
        genres=np.array([_genres(items.get(row[1]), names) for row in rated], np.float32),
        labels=(stars >= LIKED).astype(np.float32),
        stars=stars,
        train=train,
        rows=int(firsts[-1]),
        firsts=firsts[:-1],
    )


def _table(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def _fields(user: list[str] | None, item: list[str] | None, rated: list[str]) -> tuple[str, ...]:
    _, age, gender, occupation, zip_code = user or ["", "", "", "", ""]
    year = item[2] if item else ""
    return (
        rated[0],
        rated[1],
        str(int(age) // 5) if age.isdigit() else "",
        gender,
        occupation,
        zip_code[:1],
        str(int(year) // 5) if year.isdigit() else "",
    )


def _encode(values: list[str], train: int) -> tuple[NDArray[np.int64], int]:
    """Numbers from 1 for what the training part has, UNKNOWN for the rest; and how many there are."""
    codes = {value: code for code, value in enumerate(sorted(set(values[:train]) - {""}), start=1)}
    return np.array([codes.get(value, UNKNOWN) for value in values], np.int64), len(codes) + 1


def _genres(item: list[str] | None, names: list[str]) -> list[float]:
    has = set(item[3].split()) if item else set()
    return [float(name in has) for name in names]


class Shard:
    """This rank's part of each global batch; the order depends on seed and epoch, never on the world."""

    def __init__(self, count: int, batch: int, *, rank: int, world: int, seed: int) -> None:
        self.count, self.batch, self.rank, self.world, self.seed = count, min(batch, count), rank, world, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.count // self.batch

    def set_epoch(self, epoch: int) -> None:
        """Shuffle differently in the next pass."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        for start in range(0, len(self) * self.batch, self.batch):
            yield order[start : start + self.batch][self.rank :: self.world]


def baseline(data: Ratings) -> float:
    """AUC on the held-out part of the user's plus the movie's average rating in training."""
    stars, mean = data.stars[: data.train], data.stars[: data.train].mean()
    score = np.zeros(len(data.labels))
    for column in (0, 1):
        seen = data.fields[: data.train, column]
        count = np.bincount(seen, minlength=data.rows)
        total = np.bincount(seen, weights=stars, minlength=data.rows)
        average = np.where(count > 0, total / np.maximum(count, 1), mean)
        score += average[data.fields[:, column]]
    return auc(data.labels[data.train :], score[data.train :])


def auc(labels: NDArray[np.float32], scores: NDArray[np.float64]) -> float:
    """The share of (positive, negative) pairs in the right order; ties count half. NaN without pairs."""
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    positives = int((labels > 0).sum())
    pairs = positives * (len(labels) - positives)
    if pairs == 0:
        return float("nan")
    return float((rank[labels > 0].sum() - positives * (positives + 1) / 2) / pairs)
