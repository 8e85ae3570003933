"""The companion of a training loop: it counts, reports and listens; forward, backward and step stay yours."""

from __future__ import annotations

import signal
import threading
import time
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import torch

from mlenv import batches, page, resume, spent, state
from mlenv.ckpt.errors import CheckpointError
from mlenv.job import Job
from mlenv.spikes import Spikes
from mlenv.track import Tracker
from mlenv.values import Metric, line, numbers_of
from mlenv_api.protocol import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from types import FrameType, TracebackType


_NONE: Final = object()
TERMINATED: Final = 128 + signal.SIGTERM


class SessionError(RuntimeError):
    """The Session was used in an order that makes no sense; the message says which one does."""


class _Life(Enum):
    NEW = "before"
    OPEN = "inside"
    OVER = "after"


class Session:
    """Everything that one run of training holds, and how far it is.

    `things` are what must survive a restart, by name: models, optimizers, schedulers, anything with
    ``state_dict`` and ``load_state_dict``; and ``data``, which `steps` iterates. Refuses an optimizer whose
    parameters are not the models'. `report_every` is in seconds: only then is the device waited for.

    With `checkpoint` a new attempt goes on from the newest checkpoint that all ranks together can use, and
    nothing is started over because one could not be read. Where nothing is said, jobs of a cluster have it,
    and programs outside of one don't; None turns it off.
    """

    _inside: ClassVar = False
    """Whether a Session of this process is open."""

    def __init__(
        self,
        job: Job,
        *,
        report_every: float = 2.0,
        checkpoint: resume.Checkpoints | None = resume.AUTO,
        **things: Any,
    ) -> None:
        _check_kinds(job, checkpoint)
        state.check(things)
        self.job: Final = job
        self.step = 0
        """Optimizer steps committed."""
        self.samples = 0
        """Samples that all ranks together have consumed."""
        self.epoch = 0
        """Whole passes over the data."""
        self._things = things
        self._report_every = report_every
        self._tracker = Tracker(job)
        self._spikes = Spikes()
        self._policy = resume.chosen(checkpoint, job, things)
        self._keeper: resume.Keeper | None = None
        self._start = 0
        self._life = _Life.NEW
        self._total: int | None = None
        self._pending = 0
        self._loop: object = None
        self._left: Iterator[Any] | None = None
        data = things.get("data")
        self._position = data if isinstance(data, state.Positioned) else None
        self._committed: dict[str, Metric] = {}
        self._past: dict[str, float] = {}
        self._read: dict[str, float] = {}
        self._logged: dict[str, float] = {}
        self._told_to_stop = False
        self._old_handler: Any = None
        self._opened = self._due = self._console_due = 0.0
        self._reported = (0, 0.0)
        self._speed: float | None = None

    def __enter__(self) -> Self:
        if self._life is not _Life.NEW:
            raise SessionError("a Session is entered once; make a new one for another run")
        if Session._inside:
            raise SessionError(
                "a Session inside of another: both would report and listen to signals. Leave the first one's "
                "with block before, or give all models to one Session"
            )
        self._tracker.open()
        origin = self._resume() if self._policy else "fresh start at step 0"
        self._life = _Life.OPEN
        Session._inside = True
        self._opened = time.monotonic()
        self._reported = (self.step, self._opened)
        if self._position is not None:
            self._position.agree()
            self.epoch = self._position.epoch
        self._listen()
        self._tracker.remember(self.step)
        job = self.job
        self._tracker.say(
            f"{job.name}: attempt {job.attempt}, {job.world_size} rank(s) on {job.device.type}, "
            f"files in {job.run_dir}: {origin}"
        )
        if self.step:
            self._publish(self._opened)
        else:
            self._tracker.publish(None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._keeper:
                failed = kind is not None and not self._told_to_stop
                self._keeper.close(failed=failed, done=kind is None and self.step > self._start)
            if self.step == self._start > 0:
                self._publish(time.monotonic())  # this attempt has no step to report
            elif kind is None or self._told_to_stop:
                self._report(time.monotonic(), console=True)
            else:
                self._publish(time.monotonic())  # reading the device now could fail, and hide what did
            self._tracker.say(
                f"{self._ended(kind)} at step {self.step}, after {time.monotonic() - self._opened:.1f} s"
            )
        finally:
            self._life = _Life.OVER
            Session._inside = False
            self._left = None
            self._tracker.close(self._code(error))
            self._unlisten()
        if kind is None and self._keeper and self._keeper.ends:
            raise SystemExit(self._keeper.ends)

    def steps(self, total: int) -> Iterator[Any]:
        """Batches of ``data``, over and over, until `total` steps are committed (step numbers without data).

        Several batches per commit are fine: gradients accumulate. `set_epoch` of the data, or of its sampler,
        is called before each pass. Data with a position goes on from it, keeps its own epochs, and counts as
        consumed what was given until a commit.
        """
        self._must_be_open("steps()")
        if total < 0 or total != int(total):
            raise ValueError(f"steps({total}): a number of steps is whole, and not negative")
        self._total = total
        return self._alone(self._batches(total) if "data" in self._things else self._numbers(total))

    def commit(self, *, samples: int | None = None, **metrics: Metric) -> None:
        """Mark the end of one optimizer step, with what is worth knowing about it, such as ``loss=loss``.

        Never steps by itself, and waits for the device only when a report is due. `samples` of this rank are
        counted from the batches unless given. Takes a checkpoint when one is due, and copying the state waits
        for the device then too. Exits when the program was told to stop (SIGTERM); with checkpoints all ranks
        do so at one step, a few seconds later, and after saving.
        """
        self._must_be_open("commit()")
        if self._total is None and self._position is None and "data" in self._things:
            raise SessionError(
                "commit() before steps(): nobody knows which batches were consumed. Take them from "
                "`for batch in run.steps(n)`, or leave data= away if the loop brings its own"
            )
        self.step += 1
        if (clock := spent.clock).doing != spent.PRODUCTIVE:
            clock.switch(spent.PRODUCTIVE)
        self._consume(samples)
        self._committed = {
            name: value.detach() if isinstance(value, torch.Tensor) else value
            for name, value in metrics.items()
        }
        if self.step >= self._tracker.due or self.step == self._total:
            self._tracker.row(self.step, self._committed, self.samples, self.epoch)
        now = time.monotonic()
        if now >= self._due:
            self._report(now)
        if self._keeper is None:
            self.poll()
        elif self._keeper.commit(self.step, told=self._told_to_stop, facts=self._facts):
            self._told_to_stop = True
            raise SystemExit(self._keeper.finish() or TERMINATED)

    def log(self, **metrics: Metric) -> None:
        """Record values that do not belong to every step, such as an AUC. Waits for the device."""
        self._must_be_open("log()")
        values = numbers_of(metrics)
        self._logged.update(values)
        self._tracker.note(self.step, values)

    def evaluating(self) -> AbstractContextManager[None]:
        """A block that looks at held-out data: its time is told apart from that of training."""
        self._must_be_open("evaluating()")
        return spent.clock.on(spent.EVAL)

    def poll(self) -> None:
        """Exit here if the program was told to stop; for loops without `commit`, such as an evaluation."""
        if self._told_to_stop:
            # Other ranks may be elsewhere, so nothing is saved here: this is the end by a signal.
            raise SystemExit(TERMINATED)

    # -- checkpoints

    def _resume(self) -> str:
        """Put back what a checkpoint holds; what training goes on from, in words."""
        assert self._policy is not None
        try:
            self._keeper = resume.Keeper(self._policy, self.job, self._things, self._tracker.say)
            begun = self._keeper.begin()
        except CheckpointError as error:
            self._tracker.close()
            raise resume.give_up(error) from error
        start = begun.start
        self.step = self._start = start.step
        self.samples, self.epoch = start.samples, start.epoch
        self._past = {name: float(value) for name, value in begun.metrics.items()}
        return begun.words

    def _facts(self) -> dict[str, Any]:
        self._tracker.settle()  # whoever goes on from here finds the history up to here
        metrics = {**self._logged, **numbers_of(self._committed)}
        observed = self._spikes.facts
        return {"samples": self.samples, "epoch": self.epoch, "metrics": metrics, "observed": observed}

    def _code(self, error: BaseException | None) -> int:
        """What the program ends with, if nothing else happens."""
        ends = self._keeper.ends if self._keeper else None
        said = getattr(error, "code", 1 if error else 0)
        return int(ends or said) if isinstance(said, int) else int(said is not None)

    def _ended(self, kind: type[BaseException] | None) -> str:
        if self._keeper and self._keeper.ends:
            return f"ended with exit code {self._keeper.ends:d}"
        if self._told_to_stop and kind is not None:
            return "told to stop"
        return f"ended by {kind.__name__}" if kind else "done"

    # -- the loop

    def _alone(self, given: Iterator[Any]) -> Iterator[Any]:
        """The same, as long as no newer loop of this Session takes batches."""
        self._loop = mine = object()
        for batch in given:
            yield batch
            if self._loop is not mine:
                raise SessionError("steps() inside of a loop over steps(): one loop takes all batches")

    def _numbers(self, total: int) -> Iterator[int]:
        while self.step < total:
            before = self.step
            yield before
            if self.step == before:
                raise SessionError(
                    "the loop came round without run.commit(): call it after every optimizer step"
                )

    def _batches(self, total: int) -> Iterator[Any]:
        if self._position is not None:
            self._position.begin()
        barren = False
        while self.step < total:
            before = self.step
            count = 0
            given, rest = self._pass()
            while (batch := self._next(given)) is not _NONE:
                count += 1
                self._pending += batches.samples_in(batch)
                yield batch
                if self.step >= total:
                    return
            self._left = None
            if self._position is None:
                self.epoch += 1
            # The rest of an epoch may be less than the batches of one step; a whole one more is not.
            if self.step == before and (barren or (not rest and (count == 0 or self._position is None))):
                what = (
                    "data is empty" if count == 0 else "a whole pass over the data ended without run.commit()"
                )
                raise SessionError(f"{what}: this loop would never end")
            barren = self.step == before

    def _next(self, given: Iterator[Any]) -> Any:
        """The next batch, and what the loop waited for it told apart; _NONE when there is none."""
        asked = spent.monotonic_ns()
        batch = next(given, _NONE)
        spent.clock.took(spent.DATA_WAIT, asked)
        return batch

    def _pass(self) -> tuple[Iterator[Any], bool]:
        """The batches of a pass; and whether they are the rest of one, after a restart or another loop.

        Both go on at the same batch, so a program with several loops goes on like one that was not cut off.
        """
        if self._left is not None:
            return self._left, True
        data = self._things["data"]
        batches.set_epoch(data, self.epoch)
        rest = self._keeper is not None and self._keeper.resumed
        given = iter(self._keeper.batches() if self._keeper else data)
        self._left = given if self._position is None else None
        return given, rest

    def _consume(self, samples: int | None) -> None:
        counted = (self._pending if samples is None else samples) * self.job.world_size
        self._pending = 0
        if self._position is not None:
            before = self._position.samples
            self._position.commit()
            self.epoch = self._position.epoch
            # Ranks may have different numbers of rows; the position knows of all.
            counted = self._position.samples - before if samples is None else counted
        self.samples += counted

    # -- reports

    def _report(self, now: float, *, console: bool = False) -> None:
        self._read = numbers_of(self._committed)
        self._due = now + self._report_every
        for spike in self._spikes.feed(self.step, self._read):
            self._tracker.say(spike)
        shown = self._publish(now)
        rate = shown.steps_per_second
        row = {**self._of_checkpoints(), **self._spikes.counts, **self._read}
        self._tracker.log(self.step, row, samples=self.samples, steps_per_second=rate)
        self._tracker.settle()
        if console or now >= self._console_due:
            # A line every two seconds at first, and one a minute in a run of days.
            self._console_due = now + min(60.0, max(2.0, (now - self._opened) / 20))
            self._tracker.say(line(shown, self._of_checkpoints().keys() - self._read.keys()))

    def _publish(self, now: float) -> Progress:
        shown = Progress(
            step=self.step,
            total_steps=self._total,
            samples=self.samples,
            steps_per_second=self._rate(now),
            metrics=page.bounded(
                {**self._past, **self._read, **self._logged, **self._spikes.counts, **self._of_checkpoints()}
            ),
            time=datetime.now(UTC),
        )
        self._tracker.publish(shown)
        return shown

    def _of_checkpoints(self) -> dict[str, float]:
        return self._keeper.numbers() if self._keeper else {}

    def _rate(self, now: float) -> float | None:
        step, when = self._reported
        self._reported = (self.step, now)
        # The first step pays for allocation, compilation and the first connection.
        if self.step > step > self._start and now > when:
            self._speed = (self.step - step) / (now - when)
        return self._speed

    # -- signals and order

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, self._on_sigterm)

    def _unlisten(self) -> None:
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
        self._old_handler = None

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._told_to_stop = True

    def _must_be_open(self, what: str) -> None:
        if self._life is not _Life.OPEN:
            raise SessionError(
                f"{what} {self._life.value} the with block: "
                "write `with ml.Session(job, ...) as run:` around the loop"
            )


def _check_kinds(job: object, checkpoint: object) -> None:
    if not isinstance(job, Job):
        raise TypeError(f"the first argument is the Job that ml.init() returned, not a {type(job).__name__}")
    if not isinstance(checkpoint, resume.Checkpoints | None):
        raise TypeError(f'checkpoint={checkpoint!r}: give ml.Checkpoints(folder="..."), or None for none')
