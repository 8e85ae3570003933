"""One turn of each loop: so many steps, timed from the first to the last, and what belongs to them."""

from __future__ import annotations

import contextlib
import io
import itertools
import statistics
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import lightning_fabric
import torch
from torch import Tensor, nn

import mlenv as ml
from loops.setup import FILE, Rows, build, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from loops.setup import Size

Batch: TypeAlias = "Mapping[str, Any]"


@dataclass(frozen=True)
class Turn:
    """How long it took."""

    seconds: float
    steps: int
    stall: float = 0.0
    """Seconds for which the loop stood still for one checkpoint."""
    writer: float = 0.0
    """CPU seconds of the thread that wrote it."""

    @property
    def per_step(self) -> float:
        """Seconds."""
        return self.seconds / self.steps


def forward(net: nn.Module, batch: Batch) -> Tensor:
    """The loss."""
    return nn.functional.mse_loss(net(batch["x"]).squeeze(1), batch["y"])


def by_hand(size: Size, batches: Iterable[Batch], after: Callable[[int, Any], None] | None = None) -> float:
    """Seconds that a loop without anything takes; `after` is called after each step with what is kept."""
    net, opt = build(size)
    stream = iter(batches)
    loss = forward(net, next(stream))  # workers have started, memory is there
    loss.backward()  # type: ignore[no-untyped-call]
    began = time.perf_counter()
    for step in range(size.steps):
        loss = forward(net, next(stream))
        opt.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        opt.step()
        if after:
            after(step, {"net": net, "opt": opt})
    return time.perf_counter() - began


def on_frozen(size: Size, folder: Path) -> Turn:
    """By hand, on the same batch over and over."""
    del folder
    return Turn(by_hand(size, itertools.repeat(frozen(size))), size.steps)


def on_stream(size: Size, folder: Path) -> Turn:
    """By hand, on an ml.Stream with its two threads."""
    stream = ml.Stream(folder.parent / FILE, size.batch, rank=0, world=1)
    return Turn(by_hand(size, stream.batches()), size.steps)


def on_dataloader(size: Size, folder: Path) -> Turn:
    """By hand, on a DataLoader with two processes."""
    data = Rows(folder.parent / FILE, size.batch)
    loader = torch.utils.data.DataLoader(
        data, batch_size=None, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
    )
    return Turn(by_hand(size, itertools.chain.from_iterable(itertools.repeat(loader))), size.steps)


def with_torch_save(size: Size, folder: Path) -> Turn:
    """By hand, with one torch.save in the middle."""
    folder.mkdir()
    stalls = []

    def save(step: int, kept: dict[str, Any]) -> None:
        if step == size.steps // 2:
            began = time.perf_counter()
            torch.save({name: thing.state_dict() for name, thing in kept.items()}, folder / "kept.pt")
            stalls.append(time.perf_counter() - began)

    seconds = by_hand(size, itertools.repeat(frozen(size)), save)
    return Turn(seconds, size.steps, stalls[0])


def with_session(size: Size, folder: Path) -> Turn:
    """A Session that takes no checkpoints."""
    return _session(size, folder, None)


def with_checkpoint(size: Size, folder: Path) -> Turn:
    """A Session that takes one in the middle; writing and checksums are in the time."""
    return _session(size, folder, ml.Checkpoints(folder=folder / "kept", every_steps=_middle(size)))


def _middle(size: Size) -> int:
    return size.steps // 2 + 1


def _session(size: Size, folder: Path, checkpoint: ml.Checkpoints | None) -> Turn:
    net, opt = build(size)
    batch = frozen(size)
    forward(net, batch).backward()  # type: ignore[no-untyped-call]
    folder.mkdir()
    if checkpoint:
        (folder / "kept").mkdir()
    commits = []
    job = ml.Job(run_dir=folder)
    with contextlib.redirect_stdout(io.StringIO()):
        with ml.Session(job, checkpoint=checkpoint, net=net, opt=opt) as run:
            began = time.perf_counter()
            for _ in run.steps(size.steps):
                loss = forward(net, batch)
                opt.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                opt.step()
                before = time.perf_counter()
                run.commit(loss=loss)
                commits.append(time.perf_counter() - before)
        seconds = time.perf_counter() - began
    stall = commits[_middle(size) - 1] - statistics.median(commits)
    return Turn(seconds, size.steps, stall, _writer_cpu(run))


def _writer_cpu(run: ml.Session) -> float:
    keeper = run._keeper  # noqa: SLF001  (for nobody but this benchmark)
    return keeper._ck.stats.cpu if keeper else 0.0  # noqa: SLF001


def with_fabric(size: Size, folder: Path) -> Turn:
    """Lightning Fabric's loop: setup, backward."""
    del folder
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    net, opt = fabric.setup(*build(size))
    batch = frozen(size)
    fabric.backward(forward(net, batch))
    began = time.perf_counter()
    for _ in range(size.steps):
        loss = forward(net, batch)
        opt.zero_grad()
        fabric.backward(loss)
        opt.step()
    return Turn(time.perf_counter() - began, size.steps)


def tiny(turn: Callable[[Size, Path], Turn]) -> Callable[[Size, Path], Turn]:
    """The same with steps so short that what a loop adds shows."""

    def of(size: Size, folder: Path) -> Turn:
        return turn(replace(size, width=16, depth=1, batch=8, table=8, steps=20 * size.steps), folder)

    return of


def long(turn: Callable[[Size, Path], Turn], steps: int) -> Callable[[Size, Path], Turn]:
    """The same with as many steps as an interval between two checkpoints has."""
    return lambda size, folder: turn(replace(size, steps=steps), folder)


LONG: dict[str, Callable[[Size, Path], Turn]] = {
    "session, long": with_session,
    "session+checkpoint": with_checkpoint,
}
BIG: dict[str, Callable[[Size, Path], Turn]] = {
    "hand": on_frozen,
    "hand+stream": on_stream,
    "hand+dataloader": on_dataloader,
    "hand+torch.save": with_torch_save,
    "session": with_session,
    "fabric": with_fabric,
}
TINY = {"hand, tiny": tiny(on_frozen), "session, tiny": tiny(with_session), "fabric, tiny": tiny(with_fabric)}
