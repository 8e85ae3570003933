"""Has the history logged to the job's run: node 0's courier alone, batch by batch, each surely stored."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from mlenv import page, rows
from mlenv.courier import about, failpoints, faults, pages, runlog, trouble
from mlenv.courier.book import Book
from mlenv.courier.errors import StoreFailed
from mlenv.courier.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlenv.courier.config import Config
    from mlenv.courier.remote import Store
    from mlenv_api.protocol import Degraded

EVERY_SECONDS: Final = 15.0
"""Between two batches: what a job asks of the server does not depend on how fast it trains."""
SOON_SECONDS: Final = 1.0
"""The same while there is more than one batch."""
REST_SECONDS: Final = 60.0
"""Between two looks whether a newer attempt still logs."""
GOING_ON: Final = frozenset({75, 76, 77, 143})
"""Exit codes after which another attempt is to be expected."""


class Scribe:
    """Keeps nothing that it could not find again: where the history ends is asked of the server."""

    def __init__(
        self,
        config: Config,
        store: Store,
        say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._store = store
        self._say = say
        self._now = now
        self._book = Book(config.own.parent / rows.FOLDER, config.uid)
        self._place: runlog.Place | None = None
        self._drift = runlog.Drift()
        self._counting = self._verdict = trouble.Verdict()
        self._stopped = (0, "")
        self._told: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
        self._failures = 0
        self._not_before = self._hurried_after = 0.0
        self._outdone = 0
        self.outdone = False
        """Whether a newer attempt, of another pod, logs to the run."""
        self.done = True
        """Whether nothing is left to log, as far as is known."""
        self.fault: Fault | None = None
        self.last = False
        """Whether the program has ended: then nothing more is written, and there is no time to rest."""

    def turn(self) -> None:
        """Log the next batch, if it is time. Never raises: no checkpoint waits for what is wrong here."""
        due = self._hurried_after if self.last else self._not_before
        if self._now() < due and not self._hurried:
            return
        try:
            rest = self._log() if self._config.node == 0 else self._attend()
            self.fault, self._failures = None, 0
        except StoreFailed as error:
            rest = self._failed(error.fault)
        except Exception as error:  # noqa: BLE001  (as in the courier)
            rest = self._failed(Fault(faults.Kind.OTHER, f"history: {type(error).__name__}: {error}"))
        self._not_before = self._now() + rest

    @property
    def _hurried(self) -> bool:
        return self.last and self.fault is None

    @property
    def trouble(self) -> Degraded | None:
        """What people should know of the history; None: all is well, as far as is known."""
        attempts = self._book.attempts
        newest = attempts[-1].head.attempt if attempts else 0
        return (
            trouble.of_store(self.fault, self._failures, ending=self.last, done=self.done)
            or trouble.of_rank(self._stopped, newest)
            or trouble.of_replay(self._verdict, runlog.branched_by(attempts, newest), self._store.path)
        )

    def finish(self) -> None:
        """Have the run end as the newest attempt did, as far as that is known."""
        attempts = self._book.attempts
        if self._config.node != 0 or not attempts:
            self._store.finish()
        elif not self.outdone:
            code = attempts[-1].code
            self._store.finish(code, opened=True, preempted=code in GOING_ON)

    def _log(self) -> float:
        self._book.look()
        self._stopped = about.stopped(self._config.own.parent / rows.FOLDER)
        attempts = self._book.attempts
        if not attempts:
            self.done = True
            return SOON_SECONDS
        newest = attempts[-1].head.attempt
        if self._place is None or self._outdone > newest:
            self._find(*self._store.tail())
        if self._outdone > newest:
            if not self.outdone:
                self._say(f"attempt {self._outdone} logs to the run: {newest} leaves it alone")
            self.outdone = self.done = True
            return REST_SECONDS
        self.outdone = False
        attempt, found = self._book.read(last=self.last)
        self.done = not found
        if not found:
            return self._tell()
        assert self._place is not None
        batch = runlog.batch(attempts, attempt, found, self._place)
        log = list(batch.log)
        drifted = self._compare(attempt, batch)
        if log and drifted:
            log[0][2][runlog.DRIFT] = drifted
        if log:
            self._hand_over(log)
        self._book.drop()
        return SOON_SECONDS

    def _hand_over(self, log: list[tuple[int, float, dict[str, Any]]]) -> None:
        """Log rows, and what is worth knowing besides."""
        self._told = self._about()
        failpoints.hit("log")
        assert self._place is not None
        lines = page.finite([list(one) for one in log])
        self._find(*self._store.log(lines, *self._told, self._place.row))
        failpoints.hit("logged")

    def _attend(self) -> float:
        """Keep this node's own run open: the client adds the machine's metrics to it by itself."""
        if not self.last:
            self._store.log([], about.config(self._config, {}, []), {}, 0)
        return REST_SECONDS

    def _tell(self) -> float:
        """Nothing is left to log: what else is new."""
        said = self._about()
        if said != self._told:
            self._told = said
            self._store.log([], *said, 0)
        return EVERY_SECONDS

    def _about(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(config, summary) as they are now."""
        folder, attempts = self._config.own.parent / rows.FOLDER, self._book.attempts
        image = pages.read(self._config.own, pages.IMAGE, pages.Image) or pages.Image()
        return (
            about.config(self._config, about.read(folder), attempts, image.resolved),
            about.summary(attempts, self._drift, about.spent(folder)),
        )

    def _find(self, row: dict[str, Any] | None, summary: dict[str, Any]) -> None:
        self._place = runlog.place(row)
        self._outdone = about.attempt(summary)

    def _compare(self, attempt: int, batch: runlog.Batch) -> float:
        """Compare what was replayed; how far apart that is where it is."""
        assert self._place is not None
        if not batch.replayed:
            return 0.0
        low = self._place.row - (self._place.step - batch.replayed[0].step)
        high = self._place.row - (self._place.step - batch.replayed[-1].step)
        before = self._drift
        recorded = self._store.recorded(max(0, low), max(0, high))
        self._drift = runlog.compare(batch.replayed, recorded, before)
        exact = about.read(self._config.own.parent / rows.FOLDER).get("deterministic") is True
        self._counting = trouble.judged(
            replace(self._counting, exact=exact), attempt, batch.replayed, recorded
        )
        self._verdict = self._verdict.with_(self._counting)
        if self._drift.differ and not before.differ:
            self._say(self._drift.sentence)
        return self._drift.worst if self._drift.differ > before.differ else 0.0

    def _failed(self, fault: Fault) -> float:
        self._failures += 1
        self._place, self._drift, self.done = None, runlog.Drift(), False
        self._counting = trouble.Verdict()
        self._book.again()
        if self.fault is None or self.fault.kind is not fault.kind or self._failures % 10 == 0:
            self._say(f"history is not logged ({self._failures} in a row): {fault.sentence}")
        self.fault = fault
        wait = faults.delay(fault, self._failures, random.random())  # noqa: S311  (jitter)
        self._hurried_after = self._now() + faults.hurried(fault, wait)
        return wait
