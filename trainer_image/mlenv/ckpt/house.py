"""Keeps order in the folder of checkpoints: whose it is, room for one more, and what goes."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Final

from mlenv.ckpt import durable, failpoints, group, listing, retain, room
from mlenv.ckpt.errors import CheckpointError, NothingToResume

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    import torch

_NEWS: Final = 1.2
"""A budget that is exceeded by so much more than when it was told last is told again."""


class House:
    """What a job does with its folder besides writing checkpoints. All ranks have one, and do the same."""

    def __init__(
        self, groups: group.Groups, job: str, policy: retain.Policy, tell: Callable[[str], None]
    ) -> None:
        self.policy = policy
        self.running_from: str | None = None
        """Digest of the checkpoint that this attempt went on from: it never goes."""
        self._groups = groups
        self._job = job
        self._tell = tell
        self._owned = False
        self._over = 0
        self._since, self._ceiling, self._attempt = 1, math.inf, 1

    def keep_to(self, since: int, ceiling: int | None, attempt: int) -> None:
        """What may not be resumed from stays, and is not counted: what this run writes would go for it.

        Such is what attempts before `since` saved; and what a roll back to `ceiling` left behind, until
        `attempt`, which is this one, has passed it.
        """
        self._since, self._attempt = since, attempt
        self._ceiling = math.inf if ceiling is None else ceiling

    def check_owner(self) -> None:
        """Raises NothingToResume, on all ranks, when the folder is another job's."""
        place = self._groups.place
        try:
            self._groups.control.together(
                "looking whose folder it is", lambda: room.check_owner(place.folder, self._job)
            )
        except CheckpointError as error:
            raise NothingToResume(str(error)) from None

    def claim(self) -> None:
        """Write down whose folder it is, in the writing thread. Raises when it is another job's."""
        place = self._groups.place
        if not self._owned:
            self._groups.every.together(
                "claiming the folder", lambda: room.claim(place.folder, self._job) if place.leads else None
            )
            self._owned = True

    def make_room(self, copies: Mapping[str, torch.Tensor], alike: AbstractSet[str]) -> None:
        """Delete what may go, where the disk or the budget has no room for one more."""
        place, every = self._groups.place, self._groups.every
        shares = every.together("looking for room", lambda: room.share(place, copies, alike))
        need = room.need(place, shares)
        if need.short or self.policy.budget is not None:
            self._thin(lambda kept: self._room(kept, need))

    def tidy(self) -> None:
        """Delete what nobody wants any more."""
        self._thin(lambda kept: retain.plan(kept, self.policy, running_from=self.running_from))

    def _room(self, kept: list[retain.Kept], need: room.Need) -> retain.Plan:
        return retain.room(
            kept, self.policy, coming=need.size, short=need.short, running_from=self.running_from
        )

    def _thin(self, choose: Callable[[list[retain.Kept]], retain.Plan]) -> None:
        """Delete what rank 0 chooses. Never raises: what is not deleted now is deleted next time."""
        try:
            every = self._groups.every
            self._delete(every.together("choosing what to delete", lambda: self._chosen(choose))[0])
        except Exception as error:  # noqa: BLE001
            self._tell(f"old checkpoints were not deleted: {group.describe(error)}")

    def _chosen(self, choose: Callable[[list[retain.Kept]], retain.Plan]) -> tuple[str, ...]:
        place = self._groups.place
        if place.rank != 0:
            return ()
        # Another job's are not ours to delete, and no reason to delete ours.
        kept = [
            kept_of(one, self.policy.metric)
            for one in self._counted(listing.read(place.folder))
            if one.seal and one.seal.job in ("", self._job)
        ]
        chosen = choose(kept)
        if chosen.over > _NEWS * self._over:
            self._over = chosen.over
            budget = self.policy.budget or 0
            self._tell(
                f"checkpoints exceed their budget of {budget} bytes by {chosen.over}: the newest, the newest "
                "good one and the one that this attempt runs from may not go, and the next one needs room "
                f"beside them. Give retain.Policy a budget of at least {budget + chosen.over}"
            )
        return chosen.delete

    def _counted(self, listed: Sequence[listing.Found]) -> list[listing.Found]:
        own = max((one.step for one in listed if one.attempt == self._attempt), default=0)
        most = max(self._ceiling, own)
        return [one for one in listed if one.finished and one.attempt >= self._since and one.step <= most]

    def _delete(self, surplus: tuple[str, ...]) -> None:
        place = self._groups.place
        for name in surplus if place.leads else ():
            failpoints.hit("retain", place.rank)
            if (place.folder / name).is_dir():
                durable.remove(place.folder / name)


def kept_of(found: listing.Found, metric: str | None = None) -> retain.Kept:
    """What retention wants to know of a sealed folder, which `metric` scores."""
    assert found.seal is not None
    return retain.Kept(
        name=found.name,
        digest=found.digest,
        step=found.step,
        attempt=found.attempt,
        size=found.seal.size,
        time=datetime.fromisoformat(found.seal.time),
        good=found.seal.good,
        score=retain.score(found.seal.metrics, metric),
    )
