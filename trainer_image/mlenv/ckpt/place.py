"""Who writes what, and where: one shared folder, or one folder per node. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlenv.ckpt import names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COPIES: Final = 2
"""So many nodes write a whole copy of what all ranks have alike: any one of them may be lost."""


@dataclass(frozen=True, slots=True)
class Place:
    """This rank's part in writing and reading checkpoints."""

    rank: int
    nodes: tuple[tuple[int, ...], ...]
    """The ranks of each node."""
    folder: Path
    """Where this rank finds checkpoints: shared by all, or by the ranks of its node."""
    per_node: bool
    """Whether each node has a folder of its own."""

    @property
    def world(self) -> int:
        """Number of ranks."""
        return sum(len(ranks) for ranks in self.nodes)

    @property
    def node(self) -> int:
        """The node that this rank is on."""
        return next(number for number, ranks in enumerate(self.nodes) if self.rank in ranks)

    @property
    def leaders(self) -> tuple[int, ...]:
        """The rank that makes, seals and deletes folders: one for each folder there is."""
        return tuple(ranks[0] for ranks in self.nodes) if self.per_node else (0,)

    @property
    def leads(self) -> bool:
        """Whether this rank is one of the leaders."""
        return self.rank in self.leaders

    @property
    def team(self) -> tuple[int, ...]:
        """The ranks that share this rank's folder."""
        return self.nodes[self.node] if self.per_node else tuple(range(self.world))

    def writers(self, copy: int) -> tuple[int, ...]:
        """The ranks that together write one copy of what all have alike."""
        return self.nodes[copy] if self.per_node else tuple(range(self.world))

    @property
    def copies(self) -> int:
        """How many copies there are."""
        return min(COPIES, len(self.nodes)) if self.per_node else 1

    @property
    def copy(self) -> int | None:
        """The copy that this rank helps to write."""
        return next((one for one in range(self.copies) if self.rank in self.writers(one)), None)

    def path(self, step: int, attempt: int) -> Path:
        """The folder of a sealed checkpoint."""
        return self.folder / names.folder(step, attempt)

    def tmp(self, step: int, attempt: int) -> Path:
        """Where it is written before it is sealed."""
        return self.folder / (names.folder(step, attempt) + names.TMP)


def assign(sizes: Mapping[str, int], writers: int) -> dict[str, int]:
    """Which of so many writers writes which tensor: the biggest first, each to who has least so far."""
    load = [0] * writers
    given = {}
    for name in sorted(sizes, key=lambda one: (-sizes[one], one)):
        least = load.index(min(load))
        given[name] = least
        load[least] += sizes[name]
    return given
