"""Whether an attempt ever had two worlds: by what was stored of it, and by the pods that were made for it."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlenv_local.audit import Write

Raw = dict[str, Any]


class Worlds:
    """The worlds of jobs without a launcher: which pods an attempt runs in."""

    def __init__(self) -> None:
        self._worlds: defaultdict[tuple[str, int], set[tuple[int, ...]]] = defaultdict(set)
        """By uid of the job and attempt: the pods' incarnations, every time that it was seen to run."""

    def saw(self, job: Raw) -> None:
        """A job changed."""
        status = job.get("status") or {}
        attempt = status.get("attempt") or {}
        if attempt.get("state") == "Running":
            world = tuple(status.get("incarnations") or ())
            self._worlds[job["metadata"]["uid"], attempt["number"]].add(world)

    def double(self, writes: Iterable[Write]) -> int:
        """Attempts that ran in two sets of pods, and places that were given to two pods.

        A pod is named after its job, place and incarnation: no name may have been given twice.
        """
        created = Counter(
            (one.namespace, one.name)
            for one in writes
            if (one.verb, one.resource, one.code) == ("create", "pods", 201)
        )
        worlds = sum(len(found) > 1 for found in self._worlds.values())
        return worlds + sum(count > 1 for count in created.values())
