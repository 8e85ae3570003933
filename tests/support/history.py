"""Every state that a namespace's jobs were in, as the API server told of them, and what in that cannot be."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from consistency import status_contradictions

from mlenv_api.trainingjob import TrainingJobStatus

if TYPE_CHECKING:
    from mlenv_api.trainingjob import Attempt, AttemptRecord

Raw = dict[str, Any]


@dataclass
class History:
    """`see` is given every state; threads may ask about any job meanwhile."""

    states: dict[str, list[TrainingJobStatus]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def see(self, job: Raw) -> None:
        """One state of one job."""
        name, status = str(job["metadata"]["name"]), job.get("status") or {}
        try:
            read = TrainingJobStatus.model_validate(status)
        except ValueError as error:
            self.unreadable.append(f"{name}: {error}")
            return
        with self._lock:
            self.states.setdefault(name, []).append(read)

    def of(self, name: str) -> list[TrainingJobStatus]:
        """The states of one job, the oldest first."""
        with self._lock:
            return list(self.states.get(name, ()))

    def records(self, name: str) -> list[AttemptRecord]:
        """How each attempt of a job ended, the first one first; a status keeps only the last ten."""
        found = {one.number: one for status in self.of(name) for one in status.attempts}
        return [found[number] for number in sorted(found)]

    def contradictions(self, name: str) -> list[str]:
        """What cannot be in these states, each alone and one after the other."""
        states = self.of(name)
        found = [problem for status in states for problem in status_contradictions(status)]
        attempts = [one.attempt for one in states if one.attempt is not None]
        numbers = [one.number for one in attempts]
        if numbers != sorted(numbers):
            found.append(f"attempts went {numbers}")
        found += _several("rendezvous", [(one.number, one.rendezvous) for one in attempts])
        found += _several("origins", [(one.number, _origin(one)) for one in attempts])
        ends = [(end.number, _end(end)) for status in states for end in status.attempts]
        return sorted({*found, *_several("ends", ends), *self.unreadable})


def _origin(attempt: Attempt) -> object:
    origin = attempt.origin
    return origin and (origin.checkpoint.digest if origin.checkpoint else "a fresh start")


def _end(record: AttemptRecord) -> object:
    return record.model_copy(update={"lost_steps": None})


def _several(what: str, found: list[tuple[int, Any]]) -> list[str]:
    """Attempts that were said to have had more than one of these."""
    values: dict[int, set[str]] = {}
    for number, value in found:
        if value is not None:
            values.setdefault(number, set()).add(str(value))
    return [
        f"attempt {number} had {len(one)} {what}: {one}" for number, one in values.items() if len(one) > 1
    ]
