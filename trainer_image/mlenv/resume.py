"""Checkpoints of a Session: what is put back on entry, and when all ranks take the next one."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch.distributed as dist

from mlenv.ckpt import retain, things
from mlenv.ckpt.errors import CheckpointError, ListingFailed, NothingToResume
from mlenv.cursor import Cursor
from mlenv.data.errors import DataError
from mlenv_api.exitcodes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mlenv.ckpt.gate import Rule
    from mlenv.ckpt.restore import Start
    from mlenv.job import Job

KEEP: Final = retain.Policy()
FOLDER: Final = "checkpoints"
LOOK: Final = 5.0
"""Seconds between two looks at clock and signals, about."""
EARLY: Final = 0.1
"""The first checkpoint comes after this part of the interval: what is wrong with saving shows early."""
SOON: Final = 3
"""So many refused ones in a row are each tried again at the next look; after that, when the next is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """When a Session takes checkpoints, and where it keeps and looks for them."""

    every_steps: int | None = None
    """One every so many steps, instead of by time."""
    every_seconds: float = 300.0
    folder: str | Path | None = None
    """None: `checkpoints` beside the run's other files, which live as long as their pods."""
    per_node: bool | None = None
    """Whether each node has a folder of its own. None: so it is without `folder`, from two nodes on."""
    keep: retain.Policy = KEEP
    nonfinite: Rule = "refuse"
    """What becomes of a checkpoint when the state, or the committed loss, has NaN or infinities. "refuse":
    there is none, and the one before stays the newest. "allow": it is made, and its seal says so."""
    rollback_after: int | None = 2
    """So many refused in a row because the state is not finite, and all ranks end with exit code 77, to go
    on from the newest checkpoint: such a state does not heal. None: never."""
    retry_after: int | None = None
    """So many in a row that could not be written, and all ranks end with exit code 75. None: training goes
    on, and it is said each time."""

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise ValueError(f"every_steps={self.every_steps}: at least 1")
        if not self.every_seconds > 0:
            raise ValueError(f"every_seconds={self.every_seconds}: more than 0")
        if self.nonfinite not in {"refuse", "allow"}:
            raise ValueError(f'nonfinite={self.nonfinite!r}: "refuse" or "allow"')
        for name in ("rollback_after", "retry_after"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value}: at least 1, or None")


AUTO: Final = Checkpoints()
"""What a Session has where nothing else is said: this very object is in force in a cluster only."""


def chosen(policy: Checkpoints | None, job: Job, living: Mapping[str, Any]) -> Checkpoints | None:
    """The policy in force."""
    if policy is AUTO:
        formed = job.world_size == 1 or dist.is_initialized()
        return policy if job.uid and formed and living else None
    return policy


class Pace:
    """Rank 0's clock, read at steps on which all ranks agreed before. Pure: the time is given.

    A look costs the ranks one small message, so looks are some seconds apart, in steps at the rate since the
    last look, and at most twice as many steps as then: whatever the first steps take, and whatever rank 0's
    clock says, the next look is at a step that every rank knows.
    """

    def __init__(self, every: float | None, step: int, now: float) -> None:
        self._every = every
        self._apart = min(LOOK, LOOK if every is None else every * EARLY)
        self._due = now + (every or 0.0) * EARLY
        self._step, self._time = step, now

    def look(self, step: int, now: float) -> tuple[bool, int]:
        """Whether a checkpoint is due by the clock, and how many steps later to look again."""
        steps, seconds = step - self._step, now - self._time
        self._step, self._time = step, now
        due = self._every is not None and now + self._apart / 2 >= self._due
        if due:
            self._due = now + (self._every or 0.0)
        rate = steps / seconds if seconds > 0 else float(steps)
        return due, max(1, min(2 * steps, int(rate * self._apart)))


