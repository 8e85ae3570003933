"""Checkpoints for any training script: restore once, then commit after every step."""

from __future__ import annotations

import os
import platform
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from mlenv import __version__, state
from mlenv import job as jobs
from mlenv.ckpt import durable, failpoints, group, listing, retain, rng, seal, things, warm, writer
from mlenv.ckpt.errors import CheckpointError, ListingFailed
from mlenv.ckpt.place import Place
from mlenv.ckpt.restore import Restore, Start
from mlenv.ckpt.snapshot import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

KEEP: Final = retain.Policy()


@dataclass(slots=True)
class Stats:
    """What checkpoints cost so far, on this rank."""

    saved: int = 0
    failed: int = 0
    failed_in_a_row: int = 0
    stalled: float = 0.0
    """Seconds that training stood still: waiting for the save before, and copying."""
    waited: float = 0.0
    """Of these, seconds of waiting for the save before."""
    writing: float = 0.0
    """Seconds of writing beside training."""
    errors: list[str] = field(default_factory=list)
    """The last few, as sentences."""


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
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every: int = 100,
        keep: retain.Policy = KEEP,
        per_node: bool = False,
        say: Callable[[str], None] | None = None,
        **living: Any,
    ) -> None:
        state.check(living)
        if every < 1:
            raise ValueError(f"every={every}: a checkpoint is written every so many steps, at least 1")
        self.stats: Final = Stats()
        self.sealed: seal.Seal | None = None
        """The newest that this run wrote."""
        self._living = living
        self._every = every
        self._keep = keep
        self._say = say or _print
        self._job = jobs.current_or_read()
        self._groups = _form(self._job, Path(folder), per_node=per_node)
        self._stage = Stage()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._attempt: int | None = None
        self._parent: str | None = None
        self._running_from: str | None = None
        self._bounds: tuple[int, int | None] = (1, None)
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
    ) -> Start:
        """Go on from the newest checkpoint that is whole and fits; at step 0 when there never was one.

        Older ones are tried when a newer one is damaged, and it is said why. `past`: it is known that there
        was a checkpoint, so an empty folder is an error. `since`: use nothing that an older attempt saved.
        `ceiling`: use nothing newer than this step. `only`: the digest of the one to use. `again`: this
        attempt has saved before, and goes on under its own number. Raises ListingFailed, NothingToResume:
        never starts afresh because something could not be read.
        """
        found = Restore(self._groups, self._living, self._job.uid, self._tell).run(
            past=past, since=since, ceiling=ceiling, only=only
        )
        self._attempt = max(self._job.attempt, found.newest_attempt + (not again))
        self._bounds = (since, ceiling)
        self._parent = self._running_from = found.start.digest
        if found.loader is not None:
            found.loader.generators(self._job.seed)
        return found.start

    def start_from(self, folder: Path, wanted: tuple[str, ...]) -> Start:
        """Take things of another run's checkpoint, and begin at step 0; see `warm.start`. After `restore`."""
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
        witness: seal.Witness | None = None,
        skipped: tuple[seal.Window, ...] = (),
        global_batch: int | None = None,
    ) -> None:
        """Copy everything now, and write it beside training. Waits for the save before, if that still runs.

        Never raises because a disk is full or a file cannot be written: that is told, and counted in `stats`.
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
            parent=self._parent,
        )
        work = self._snapshot(head)
        self.stats.stalled += time.monotonic() - began
        self._pending = self._pool.submit(self._write, work)

    def wait(self) -> bool:
        """Wait until what was begun is written; whether the last one was sealed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
        return self.stats.failed_in_a_row == 0

    def close(self, *, wait: bool = True) -> None:
        """Wait for the last save, and end the thread. Without `wait` the process's end waits for it."""
        if wait:
            self.wait()
        self._pool.shutdown(wait=wait)

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

    def _write(self, work: writer.Work) -> None:
        """In the thread."""
        began = time.monotonic()
        groups = self._groups
        try:
            self.sealed = writer.Save(groups.place, groups.every, groups.team, work).run()
        except Exception as error:  # noqa: BLE001  (training goes on, whatever it was)
            self.failed(work.head.step, group.describe(error))
        else:
            self._parent = seal.digest(self.sealed)
            self.stats.saved += 1
            self.stats.failed_in_a_row = 0
            self.heard(self.sealed)
            self._retain()
        self.stats.writing += time.monotonic() - began

    def failed(self, step: int, why: str) -> None:
        """Count and tell that there is no checkpoint of `step`; called on all ranks."""
        self.stats.failed += 1
        self.stats.failed_in_a_row += 1
        self.stats.errors = [*self.stats.errors[-4:], why]
        self._tell(
            f"the checkpoint of step {step} was not written ({self.stats.failed_in_a_row} in a row): {why}. "
            "Training goes on; older checkpoints are untouched"
        )

    def _retain(self) -> None:
        try:
            every = self._groups.every
            self._delete(every.together("choosing what to delete", self._surplus)[0])
        except Exception as error:  # noqa: BLE001  (what is not deleted now is deleted next time)
            self._tell(f"old checkpoints were not deleted: {group.describe(error)}")

    def _surplus(self) -> tuple[str, ...]:
        place = self._groups.place
        if place.rank != 0:
            return ()
        kept = [kept_of(one) for one in self._counted(listing.read(place.folder))]
        chosen = retain.plan(kept, self._keep, running_from=self._running_from)
        if chosen.over:
            self._tell(f"checkpoints exceed their budget by {chosen.over} bytes: what is left may not go")
        return chosen.delete

    def _counted(self, listed: list[listing.Found]) -> list[listing.Found]:
        """What may be resumed from, and what a roll back left behind that this run has passed since.

        The rest stays: as the newest there is, it would have what this run writes deleted.
        """
        since, ceiling = self._bounds
        own = max((one.step for one in listed if one.attempt == self._attempt), default=0)
        most = None if ceiling is None else max(ceiling, own)
        return [
            one
            for one in listed
            if one.seal and one.finished and one.attempt >= since and (most is None or one.step <= most)
        ]

    def _delete(self, surplus: tuple[str, ...]) -> None:
        place = self._groups.place
        for name in surplus if place.leads else ():
            failpoints.hit("retain", place.rank)
            if (place.folder / name).is_dir():
                durable.remove(place.folder / name)

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


