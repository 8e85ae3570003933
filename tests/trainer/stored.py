"""Jobs whose pods are lost with their disks: after that there is only what a W&B server has."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final, cast

from carried import Carried, Store
from operated import TICK
from rig import until
from struck import EVERY, STRIDE, Job, Jobs

if TYPE_CHECKING:
    from rig import Rig
    from struck import Reference

FOREVER: Final = 86_400
"""Seconds that the server holds back a request while the test does harm: it is never answered."""
PATIENCE: Final = 600.0
"""Seconds for what couriers and their clients do."""
MOMENTS: Final = {
    "in upload": "upload",
    "before commit": "CommitArtifact",
    "in reading back": "download",
    "before alias": "AddAliases",
    "in bringing": "download",
}
"""The request of a courier's client that the server holds back meanwhile."""
BRINGING: Final = "in bringing"


class StoredJob(Job):
    """A job with couriers and no volume."""

    def __init__(
        self, store: Store, rig: Rig, name: str, *, world: str, total: int, reference: Reference
    ) -> None:
        self.store = store
        super().__init__(rig, world, name, total, reference)

    def begin(self, program: list[str], env: dict[str, str]) -> Carried:
        """Its platform."""
        return Carried(self.rig, self.store, self.name, program, nodes=self.nodes, procs=self.procs, **env)

    @property
    def carried(self) -> Carried:
        """The same, by its own type."""
        return cast("Carried", self.platform)

    def until_stored(self, step: int) -> None:
        """Wait until the job's courier says that this step, or a later one, is stored."""
        until(
            lambda: self._well() and self.carried.stored >= step,
            f"step {step} in the store",
            PATIENCE,
            pause=TICK,
        )

    def _well(self) -> bool:
        assert self.platform.errors == []
        return True

    # -- one case

    def befall(self, moment: str, victim: str) -> None:
        """Lose a process at a moment of a courier's work, then all disks, and go on from the store."""
        known = self.carried.stored
        if not self.at:  # there must be something to lose
            self.allow(STRIDE)
            self.at = STRIDE
            self.until_stored(STRIDE)
            known = STRIDE
        now = self.running(1).number
        now = self._strike(moment, now)
        self._end(victim, now)
        before = max(known, self.carried.stored)
        self.carried.lose_all()
        self.store.server.clear_faults()
        self.at += 2 * STRIDE  # what was struck may be stored, so there must be steps behind it
        self.allow(self.at)
        now = self.until_made(self.at, now + 1).number
        self.compare(now)
        assert self.origin(now) >= before, f"the store had step {before}"
        self.until_stored(self.at - self.at % EVERY)

    def _strike(self, moment: str, now: int) -> int:
        """Have the server hold back what comes at this moment, and wait for that; the attempt then."""
        if moment == BRINGING:
            self.carried.lose_all()
            now = self.platform.next(now)
        self.store.server.fault(MOMENTS[moment], delay=FOREVER, times=1)
        self.allow(self.at + STRIDE)
        until(self._held, f"a request {moment}", PATIENCE, pause=TICK)
        return now

    def _held(self) -> bool:
        return self._well() and [one["times"] for one in self.store.server.faults()] == [0]

    def _end(self, victim: str, number: int) -> None:
        """Who dies first, with nothing lost but its process."""
        if victim == "courier":
            killed = [self.carried.kill_courier(pod) for pod in self.carried.living()]
            assert any(killed)
        else:
            self.kill(victim, number)

    # -- what became of it

    def twice(self) -> list[str]:
        """What the store has more than once."""
        assert self.platform.cluster.job is not None
        listed = self.store.versions(self.name, str(self.platform.cluster.job["metadata"]["uid"]))
        assert listed
        counts = Counter((one.node, one.digest) for one in listed)
        return [f"{one.name} (step {one.step})" for one in listed if counts[one.node, one.digest] > 1]

    def told(self) -> str:
        """What people would look at when it failed."""
        logs = sorted(self.rig.folder.glob(f"{self.name}-*.courier.log"))
        return "\n".join([super().told(), *(f"{one.name}\n{one.read_text()[-3000:]}" for one in logs)])

    def settle(self) -> list[dict[str, Any]]:
        """Make the steps that are left; what its ranks ended with."""
        self.finish()
        return self.found()


class StoredJobs(Jobs):
    """For each world one job that is struck, and loses its disks, and one that nobody disturbs."""

    room = 2 * STRIDE

    def __init__(self, rig: Rig, store: Store, counts: Counter[str]) -> None:
        super().__init__(rig, counts)
        self._store = store

    def new(self, world: str, name: str, total: int, reference: Reference | None) -> Job:
        """The other one needs no store."""
        if reference is None:
            return super().new(world, name, total, None)
        return StoredJob(self._store, self._rig, name, world=world, total=total, reference=reference)

    def befallen(self, world: str) -> StoredJob:
        """The one that is struck."""
        return cast("StoredJob", self.struck(world))
