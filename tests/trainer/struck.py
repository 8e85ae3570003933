"""A job that is struck again and again, and each of its steps compared with an undisturbed job's."""

from __future__ import annotations

import os
import signal
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import pytest
from gangs import BATCH, SCRIPT, ends, made, rows, steps, witness
from operated import TICK, Platform
from rig import until

from mlenv_api.trainingjob import AttemptState

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from pathlib import Path

    from gangs import Step
    from rig import Rig

    from mlenv_api.trainingjob import Attempt

    Reference = Callable[[], dict[int, Step]]

RESTORING: Final = ("verify", "load", "record")
"""Places that an attempt comes by before its first step."""
WORLDS: Final = {"1": (1, 1), "2": (2, 1), "4": (2, 2), "4-2-4": (2, 2)}
"""(pods, ranks in each) at first."""
CHANGING: Final = "4-2-4"
EVERY: Final = 5
"""A checkpoint every so many steps."""
STRIDE: Final = 10
"""Steps that a job is allowed for a strike: two checkpoints, the first of which is struck."""
ROOM: Final = {CHANGING: 35}
"""Steps of a case, where there are more: told to stop, ranks go on until they look."""
BAND: Final = 0.05
"""By how much the loss of a step may differ in another world, relative to the loss."""


class Job:
    """A job on a platform of its own, and how far it may go."""

    def __init__(self, rig: Rig, world: str, name: str, total: int, reference: Reference | None) -> None:
        self.rig, self.world, self.name, self.total, self.reference = rig, world, name, total, reference
        self.at = 0
        """All steps up to here are made, and compared."""
        self.checked = 1
        """All attempts before this one are compared."""
        self.strikes = 0
        self.nodes, self.procs = WORLDS[world]
        if reference is None:  # one pod is enough for all of its ranks
            self.nodes, self.procs = 1, self.nodes * self.procs
        self.out.mkdir()
        if reference:
            self.allow(0)
        program = [str(SCRIPT), str(self.out), str(rows(rig.folder)), str(total)]
        env = {
            "LANES": "8",
            "NEWEST": "1",
            "EVERY": str(EVERY),
            "DROPOUT": "0" if world == CHANGING else "0.3",
        }
        self.platform = self.begin(program, env)

    def begin(self, program: list[str], env: dict[str, str]) -> Platform:
        """Its platform."""
        return Platform(self.rig, self.name, program, nodes=self.nodes, procs=self.procs, **env)

    @property
    def out(self) -> Path:
        return self.rig.folder / f"{self.name}-out"

    def tell(self, file: str, text: str) -> None:
        """Write it whole."""
        (self.out / f"{file}.new").write_text(text)
        (self.out / f"{file}.new").replace(self.out / file)

    def allow(self, step: int) -> None:
        """Rank 0 may make steps up to this one."""
        self.tell("upto", str(step))

    def running(self, least: int) -> Attempt:
        """The attempt that runs, with its origin recorded."""

        def there() -> Attempt | None:
            found = self.platform.attempt_in(AttemptState.RUNNING, least=least)
            return found if found.origin else None

        found: Attempt = until(there, "the origin to be recorded", pause=TICK)
        return found

    def until_made(self, step: int, least: int) -> Attempt:
        """Wait until an attempt of at least this number has made the step."""

        def there() -> Attempt | None:
            found = self.running(least)
            return found if made(self.out, found.number, step) else None

        found: Attempt = until(there, f"step {step} by attempt {least} or a later one", pause=TICK)
        return found

    def until_sealed(self) -> int:
        """Wait for the newest checkpoint that is due, so that what is struck is the next one; its step."""
        step = self.at - self.at % EVERY
        until(lambda: step in self._sealed(), f"the seal of step {step}")
        return step

    def _sealed(self) -> set[int]:
        found = self.platform.spool.glob("*/*/step-*/SEAL.json")
        return {int(one.parent.name[5:17]) for one in found if not one.parent.name.endswith(".tmp")}

    def kill(self, victim: str, number: int) -> bool:
        """Whether that ends the attempt."""
        if victim == "operator":
            self.platform.lose_operator()
            return False
        if victim == "launcher":
            self.platform.kill_pod(0)
        else:
            rank = 0 if victim == "rank 0" else self.nodes * self.procs - 1
            os.kill(int((self.out / f"pid-{number}-{rank}").read_text()), signal.SIGKILL)
        return True

    # -- one case

    def suffer(self, point: str, victim: str) -> None:
        """Be struck, recover, and in a changing world go on in the other one."""
        self.strikes += 1
        if not self.at:  # there must be something to lose
            self.allow(STRIDE)
            self.until_made(STRIDE, 1)
            self.at = STRIDE
        before, now = self.until_sealed(), self.running(1).number
        self.tell("strike", f"{self.strikes} {point}")
        if point in RESTORING:
            now = self._restart(now)
        self.allow(self.at + STRIDE)
        until((self.out / f"reached-{self.strikes}").exists, "rank 0 to come to the place")
        over = self.kill(victim, now)
        (self.out / f"go-{self.strikes}").touch()
        now = self.until_made(self.at + STRIDE, now + over).number
        self.at += STRIDE
        self.compare(now)
        if point in RESTORING:  # a suspension loses nothing, a crash what was not sealed yet
            assert self.origin(now) == (self.at - STRIDE if self.world == CHANGING else before)
        elif over:  # the one that was struck may be sealed or not
            assert self.origin(now) in (before, before + EVERY)
        if self.world == CHANGING and point not in RESTORING:
            now = self._change(now)
            self.allow(self.at + STRIDE)
            self.until_made(self.at + STRIDE, now)
            self.at += STRIDE
            self.compare(now)

    def _restart(self, now: int) -> int:
        """Have an attempt begin; its number."""
        if self.world == CHANGING:
            return self._change(now)
        self.kill("rank 0", now)
        return self.platform.next(now)

    def _change(self, now: int) -> int:
        """Suspend, edit, resume; the number of the attempt in the other world. Nothing is lost by that."""
        self.nodes = 3 - self.nodes
        self.platform.resize(self.nodes)
        number = self.platform.next(now)
        self.at = max(steps(self.out, now))
        return number

    # -- what became of it

    def origin(self, number: int) -> int:
        """The step that is recorded for this attempt."""
        found = self.running(number)
        assert found.number == number
        assert found.origin is not None
        return found.origin.checkpoint.step if found.origin.checkpoint else 0

    def compare(self, now: int) -> None:
        """Every step that any attempt made since the last comparison, with the undisturbed job's."""
        assert self.reference is not None
        wanted = self.reference()
        for number in range(self.checked, now + 1):
            made = steps(self.out, number)
            assert list(made) == list(range(min(made, default=0), max(made, default=-1) + 1))
            for step, one in made.items():
                self._compare(f"step {step} of attempt {number}", one, wanted[step])
        assert min(steps(self.out, now)) == self.origin(now) + 1
        errors = [*self.platform.errors, *self.platform.voice.errors]
        assert not errors, errors
        self.checked = now

    def _compare(self, what: str, one: Step, wanted: Step) -> None:
        assert one.ids == wanted.ids, what
        if self.world == CHANGING:
            assert one.loss == pytest.approx(wanted.loss, rel=BAND), what
        else:
            assert (one.weights, one.loss) == (wanted.weights, wanted.loss), what

    def told(self) -> str:
        """What people would look at when it failed."""
        status = self.platform.status.model_dump_json(indent=1, exclude_none=True)
        logs = [f"{one.pod}\n{one.text()[-6000:]}" for one in self.platform.launchers.values()]
        return "\n".join([status, *logs])

    def finish(self) -> None:
        """Make the steps that are left, and end."""
        self.allow(self.total)
        self.platform.attempt_in(AttemptState.COMPLETE)

    def found(self) -> list[dict[str, Any]]:
        """What its ranks ended with."""
        return ends(self.out, self.nodes * self.procs)


