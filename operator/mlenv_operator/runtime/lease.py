"""Leader election by a coordination.k8s.io/v1 Lease, wire-compatible with client-go's.

client-go promises no fencing: two processes may both believe that they lead. Hence ``surely_ours``, which
every write must ask: it is true only within ``renew_deadline_s`` of the moment *before* the last successful
renewal was sent, and nobody else takes the Lease before ``duration_s`` have passed since they *saw* that
renewal. The difference of the two is the room for clocks of different speeds and for writes on their way.

Another's record expires by our own monotonic clock, from when we first saw it: wall clocks may differ.
"""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from mlenv_operator.runtime.clock import within

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from mlenv_operator.runtime.clock import Clock

log = logging.getLogger(__name__)
Raw = dict[str, Any]

JITTER: Final = 1.2
"""client-go's: a candidate looks again after one to 2.2 retry periods."""
TERMS_SINCE: Final = datetime(2020, 1, 1, tzinfo=UTC)


class LeadershipLostError(Exception):
    """The Lease is no longer surely ours. Whoever led must stop at once; writes are refused already."""


class LeaseStore(Protocol):
    """Where the Lease is kept. Every failure is an exception; a stale resourceVersion is one."""

    async def read(self) -> Raw | None:
        """The Lease, or None when there is none."""

    async def create(self, spec: Raw, annotations: Mapping[str, str]) -> Raw:
        """Make it; fails when it exists."""

    async def update(self, lease: Raw) -> Raw:
        """Write it back; fails when its resourceVersion is not the stored one."""


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """client-go's defaults. Invariant: retry_period < renew_deadline < duration."""

    duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_period_s: float = 2.0

    def __post_init__(self) -> None:
        """Refuse timings that cannot hold a Lease safely."""
        if not 0 < self.retry_period_s * JITTER < self.renew_deadline_s < self.duration_s:
            raise ValueError(
                "lease timing: 1.2 * retry period < renew deadline < duration must hold, got "
                f"{self.retry_period_s:g}, {self.renew_deadline_s:g}, {self.duration_s:g} s"
            )


def identity_of(pod_name: str) -> str:
    """A holder identity that no other process ever has, not even the next one of this pod."""
    return f"{pod_name}_{uuid.uuid4()}"


