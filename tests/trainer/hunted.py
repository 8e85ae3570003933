"""A job whose processes and disks go at random moments, and what may be said of it afterwards."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from gangs import steps, witness
from operated import TICK, family
from rig import until
from stored import StoredJob
from struck import undisturbed

from mlenv_api.trainingjob import AttemptState

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from carried import Carried, Store
    from gangs import Step
    from rig import Rig
    from struck import Job

PATIENCE: Final = 1200.0
VICTIMS: Final = {"all pods": 5, "a pod": 2, "a courier": 3, "a rank": 2, "the operator": 1}
"""How often each is struck, relative to the others. Pods are lost with their disks."""
SOON: Final = 8.0
"""Seconds until the next kill, at most, where no upload is waited for."""
STEPS: Final = 1000
AHEAD: Final = 100
"""Steps that ranks may make beyond what is stored, so that a job lasts for its kills on any machine."""


class Kill(NamedTuple):
    """Who, in which attempt, and the step that the job's status showed as stored before."""

    victim: str
    attempt: int
    shown: int


@dataclass
class Hunter:
    """Strikes jobs, one after the other."""

    chance: random.Random
    say: Callable[[str], None]
    share: Callable[[], float]
    """How much of the time the store was away."""
    kills: list[Kill] = field(default_factory=list)

    def hunt(self, job: Hunted, most: int) -> None:
        """Strike so often, or until the job is complete; then let it end."""
        while len(job.kills) < most and self._next(job):
            victim = self.chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
            done = job.strike(victim, self.chance)
            if done is not None:
                self.kills.append(done)
                self.say(
                    f"{len(self.kills)}: {victim} of {job.name} in attempt {done.attempt}, step "
                    f"{done.shown} stored; the store was away {self.share():.0%}"
                )
        job.allow(STEPS)
        until(job.complete, f"{job.name} to be complete", PATIENCE, pause=TICK)

    def _next(self, job: Hunted) -> bool:
        """Wait for the next moment; whether there is anything left to strike."""
        if self.chance.random() < 0.5:
            shown = job.carried.uploaded
            until(lambda: job.goes_on() > shown, "an upload", PATIENCE, pause=TICK)
        moment = time.monotonic() + self.chance.uniform(0, SOON)
        until(lambda: job.goes_on() >= STEPS or time.monotonic() > moment, "the moment", PATIENCE, pause=TICK)
        return not job.complete()


class Hunted(StoredJob):
    """One that makes its steps slowly, without being held."""

    def __init__(self, rig: Rig, store: Store, world: str, name: str, whole: Job) -> None:
        self.kills: list[Kill] = []
        super().__init__(
            store, rig, name, world=world, total=STEPS, reference=cache(lambda: undisturbed(whole))
        )
        self.whole = whole
        self._allowed = 0

    def begin(self, program: list[str], env: dict[str, str]) -> Carried:
        """It seals about every half second."""
        return super().begin(program, {**env, "SLOWLY": "1", "EVERY": "20"})

    def goes_on(self) -> int:
        """Let it make a few steps more than are stored; the stored step that its status shows."""
        if self.complete():
            return STEPS
        shown = self.carried.uploaded
        if (upto := shown + AHEAD) != self._allowed:
            self._allowed = upto
            self.allow(min(upto, STEPS))
        return shown

    def complete(self) -> bool:
        """Whether it has ended well; what goes wrong meanwhile is told at once."""
        assert self.platform.errors == []
        now = self.platform.attempt
        return now is not None and now.state is AttemptState.COMPLETE

    # -- what befalls it

    def strike(self, victim: str, chance: random.Random) -> Kill | None:
        """Kill at once; nothing where there is none such at the moment."""
        now, pods = self.platform.attempt, self.carried.living()
        if now is None or not pods or self.complete():
            return None
        kill = Kill(victim, now.number, self.carried.uploaded)
        if self._fell(victim, chance.choice(pods), chance):
            self.kills.append(kill)
            return kill
        return None

    def _fell(self, victim: str, pod: str, chance: random.Random) -> bool:
        if victim == "all pods":
            self.carried.lose_all()
        elif victim == "a pod":
            self.carried.lose(pod)
        elif victim == "the operator":
            self.platform.lose_operator()
        elif victim == "a courier":
            return self.carried.kill_courier(pod)
        else:
            return self._kill_rank(chance)
        return True

    def _kill_rank(self, chance: random.Random) -> bool:
        """Of those that live: numbers of processes are used again."""
        told = {int(one.read_text() or 0) for one in self.out.glob("pid-*")}
        launchers = [self.platform.launchers[one].process.pid for one in self.carried.living()]
        found = sorted(told & {pid for one in launchers for pid in family(one)})
        if not found:
            return False
        try:
            os.kill(chance.choice(found), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    # -- what became of it

    @property
    def resumes(self) -> dict[int, int]:
        """Attempts after the first that began, and the steps they ran from."""
        return {number: step for number, step in sorted(self.carried.origins.items()) if number > 1}

    def lost(self) -> int:
        """Steps that were made again."""
        made = {number: max(self._made(number), default=0) for number in self.carried.origins}
        return sum(
            max(0, max((made[one] for one in made if one < number), default=0) - step)
            for number, step in self.resumes.items()
        )

    def wrong(self) -> Iterator[str]:
        """What is not as if nothing had happened."""
        for number, step in self.resumes.items():
            shown = max((one.shown for one in self.kills if one.attempt < number), default=0)
            if step < shown:
                yield f"attempt {number} runs from step {step}, where step {shown} was shown as stored"
        assert self.reference is not None
        wanted = self.reference()
        for number in self.carried.origins:
            yield from self._differs(number, wanted)
        found, whole = self.found(), self.whole.found()
        if witness(found) != witness(whole):
            yield "it has seen other samples"
        for key in ("step", "samples", "weights"):
            if [one[key] for one in found] != [one[key] for one in whole]:
                yield f"{key} in the end: {[one[key] for one in found]}, not {[one[key] for one in whole]}"
        yield from (f"stored twice: {one}" for one in self.twice())

    def _differs(self, number: int, wanted: dict[int, Step]) -> Iterator[str]:
        made = self._made(number)
        first = self.carried.origins[number] + 1
        if list(made) != list(range(first, first + len(made))):
            yield f"attempt {number} made steps {list(made)[:3]}…, and runs from step {first - 1}"
        other = [step for step, one in made.items() if one != wanted[step]]
        if other:
            yield f"steps {other[:5]} of attempt {number} are not what they were"

    def _made(self, number: int) -> dict[int, Step]:
        return steps(self.out, number)
