"""Checkpoints for any training script: restore once, then commit after every step."""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from torch.distributed.tensor import DTensor

from mlenv import __version__, spent, state
from mlenv import job as jobs
from mlenv.ckpt import durable, failpoints, gate, group, listing, retain, rng, seal, things, warm, writer
from mlenv.ckpt.errors import CheckpointError, ListingFailed
from mlenv.ckpt.house import House
from mlenv.ckpt.restore import Restore, Start
from mlenv.ckpt.snapshot import Stage
from mlenv.ckpt.stats import Stats
from mlenv.sanity.watch import Watch, told

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from mlenv.sanity.rules import Sanity

KEEP: Final = retain.Policy()


class Checkpointer:
    """Keeps things (models, optimizers, schedulers, data, by name) in `folder`, and brings them back.

    ::

        ck = ml.Checkpointer("checkpoints", every=500, net=net, opt=opt, data=data)
        start = ck.restore()
        for step in range(start.step + 1, total + 1):
            ...  # forward, backward, opt.step()
            ck.commit(step)
        ck.close()

    All ranks make one, with the same things, after the process group was formed. A checkpoint is written
    every so many steps, beside training; it exists once its seal is written, and a save that is cut off or
    fails leaves the older ones as they are. With `per_node` each node has a `folder` of its own, and what all
    ranks have alike is written whole on two nodes. `say` gets a line about what happens, on rank 0.

    With `nonfinite="refuse"` no checkpoint is made of a state, or of a metric called loss, that has NaN or
    infinities in it: that is said, and counted in `stats`. With "allow" one is, and its seal says so.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every: int = 100,
        keep: retain.Policy = KEEP,
        per_node: bool = False,
        nonfinite: gate.Rule = "refuse",
        sanity: Sanity | None = None,
        say: Callable[[str], None] | None = None,
        **living: Any,
    ) -> None:
        state.check(living)
        if nonfinite not in gate.RULES:
            raise ValueError(f"nonfinite={nonfinite!r}: one of {', '.join(gate.RULES)}")
        if every < 1:
            raise ValueError(f"every={every}: a checkpoint is written every so many steps, at least 1")
        self.stats: Final = Stats()
        self.sealed: seal.Seal | None = None
        """The newest that this run wrote and that is to be gone on from."""
        self._living = living
        self._every = every
        self._nonfinite = nonfinite
        self._gate = gate.Gate(living)
        self._watch = Watch(sanity, living) if sanity else None
        self._say = say or _print
        self._job = jobs.current_or_read()
        self._groups = group.of(self._job, Path(folder), per_node=per_node)
        self.house: Final = House(self._groups, self._job.uid, keep, self._tell)
        self._stage = Stage()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._attempt: int | None = None
        self._parent: str | None = None
        self.heard: Callable[[seal.Seal], None] = lambda _: None
        """Told of each seal, on every rank, by the thread that wrote it."""
        self._make_folder()

    def restore(
        self,
        *,
        past: bool = False,
        since: int = 1,
        ceiling: int | None = None,
        only: str | None = None,
        again: bool = False,
        afresh: bool = False,
    ) -> Start:
        """Go on from the newest checkpoint that is whole and fits; at step 0 when there never was one.

        Older ones are tried when a newer one is damaged, and it is said why. `past`: it is known that there
        was a checkpoint, so an empty folder is an error. `since`: use nothing that an older attempt saved.
        `ceiling`: use nothing newer than this step. `only`: the digest of the one to use. `again`: this
        attempt has saved before, and goes on under its own number. `afresh`: start at step 0 where armed
        checks spoke against all that there are. Raises ListingFailed, NothingToResume: never starts afresh
        because something could not be read.
        """
        with spent.clock.on(spent.CHECKPOINT_RESTORE):
            finite = self._nonfinite == "refuse"
            found = Restore(self._groups, self._living, self._job.uid, self._tell).run(
                past=past, since=since, ceiling=ceiling, only=only, finite=finite, afresh=afresh
            )
        self._attempt = max(self._job.attempt, found.newest_attempt + (not again))
        self.house.keep_to(since, ceiling, self._attempt)
        self._parent = self.house.running_from = found.start.digest
        if found.loader is not None:
            found.loader.generators(self._job.seed)
            self._gate.learn()
        return found.start

    def start_from(self, folder: Path, wanted: tuple[str, ...]) -> Start:
        """Take things of another run's checkpoint, and begin at step 0; see `warm.start`. After `restore`."""
        with spent.clock.on(spent.CHECKPOINT_RESTORE):
            start = warm.start(self._groups, self._living, folder, wanted, self._tell)
        self._parent = start.digest
        return start

    def commit(self, step: int, **facts: Any) -> bool:
        """Say that optimizer step number `step` (counted from 1) is done; whether a save was begun.

        `facts`: samples, epoch, metrics and the like, as in `save`.
        """
        if step % self._every:
            return False
        self.save(step, **facts)
        return True

    def save(
        self,
        step: int,
        *,
        samples: int = 0,
        epoch: int = 0,
        metrics: Mapping[str, float] | None = None,
        observed: Mapping[str, float] | None = None,
        witness: seal.Witness | None = None,
        skipped: tuple[seal.Window, ...] = (),
        global_batch: int | None = None,
    ) -> None:
        """Copy everything now, and write it beside training. Waits for the save before, if that still runs.

        Never raises because a disk is full or a file cannot be written: that is told, and counted in `stats`.
        `observed`: what is worth keeping beside the metrics, such as how the loss has been lately.
        """
        began = time.monotonic()
        self.wait()
        self.stats.waited += time.monotonic() - began
        failpoints.hit("snapshot", self._groups.place.rank)
        if self._attempt is None:
            self._attempt = self._next_attempt()
        head = seal.Seal(
            job=self._job.uid,
            attempt=self._attempt,
            step=step,
            samples=samples,
            epoch=epoch,
            time=datetime.now(UTC).isoformat(timespec="milliseconds"),
            world=self._world(),
            global_batch=global_batch,
            seeds={"seed": self._job.seed},
            parts=(),
            code=_code(),
            versions=_VERSIONS,
            witness=witness,
            skipped=skipped,
            metrics={name: seal.metric(value) for name, value in (metrics or {}).items()},
            observed={name: seal.metric(value) for name, value in (observed or {}).items()},
            parent=self._parent,
        )
        with spent.clock.on(spent.CHECKPOINT_SAVE):
            if self._watch is not None:
                self._watch.probe(self._groups.control)
            work = self._snapshot(head)
        copied = time.monotonic()
        self.stats.stalled += copied - began
        self._pending = self._pool.submit(self._write, work, copied, (metrics or {}).get(gate.LOSS))

    def verdict(self) -> gate.Finding | None:
        """What all ranks together find in the state as it is now, as if it were to be saved; and count it."""
        living = {name: thing for name, thing in self._living.items() if name != "data"}
        place = self._groups.place

        def look() -> gate.Finding | None:
            return self._gate.look(writer.wanted(things.collect(living), place))

        found = gate.judge(self._groups.control.together("looking for what is not finite", look))
        if found is not None:
            self.stats.refuse(found.text, state=found.state)
        return found

    def wait(self) -> bool:
        """Wait until what was begun is written; whether the last one was sealed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with spent.clock.on(spent.CHECKPOINT_SAVE):
                pending.result()
        return self.stats.missed == 0

    def close(self, *, wait: bool = True) -> None:
        """Wait for the last save, and end the thread. Without `wait` the process's end waits for it."""
        if wait:
            self.wait()
        self._pool.shutdown(wait=wait)

    @property
    def busy(self) -> bool:
        """Whether a save is being written."""
        return self._pending is not None and not self._pending.done()

    @property
    def leads(self) -> bool:
        """Whether this rank is the one that looks after its folder."""
        return self._groups.place.leads

    @property
    def control(self) -> group.Group:
        """All ranks, for training's own thread."""
        return self._groups.control

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- saving

    def _snapshot(self, head: seal.Seal) -> writer.Work:
        found = things.collect(self._living)
        data = found.trees.get("data")
        cursors = {"data": data} if data is not None and len(seal.canonical(data)) < MAX_CURSOR else {}
        return writer.Work(
            head=head.model_copy(update={"cursors": cursors}),
            copies=self._stage.take(writer.wanted(found, self._groups.place)),
            alike=frozenset(name for name, held in found.tensors.items() if held.alike),
            models=frozenset(name for name, held in found.tensors.items() if held.model),
            trees=found.trees,
            rng=rng.capture(),
        )

    def _write(self, work: writer.Work, copied: float, loss: float | None) -> None:
        """In the thread."""
        began, cpu = time.monotonic(), time.thread_time()
        step = work.head.step
        try:
            verdict = self._look(work, loss)
            if verdict is not None and self._nonfinite == "refuse":
                self._refused(step, verdict)
            else:
                self._put(work, verdict, copied)
        except Exception as error:  # noqa: BLE001  (training goes on, whatever it was)
            self.failed(step, group.describe(error))
        self.stats.writing += time.monotonic() - began
        self.stats.cpu += time.thread_time() - cpu

    def _look(self, work: writer.Work, loss: float | None) -> gate.Finding | None:
        """What all ranks together find that must not be gone on from."""
        every = self._groups.every
        return gate.judge(
            every.together("looking for what is not finite", lambda: self._gate.look(work.copies, loss))
        )

    def _put(self, work: writer.Work, verdict: gate.Finding | None, copied: float) -> None:
        """Onto the disk. Raises what went wrong."""
        groups = self._groups
        self.house.claim()
        self.house.make_room(work.copies, work.alike)
        if verdict is not None:
            work = dataclasses.replace(
                work, head=work.head.model_copy(update={"nonfinite": verdict.text[:1000]})
            )
        work = self._weighed(work)
        whole = writer.Save(groups.place, groups.every, groups.team, work).run()
        self._parent = seal.digest(whole)
        if whole.insane:
            self._doubted(whole)
        else:
            self.sealed = whole
            self.stats.succeed(copied)
        self.heard(whole)
        self.house.tidy()

    def _weighed(self, work: writer.Work) -> writer.Work:
        """With what the checks of all ranks together say."""
        if (watch := self._watch) is None:
            return work
        measured = self._groups.every.together(
            "looking whether it is sane", lambda: watch.measure(work.copies, work.head)
        )
        return dataclasses.replace(work, head=told(work.head, watch.judge(measured), self._tell))

    def _doubted(self, whole: seal.Seal) -> None:
        self.stats.doubt(whole.insane[0])
        self._tell(
            f"the checkpoint of step {whole.step} is not sane ({self.stats.refused_in_a_row} in a row): "
            f"{'; '.join(whole.insane)}. It is kept for people to look at; nothing goes on from it"
        )

    def failed(self, step: int, why: str) -> None:
        """Count and tell that there is no checkpoint of `step`; called on all ranks."""
        self.stats.fail(why)
        self._tell(
            f"{self.stats.warning(time.monotonic())}the checkpoint of step {step} was not written "
            f"({self.stats.failed_in_a_row} in a row): {why}. Training goes on; the one before is untouched"
        )

    def _refused(self, step: int, verdict: gate.Finding) -> None:
        """The same where it was not to be written."""
        self.stats.refuse(verdict.text, state=verdict.state)
        newest = f"the one of step {self.sealed.step}" if self.sealed else "what was there before this run"
        self._tell(
            f"{self.stats.warning(time.monotonic())}no checkpoint of step {step} "
            f"({self.stats.refused_in_a_row} refused in a row): {verdict.text}. Training goes on, and the "
            f'newest checkpoint is {newest} (nonfinite="allow" would keep what is not finite)'
        )

    # -- facts

    def _next_attempt(self) -> int:
        """A program that never asked for the past still must not write over it."""
        found = self._groups.control.together("listing", lambda: listing.read(self._groups.place.folder))
        newest = max((one.attempt for folder in found for one in folder), default=0)
        return max(self._job.attempt, newest + 1)

    def _world(self) -> seal.World:
        place = self._groups.place
        mesh: tuple[tuple[str, int], ...] = ()
        for thing in self._living.values():
            for one in thing.parameters() if isinstance(thing, torch.nn.Module) else ():
                if isinstance(one, DTensor) and not mesh:
                    sizes = one.device_mesh.mesh.shape
                    called = one.device_mesh.mesh_dim_names or [f"dim{i}" for i in range(len(sizes))]
                    mesh = tuple(zip(called, sizes, strict=True))
        return seal.World(size=place.world, nodes=len(place.nodes), mesh=mesh)

    def _make_folder(self) -> None:
        folder = self._groups.place.folder

        def make() -> None:
            # The folder above must be there: a volume that is not mounted must not look like an empty past.
            if self._groups.place.leads:
                folder.mkdir(exist_ok=True)

        try:
            self._groups.control.together(f"making {folder}", make)
        except CheckpointError as error:
            raise ListingFailed(f"there can be no checkpoints in {folder}: {error}") from None

    def _tell(self, text: str) -> None:
        if self._groups.place.rank == 0:
            self._say(text)


MAX_CURSOR: Final = 16 << 10
_VERSIONS: Final = {
    "mlenv": __version__,
    "torch": str(torch.__version__),
    "python": platform.python_version(),
}


def _code() -> str:
    """The digest of the program's main file; empty where there is none."""
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    try:
        return durable.digest(Path(path).read_bytes()) if path and os.path.isfile(path) else ""  # noqa: PTH113
    except OSError:
        return ""


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
