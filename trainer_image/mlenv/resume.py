"""Checkpoints of a Session: what is put back on entry, and when all ranks take the next one."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch.distributed as dist

from mlenv import claim, depot, record, rules, spent
from mlenv.ckpt import retain, things
from mlenv.ckpt.errors import CheckpointError, Misconfigured, NoneSane, NothingToResume
from mlenv.courier import pages
from mlenv.cursor import Cursor
from mlenv.data.errors import DataError
from mlenv.notice import Notice, origin
from mlenv.pace import Pace
from mlenv.sanity.rules import merged, unready
from mlenv_api.exitcodes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mlenv.ckpt.gate import Finding, Rule
    from mlenv.ckpt.restore import Start
    from mlenv.ckpt.seal import Seal
    from mlenv.job import Job
    from mlenv.sanity.rules import Sanity

KEEP: Final = retain.Policy()
FOLDER: Final = "checkpoints"
SOON: Final = 3
"""So many refused ones in a row are each tried again at the next look; after that, when the next is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """When a Session takes checkpoints, and where it keeps and looks for them."""

    every_steps: int | None = None
    """One every so many steps, instead of by time."""
    every_seconds: float | None = None
    """Where neither is said: as the job's spec.checkpoint says, or every 300 seconds."""
    folder: str | Path | None = None
    """None: on the job's shared volume (spec.checkpoint.spool). Without that `checkpoints` beside the run's
    other files, which live as long as their pods."""
    per_node: bool | None = None
    """Whether each node has a folder of its own. None: so it is in pods' own folders, from two nodes on."""
    keep: retain.Policy = KEEP
    nonfinite: Rule = "refuse"
    """What becomes of a checkpoint when the state, or the committed loss, has NaN or infinities. "refuse":
    there is none, and the one before stays the newest. "allow": it is made, and its seal says so."""
    sanity: Sanity | None = None
    """Checks beyond that: see `mlenv.sanity.rules.Sanity`."""
    rollback_after: int | None = 2
    """So many in a row refused because the state is not finite, or found not sane by armed checks, and all
    ranks end with exit code 77, to go on from the newest good checkpoint: such a state does not heal. None:
    never."""
    retry_after: int | None = None
    """So many in a row that could not be written, and all ranks end with exit code 75. None: training goes
    on, and it is said each time."""

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise ValueError(f"every_steps={self.every_steps}: at least 1")
        if self.every_seconds is not None and not self.every_seconds > 0:
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


@dataclass(frozen=True, slots=True)
class Begun:
    """Where training begins, and from what."""

    start: Start
    words: str
    """What it goes on from, or why it starts anew."""
    metrics: Mapping[str, float | str]
    """Of the checkpoint that it goes on from."""


