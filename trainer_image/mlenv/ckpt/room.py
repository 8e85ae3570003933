"""Room for one more checkpoint, and whose folder it is."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.distributed.tensor import DTensor

from mlenv.ckpt import boxes, durable, names
from mlenv.ckpt.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    import torch

    from mlenv.ckpt.place import Place


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank is going to write, and the room that it sees."""

    size: int
    """Bytes."""
    free: int | None
    """Bytes; None: the file system does not say."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one more checkpoint needs."""

    size: int
    """Bytes, in all folders together."""
    short: int
    """Bytes of checkpoints, likewise, that would have to go before it fits on every disk; 0: it fits."""


def share(place: Place, copies: Mapping[str, torch.Tensor], alike: AbstractSet[str]) -> Share:
    """This rank's. Raises OSError when the folder cannot be looked at."""
    size = sum(_written(place, one, own=name in alike) for name, one in copies.items())
    found = os.statvfs(place.folder)
    return Share(size, found.f_bavail * found.f_frsize if found.f_blocks else None)


def _written(place: Place, tensor: torch.Tensor, *, own: bool) -> int:
    """Bytes of it that this rank is going to write, as far as that is known before ranks are compared."""
    memory = boxes.local(tensor)
    size = memory.numel() * memory.element_size()
    if own or isinstance(tensor, DTensor):
        return size
    # All ranks have a copy, because it may differ; mostly it does not, and one of the writers writes it.
    return 0 if place.copy is None else size // len(place.writers(place.copy))


def need(place: Place, shares: Sequence[Share]) -> Need:
    """What all need together. Pure: the same on all ranks."""
    total = sum(one.size for one in shares)
    teams = place.nodes if place.per_node else (tuple(range(place.world)),)
    short = 0.0
    for team in teams:
        coming, free = sum(shares[rank].size for rank in team), shares[team[0]].free
        if free is not None and coming > free:
            # A checkpoint that goes frees in this folder what this folder has of it.
            short = max(short, (coming - free) * total / coming)
    return Need(total, int(short))


# -- whose folder it is


def check_owner(folder: Path, job: str) -> None:
    """Refuse a folder that another job writes to. Raises CheckpointError; OSError when it cannot be read."""
    with contextlib.suppress(FileNotFoundError):
        owner = (folder / names.OWNER).read_text().strip()
        if job and owner and owner != job:
            raise CheckpointError(
                f"{folder} belongs to job {owner}, and this is job {job}: two jobs in a folder would delete "
                "each other's checkpoints. Give each a folder of its own; or, if that job is gone, remove "
                f"the file {names.OWNER} there"
            )


def claim(folder: Path, job: str) -> None:
    """Make `folder` this job's; jobs without a uid, outside of a cluster, claim nothing."""
    if not job:
        return
    path, text = folder / names.OWNER, f"{job}\n".encode()
    try:
        durable.write(path, text)
    except FileExistsError:
        check_owner(folder, job)
        if not path.stat().st_size:  # a full disk, or a crash, took the name and not the content
            durable.replace(path, text)
