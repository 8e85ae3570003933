"""Brings files from nodes that have them to nodes that lack them, through the gang's own connections."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Final

import torch

from mlenv.ckpt import durable, names, seal

if TYPE_CHECKING:
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
    taking = any(mine in move.targets for move in moves) or (place.leads and not final.is_dir())
    control.together("making room for files of other nodes", lambda: _begin(final, arriving) if taking else None)
    for move in moves:
        source = place.leaders[move.source]
        here = arriving if mine in move.targets else final if place.rank == source else None
        _one(control, move, source, here, place.rank)
    control.together("keeping files of other nodes", lambda: _end(final, arriving, candidate) if taking else None)


def _begin(final: Path, arriving: Path) -> None:
    """Start from what is there: links cost nothing, and a crash leaves the old folder as it is."""
    shutil.rmtree(arriving, ignore_errors=True)
    if final.is_dir():
        shutil.copytree(final, arriving, copy_function=os.link)
    else:
        arriving.mkdir()


def _end(final: Path, arriving: Path, candidate: Candidate) -> None:
    durable.replace(arriving / names.SEAL, seal.encode(candidate.seal))
    durable.sync_tree(arriving)
    if final.is_dir():
        durable.remove(final)
    durable.rename(arriving, final)


def _one(control: Group, move: Move, source: int, here: Path | None, rank: int) -> None:
    """Send one file from rank `source`, piece by piece."""
    sends, path = rank == source, here / move.uri if here else None
    control.together(f"opening {move.uri}", lambda: _open(path) if path and not sends else None)
    data = torch.empty(min(CHUNK, max(move.size, 1)), dtype=torch.uint8)
    for at in range(0, move.size, CHUNK):
        piece = data[: min(CHUNK, move.size - at)]
        control.together(f"reading {move.uri}", lambda p=piece, a=at: _read(path, p, a) if sends else None)
        control.send(piece, source)
        control.together(f"writing {move.uri}", lambda p=piece: _append(path, p) if path and not sends else None)


def _open(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch()


def _read(path: Path | None, piece: torch.Tensor, at: int) -> None:
    assert path is not None
    with path.open("rb") as file:
        file.seek(at)
        found = file.read(piece.numel())
    piece.copy_(torch.frombuffer(bytearray(found), dtype=torch.uint8))


def _append(path: Path, piece: torch.Tensor) -> None:
    with path.open("ab") as file:
        file.write(piece.numpy().tobytes())
        file.flush()
        os.fsync(file.fileno())