_spoken: Final[set[tuple[str, int]]] = set()
"""(job, attempt) whose origin this process has settled. An attempt has one: that of its first Session."""


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
        found = rules.read(os.environ)
        self._every_steps, self._every_seconds = found.interval(policy.every_steps, policy.every_seconds)
        self._sanity = merged(policy.sanity, found.spec.sanity)
        named = policy.folder is not None or found.spool is not None
        per_node = job.num_nodes > 1 and not named if policy.per_node is None else policy.per_node
        self._durable = named and not per_node
        """Whether the folder outlives pods: then it being empty is no reason to forget a past."""
        self.folder: Final = _folder(policy, job, found.spool, per_node=per_node)
        self._ck = Checkpointer(
            self.folder,
            keep=policy.keep,
            per_node=per_node,
            nonfinite=policy.nonfinite,
            sanity=self._sanity,
            say=self._hear,
            **self._living,
        )
        self._ck.house.check_owner()
        if found.courier is not None and self._ck.leads:
            with contextlib.suppress(OSError):  # then the store keeps none for being the best
                pages.keep(found.courier, policy.keep.metric if policy.keep.best else None)
        # Launchers hear of the record at different moments; what counts is what rank 0's was told.
        self._rules = self._ck.control.gather(found)[0]
        self._main_folder = self._ck.control.gather(self.folder)[0]
        self._first = (job.uid, job.attempt) not in _spoken
        self._pace = Pace(self._every_seconds, 0, 0.0)
        self._next_look = self._from = 0
        self._orders = 0 if self._first else self._ordered()

    def begin(self) -> Begun:
        """Go on from the newest usable checkpoint, once that is recorded. Raises CheckpointError."""
        mine = self._rules if self._first else self._rules.later
        start = self._restored(mine)
        own, lost = start.seal, ""
        if own is None:
            lost = mine.lost(self.folder, durable=self._durable)
            if lost:
                self._say(f"warning: {lost}")
            if mine.source is not None:
                start = self._ck.start_from(self._source(mine, mine.source), mine.spec.resume.things)
        if mine.known is not None and self._first:
            claim.settle(self._job, self._ck.control, origin(start, lost=bool(lost)), self._say)
            _spoken.add((self._job.uid, self._job.attempt))
        self._from = start.step
        self._listen(own)
        if self._sanity is not None and (idle := unready(self._sanity)):
            self._say(f"warning: {idle}")
        self._open = True
        self._pace = Pace(self._every_seconds, start.step, time.monotonic())
        self._next_look = start.step + 1
        return Begun(start, self._words(start, mine), own.metrics if own else {})

    def _listen(self, own: Seal | None) -> None:
        """Have the launcher told of what is sealed; without one nobody asks."""
        if self._job.local_rank != 0 or self._rules.known is None:
            return
        notice = Notice(self._job, armed=self._sanity is not None and bool(self._sanity.armed))
        self._ck.heard = notice.sealed
        if own is not None:
            notice.begun(own)

    def _restored(self, mine: rules.Rules) -> Start:
        try:
            return self._found(mine)
        except NoneSane as error:
            # By hand a person decides. Under the operator nothing good is recorded, as after the first bad
            # state of a job without checkpoints, and the budget of restarts bounds how often that is tried.
            if mine.known is None or mine.known.expected is not None:
                raise
            self._say(f"warning: training begins anew. {error}")
            return self._look_for(mine, afresh=True)

    def _look_for(self, mine: rules.Rules, *, afresh: bool = False) -> Start:
        return self._ck.restore(since=mine.since, ceiling=mine.ceiling, again=not self._first, afresh=afresh)

    def _found(self, mine: rules.Rules) -> Start:
        def look() -> Start:
            return self._look_for(mine)

        served = mine.courier is not None and mine.courier.parent / FOLDER == self._main_folder
        if mine.known is None or not served or mine.ceiling == 0:
            return look()
        finite = self._policy.nonfinite == "refuse"
        return depot.Depot(
            self._job, self._ck.control, self.folder, self._say, leads=self._ck.leads, finite=finite
        ).restore(mine, look)

    def _source(self, mine: rules.Rules, named: Path) -> Path:
        """The folder that is named, or that into which couriers bring what is named."""
        if not mine.artifact:
            return named
        finite = self._policy.nonfinite == "refuse"
        return depot.Depot(
            self._job, self._ck.control, self.folder, self._say, leads=self._ck.leads, finite=finite
        ).source(mine)

    def _words(self, start: Start, mine: rules.Rules) -> str:
        if start.seal is None:
            older = f" since attempt {mine.since}" if mine.since > 1 else ""
            none = "no sane checkpoint" if start.passed else "no checkpoint"
            return f"fresh start at step 0 ({none} in {self.folder}{older})"
        if start.step == 0 and mine.source is not None:
            taken = ", ".join(mine.spec.resume.things) or "all but data"
            return f"starts at step 0 from {mine.source} ({taken})"
        passed = "".join(f"; {one.name} is passed over: {one.why}" for one in start.passed)
        world = "" if start.same_world else f", saved by {start.seal.world.size} rank(s)"
        remark = self.cursor.remark if self.cursor else ""
        return (
            f"goes on from step {start.step}, saved by attempt {start.seal.attempt}{world} "
            f"({self.folder / start.seal.folder}){passed}{mine.missed(start.step)}{remark}"
        )

    def _ordered(self) -> int:
        """How many checkpoints the operator has ordered."""
        said = record.stored(self._job.run_dir, self._job.attempt) if self._rules.known else None
        return said.orders if said else 0

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

    def close(self, *, failed: bool, done: bool) -> None:
        """Wait for the last save. A rank that failed does not: others may be gone, and its error comes first.

        The save goes on, and the end of the process waits for it. Where training is `done`, all ranks look at
        what it ends with, and `ends` says whether that is good.
        """
        self._ck.close(wait=not failed or self._job.world_size == 1)
        if done and self._policy.nonfinite == "refuse":
            with contextlib.suppress(CheckpointError):  # no state to look at; saving has told why
                self._judge(self._ck.verdict())

    def _judge(self, found: Finding | None) -> None:
        """Nobody will mend what training ends with: one look is enough."""
        if found is not None and self._policy.rollback_after is not None:
            self.ends = ExitCode.ROLL_BACK
            self.finish()
        elif found is not None:
            self._say(f"warning: training ends with a state that is not finite: {found.text}")

    def _look(self, step: int, *, told: bool) -> tuple[bool, bool]:
        """(due by time, or again; told to stop), the same on all ranks; and `ends`."""
        due, gap = self._pace.look(step, time.monotonic()) if self._job.main else (False, 0)
        due = due or self._again()
        if self._job.main and (orders := self._ordered()) > self._orders:
            self._orders, due = orders, True
            self._say(f"the operator ordered a checkpoint: it is that of step {step}")
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
        whom = "the beginning" if self._rules.known or not stats.insane else "a person"
        none = f"{whom}, as {'no checkpoint was sane' if stats.insane else 'there is no checkpoint'}"
        back = f"the checkpoint of step {newest}" if newest else none
        what = "the state is not sane" if stats.insane else "the state is not finite, and does not heal"
        return f"{what}: {why}. Exit code 77, to go back to {back}"

    def _save(self, step: int, facts: dict[str, Any]) -> None:
        began = time.monotonic()
        try:
            with spent.clock.on(spent.CHECKPOINT_SAVE):
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
    passing = not isinstance(error, NothingToResume | Misconfigured)
    return SystemExit(ExitCode.RETRY if passing else ExitCode.DO_NOT_RETRY)


def _folder(policy: Checkpoints, job: Job, spool: Path | None, *, per_node: bool) -> Path:
    """The same for all ranks that share one: outside of a launcher each would name its run differently."""
    if policy.folder is not None:
        return Path(policy.folder).absolute()
    if spool is not None:
        # The mount must be there: this job's own folder on it is ours to make, and all ranks may try.
        with contextlib.suppress(OSError):
            spool.mkdir(exist_ok=True)
        return (spool / FOLDER).absolute()
    found = [str((job.run_dir / FOLDER).absolute())]
    if not per_node and job.world_size > 1 and dist.is_initialized():
        dist.broadcast_object_list(found, src=0)
    return Path(found[0])