class Jobs:
    """For each world one that is struck, and one that nobody disturbs."""

    room = STRIDE
    """Steps of a case, unless its world says more."""

    def __init__(self, rig: Rig, counts: Counter[str]) -> None:
        self._rig, self._counts = rig, counts
        self._made = 0
        self._struck: dict[str, Job] = {}
        self._whole: dict[str, Job] = {}

    def struck(self, world: str) -> Job:
        """The one that is struck; the other is begun with it."""
        if world not in self._whole:
            self._whole[world] = self._begin(world, None)
        if world not in self._struck:
            whole = self._whole[world]
            self._struck[world] = self._begin(world, cache(lambda: undisturbed(whole)))
        return self._struck[world]

    def _begin(self, world: str, reference: Reference | None) -> Job:
        self._made += 1
        total = ROOM.get(world, self.room) * self._counts[world] + 2 * STRIDE
        return self.new(world, f"j{self._made}", total, reference)

    def new(self, world: str, name: str, total: int, reference: Reference | None) -> Job:
        """A job; without a reference nobody disturbs it."""
        return Job(self._rig, world, name, total, reference)

    def forget(self, world: str) -> None:
        """What comes next gets a new one."""
        self._struck.pop(world).platform.close()

    def close(self) -> None:
        """End all."""
        for job in (*self._struck.values(), *self._whole.values()):
            job.platform.close()

    def compare_ends(self, world: str) -> None:
        """The one that was struck so often has ended as the other one, and is gone after that."""
        job, whole = self.struck(world), self._whole[world]
        job.finish()
        found, wanted = job.found(), whole.found()
        assert {(end["step"], end["samples"]) for end in found} == {(job.total, BATCH * job.total)}
        assert witness(found) == witness(wanted)
        if world != CHANGING:
            assert [end["weights"] for end in found] == [end["weights"] for end in wanted]
        self.forget(world)


def undisturbed(job: Job) -> dict[int, Step]:
    """All steps of a job that nobody disturbs."""
    job.platform.attempt_in(AttemptState.COMPLETE)
    job.platform.close()
    return steps(job.out, 1)
