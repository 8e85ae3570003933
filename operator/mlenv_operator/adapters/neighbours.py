"""Jobs that could not get their pods together: they take turns, oldest first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlenv_operator.core.policies.queue import neighbour, shape

if TYPE_CHECKING:
    from collections.abc import Hashable

    from mlenv_operator.core.world import JobKey, JobView, Neighbour


class Neighbours:
    """By shape (what their pods ask of the cluster) the jobs that are queued, or assemble again."""

    def __init__(self) -> None:
        self._shapes: dict[JobKey, Hashable] = {}
        self._by_shape: dict[Hashable, dict[JobKey, Neighbour]] = {}

    def of(self, key: JobKey) -> tuple[Neighbour, ...]:
        """The others of this job's shape."""
        known = self._shapes.get(key)
        if known is None:
            return ()
        return tuple(other for at, other in self._by_shape[known].items() if at != key)

    def update(self, key: JobKey, job: JobView | None) -> tuple[JobKey, ...]:
        """Note where a job stands now; when it makes way, the jobs that it may have kept waiting."""
        stands = None if job is None else neighbour(job)
        if stands is None or job is None:
            return self._remove(key)
        now = shape(job)
        if self._shapes.get(key, now) != now:
            self._remove(key)
        self._shapes[key] = now
        self._by_shape.setdefault(now, {})[key] = stands
        return ()

    def _remove(self, key: JobKey) -> tuple[JobKey, ...]:
        known = self._shapes.pop(key, None)
        if known is None:
            return ()
        others = self._by_shape[known]
        del others[key]
        if not others:
            del self._by_shape[known]
        return tuple(others)
