"""What a data set consists of: files, their row groups, and who it is. Plain values, made once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mlenv.data.errors import DataError

if TYPE_CHECKING:
    from mlenv.data.columns import Columns
    from mlenv.data.mix import Indices


@dataclass(frozen=True, slots=True)
class File:
    """One file, as its footer tells."""

    path: str
    """Relative to the data set's folder, so that a copy elsewhere is the same data."""
    size: int
    groups: tuple[int, ...]
    """Rows of each row group."""
    schema: str
    """Digest of its schema."""

    @property
    def rows(self) -> int:
        """Rows of all its row groups."""
        return sum(self.groups)


@dataclass(frozen=True)
class Catalogue:
    """All files of a data set, in their order. Can be pickled and sent to other ranks."""

    files: tuple[File, ...]
    widest: int = 0
    """Bytes that the largest row group takes in memory, about."""

    @cached_property
    def sizes(self) -> Indices:
        """Rows of each row group of all files."""
        return np.array([rows for file in self.files for rows in file.groups], np.int64)

    @cached_property
    def starts(self) -> Indices:
        """The sample id of each row group's first row: ids count rows in file order."""
        return np.cumsum(self.sizes) - self.sizes

    @cached_property
    def _first_groups(self) -> Indices:
        return np.cumsum([0, *(len(file.groups) for file in self.files)])

    def digest(self, files: int | None = None) -> str:
        """Identity of the first `files` files (of all): of path, size, rows and schema of each."""
        digest = hashlib.sha256()
        for file in self.files[:files]:
            digest.update(f"{file.path}\0{file.size}\0{file.groups}\0{file.schema}\n".encode())
        return digest.hexdigest()

    def groups(self, files: int) -> int:
        """How many row groups the first `files` files have."""
        return int(self._first_groups[files])

    def locate(self, group: int) -> tuple[int, int]:
        """The number of a row group's file, and the group's number in it."""
        number = int(np.searchsorted(self._first_groups, group, "right")) - 1
        return number, group - int(self._first_groups[number])

    def check(self) -> None:
        """Refuse a data set without rows. Raises DataError."""
        if not self.sizes.sum():
            raise DataError(f"the data set has {len(self.files)} file(s) and no rows: nothing to train on")


class Source(Protocol):
    """Where columns come from; stateless, and called from several threads."""

    @property
    def catalogue(self) -> Catalogue:
        """What there is; does not change."""

    def read(self, group: int) -> Columns:
        """All rows of a row group. Raises DataError."""
