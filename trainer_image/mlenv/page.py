"""The progress page: what a node's ranks last committed, and what their time went to, for their launcher.

Local rank 0 replaces the file in one rename, so a reader sees a whole page or the one before.
"""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlenv_api.protocol import Progress, Spent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE: Final = "progress.json"
MAX_METRICS: Final = 16
MAX_NAME: Final = 63
MAX_PAGE: Final = 32 * 1024
T = TypeVar("T", Progress, Spent)


def finite(value: Any) -> Any:
    """`value` with non-finite numbers as the strings NaN, Infinity, -Infinity: JSON has no others."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def bounded(metrics: Mapping[str, float]) -> dict[str, float]:
    """The first metrics that a beat has room for, under names that it has room for."""
    return {name[:MAX_NAME]: value for name, value in list(metrics.items())[:MAX_METRICS]}


def write(folder: Path, attempt: int, progress: Progress | None, spent: Spent | None = None) -> None:
    """Replace the page in `folder`. Raises OSError when the disk does not take it."""
    told = {"progress": progress, "spent": spent}
    said = {name: finite(one.wire()) for name, one in told.items() if one is not None}
    replace(folder, FILE, json.dumps({"attempt": attempt, **said}, allow_nan=False))


def read(folder: Path, attempt: int) -> Progress | None:
    """How far `attempt` is, from its page in `folder`; None where it does not say, or makes no sense."""
    return _read(folder, attempt, "progress", Progress)


def read_spent(folder: Path, attempt: int) -> Spent | None:
    """What the time of `attempt` went to, in the same way."""
    return _read(folder, attempt, "spent", Spent)


def _read(folder: Path, attempt: int, name: str, kind: type[T]) -> T | None:
    try:
        page = json.loads(content(folder / FILE, MAX_PAGE))
        return kind.model_validate(page[name]) if page["attempt"] == attempt else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # a rank may write anything there; a beat without progress is still a beat


def replace(folder: Path, name: str, text: str) -> None:
    """Write a file of `folder` in one rename. Raises OSError when the disk does not take it."""
    draft = folder / f".{name}.{os.getpid()}"
    draft.write_text(text)
    draft.replace(folder / name)


def content(path: Path, limit: int) -> bytes:
    """At most `limit` bytes of a file that anybody may have put there: a pipe is not waited for."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)
