"""Brings files from nodes that have them to nodes that lack them, through the gang's own connections."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any, Final

import torch

from mlenv.ckpt import durable, names, seal, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlenv.ckpt.candidates import Candidate, Move
    from mlenv.ckpt.group import Group
    from mlenv.ckpt.place import Place

CHUNK: Final = 4 << 20


def bring(place: Place, control: Group, candidate: Candidate, moves: tuple[Move, ...]) -> None:
    """Do all `moves`; folders that lack the checkpoint get it under its name. Raises CheckpointError.

    Every rank takes part, also those that only pass on what they hear.
    """
    whole = candidate.seal
    final = place.path(whole.step, whole.attempt)
    mine = place.leaders.index(place.rank) if place.leads else -1
    arriving = place.tmp(whole.step, whole.attempt)
    brought = {move.uri for move in moves if mine in move.targets}
    taking = place.leads and (bool(brought) or mine not in candidate.holders | candidate.unfinished)
    control.together(
        "making room for files of other nodes", lambda: _begin(final, arriving) if taking else None
    )
    for move in moves:
        source = place.leaders[move.source]
        here = arriving if mine in move.targets else final if place.rank == source else None
        _one(control, move, source, here, place.rank)
    control.together(
        "keeping files of other nodes",
        lambda: _end(final, arriving, candidate.seal, brought) if taking else None,
    )


def _begin(final: Path, arriving: Path) -> None:
    """Start from what is there: links cost nothing, and a crash leaves the old folder as it is."""
    shutil.rmtree(arriving, ignore_errors=True)
    if final.is_dir():
        shutil.copytree(final, arriving, copy_function=os.link)
    else:
        arriving.mkdir()


def _end(final: Path, arriving: Path, whole: seal.Seal, brought: set[str]) -> None:
    for part in whole.parts:
        if part.uri in brought:
            verify.check(arriving, part)
    durable.replace(arriving / names.SEAL, seal.encode(whole))
    durable.sync_tree(arriving)
    if final.is_dir():
        durable.remove(final)
    durable.rename(arriving, final)


def _one(control: Group, move: Move, source: int, here: Path | None, rank: int) -> None:
    """Send one file from rank `source`, piece by piece; a fault is told at the end, so that nobody waits."""
    faults: list[OSError] = []
    with ExitStack() as stack:
        file = _open(stack, here / move.uri, faults, read=rank == source) if here else None
        data = torch.zeros(min(CHUNK, max(move.size, 1)), dtype=torch.uint8)
        for at in range(0, move.size, CHUNK):
            piece = data[: min(CHUNK, move.size - at)]
            if rank == source:
                _try(file, lambda f, piece=piece: f.readinto(piece.numpy()), faults)  # type: ignore[misc]
            control.send(piece, source)
            if rank != source:
                _try(file, lambda f, piece=piece: f.write(piece.numpy()), faults)  # type: ignore[misc]
        if rank != source:
            _try(file, lambda f: os.fsync(f.fileno()), faults)
    control.together(f"bringing {move.uri}", lambda: _raise(faults))


def _open(stack: ExitStack, path: Path, faults: list[OSError], *, read: bool) -> IO[Any] | None:
    try:
        if not read:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        return stack.enter_context(path.open("rb" if read else "xb", buffering=0))
    except OSError as error:
        faults.append(error)
        return None


def _try(file: IO[Any] | None, act: Callable[[IO[Any]], object], faults: list[OSError]) -> None:
    if file is not None and not faults:
        try:
            act(file)
        except OSError as error:
            faults.append(error)


def _raise(faults: list[OSError]) -> None:
    if faults:
        raise faults[0]
