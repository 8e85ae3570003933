"""The record, between ranks and their launcher: small files of the run's folder, each replaced by a rename.

Ranks say what they sealed, and what they would run from; the launcher says what is stored. All of them hold
the number of their attempt, so that nothing of an older one is believed. Ranks may write any nonsense, so
what is read is bounded and strict.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import Field

from mlenv import page
from mlenv_api.base import Model
from mlenv_api.protocol import Checkpoint, Judged, Origin

if TYPE_CHECKING:
    from pathlib import Path

SEALED: Final = "sealed.json"
"""From local rank 0 of each node: the newest checkpoint that it knows to be sealed."""
ORIGIN: Final = "origin.json"
"""From rank 0: what it would run from."""
STORED: Final = "record.json"
"""From the launcher: what the operator says."""
MAX_PAGE: Final = 16 * 1024
MAX_ATTEMPT: Final = 2**31 - 1
MAX_STEP: Final = 2**63 - 1


class Known(Model):
    """What an attempt is told of the past, in MLENV_RESUME."""

    past: Checkpoint | None = None
    ceiling_step: int | None = Field(default=None, ge=0)
    since_attempt: int = Field(default=1, ge=1)

    @property
    def expected(self) -> Checkpoint | None:
        """The checkpoint that must not be forgotten; None when the record itself asks for a new start."""
        if self.past is None or self.past.attempt < self.since_attempt or self.ceiling_step == 0:
            return None
        return self.past


class Told(Model):
    """What ranks tell their launcher."""

    attempt: int
    sealed: Checkpoint | None = None
    judged: Judged | None = None
    origin: Origin | None = None


class Stored(Model):
    """What a launcher tells its ranks."""

    attempt: int
    origin: Origin | None = None
    """What this attempt runs from, once the operator has stored it."""
    orders: int = 0
    """How often the operator ordered a checkpoint in this attempt."""
    port: int | None = None
    """UDP port on the loopback address: a datagram to it makes the launcher look at once."""


T = TypeVar("T", Told, Stored)


def write(folder: Path, name: str, what: Told | Stored) -> None:
    """Replace a page. Raises OSError when the disk does not take it."""
    page.replace(folder, name, what.model_dump_json(by_alias=True, exclude_none=True))


def told(folder: Path, attempt: int) -> Told:
    """What the ranks of `attempt` say; nothing of what makes no sense."""
    sealed, origin = (_read(folder / name, Told, attempt) for name in (SEALED, ORIGIN))
    found, judged = (sealed.sealed, sealed.judged) if sealed else (None, None)
    if found is not None and not (_possible(found) and found.attempt <= attempt):
        found = None
    if judged is not None and not (_possible(judged.checkpoint) and judged.checkpoint.attempt <= attempt):
        judged = None
    proposal = origin.origin if origin else None
    if proposal is not None and proposal.checkpoint is not None and not _possible(proposal.checkpoint):
        proposal = None
    return Told(attempt=attempt, sealed=found, judged=judged, origin=proposal)


def stored(folder: Path, attempt: int) -> Stored | None:
    """What the launcher says to the ranks of `attempt`; None when it has not said anything."""
    return _read(folder / STORED, Stored, attempt)


def clear(folder: Path) -> None:
    """Forget what an earlier launcher and its ranks said here: their attempts have the same numbers."""
    for name in (SEALED, ORIGIN, STORED):
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def poke(folder: Path, attempt: int) -> None:
    """Have the launcher look now. Where it cannot be reached, its next beat looks."""
    said = stored(folder, attempt)
    if said is not None and said.port is not None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"", ("127.0.0.1", said.port))


def _possible(one: Checkpoint) -> bool:
    return one.attempt <= MAX_ATTEMPT and one.step <= MAX_STEP


def _read(path: Path, kind: type[T], attempt: int) -> T | None:
    try:
        found = kind.model_validate_json(page.content(path, MAX_PAGE), strict=True)
    except (OSError, ValueError):
        return None
    return found if found.attempt == attempt else None
