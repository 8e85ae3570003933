"""Ranks that act together: after each step all know that it went well everywhere, or why not."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
import torch.distributed as dist

from mlenv.ckpt.errors import CheckpointError, TogetherFailed
from mlenv.ckpt.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mlenv.job import Job

T = TypeVar("T")
TIMEOUT: Final = timedelta(minutes=30)
"""How long the slowest rank may take to write what it has; a rank that dies is noticed at once."""


@dataclass(frozen=True, slots=True)
class _Failure:
    text: str


class Group:
    """A gloo group of its own, so that nothing here ever waits behind training's collectives."""

    def __init__(self, pg: dist.ProcessGroup | None, ranks: Sequence[int]) -> None:
        self.pg = pg
        self.ranks = tuple(ranks)
        self._lock = threading.Lock()

    @property
    def alone(self) -> bool:
        """Whether there is nobody to talk to."""
        return self.pg is None

    def gather(self, value: T) -> list[T]:
        """Everybody's value, by rank."""
        if self.pg is None:
            return [value]
        found: list[Any] = [None] * len(self.ranks)
        with self._lock:
            dist.all_gather_object(found, value, group=self.pg)
        return found

    def send(self, data: torch.Tensor, source: int) -> None:
        """Fill `data` on every rank with what rank `source` has there."""
        if self.pg is not None:
            with self._lock:
                dist.broadcast(data, src=source, group=self.pg)

    def most(self, values: Sequence[int]) -> list[int]:
        """The highest of each over all ranks; one small message."""
        if self.pg is None:
            return [int(one) for one in values]
        found = torch.tensor(values, dtype=torch.int64)
        with self._lock:
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self.pg)
        return [int(one) for one in found.tolist()]

    def together(self, what: str, act: Callable[[], T]) -> list[T]:
        """Everybody's result of `act`. Raises TogetherFailed on all ranks when it failed on any."""
        try:
            own: T | _Failure = act()
        except Exception as error:  # noqa: BLE001  (the others must hear of it, whatever it is)
            own = _Failure(describe(error))
        results = self.gather(own)
        failures = {rank: one.text for rank, one in enumerate(results) if isinstance(one, _Failure)}
        if failures:
            same = len(failures) == len(results) and len(set(failures.values())) == 1
            why = failures[0] if same else joined(failures)
            raise TogetherFailed(f"{what}: {why}")
        return [one for one in results if not isinstance(one, _Failure)]


@dataclass(frozen=True, slots=True)
class Groups:
    """This rank's place, and whom it talks to."""

    place: Place
    control: Group
    """All ranks, for training's own thread."""
    every: Group
    """All ranks, for the thread that writes."""
    team: Group
    """The ranks that write the same copy, for the thread that writes."""


def form(ranks: Sequence[int]) -> Group:
    """A new group; every rank of the world must call it, also those that are not in it."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return Group(None, ranks)
    pg = dist.new_group(list(ranks), backend="gloo", timeout=TIMEOUT)
    inside = dist.get_rank() in ranks
    return Group(pg if inside and isinstance(pg, dist.ProcessGroup) else None, ranks)


def describe(error: BaseException) -> str:
    """What went wrong, in words that say what to do about it."""
    if isinstance(error, CheckpointError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"{_HINTS.get(error.errno, os.strerror(error.errno))}{_where(error)}"
    return f"{type(error).__name__}: {error}"


_HINTS: Final = {
    28: "the disk is full: free some, give it more, or keep fewer checkpoints",
    122: "the disk quota is used up: free some, or keep fewer checkpoints",
    27: "the file would be larger than this system allows",
    30: "the disk is read-only: mount it writable",
    13: "no permission to write there: look at the owner and mode of the folder",
    116: "the shared file system lost the file (stale handle)",
}


def _where(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else f" ({error})" if error.errno == 5 else ""


def joined(failures: dict[int, str]) -> str:
    """What went wrong on which ranks."""
    by_text: dict[str, list[int]] = {}
    for rank, text in failures.items():
        by_text.setdefault(text, []).append(rank)
    return "; ".join(f"rank {', '.join(map(str, ranks))}: {text}" for text, ranks in by_text.items())


def of(job: Job, folder: Path, *, per_node: bool) -> Groups:
    """Groups of our own: one for training's thread, one for the writing thread, one for each copy."""
    size = dist.get_world_size() if dist.is_initialized() else 1
    everybody = range(size)
    control = form(everybody)
    by_node: dict[int, list[int]] = {}
    for rank, node in enumerate(control.gather(job.node_index)):
        by_node.setdefault(node, []).append(rank)
    nodes = tuple(tuple(ranks) for _, ranks in sorted(by_node.items()))
    rank = dist.get_rank() if dist.is_initialized() else 0
    place = Place(rank, nodes, folder.absolute(), per_node=per_node)
    every = form(everybody)
    teams = [form(place.writers(copy)) if per_node else every for copy in range(place.copies)]
    return Groups(place, control, every, teams[place.copy] if place.copy is not None else every)
