"""What lies in a folder of checkpoints: reads names and seals, and nothing else."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlenv.ckpt import names, seal
from mlenv.ckpt.errors import ListingFailed, SealInvalid

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Found:
    """One folder with a seal, readable or not."""

    name: str
    step: int
    attempt: int
    seal: seal.Seal | None
    digest: str
    refusal: str
    """Why it cannot be used; empty when nothing speaks against it yet."""
    finished: bool
    """Whether it has its name for good; else it was sealed, and cut off just before."""


def read(folder: Path) -> list[Found]:
    """All that is sealed in `folder`. An empty list means that there is nothing, for sure.

    Raises ListingFailed when the folder cannot be read, or is not there: that says nothing about the past.
    """
    try:
        listed = sorted(os.listdir(folder))  # noqa: PTH208  (names are all that is needed)
        return [found for name in listed if (found := _look(folder / name)) is not None]
    except OSError as error:
        raise ListingFailed(
            f"the checkpoints in {folder} cannot be listed ({error.strerror or error}): mount or repair it; "
            "nothing is started afresh while nobody knows what is there"
        ) from error


def _look(folder: Path) -> Found | None:
    finished = not folder.name.endswith(names.TMP)
    numbers = names.parse_folder(folder.name.removesuffix(names.TMP))
    if numbers is None or not folder.is_dir() or folder.is_symlink():
        return None
    path = folder / names.SEAL
    if not path.exists():
        return _unsealed(folder.name, numbers) if finished else None
    whole, refusal = None, ""
    try:
        whole = _parse(path, numbers)
    except SealInvalid as error:
        refusal = str(error)
    digest = seal.digest(whole) if whole else ""
    return Found(folder.name, *numbers, whole, digest, refusal, finished)


def _unsealed(name: str, numbers: tuple[int, int]) -> Found:
    """Only hands can do this: the name is given after the seal is written."""
    return Found(name, *numbers, None, "", f"{names.SEAL} is missing: somebody removed it", finished=True)


def _parse(path: Path, numbers: tuple[int, int]) -> seal.Seal:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise SealInvalid(f"{names.SEAL} is no plain file")
    if path.stat().st_size > seal.MAX_BYTES:
        raise SealInvalid(f"{names.SEAL} has more than {seal.MAX_BYTES} bytes")
    whole = seal.parse(path.read_bytes())
    if (whole.step, whole.attempt) != numbers:
        raise SealInvalid(
            f"its seal says step {whole.step} of attempt {whole.attempt}: the folder was renamed by hand"
        )
    return whole
