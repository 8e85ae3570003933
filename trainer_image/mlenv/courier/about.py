"""What a run tells besides its history: config and summary. What ranks say of themselves is bounded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from mlenv import page
from mlenv.rows import ABOUT, SPENT, STOPPED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mlenv.courier.config import Config
    from mlenv.courier.runlog import Drift, Told

MAX_PAGE: Final = 64 << 10
MAX_ATTEMPTS: Final = 50
KEY: Final = "mlenv"
ATTEMPT: Final = f"{KEY}/attempt"


def read(folder: Path) -> dict[str, Any]:
    """What rank 0 says of its program; nothing of what makes no sense."""
    return _page(folder / ABOUT)


def spent(folder: Path) -> dict[str, Any]:
    """Seconds by what they were spent on, of one attempt."""
    return _page(folder / SPENT)


def stopped(folder: Path) -> tuple[int, str]:
    """The attempt whose rank 0 writes no more history, and why; 0 where none has said so."""
    said = _page(folder / STOPPED)
    attempt, why = said.get("attempt"), said.get("why")
    return (attempt, why) if isinstance(attempt, int) and isinstance(why, str) else (0, "")


def config(
    mine: Config, said: Mapping[str, Any], attempts: Sequence[Told], resolved: str = ""
) -> dict[str, Any]:
    """The program's parameters under their own names, and everything of the platform under ``mlenv``.

    `resolved` is what the image was, where that is known.
    """
    given = said.get("parameters")
    parameters = {key: value for key, value in given.items() if key != KEY} if isinstance(given, dict) else {}
    program = {key: value for key, value in said.items() if key != "parameters"}
    own = {"job": mine.job, "namespace": mine.namespace, "uid": mine.uid, "image": mine.image}
    code = mine.code or ({"commit": said["commit"]} if said.get("commit") else {})
    newest = attempts[-1].head.attempt if attempts else 0
    known = {"code": code, "image_id": resolved}
    told = {name: what for name, what in known.items() if what}
    return {**parameters, KEY: {"program": program, **own, **told, "attempt": newest}}


def attempt(stored: Mapping[str, Any]) -> int:
    """The newest attempt that logs to a run, as its summary says."""
    found = stored.get(ATTEMPT)
    return found if isinstance(found, int) else 0


def summary(attempts: Sequence[Told], drift: Drift, time: Mapping[str, Any]) -> dict[str, Any]:
    """Where attempts began and how they ended, what the newest one's time went to, and how replays compare.

    Each attempt has a key of its own: what was said of those whose files are gone stays.
    """
    said: dict[str, Any] = {ATTEMPT: attempts[-1].head.attempt if attempts else 0}
    for one in attempts[-MAX_ATTEMPTS:]:
        told = {"from_step": one.head.start, "exit_code": one.code}
        said[f"{KEY}/attempts/{one.head.attempt}"] = {
            key: value for key, value in told.items() if value is not None
        }
    if drift.compared:
        said[f"{KEY}/compared_steps"] = drift.compared
        said[f"{KEY}/replay_differs"] = drift.differ
    if drift.differ:
        said[f"{KEY}/replay_sentence"] = drift.sentence
    number = time.get("attempt")
    for name, value in time.items():
        if isinstance(number, int) and name != "attempt" and isinstance(value, int | float):
            said[f"{KEY}/seconds/attempt-{number}/{name[:40]}"] = value
    return said


def _page(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(page.content(path, MAX_PAGE))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
