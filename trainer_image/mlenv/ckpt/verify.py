"""Whether files are what the seal says: sizes first, then hashes, several at a time, read in pieces."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from mlenv.ckpt import durable, failpoints
from mlenv.ckpt.errors import NotVerified

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mlenv.ckpt.seal import Part, Tensor

THREADS: Final = 4
"""Hashing leaves Python's lock, so threads do run at a time."""


def verify(folder: Path, parts: Sequence[Part], rank: int = 0) -> dict[str, str]:
    """For each file, why it cannot be believed; an empty sentence when it is what the seal says."""
    failpoints.hit("verify", rank)
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(
            zip([one.uri for one in parts], pool.map(lambda one: _why(folder, one), parts), strict=True)
        )


def _why(folder: Path, part: Part) -> str:
    try:
        check(folder, part)
    except NotVerified as error:
        return str(error)
    return ""


def check(folder: Path, part: Part) -> None:
    """Raises NotVerified, naming the file and what is wrong with it."""
    path = folder / part.uri
    try:
        if any(one.is_symlink() for one in (path, *path.parents) if one.is_relative_to(folder)):
            raise NotVerified(f"{part.uri} is reached through a link, which no checkpoint has")
        size = path.lstat().st_size
        if size != part.size:
            raise NotVerified(
                f"{part.uri} has {size} bytes instead of {part.size}: it was cut off or replaced"
            )
        _, found = durable.hash_file(path, part.algorithm)
    except FileNotFoundError:
        raise NotVerified(f"{part.uri} is missing") from None
    except OSError as error:
        raise NotVerified(f"{part.uri} cannot be read: {error.strerror}") from error
    if found != part.hash:
        raise NotVerified(
            f"{part.uri} is not what was sealed (its {part.algorithm} differs): damaged or replaced"
        )


def diff(sealed: Sequence[Tensor], present: dict[str, tuple[tuple[int, ...], str]]) -> list[str]:
    """How a model differs from the one that was sealed, tensor by tensor, in words. Pure."""
    known = {one.name: one for one in sealed if one.model}
    words = [
        f"{name}: shape {known[name].shape} in the checkpoint, {shape} in the model"
        if known[name].shape != shape
        else f"{name}: {known[name].dtype} in the checkpoint, {dtype} in the model"
        for name, (shape, dtype) in present.items()
        if name in known and (known[name].shape, known[name].dtype) != (shape, dtype)
    ]
    words += [f"{name}: in the model, not in the checkpoint" for name in present if name not in known]
    return words + [f"{name}: in the checkpoint, not in the model" for name in known if name not in present]