def kept_of(found: listing.Found) -> retain.Kept:
    """What retention wants to know of a sealed folder."""
    assert found.seal is not None
    return retain.Kept(
        name=found.name,
        digest=found.digest,
        step=found.step,
        attempt=found.attempt,
        size=found.seal.size,
        time=datetime.fromisoformat(found.seal.time),
    )


MAX_CURSOR: Final = 16 << 10
_VERSIONS: Final = {
    "mlenv": __version__,
    "torch": str(torch.__version__),
    "python": platform.python_version(),
}


def _form(job: jobs.Job, folder: Path, *, per_node: bool) -> group.Groups:
    """Groups of our own: one for training's thread, one for the writing thread, one for each copy."""
    size = dist.get_world_size() if dist.is_initialized() else 1
    everybody = range(size)
    control = group.form(everybody)
    by_node: dict[int, list[int]] = {}
    for rank, node in enumerate(control.gather(job.node_index)):
        by_node.setdefault(node, []).append(rank)
    nodes = tuple(tuple(ranks) for _, ranks in sorted(by_node.items()))
    rank = dist.get_rank() if dist.is_initialized() else 0
    place = Place(rank, nodes, folder.absolute(), per_node=per_node)
    every = group.form(everybody)
    teams = [group.form(place.writers(copy)) if per_node else every for copy in range(place.copies)]
    return group.Groups(place, control, every, teams[place.copy] if place.copy is not None else every)


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
