"""The last heartbeat of every live pod."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlenv_operator.core.answers import matters
from mlenv_operator.core.world import BeatView

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import timedelta

    from mlenv_api.protocol import Beat
    from mlenv_operator.core.world import PodView
    from mlenv_operator.runtime.clock import Clock
    from mlenv_operator.runtime.reflector import Change


class BeatStore:
    """The last beat of every live pod. Lost with the process, and told again by the launchers."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._beats: dict[str, BeatView] = {}
        self._live: set[str] = set()
        self._held: Counter[str] = Counter()

    def is_live(self, pod_uid: str) -> bool:
        """Whether a pod of ours with this uid exists and has not finished."""
        return pod_uid in self._live

    def is_held(self, pod_uid: str) -> bool:
        """Whether an answer to this pod waits for the next change of its job."""
        return self._held[pod_uid] > 0

    @contextmanager
    def held(self, pod_uid: str) -> Iterator[None]:
        """An answer to this pod waits, as long as the block lasts."""
        self._held[pod_uid] += 1
        try:
            yield
        finally:
            self._held[pod_uid] -= 1
            if self._held[pod_uid] <= 0:
                del self._held[pod_uid]

    def pod_changed(self, change: Change[PodView]) -> None:
        """Keep to the pods that exist."""
        if change.old is not None and (change.new is None or change.new.finished):
            self._live.discard(change.old.uid)
        if change.new is None and change.old is not None:
            self._beats.pop(change.old.uid, None)
        if change.new is not None and not change.new.finished:
            self._live.add(change.new.uid)

    def record(self, pod_uid: str, beat: Beat, silence: timedelta) -> tuple[BeatView, bool]:
        """Remember the beat; and whether it may move the job, or ends a silence of the launcher."""
        before, now = self._beats.get(pod_uid), self._clock.now()
        news = before is None or matters(before, beat) or now - before.received > silence
        # What time went to is metered as it comes, and would double what a pod takes here.
        kept = beat if beat.spent is None else beat.model_copy(update={"spent": None})
        self._beats[pod_uid] = BeatView(kept, now)
        return BeatView(beat, now), news

    def of(self, pods: Iterable[PodView]) -> Mapping[str, BeatView]:
        """The last beats of these pods, by uid."""
        return {pod.uid: self._beats[pod.uid] for pod in pods if pod.uid in self._beats}
