"""The courier: looks at spool and store, does the next thing, tells how it fares; until it is told to end."""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING, Final

from mlenv.courier import faults, fetch, lastwords, offline, pages, plan
from mlenv.courier.errands import Errands
from mlenv.courier.errors import StoreFailed
from mlenv.courier.faults import Fault
from mlenv.courier.pages import Brought, Report, Wanted
from mlenv.courier.scribe import Scribe
from mlenv.courier.trouble import SERIOUS
from mlenv_api import names
from mlenv_api.protocol import Degraded, Tracking, Uploaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlenv.courier.config import Config
    from mlenv.courier.remote import Store
    from mlenv.courier.spool import Spool

LOOK_SECONDS: Final = 1.0
"""Between two looks at the spool."""
AGAIN_SECONDS: Final = 3600.0
"""Between two looks at the store where nothing new is sealed: somebody may have deleted what was there."""
PARTS_SECONDS: Final = 10.0
"""Between two looks for other nodes' parts."""


class Courier:
    """One of them."""

    def __init__(
        self,
        config: Config,
        spool: Spool,
        store: Store,
        say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._spool = spool
        self._store = store
        self._say = say
        self._now = now
        self._errands = Errands(config, spool, store)
        self.scribe = Scribe(config, store, say, now)
        self._fetcher = fetch.Fetcher(store, config.checkpoints, spool.work, say, self._answer)
        others = config.own.parent / pages.SOURCES
        self._sources = fetch.Fetcher(store, others, spool.work, say, self._answer)
        self._offline = offline.Offline(config.own.parent / names.OFFLINE_DIR, store, say)
        self.ending = False
        """Whether the trainer has ended: then its own runs are sent, too, and waits are short."""
        self._seen: frozenset[plan.Identity] = frozenset()
        self._settled = False
        self._look_again = 0.0
        self._failures = 0
        self._fault: Fault | None = None
        self._not_before = self._hurried_after = 0.0
        before = pages.read(config.own, pages.BROUGHT, Brought)
        self._answered = before.nonce if before is not None and before.done else ""
        self._unreadable: dict[plan.Identity, Fault] = {}
        self._stubborn: set[str] = set()
        """Versions that the store does not let us delete, or have expire."""
        self._told: Report | None = None
        self._uploaded: Uploaded | None = None
        self._verified: frozenset[str] = frozenset()

    def turn(self) -> float:
        """Do the next thing, if there is one; seconds until it is worth looking again. Never raises."""
        try:
            self._serve()
            self.scribe.turn()  # first: where a checkpoint is stored, so is the history up to it
            self._report()  # an upload may take minutes
            due = self._hurried_after if self.ending else self._not_before
            wait = self._work() if self._now() >= due else LOOK_SECONDS
        except StoreFailed as error:
            wait = self._failed(error.fault)
        except Exception as error:  # noqa: BLE001  (a courier that fell silent would cost checkpoints)
            wait = self._failed(Fault(faults.Kind.OTHER, f"{type(error).__name__}: {error}"))
        self._report()
        return wait

    @property
    def done(self) -> bool:
        """Whether nothing is left to carry, as far as is known."""
        sent = not (self.ending and any(self._offline.left(ended=True)))
        return self._settled and self.scribe.done and sent

    @property
    def fault(self) -> Fault | None:
        """What went wrong last, until something succeeds."""
        return self._fault or self.scribe.fault

    # -- what ranks want

    def _serve(self) -> None:
        """Bring what rank 0 waits for: that comes before all else."""
        wanted = pages.read(self._config.own, pages.WANTED, Wanted)
        if wanted is None or wanted.nonce == self._answered or self._now() < self._hurried_after:
            return
        try:
            answer = self._sources.bring_source(wanted) if wanted.source else self._fetcher.bring(wanted)
        except StoreFailed as error:
            self._answer(Brought(nonce=wanted.nonce, words=error.fault.sentence[:2000]))
            raise
        self._answer(answer)
        self._answered = wanted.nonce
        self._settled = False
        self._unreadable = {}
        self._spool.forget()
        self._fault, self._failures = None, 0
        self._say(answer.words)

    def _answer(self, answer: Brought) -> None:
        with contextlib.suppress(OSError):
            pages.write(self._config.own, pages.BROUGHT, answer)

    # -- what ranks sealed

    def _work(self) -> float:
        """Checkpoints; and what the program's own calls left, once none waits."""
        wait = self._carry()
        if not self._settled or not self._offline.turn(ended=self.ending):
            return wait
        self._fault, self._failures = None, 0
        return 0.0

    def _carry(self) -> float:
        sealed = self._readable(self._spool.look())
        here = frozenset(one.which for one in sealed)
        if self._settled and here == self._seen and (self.ending or self._now() < self._look_again):
            return LOOK_SECONDS
        self._settled = False
        heads, parts = self._stored(sealed)
        self._know(heads if self._config.node == 0 else [], sealed)
        best = pages.metric(self._config.own)
        wanted = plan.decide(self._config.node, sealed, heads, parts, best)
        actions = [one for one in wanted if plan.clears(one) not in self._stubborn]
        if not actions:
            self._seen, self._settled = here, True
            self._look_again = self._now() + AGAIN_SECONDS
            self._fault, self._failures = None, 0
            return LOOK_SECONDS
        action = next((one for one in actions if not isinstance(one, plan.Await)), actions[0])
        self._do(action)
        self._fault, self._failures = None, 0
        return PARTS_SECONDS if isinstance(action, plan.Await) else 0.0

    def _do(self, action: plan.Action) -> None:
        try:
            self._say(self._errands.do(action))
        except StoreFailed as error:
            if (old := plan.clears(action)) and error.fault.kind in faults.FINAL:
                self._stubborn.add(old)  # linked somewhere, or protected: it costs room, and nothing else
                self._say(f"{old} stays in the store: {error.fault.sentence}")
                return
            if error.fault.kind is not faults.Kind.LOCAL or not isinstance(action, plan.Upload):
                raise
            # One that cannot be read holds up no other; one that is gone is no fault: ranks had newer ones.
            self._spool.forget()
            if any(one.which == action.sealed.which for one in self._spool.look()):
                self._unreadable[action.sealed.which] = error.fault
            self._say(error.fault.sentence)

    def _readable(self, sealed: list[plan.Sealed]) -> list[plan.Sealed]:
        present = {one.which for one in sealed}
        self._unreadable = {one: why for one, why in self._unreadable.items() if one in present}
        return [one for one in sealed if one.which not in self._unreadable]

    def _stored(self, sealed: list[plan.Sealed]) -> tuple[list[plan.Version], list[plan.Version]]:
        spread = any(one.nodes for one in sealed)
        parts = self._store.parts() if spread else []
        return (self._store.heads() if spread or self._config.node == 0 else []), parts

    def lacks(self, digest: str) -> str:
        """Why the store is not known to have this checkpoint whole; empty: it has."""
        if not digest and self._unreadable:
            return next(iter(self._unreadable.values())).sentence
        found = not digest or digest in self._verified
        return "" if found else f"no checkpoint {digest[:12]} is here, or it cannot be read"

    def _know(self, heads: list[plan.Version], sealed: list[plan.Sealed]) -> None:
        self._verified = frozenset(one.which.digest for one in heads if one.verified)
        found = plan.uploaded(heads, sealed)
        if found is not None:
            self._uploaded = Uploaded(
                attempt=max(1, found.which.attempt),
                step=found.which.step,
                digest=found.which.digest,
                artifact=found.name[-256:],
                url=found.url[:1024],
            )

    # -- how it fares

    def _failed(self, fault: Fault) -> float:
        self._failures += 1
        self._spool.forget()
        if self._fault is None or self._fault.kind is not fault.kind or self._failures % 10 == 0:
            self._say(f"not carried ({self._failures} in a row): {fault.sentence}")
        self._fault = fault
        wait = faults.delay(fault, self._failures, random.random())  # noqa: S311  (jitter)
        self._not_before = self._now() + wait
        self._hurried_after = self._now() + faults.hurried(fault, wait)
        return LOOK_SECONDS

    def _report(self) -> None:
        fault = self._fault
        if fault is None or (fault.kind not in faults.HUMAN and self._failures < SERIOUS):
            fault = next(iter(self._unreadable.values()), None)
        degraded = Degraded(reason=fault.kind.value, message=fault.sentence[:1024]) if fault else None
        report = Report(uploaded=self._uploaded, degraded=degraded, tracking=self._tracking())
        if report != self._told:
            with contextlib.suppress(OSError):
                pages.write(self._config.own, pages.REPORT, report)
                lastwords.leave(report)
                self._told = report

    def _tracking(self) -> Tracking | None:
        """The job's run is written by node 0 alone. A page that no beat could carry is left out."""
        if self._config.node != 0:
            return None
        page = self._store.page or (self._uploaded.url if self._uploaded else "")
        try:
            return Tracking(url=page, trouble=self.scribe.trouble)
        except ValueError:
            return Tracking(trouble=self.scribe.trouble)