class Keeper:
    """Takes the checkpoints of one Session; every rank has one, and all of them commit the same steps."""

    def __init__(
        self, policy: Checkpoints, job: Job, living: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        from mlenv.ckpt.checkpointer import Checkpointer  # noqa: PLC0415  (only who saves pays for DCP)

        self.cursor: Final = Cursor(living["data"], job.world_size) if "data" in living else None
        self._job = job
        self._say = say
        self._open = False
        self._living = {**living, **({"data": self.cursor} if self.cursor else {})}
        self._policy = policy
        self.ends: ExitCode | None = None
        """Why all ranks end here, when it is not because they were told to."""
        self._every_steps = policy.every_steps
        self._every_seconds = None if policy.every_steps else policy.every_seconds
        per_node = job.num_nodes > 1 and policy.folder is None if policy.per_node is None else policy.per_node
        self.folder: Final = _folder(policy, job, per_node=per_node)
        self._ck = Checkpointer(
            self.folder,
            keep=policy.keep,
            per_node=per_node,
            nonfinite=policy.nonfinite,
            say=self._hear,
            **self._living,
        )
        self._ck.house.check_owner()
        self._pace = Pace(self._every_seconds, 0, 0.0)
        self._next_look = self._from = 0

    def restore(self) -> Start:
        """Go on from the newest checkpoint that can be used. Raises CheckpointError."""
        start = self._ck.restore()
        self._from = start.step
        self._open = True
        self._pace = Pace(self._every_seconds, start.step, time.monotonic())
        self._next_look = start.step + 1
        return start

    def origin(self, start: Start) -> str:
        """What training goes on from, or why it starts anew, in words."""
        if start.seal is None:
            return f"fresh start at step 0 (no checkpoint in {self.folder})"
        passed = "".join(f"; {one.name} is passed over: {one.why}" for one in start.passed)
        world = "" if start.same_world else f", saved by {start.seal.world.size} rank(s)"
        remark = self.cursor.remark if self.cursor else ""
        return (
            f"goes on from step {start.step}, saved by attempt {start.seal.attempt}{world} "
            f"({self.folder / start.seal.folder}){passed}{remark}"
        )

    @property
    def resumed(self) -> bool:
        """Whether the next pass over the data is the rest of one, of which nothing may be left."""
        return self.cursor is not None and self.cursor.resumed

    def batches(self) -> Iterator[Any]:
        """One pass over the data, or the rest of one."""
        assert self.cursor is not None
        return self.cursor.batches()

    def commit(self, step: int, *, told: bool, facts: Callable[[], dict[str, Any]]) -> bool:
        """Take a checkpoint if one is due; whether all end here: one was told to stop, or `ends` says why.

        All ranks do the same at the same step, without a message in most steps: a number of steps needs none,
        and for everything else they look together (`Pace`), at a step on which they agreed at the last look.
        """
        if self.cursor:
            self.cursor.commit()
        due = bool(self._every_steps) and step % (self._every_steps or 1) == 0
        stop = False
        if step >= self._next_look or (told and self._job.world_size == 1):
            by_time, stop = self._look(step, told=told)
            due = due or by_time or stop
        if due and self.ends is None:
            self._save(step, facts())
        return stop or self.ends is not None

    def finish(self) -> ExitCode | None:
        """Wait for the last save; the code to end with when it was sealed, or `ends`."""
        sealed = self._ck.wait()
        if self.ends is None:
            return ExitCode.PREEMPTED if sealed else None
        sys.stderr.write(f"mlenv: {self._last_words()}\n")
        sys.stderr.flush()
        return self.ends

    def numbers(self) -> dict[str, float]:
        """How checkpoints fare on this rank, as metrics."""
        stats = self._ck.stats
        return {
            "checkpoint_age_s": round(time.monotonic() - stats.newest, 1),
            "checkpoint_stall_s": round(stats.stalled, 3),
            "checkpoints_missed": float(stats.missed),
        }

    def close(self, *, failed: bool) -> None:
        """Wait for the last save. A rank that failed does not: others may be gone, and its error comes first.

        The save goes on, and the end of the process waits for it.
        """
        self._ck.close(wait=not failed or self._job.world_size == 1)

    def _look(self, step: int, *, told: bool) -> tuple[bool, bool]:
        """(due by time, or again; told to stop), the same on all ranks; and `ends`."""
        due, gap = self._pace.look(step, time.monotonic()) if self._job.main else (False, 0)
        due = due or self._again()
        by_time, stop, gap, most, least, end = self._ck.control.most(
            [due, told, gap, step, -step, self._wish()]
        )
        if most != -least:
            raise RuntimeError(
                f"some ranks committed step {most}, others only {-least}: checkpoints need the same steps on "
                "all ranks. Give the Session checkpoint=None if this program means it so"
            )
        self._next_look = step + gap
        self.ends = ExitCode(end) if end else None
        return bool(by_time), bool(stop)

    def _wish(self) -> int:
        """The exit code with which all should end; 0: go on. Ranks learn of a verdict at different steps."""
        stats, policy = self._ck.stats, self._policy
        if policy.rollback_after is not None and stats.spoilt >= policy.rollback_after:
            return ExitCode.ROLL_BACK
        if policy.retry_after is not None and stats.failed_in_a_row >= policy.retry_after:
            return ExitCode.RETRY
        return 0

    def _again(self) -> bool:
        """Whether the last one was refused, and the next is not to wait until it is due."""
        refused = self._ck.stats.refused_in_a_row
        return 0 < refused < max(SOON, self._policy.rollback_after or 0) and not self._ck.busy

    def _last_words(self) -> str:
        stats, newest = self._ck.stats, self._ck.sealed.step if self._ck.sealed else self._from
        why = stats.errors[-1] if stats.errors else "another rank says so"
        if self.ends is ExitCode.RETRY:
            return f"{stats.failed_in_a_row} checkpoints in a row were not written: {why}. Exit code 75"
        back = f"the checkpoint of step {newest}" if newest else "the beginning, as there is no checkpoint"
        return f"the state is not finite, and does not heal: {why}. Exit code 77, to go back to {back}"

    def _save(self, step: int, facts: dict[str, Any]) -> None:
        began = time.monotonic()
        try:
            shares = self._ck.control.together("taking the state", self._share)
            if self.cursor:
                self.cursor.settle(shares)
        except (CheckpointError, DataError) as error:
            self._ck.failed(step, str(error))
            return
        witness = self.cursor.witness if self.cursor else None
        self._ck.stats.stalled += time.monotonic() - began
        self._ck.save(step, witness=witness, **facts)

    def _share(self) -> Any:
        # What cannot be kept is noticed here, where all ranks hear of it, and not halfway through a save.
        things.collect({name: thing for name, thing in self._living.items() if name != "data"})
        return self.cursor.share() if self.cursor else None

    def _hear(self, text: str) -> None:
        """What happens while restoring is told once, in one line."""
        if self._open:
            self._say(text)


def give_up(error: CheckpointError) -> SystemExit:
    """Why nothing was restored, said to people; and the end of the program, said to the platform.

    What could not be read now may be read by the next attempt; what is there and fits nothing needs a human.
    """
    sys.stderr.write(f"mlenv: {error}\n")
    sys.stderr.flush()
    passing = isinstance(error, ListingFailed) or not isinstance(error, NothingToResume)
    return SystemExit(ExitCode.RETRY if passing else ExitCode.DO_NOT_RETRY)


def _folder(policy: Checkpoints, job: Job, *, per_node: bool) -> Path:
    """The same for all ranks that share one: outside of a launcher each would name its run differently."""
    if policy.folder is not None:
        return Path(policy.folder).absolute()
    found = [str((job.run_dir / FOLDER).absolute())]
    if not per_node and job.world_size > 1 and dist.is_initialized():
        dist.broadcast_object_list(found, src=0)
    return Path(found[0])