class Lease:
    """One candidate. ``watch`` until ready, ``acquire``, ``keep`` until it raises, ``release`` at the end."""

    def __init__(
        self,
        store: LeaseStore,
        clock: Clock,
        rng: random.Random,
        *,
        identity: str,
        address: str,
        address_annotation: str,
        timing: LeaseTiming | None = None,
    ) -> None:
        self.identity = identity
        self.timing = timing or LeaseTiming()
        self._store = store
        self._clock = clock
        self._rng = rng
        self._address = address
        self._annotation = address_annotation
        self._lease: Raw | None = None  # as last seen or written
        self._exists = False
        self._is_stale = True  # after any failure, what is stored is unknown: read first
        self._observed_at = 0.0  # when its spec was first seen to be as it is
        self._renewed_at: float | None = None  # before our last successful write was sent
        self._given_up = False

    def surely_ours(self, now_monotonic: float) -> bool:
        """Whether nobody else can hold the Lease at this moment."""
        return self.seconds_left(now_monotonic) > 0

    def seconds_left(self, now_monotonic: float) -> float:
        """For how long it stays surely ours if no renewal succeeds; 0 or less when it is not."""
        if self._renewed_at is None:
            return 0.0
        return self._renewed_at + self.timing.renew_deadline_s - now_monotonic

    def write_window(self, now_monotonic: float) -> float:
        """Within how many seconds a write that starts now must have ended; 0 or less: it must not start."""
        if not self.surely_ours(now_monotonic):
            return 0.0
        on_its_way = (self.timing.duration_s - self.timing.renew_deadline_s) / 2
        return self.seconds_left(now_monotonic) + on_its_way

    @property
    def transitions(self) -> int:
        """How often the holder has changed, as last seen: the term. Grows with every new leader."""
        return int(self._spec().get("leaseTransitions") or 0)

    @property
    def holder(self) -> str:
        """Identity of the holder as last seen, empty when there is none or its time is over."""
        return "" if self._expired() else str(self._spec().get("holderIdentity") or "")

    @property
    def leader_address(self) -> str | None:
        """HTTP address of the holder, None while there is none."""
        if not self.holder or self._lease is None:
            return None
        annotations = self._lease["metadata"].get("annotations") or {}
        return annotations.get(self._annotation) or None

    async def watch(self) -> None:
        """See who holds it, until cancelled, and never take it: the time of a dead holder runs meanwhile."""
        while True:
            try:
                self._observe(await within(self._clock, self._patience(), self._store.read()))
            except Exception as error:  # noqa: BLE001  (whatever it was: we look again)
                log.info("lease: %s", error)
            await self._pause()

    async def acquire(self) -> None:
        """Return once the Lease is ours; failures of the store are waited out."""
        while not await self._try():
            await self._pause()
        log.info("lease acquired: %s leads, term %d", self.identity, self.transitions)

    async def keep(self) -> None:
        """Renew until that fails for too long; always ends with LeadershipLostError."""
        while self.surely_ours(self._clock.monotonic()):
            left = self.seconds_left(self._clock.monotonic())
            await self._clock.sleep(min(self.timing.retry_period_s, left))
            if not self.surely_ours(self._clock.monotonic()) or not (await self._try() or self._unknown()):
                break
        self._renewed_at = None
        raise LeadershipLostError(
            f"lease lost: not renewed within {self.timing.renew_deadline_s:g} s, or taken; "
            f"the holder is now {self.holder or 'nobody'}"
        )

    async def release(self) -> None:
        """Stop leading and give the Lease away, so that the next need not wait; failures are ignored."""
        self._given_up = True
        held, self._renewed_at = self._renewed_at is not None, None
        if not held or self._lease is None:
            return
        now = _stamp(self._clock.now())
        spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": now, "acquireTime": now}
        lease = {**self._lease, "spec": {**self._spec(), **spec}}
        try:
            await within(self._clock, self.timing.retry_period_s, self._store.update(lease))
        except Exception as error:  # noqa: BLE001  (whatever it was: the Lease runs out by itself)
            log.warning("lease not released, it runs out by itself: %s", error)

    async def _pause(self) -> None:
        await self._clock.sleep(self.timing.retry_period_s * (1 + self._rng.uniform(0, JITTER)))

    async def _try(self) -> bool:
        """Acquire or renew once; whether that succeeded."""
        if self._given_up:
            return False
        try:
            await within(self._clock, self._patience(), self._acquire_or_renew())
        except Exception as error:  # noqa: BLE001  (time-outs, refusals, conflicts: all mean "not now")
            log.info("lease: %s", error)
            self._is_stale = True
            return False
        return self._is_me() and self.surely_ours(self._clock.monotonic())

    def _patience(self) -> float:
        """Half the deadline, so that a request that hangs leaves room for another; and never beyond it."""
        left = self.seconds_left(self._clock.monotonic())
        half = self.timing.renew_deadline_s / 2
        return min(half, left) if left > 0 else half

    async def _acquire_or_renew(self) -> None:
        if self._is_stale or not self._is_me():
            self._observe(await self._store.read())
            self._is_stale = False
        if not self._is_me() and not self._expired():
            self._renewed_at = None  # whatever we believed: somebody else has it
            return
        sent_at = self._clock.monotonic()
        self._observe(await self._write())
        # A release during the request wins.
        self._renewed_at = None if self._given_up else sent_at

    async def _write(self) -> Raw:
        annotations = {self._annotation: self._address}
        if self._lease is None or not self._exists:
            return await self._store.create(self._next_spec(), annotations)
        metadata = self._lease["metadata"]
        merged = {**(metadata.get("annotations") or {}), **annotations}
        lease = {**self._lease, "metadata": {**metadata, "annotations": merged}, "spec": self._next_spec()}
        return await self._store.update(lease)

    def _next_spec(self) -> Raw:
        now, old = _stamp(self._clock.now()), self._spec()
        mine = self._is_me()
        return {
            **old,
            "holderIdentity": self.identity,
            "leaseDurationSeconds": round(self.timing.duration_s),
            "acquireTime": old.get("acquireTime", now) if mine else now,
            "renewTime": now,
            "leaseTransitions": self.transitions if mine and self._exists else self._next_term(),
        }

    def _next_term(self) -> int:
        """One more; for a Lease made anew at least the minutes since 2020.

        Launchers refuse terms smaller than one they have seen, and a deleted Lease (with its namespace, say)
        must not silence every operator after it. Unlike client-go, a Lease given away counts as a change
        too: a term never has two leaders.
        """
        floor = 0 if self._exists else int((self._clock.now() - TERMS_SINCE).total_seconds() // 60)
        return max(self.transitions + 1, floor)

    def _observe(self, lease: Raw | None) -> None:
        """Remember what is stored; a deleted Lease does not end the time of who was seen to hold it."""
        self._exists = lease is not None
        if lease is None:
            return
        if lease.get("spec") != self._spec():
            self._observed_at = self._clock.monotonic()
        self._lease = lease

    def _spec(self) -> Raw:
        return {} if self._lease is None else self._lease.get("spec") or {}

    def _is_me(self) -> bool:
        return bool(self._spec().get("holderIdentity") == self.identity)

    def _unknown(self) -> bool:
        """Whether an attempt failed without telling that somebody else holds the Lease."""
        return self._is_stale

    def _expired(self) -> bool:
        """Whether the holder's time is over, by our clock since we saw its last renewal."""
        spec = self._spec()
        if not spec.get("holderIdentity"):
            return True
        duration = float(spec.get("leaseDurationSeconds") or self.timing.duration_s)
        return self._clock.monotonic() > self._observed_at + duration


def _stamp(now: datetime) -> str:
    """MicroTime, as the API server writes it."""
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
