"""What courier, ranks and launcher tell each other: small files in the courier's folder, each replaced whole.

All of them are input from outside: bounded, strict, and nothing where they make no sense.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import Field

from mlenv import page
from mlenv_api.base import Model
from mlenv_api.protocol import Degraded, Tracking, Uploaded

if TYPE_CHECKING:
    from pathlib import Path

WANTED: Final = "wanted.json"
"""From rank 0: the checkpoint that it would go on from is not here."""
BROUGHT: Final = "brought.json"
"""From the courier: what came of that."""
REPORT: Final = "report.json"
"""From the courier: what the store has, and what is wrong; for the launcher's beats."""
IMAGE: Final = "image.json"
"""From the launcher: what the pod's image was resolved to, for the run's config."""
KEEP: Final = "keep.json"
"""From ranks: which checkpoint is the best."""
SOURCES: Final = "sources"
"""Beside the checkpoints: the folder of those that other jobs made."""
MAX_PAGE: Final = 64 << 10


class Wanted(Model):
    """A wish for a checkpoint from the store."""

    nonce: str = Field(max_length=64)
    attempt: int = Field(ge=1)
    since: int = Field(default=1, ge=1)
    ceiling: int | None = Field(default=None, ge=0)
    above: int = Field(default=-1, ge=-1)
    """Only what is newer than this step: that of what is here."""
    tried: tuple[str, ...] = Field(default=(), max_length=100)
    """Digests of those that were brought, and could not be used."""
    source: str = Field(default="", max_length=1024)
    """This version, of whichever job, and no other; into a folder of its own."""
    finite: bool = True
    """Whether what is not finite is of no use."""


class Brought(Model):
    """What came of a wish."""

    nonce: str
    name: str = ""
    """The checkpoint that lies in the folder now."""
    digest: str = ""
    done: bool = False
    """Whether this is the end of it; without a name: the store has none, for sure."""
    words: str = ""
    """What happens, or why there is none."""
    patience: int = Field(default=0, ge=0, le=10**7)
    """While something is being brought: seconds in which the next word comes, or nothing does."""


class Report(Model):
    """How uploads fare."""

    uploaded: Uploaded | None = None
    degraded: Degraded | None = None
    tracking: Tracking | None = None


class Image(Model):
    """What the operator knows of the pod's image."""

    resolved: str = Field(default="", max_length=1024)


class Keep(Model):
    """What retention in the store is to heed besides its own rules."""

    metric: str = Field(default="", max_length=1000)
    """As that of `mlenv.ckpt.retain.Policy`; empty: none is the best."""


T = TypeVar("T", Wanted, Brought, Report, Image, Keep)


def write(folder: Path, name: str, what: Wanted | Brought | Report | Image | Keep) -> None:
    """Replace a page. Raises OSError when the disk does not take it."""
    text = what.model_dump_json(by_alias=True, exclude_none=True)
    try:
        page.replace(folder, name, text)
    except OSError:
        if not _over(folder / name, text.encode()):
            raise


def _over(path: Path, content: bytes) -> bool:
    """Write over a page where it lies, as a full disk has room for no other; whether that could be done.

    Who reads half of it takes it for none, and looks again.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        written = os.pwrite(fd, content, 0)
        os.ftruncate(fd, written)
    except OSError:
        return False
    finally:
        os.close(fd)
    return written == len(content)


def leave(folder: Path, wanted: Wanted) -> None:
    """Leave word for the courier of this folder. Raises OSError."""
    folder.mkdir(exist_ok=True)
    write(folder, WANTED, wanted)


def read(folder: Path, name: str, kind: type[T]) -> T | None:
    """What a page says; None when there is none, or none that makes sense."""
    try:
        return kind.model_validate_json(page.content(folder / name, MAX_PAGE))
    except (OSError, ValueError):
        return None


def keep(folder: Path, metric: str | None) -> None:
    """Say by which metric the best checkpoint is told, or that none is. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, KEEP, Keep(metric=(metric or "")[:1000]))


def metric(folder: Path) -> str:
    """What `keep` said last; nothing where nobody did."""
    found = read(folder, KEEP, Keep)
    return found.metric if found else ""
